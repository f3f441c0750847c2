package proof

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
)

const (
	clients    = 16
	operations = 8000
	checkLimit = 30 * time.Second
)

// history is what 16 clients asked of a ledger, and what they were told.
type history struct {
	store   ledger.Store
	ledger  *ledger.Ledger
	group   *ledger.Group // half of the clients share it; nil: none does
	plain   bool          // posts only, each alone
	seed    uint64
	start   time.Time
	expired int // holds that ExpireHolds has released

	mu      sync.Mutex
	dealers [shards]*dealer
	sent    [shards][]*call // what others may repeat
	ops     []porcupine.Operation
	errs    []error
	odd     []string
}

func newHistory(t *testing.T, store ledger.Store, seed uint64) *history {
	t.Helper()
	h := &history{store: store, ledger: newLedger(t, store), seed: seed, start: time.Now()}
	for s := range h.dealers {
		// A hold expires at once, or while one or two operations are under way.
		h.dealers[s] = &dealer{registry: newRegistry(s), around: 2, most: 60, shorts: []time.Duration{time.Microsecond, 10 * time.Millisecond, 30 * time.Millisecond}}
	}
	return h
}

// record has the clients do n operations, half of them through a group, and returns when all are done.
func (h *history) record(t *testing.T, n int) {
	t.Helper()
	var err error
	h.group, err = ledger.NewGroup(h.ledger, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		if err := h.group.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	h.clients(t.Context(), n)
	cancel()
	group.Wait()
	h.group = nil
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
	var again *call // what was not answered
	for done := 0; done < ops && ctx.Err() == nil; {
		if !h.plain && r.IntN(40) == 0 {
			h.expire(ctx, n, 1+r.IntN(8))
			done++
			continue
		}
		c := again
		if again = nil; c == nil {
			c = h.choose(r)
		}
		a := h.do(ctx, n, c, n%2 == 0)
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
func (h *history) do(ctx context.Context, client int, c *call, grouped bool) answer {
	begin := time.Since(h.start)
	var a answer
	var err error
	if len(c.reads) > 0 {
		a.seen, err = h.read(ctx, c)
	} else {
		a, err = h.post(ctx, c, grouped)
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

func (h *history) read(ctx context.Context, c *call) (all []seen, err error) {
	ids := make([]ledger.AccountID, len(c.reads))
	for i, account := range c.reads {
		ids[i] = c.names[account]
	}
	balances, err := h.ledger.Balances(ctx, ids...)
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, b := range balances {
		s := seen{account{cents(b.Posted), cents(b.HeldDebits), cents(b.HeldCredits), b.Version}, cents(b.Available)}
		h.dealers[c.shard].seen[c.reads[i]] = s
		all = append(all, s)
	}
	return all, err
}

func (h *history) post(ctx context.Context, c *call, grouped bool) (a answer, err error) {
	var txs []ledger.Transaction
	for _, t := range c.txs {
		txs = append(txs, t.sent)
	}
	post := h.ledger.Post
	if a.grouped = grouped && h.group != nil && !c.alone; a.grouped {
		post = h.group.Post
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
func (h *history) expire(ctx context.Context, client, limit int) {
	w := &witness{around: around{h.store}}
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

// settle asks again for all that was not answered, until it is, has every hold released that is expired, and reads all balances.
func (h *history) settle(ctx context.Context) error {
	for _, op := range h.ops {
		c := op.Input.(*call)
		if !op.Output.(answer).unknown || c.expiry {
			continue
		}
		if a := h.do(ctx, 0, new(*c), false); a.unknown {
			return errors.New("not answered")
		}
	}
	for before := -1; before < h.expired; {
		before = h.expired
		h.expire(ctx, 0, ledger.MaxBatch)
	}
	for _, d := range h.dealers {
		c := &call{registry: &d.registry}
		for i := range perShard {
			c.reads = append(c.reads, i)
		}
		h.do(ctx, 0, c, false)
	}
	return nil
}

// check runs the checker and logs what it had to do.
func (h *history) check(t *testing.T, m porcupine.Model) porcupine.CheckResult {
	t.Helper()
	start := time.Now()
	result := porcupine.CheckOperationsTimeout(m, h.bounded(), checkLimit)
	took := time.Since(start)
	unknown, duplicates := 0, 0
	kinds, verdicts := map[string]int{}, map[ledger.Verdict]int{}
	for _, op := range h.ops {
		c, a := op.Input.(*call), op.Output.(answer)
		switch {
		case a.unknown:
			unknown++
		case c.expiry:
			kinds["expiry"]++
		case len(c.txs) > 1 && c.txs[0].linked:
			kinds["chain"]++
		}
		for i, r := range a.results {
			if r.duplicate {
				duplicates++
				continue
			}
			verdicts[r.verdict]++
			if r.verdict == ledger.Posted && !c.expiry {
				kinds[kindNames[c.txs[i].kind]]++
			}
		}
	}
	t.Logf("%s in %v: %d operations in %v, %d of them unknown; %d duplicates, %d holds expired; posted %v; %v", result, took.Round(time.Millisecond),
		len(h.ops), start.Sub(h.start).Round(time.Millisecond), unknown, duplicates, h.expired, kinds, verdicts)
	return result
}

// bounded returns the history with an end for what was not answered, since the checker's work grows with all that may still happen.
//
// If others have decided all of its ids that are decided, it has done nothing, and is left out. If it may have decided some, it changes
// nothing any more once each of its chains has an id that is decided: if it has not happened when the first has heard that, it can be put
// there as well as anywhere behind.
func (h *history) bounded() (ops []porcupine.Operation) {
	heard := map[*registry]map[int]hearing{}
	for _, d := range h.dealers {
		heard[&d.registry] = map[int]hearing{}
	}
	for _, op := range h.ops {
		c, a := op.Input.(*call), op.Output.(answer)
		for i, r := range a.results {
			if r.verdict == ledger.LinkFailed {
				continue
			}
			first, ok := heard[c.registry][c.txs[i].id]
			if !ok || op.Return < first.at {
				first.at = op.Return
			}
			first.fresh = first.fresh || !r.duplicate && r.verdict != ledger.Conflict
			heard[c.registry][c.txs[i].id] = first
		}
	}
	for _, op := range h.ops {
		if op.Output.(answer).unknown {
			c := op.Input.(*call)
			if op.Return = c.end(heard[c.registry]); op.Return < op.Call {
				continue
			}
		}
		ops = append(ops, op)
	}
	return ops
}

// hearing is when the first heard that an id is decided, and whether somebody has heard that it was he who did it.
type hearing struct {
	at    int64
	fresh bool
}

// end returns the time by which a call that was not answered has happened, or never will; 0: it never has.
func (c *call) end(heard map[int]hearing) (end int64) {
	idle := true
	for _, chain := range chains(c.txs) {
		first := int64(math.MaxInt64)
		for _, t := range chain {
			if by, ok := heard[t.id]; ok {
				first, idle = min(first, by.at), idle && by.fresh
			}
		}
		idle = idle && first < math.MaxInt64
		end = max(end, first)
	}
	if idle {
		return 0
	}
	return end
}

// explain logs, of each shard whose history has no explanation, the operations around where the longest attempt at one gave up.
func (h *history) explain(t *testing.T, m porcupine.Model) {
	t.Helper()
	for _, part := range m.Partition(h.bounded()) {
		result, info := porcupine.CheckOperationsVerbose(m, part, checkLimit)
		if result == porcupine.Ok {
			continue
		}
		partial := info.PartialLinearizationsOperations()
		if len(partial) == 0 || len(partial[0]) == 0 {
			continue
		}
		longest := slices.MaxFunc(partial[0], func(a, b []porcupine.Operation) int { return len(a) - len(b) })
		explained := map[any]bool{}
		for _, op := range longest {
			explained[op.Input] = true
		}
		slices.SortFunc(part, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
		at := slices.IndexFunc(part, func(op porcupine.Operation) bool { return !explained[op.Input] })
		for _, op := range longest[max(0, len(longest)-12):] {
			t.Logf("explained: %s", line(op))
		}
		for _, op := range part[at:min(len(part), at+4)] {
			t.Logf("not explained (%t): %s", !explained[op.Input], line(op))
		}
	}
}

func line(op porcupine.Operation) string {
	return fmt.Sprintf("client %d, %v to %v: %s", op.ClientId, time.Duration(op.Call), time.Duration(op.Return), strict.DescribeOperation(op.Input, op.Output))
}

// Some calls fail, done or not done, and most of them are repeated.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	for range size(1, 10) {
		store := migrated(t, newPool(t, testdb.PostgresURL(t), t.Name(), clients))
		openShards(t, store)
		seed := oneSeed(t)
		h := newHistory(t, flaky(store, seed), seed)
		h.record(t, operations)
		h.store, h.ledger = store, newLedger(t, store) // no more faults
		require.NoError(t, h.settle(t.Context()))
		h.linearizable(t, strict)
		for _, err := range h.errs {
			require.ErrorIs(t, err, ledgertest.ErrInjected)
		}
		verified(t, newLedger(t, store))
	}
}

// PostgreSQL ends the clients' connections under them.
func TestLinearizableOverCutConnections(t *testing.T) {
	t.Parallel()
	for round := range size(1, 10) {
		url := testdb.PostgresURL(t)
		name := fmt.Sprintf("cut %d", round)
		store := migrated(t, newPool(t, url, name, clients))
		openShards(t, store)
		h := newHistory(t, store, oneSeed(t))
		stop := h.cutConnections(t, newPool(t, url, "cutter", 1), name)
		h.record(t, size(operations/2, operations))
		cut := stop()
		require.NoError(t, h.settle(t.Context()))
		t.Logf("%d connections were cut", cut)
		require.Positive(t, cut)
		h.linearizable(t, strict)
		verified(t, newLedger(t, store))
	}
}

func (h *history) linearizable(t *testing.T, m porcupine.Model) {
	t.Helper()
	if result := h.check(t, m); result != porcupine.Ok {
		h.explain(t, m)
		require.Equal(t, porcupine.Ok, result)
	}
	require.Empty(t, h.odd)
}

// flaky fails every thirtieth call, half of them after they were done.
func flaky(store ledger.Store, seed uint64) ledger.Store {
	var mu sync.Mutex
	r := dice(seed, clients)
	return &ledgertest.Flaky{Store: store, Fault: func(int64) ledgertest.Fault {
		mu.Lock()
		defer mu.Unlock()
		switch r.IntN(60) {
		case 0:
			return ledgertest.NotDone
		case 1:
			return ledgertest.DoneNotSaid
		}
		return ledgertest.Healthy
	}}
}

// cutConnections ends a busy connection of the named pool for each forty operations, until stop is called, which returns how many.
func (h *history) cutConnections(t *testing.T, pool *pgxpool.Pool, name string) (stop func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var cut int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for pause(ctx, time.Millisecond) == nil {
			h.mu.Lock()
			due := int64(len(h.ops)/40) > cut
			h.mu.Unlock()
			if !due {
				continue
			}
			tag, err := pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE application_name = $1 AND state = 'active' ORDER BY random() LIMIT 1`, name)
			if err != nil && ctx.Err() == nil {
				t.Errorf("cut a connection: %v", err)
				return
			}
			cut += tag.RowsAffected()
		}
	})
	stop = sync.OnceValue(func() int64 {
		cancel()
		wg.Wait()
		return cut
	})
	t.Cleanup(func() { stop() })
	return stop
}
