package proof

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
)

const (
	simClients = 3
	simBatches = 3   // of each client
	simFaulty  = 120 // events after which nothing fails any more
	simEvents  = 2000
	simTick    = time.Microsecond
	simTimeout = 40 // ticks until a client repeats what was not answered
)

var simEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Each run is clients, a network and a store in one goroutine, with a clock of its own, all of it from a seed.
func TestSimulator(t *testing.T) {
	t.Parallel()
	first, count := seeds(t, size(2_000, 1_000_000))
	if os.Getenv("SAFETILL_PROOF_SEED") != "" {
		s := newSimulation(t.Context(), first, compared)
		s.log = t.Logf
		require.NoError(t, s.run())
		return
	}
	start := time.Now()
	totals, err := simulate(t.Context(), first, count, compared)
	require.NoError(t, err)
	took := time.Since(start)
	t.Logf("%d runs in %v, %d/s: %v", count, took.Round(time.Millisecond), int64(count)*int64(time.Second)/int64(took), totals)
	require.Positive(t, min(totals.Lost, totals.Repeated, totals.Crashes, totals.Failures, totals.Expired))
	require.Positive(t, slices.Min(totals.Posted[:]))
	for _, v := range []ledger.Verdict{
		ledger.LinkFailed, ledger.Conflict, ledger.UnknownTarget, ledger.TargetClosed, ledger.HoldExpired, ledger.NotHeld,
		ledger.ConditionFailed, ledger.InsufficientFunds,
	} {
		require.Positive(t, totals.Verdicts[v], v)
	}
}

func TestSimulatorRepeats(t *testing.T) {
	t.Parallel()
	first, _ := seeds(t, 1)
	traces := map[uint64]bool{}
	for seed := first; seed < first+50; seed++ {
		var sums [2]uint64
		for i := range sums {
			sum := fnv.New64a()
			s := newSimulation(t.Context(), seed, compared)
			s.log = func(format string, args ...any) { fmt.Fprintf(sum, format, args...) }
			require.NoError(t, s.run())
			sums[i] = sum.Sum64()
		}
		require.Equal(t, sums[0], sums[1], seed)
		traces[sums[0]] = true
	}
	require.Len(t, traces, 50, "other seeds are other runs")
}

// totals are what the runs were made of.
type totals struct {
	Lost, Repeated, Crashes, Failures, Expired int64
	Posted                                     [ledger.KindReverse + 1]int64
	Verdicts                                   [ledger.InsufficientFunds + 1]int64
}

func (a *totals) add(b *totals) {
	a.Lost += b.Lost
	a.Repeated += b.Repeated
	a.Crashes += b.Crashes
	a.Failures += b.Failures
	a.Expired += b.Expired
	for k, n := range b.Posted {
		a.Posted[k] += n
	}
	for v, n := range b.Verdicts {
		a.Verdicts[v] += n
	}
}

func (a *totals) String() string {
	text := fmt.Sprintf("lost %d, repeated %d, crashes %d, failures %d, expired %d; of what was told", a.Lost, a.Repeated, a.Crashes, a.Failures, a.Expired)
	for k, n := range a.Posted {
		text += fmt.Sprintf(", %s %d", kindNames[k], n)
	}
	for v, n := range a.Verdicts {
		if n > 0 && v > 0 {
			text += fmt.Sprintf(", %v %d", ledger.Verdict(v), n)
		}
	}
	return text
}

// simulate runs count seeds and returns the error of one that fails.
func simulate(ctx context.Context, first uint64, count int, wrap func(*simulation, ledger.Store) ledger.Store) (*totals, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var mu sync.Mutex
	var all totals
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			var mine totals
			for n := next.Add(1) - 1; n < int64(count) && ctx.Err() == nil; n = next.Add(1) - 1 {
				s := newSimulation(ctx, first+uint64(n), wrap)
				if err := s.run(); err != nil && ctx.Err() == nil {
					cancel(fmt.Errorf("SAFETILL_PROOF_SEED=%d: %w", s.seed, err))
				}
				mine.add(&s.totals)
			}
			mu.Lock()
			defer mu.Unlock()
			all.add(&mine)
		})
	}
	wg.Wait()
	return &all, context.Cause(ctx)
}

