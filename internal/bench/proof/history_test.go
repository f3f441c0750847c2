package proof

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

const (
	clients    = 16
	operations = 8000
)

// history is what 16 clients asked of a ledger, and what they were told.
type history struct {
	processes []*process
	plain     bool // posts only, each alone
	seed      uint64
	start     time.Time
	expired   int // holds that ExpireHolds has released

	mu      sync.Mutex
	dealers [shards]*dealer
	sent    [shards][]*call // what others may repeat
	ops     []porcupine.Operation
	errs    []error
	odd     []string
}

// process is a program that posts: it has a store of its own.
type process struct {
	store ledger.Store
	*ledger.Ledger
	group *ledger.Group // half of its clients share it; nil: none does
}

func newHistory(t *testing.T, seed uint64, stores ...ledger.Store) *history {
	t.Helper()
	h := &history{seed: seed, start: time.Now()}
	for _, store := range stores {
		h.processes = append(h.processes, &process{store: store, Ledger: newLedger(t, store)})
	}
	for s := range h.dealers {
		h.dealers[s] = &dealer{
			registry: newRegistry(s), around: 2, most: 60,
			// A hold expires at once, or while one or two operations are under way.
			shorts: []time.Duration{time.Microsecond, 10 * time.Millisecond, 30 * time.Millisecond},
		}
	}
	return h
}

