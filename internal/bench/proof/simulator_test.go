package proof

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
)

const (
	simClients  = 3
	simBatches  = 3   // of each client
	simAccounts = 4   // one bank, three wallets
	simFaulty   = 120 // events after which nothing fails any more
	simEvents   = 2000
	simTimeout  = 40 // ticks until a client repeats what was not answered
)

var (
	simIDs    = [simAccounts]ledger.AccountID{"bank", "w1", "w2", "w3"}
	simFloors = [simAccounts]int64{0, 0, 0, -5}
	simEpoch  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Each run is clients, a network and a store in one goroutine, with a clock of its own, all of it from a seed.
func TestSimulator(t *testing.T) {
	t.Parallel()
	first, count := seeds(t, size(2_000, 1_000_000))
	if os.Getenv("SAFETILL_PROOF_SEED") != "" {
		s := newSimulation(t.Context(), first, intact)
		s.log = t.Logf
		require.NoError(t, s.run())
		return
	}
	start := time.Now()
	totals, err := simulate(t.Context(), first, count, intact)
	require.NoError(t, err)
	took := time.Since(start)
	t.Logf("%d runs in %v, %d/s: %+v", count, took.Round(time.Millisecond), int64(count)*int64(time.Second)/int64(took), *totals)
	require.Positive(t, min(totals.Lost, totals.Repeated, totals.Crashes, totals.Failures, totals.Posted, totals.Refused, totals.Conflicts))
}

func TestSimulatorRepeats(t *testing.T) {
	t.Parallel()
	first, _ := seeds(t, 1)
	traces := map[uint64]bool{}
	for seed := first; seed < first+50; seed++ {
		var sums [2]uint64
		for i := range sums {
			sum := fnv.New64a()
			s := newSimulation(t.Context(), seed, intact)
			s.log = func(format string, args ...any) { fmt.Fprintf(sum, format, args...) }
			require.NoError(t, s.run())
			sums[i] = sum.Sum64()
		}
		require.Equal(t, sums[0], sums[1], seed)
		traces[sums[0]] = true
	}
	require.Len(t, traces, 50, "other seeds are other runs")
}

// intact is the store as it is.
func intact(store ledger.Store, _ *rand.Rand) ledger.Store { return store }

// totals are what the runs were made of.
type totals struct{ Lost, Repeated, Crashes, Failures, Posted, Refused, Conflicts int64 }

func (a *totals) add(b totals) {
	a.Lost += b.Lost
	a.Repeated += b.Repeated
	a.Crashes += b.Crashes
	a.Failures += b.Failures
	a.Posted += b.Posted
	a.Refused += b.Refused
	a.Conflicts += b.Conflicts
}

// simulate runs count seeds and returns the error of one that fails.
func simulate(ctx context.Context, first uint64, count int, wrap func(ledger.Store, *rand.Rand) ledger.Store) (*totals, error) {
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
				mine.add(s.totals)
			}
			mu.Lock()
			defer mu.Unlock()
			all.add(mine)
		})
	}
	wg.Wait()
	return &all, context.Cause(ctx)
}

// simulation is one run.
type simulation struct {
	totals
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
	told    map[simTx]ledger.Result
	content map[simTx][]ledger.Posting
	log     func(string, ...any)
}

// simTx is a transaction: some ids are sent with two contents.
type simTx struct {
	id      ledger.TransactionID
	content int
}

// simClient sends its batches one after the other. What it has written down survives its crash: the batches, and how far it was at
// some moment before.
type simClient struct {
	batches [simBatches][]simTx
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

func newSimulation(ctx context.Context, seed uint64, wrap func(ledger.Store, *rand.Rand) ledger.Store) *simulation {
	s := &simulation{
		ctx: ctx, seed: seed, r: dice(seed, 0), told: map[simTx]ledger.Result{}, content: map[simTx][]ledger.Posting{},
		log: func(string, ...any) {},
	}
	memory := wrap(ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { return simEpoch.Add(time.Duration(s.now)) }}), s.r)
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
	for c := range s.clients {
		for b := range simBatches {
			s.clients[c].batches[b] = s.batch(c, b)
		}
	}
	return s
}

func (s *simulation) healthy() bool { return s.handled > simFaulty }

// batch is up to three transactions, of which some are other clients' too, with the same content or with other.
func (s *simulation) batch(client, batch int) (txs []simTx) {
	for i := range 1 + s.r.IntN(3) {
		tx := simTx{id: txID("c", client, "-", batch, "-", i)}
		if s.r.IntN(6) == 0 {
			tx = simTx{txID("shared", s.r.IntN(2)), s.r.IntN(2)}
		}
		if s.content[tx] == nil {
			for range 1 + s.r.IntN(2) {
				from := max(0, s.r.IntN(simAccounts+2)-2) // often the bank, where money comes from
				to := (from + 1 + s.r.IntN(simAccounts-1)) % simAccounts
				s.content[tx] = append(s.content[tx], posting(simIDs[from], simIDs[to], 1+s.r.Int64N(9)+int64(10*tx.content)))
			}
		}
		txs = append(txs, tx)
	}
	return txs
}

func (s *simulation) after(ticks int64, e event) {
	s.seq++
	e.at, e.seq = s.now+ticks, s.seq
	heap.Push(&s.queue, e)
}

// run runs until every client has its answers, and then looks at the books.
func (s *simulation) run() error {
	accounts := []ledger.Account{bank(simIDs[0])}
	for i := 1; i < simAccounts; i++ {
		accounts = append(accounts, wallet(simIDs[i], simFloors[i]))
	}
	if err := s.books.Open(s.ctx, accounts...); err != nil {
		return err
	}
	for c := range s.clients {
		s.send(c)
		if s.r.IntN(2) == 0 {
			s.after(s.r.Int64N(4*simTimeout), event{kind: crash, client: c})
		}
	}
	for len(s.queue) > 0 {
		if s.handled++; s.handled > simEvents {
			return errors.New("the clients wait for ever")
		}
		e := heap.Pop(&s.queue).(event)
		s.now = e.at
		if err := s.handle(&e); err != nil {
			return err
		}
	}
	return s.check()
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
	}
	return nil
}

// send has the client ask for its batch, and again after a while.
func (s *simulation) send(client int) {
	c := &s.clients[client]
	if c.at == simBatches {
		return
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
		txs = append(txs, ledger.Transaction{ID: tx.id, Postings: s.content[tx]})
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
	for i, r := range e.results {
		if err := s.tell(c.batches[e.batch][i], r); err != nil {
			return err
		}
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