// simulation is one run.
type simulation struct {
	totals
	dealer
	ctx     context.Context
	seed    uint64
	r       *rand.Rand
	now     int64 // ticks
	seq     int64 // of events: those of one tick are in the order in which they were made
	handled int
	queue   events
	clients [simClients]simClient
	server  *ledger.Ledger // what clients reach
	books   *ledger.Ledger // the same store, without faults
	sent    [][]*tx
	told    map[*tx]ledger.Result
	wrong   error // what the clerk has found
	log     func(string, ...any)
}

// simClient sends its batches one after the other. What it has written down survives its crash: the batches, and how far it was at
// some moment before.
type simClient struct {
	batches [simBatches][]*tx
	at      int // the batch that it waits for
	written int // what at is after a crash
	attempt int
}

type event struct {
	at, seq int64
	kind    eventKind
	client  int
	batch   int
	attempt int
	results []ledger.Result // nil for a request, and for an answer that is an error
}

type eventKind byte

const (
	request eventKind = iota // reaches the server
	answered
	timeout
	crash
	expiry // somebody has expired holds released
)

// events are a heap by time.
type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, k int) bool {
	return e[i].at < e[k].at || e[i].at == e[k].at && e[i].seq < e[k].seq
}
func (e events) Swap(i, k int) { e[i], e[k] = e[k], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newSimulation(ctx context.Context, seed uint64, wrap func(*simulation, ledger.Store) ledger.Store) *simulation {
	s := &simulation{
		ctx: ctx, seed: seed, r: dice(seed, 0), told: map[*tx]ledger.Result{}, log: func(string, ...any) {},
		dealer: dealer{
			registry: newRegistry(0), around: 3, most: 30, chainExpiring: true,
			shorts: []time.Duration{simTick, simTimeout / 2 * simTick, 3 * simTimeout * simTick},
		},
	}
	memory := wrap(s, ledger.NewMemory(&ledger.MemoryOptions{Now: s.time}))
	flaky := &ledgertest.Flaky{Store: memory, Fault: func(int64) ledgertest.Fault {
		if s.healthy() {
			return ledgertest.Healthy
		}
		return ledgertest.Fault(max(0, s.r.IntN(8)-5))
	}}
	var err1, err2 error
	s.server, err1 = ledger.New(flaky, nil)
	s.books, err2 = ledger.New(memory, nil)
	if err := errors.Join(err1, err2); err != nil {
		panic(err) // neither store is nil
	}
	return s
}

// batch makes up what a client sends next, now and then what another one sends too or the same once more.
func (s *simulation) batch() (txs []*tx) {
	for range 1 + s.r.IntN(2) {
		next := s.few(s.r)
		if len(s.sent) > 0 && s.r.IntN(6) == 0 {
			next = s.again(s.r, pick(s.r, s.sent), true)
		}
		s.sent = append(s.sent, next)
		txs = append(txs, next...)
	}
	return txs
}

func (s *simulation) time() time.Time { return simEpoch.Add(time.Duration(s.now) * simTick) }

func (s *simulation) healthy() bool { return s.handled > simFaulty }

func (s *simulation) after(ticks int64, e event) {
	s.seq++
	e.at, e.seq = s.now+ticks, s.seq
	heap.Push(&s.queue, e)
}

// run runs until every client has its answers, and then looks at the books.
func (s *simulation) run() error {
	if err := s.books.Open(s.ctx, shardAccounts(0)...); err != nil {
		return err
	}
	for c := range s.clients {
		s.send(c)
		if s.r.IntN(2) == 0 {
			s.after(s.r.Int64N(4*simTimeout), event{kind: crash, client: c})
		}
	}
	for range s.r.IntN(5) {
		s.after(s.r.Int64N(8*simTimeout), event{kind: expiry})
	}
	for len(s.queue) > 0 {
		if s.handled++; s.handled > simEvents {
			return errors.New("the clients wait for ever")
		}
		e := heap.Pop(&s.queue).(event)
		s.now = e.at
		if err := cmp.Or(s.handle(&e), s.wrong); err != nil {
			return err
		}
	}
	return cmp.Or(s.check(), s.wrong)
}

func (s *simulation) handle(e *event) error {
	c := &s.clients[e.client]
	switch e.kind {
	case request:
		return s.serve(e)
	case answered:
		return s.answer(e)
	case timeout:
		if e.batch == c.at && e.attempt == c.attempt {
			s.Repeated++
			s.send(e.client)
		}
	case crash:
		s.log("%d: client %d crashes in batch %d and starts at %d", s.now, e.client, c.at, c.written)
		s.Crashes++
		c.at = c.written
		s.send(e.client)
	case expiry:
		return s.expire()
	}
	return nil
}

func (s *simulation) expire() error {
	n, err := s.server.ExpireHolds(s.ctx, 1+s.r.IntN(3))
	s.log("%d: %d holds expire, %v", s.now, n, err)
	s.Expired += int64(n)
	if err == nil || errors.Is(err, ledgertest.ErrInjected) {
		return nil
	}
	return err
}

// send has the client ask for its batch, and again after a while.
func (s *simulation) send(client int) {
	c := &s.clients[client]
	if c.at == simBatches {
		return
	}
	if c.batches[c.at] == nil {
		c.batches[c.at] = s.batch()
	}
	c.attempt++
	e := event{kind: request, client: client, batch: c.at, attempt: c.attempt}
	s.deliver(e)
	e.kind = timeout
	s.after(simTimeout+s.r.Int64N(simTimeout), e)
}

// deliver is the network: a message is lost, comes once or twice, and each time after as long as it likes.
func (s *simulation) deliver(e event) {
	copies := 1
	if !s.healthy() {
		switch s.r.IntN(8) {
		case 0:
			s.Lost++
			copies = 0
		case 1:
			copies = 2
		}
	}
	for range copies {
		delay := 1 + s.r.Int64N(10)
		if !s.healthy() && s.r.IntN(8) == 0 {
			delay += s.r.Int64N(4 * simTimeout) // it comes after what was sent later
		}
		s.after(delay, e)
	}
}

func (s *simulation) serve(e *event) error {
	var txs []ledger.Transaction
	for _, tx := range s.clients[e.client].batches[e.batch] {
		txs = append(txs, tx.sent)
	}
	results, err := s.server.Post(s.ctx, txs)
	s.log("%d: serve client %d, batch %d, attempt %d: %+v, %v", s.now, e.client, e.batch, e.attempt, results, err)
	if err != nil {
		if !errors.Is(err, ledgertest.ErrInjected) {
			return err
		}
		s.Failures++
	}
	s.deliver(event{kind: answered, client: e.client, batch: e.batch, attempt: e.attempt, results: results})
	return nil
}

// answer has the client read an answer: that is what makes a transaction acknowledged, however late it comes.
func (s *simulation) answer(e *event) error {
	c := &s.clients[e.client]
	s.log("%d: client %d in batch %d hears of batch %d: %+v", s.now, e.client, c.at, e.batch, e.results)
	if e.results == nil {
		if e.batch == c.at && e.attempt == c.attempt {
			s.send(e.client)
		}
		return nil
	}
	if err := s.tell(c.batches[e.batch], e.results); err != nil {
		return err
	}
	if e.batch == c.at {
		c.at++
		if s.r.IntN(2) == 0 {
			c.written = c.at
		}
		s.send(e.client)
	}
	return nil
}