// record has the clients do n operations, half of them through a group, and returns when all are done.
func (h *history) record(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var groups sync.WaitGroup
	for _, p := range h.processes {
		var err error
		p.group, err = ledger.NewGroup(p.Ledger, nil)
		require.NoError(t, err)
		groups.Go(func() {
			if err := p.group.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	h.clients(t.Context(), n)
	cancel()
	groups.Wait()
}

func (h *history) clients(ctx context.Context, n int) {
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() { h.client(ctx, c, n/clients) })
	}
	wg.Wait()
}

func openShards(t *testing.T, store ledger.Store) {
	t.Helper()
	var accounts []ledger.Account
	for s := range shards {
		accounts = append(accounts, shardAccounts(s)...)
	}
	require.NoError(t, newLedger(t, store).Open(t.Context(), accounts...))
}

func (h *history) client(ctx context.Context, n, ops int) {
	r := dice(h.seed, uint64(n))
	p, grouped := h.processes[n%len(h.processes)], n/len(h.processes)%2 == 0
	var again *call // what was not answered
	for done := 0; done < ops && ctx.Err() == nil; {
		if !h.plain && r.IntN(40) == 0 {
			h.expire(ctx, p, n, 1+r.IntN(8))
			done++
			continue
		}
		c := again
		if again = nil; c == nil {
			c = h.choose(r)
		}
		a := h.do(ctx, p, n, c, grouped)
		if a.unknown && len(c.reads) > 0 {
			continue // it says nothing, and does not count
		}
		if a.unknown && r.IntN(4) > 0 {
			again = new(*c)
		}
		done++
	}
}

func (h *history) choose(r *rand.Rand) *call {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := r.IntN(shards)
	d := h.dealers[s]
	c := call{registry: &d.registry}
	switch k := r.IntN(100); {
	case k < 30:
		c.reads = r.Perm(perShard)[:1+r.IntN(3)]
		return &c
	case k < 42 && len(h.sent[s]) > 0: // one of the last, so that some are under way just now
		c = *pick(r, h.sent[s])
		c.txs = d.again(r, c.txs, c.alone)
		return &c
	case h.plain:
		c.txs = []*tx{d.add(&tx{moves: d.moves(r)})}
	default:
		c.txs = d.few(r)
		c.alone = r.IntN(4) == 0
	}
	h.sent[s] = append(h.sent[s], &c)
	return &c
}

// do has the client make the call, and notes it.
func (h *history) do(ctx context.Context, p *process, client int, c *call, grouped bool) answer {
	begin := time.Since(h.start)
	var a answer
	var err error
	if len(c.reads) > 0 {
		a.seen, err = h.read(ctx, p, c)
	} else {
		a, err = h.post(ctx, p, c, grouped)
	}
	a.unknown = err != nil
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(client, c, begin, a, err)
	return a
}

func (h *history) note(client int, c *call, begin time.Duration, a answer, err error) {
	op := porcupine.Operation{ClientId: client, Input: c, Call: int64(begin), Output: a, Return: int64(time.Since(h.start))}
	if err != nil {
		h.errs = append(h.errs, err)
		op.Return = math.MaxInt64
	}
	if err == nil || len(c.reads) == 0 {
		h.ops = append(h.ops, op)
	}
}

func (h *history) read(ctx context.Context, p *process, c *call) (all []seen, err error) {
	ids := make([]ledger.AccountID, len(c.reads))
	for i, account := range c.reads {
		ids[i] = c.names[account]
	}
	balances, err := p.Balances(ctx, ids...)
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, b := range balances {
		s := seen{account{cents(b.Posted), cents(b.HeldDebits), cents(b.HeldCredits), b.Version}, cents(b.Available)}
		h.dealers[c.shard].seen[c.reads[i]] = s
		all = append(all, s)
	}
	return all, err
}

func (h *history) post(ctx context.Context, p *process, c *call, grouped bool) (a answer, err error) {
	var txs []ledger.Transaction
	for _, t := range c.txs {
		txs = append(txs, t.sent)
	}
	post := p.Post
	if a.grouped = grouped && p.group != nil && !c.alone; a.grouped {
		post = p.group.Post
	}
	results, err := post(ctx, txs)
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, r := range results {
		h.decided(c, c.txs[i], r.Verdict, r.At)
		a.results = append(a.results, result{r.Verdict, r.Posting, r.Duplicate})
		if r.Verdict == ledger.Posted && !r.Duplicate {
			h.dealers[c.shard].made(c.txs[i])
		}
	}
	return a, err
}

// decided notes when a transaction was decided on. All who ask have to hear the same.
func (h *history) decided(c *call, t *tx, v ledger.Verdict, at time.Time) {
	if v == ledger.Conflict || v == ledger.LinkFailed {
		return
	}
	if first := c.at[t.id]; !first.IsZero() && !first.Equal(at) {
		h.odd = append(h.odd, fmt.Sprintf("shard %d, %v: decided at %v and at %v", c.shard, t, first, at))
	}
	c.at[t.id] = at
}

// expire has holds released whose time is over. It is an operation of each shard that has some of them.
func (h *history) expire(ctx context.Context, p *process, client, limit int) {
	w := &witness{around: around{p.store}}
	l, err := ledger.New(w, nil)
	if err != nil {
		panic(err) // the store is not nil
	}
	begin := time.Since(h.start)
	released, err := l.ExpireHolds(ctx, limit)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expired += released
	var calls [shards]call
	var answers [shards]answer
	for i, hold := range w.asked {
		s := slices.IndexFunc(h.dealers[:], func(d *dealer) bool { return d.expiry(hold) != nil })
		if s < 0 {
			h.odd = append(h.odd, fmt.Sprintf("%s is to expire, and is no hold that does", hold))
			continue
		}
		c := &calls[s]
		t := h.dealers[s].expiry(hold)
		c.registry, c.expiry, c.txs = &h.dealers[s].registry, true, append(c.txs, t)
		answers[s].unknown = err != nil
		if err == nil {
			o := w.outcomes[i]
			h.decided(c, t, o.Verdict, o.At)
			answers[s].results = append(answers[s].results, result{o.Verdict, o.Posting, o.Duplicate})
			if o.Verdict == ledger.Posted && !o.Duplicate {
				released--
			}
		}
	}
	if released != 0 {
		h.odd = append(h.odd, fmt.Sprintf("ExpireHolds told of %d holds too many or too few", released))
	}
	for s := range calls {
		if c := &calls[s]; len(c.txs) > 0 {
			h.note(client, c, begin, answers[s], err)
		}
	}
}

// witness remembers what ExpireHolds asks of its store, since that tells no more than a number.
type witness struct {
	around
	asked    []ledger.TransactionID
	outcomes []ledger.Outcome
}

func (w *witness) Post(ctx context.Context, drafts []ledger.Draft) (outcomes []ledger.Outcome, err error) {
	for _, d := range drafts {
		w.asked = append(w.asked, d.Of)
	}
	w.outcomes, err = w.Store.Post(ctx, drafts)
	return w.outcomes, err
}

// settle asks again for all that was not answered, has every hold released that has expired, and reads all balances. Nothing makes the
// store fail any more.
func (h *history) settle(t *testing.T, store ledger.Store) {
	t.Helper()
	p := &process{store: store, Ledger: newLedger(t, store)}
	ask := func(c *call) {
		end := time.Now().Add(patience)
		for h.do(t.Context(), p, 0, new(*c), false).unknown { // a connection that was cut may be noticed late
			require.True(t, time.Now().Before(end), "never answered: %v", c)
		}
	}
	for _, op := range h.ops {
		c := op.Input.(*call)
		if !op.Output.(answer).unknown || c.expiry {
			continue
		}
		ask(c)
	}
	for before := -1; before < h.expired; {
		before = h.expired
		h.expire(t.Context(), p, 0, ledger.MaxBatch)
	}
	for _, d := range h.dealers {
		c := &call{registry: &d.registry}
		for i := range perShard {
			c.reads = append(c.reads, i)
		}
		ask(c)
	}
}
