package proof

import (
	"cmp"
	"context"
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
	*ledger.Ledger
	seed  uint64
	start time.Time

	mu   sync.Mutex
	ids  [groups]int
	sent [groups][]call // what others may repeat
	ops  []porcupine.Operation
	at   map[string]time.Time // of each content under each id, when it was decided
	odd  []string
}

func accountID(group, i int) ledger.AccountID {
	return ledger.AccountID(fmt.Sprintf("g%d/%d", group, i))
}

// record has the clients do n operations and returns when all are done.
func record(t *testing.T, store ledger.Store, n int, seed uint64) *history {
	t.Helper()
	h := &history{Ledger: newLedger(t, store), seed: seed, start: time.Now(), at: map[string]time.Time{}}
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() { h.client(t.Context(), c, n/clients) })
	}
	wg.Wait()
	return h
}

func openGroups(t *testing.T, store ledger.Store) {
	t.Helper()
	var accounts []ledger.Account
	for g := range groups {
		accounts = append(accounts, bank(accountID(g, 0)))
		for i := 1; i < perGroup; i++ {
			accounts = append(accounts, wallet(accountID(g, i), floors[i]))
		}
	}
	require.NoError(t, newLedger(t, store).Open(t.Context(), accounts...))
}

func (h *history) client(ctx context.Context, n, ops int) {
	r := dice(h.seed, uint64(n))
	var again *call // what was not answered
	for done := 0; done < ops && ctx.Err() == nil; {
		c := again
		if again = nil; c == nil {
			c = h.choose(r)
		}
		op := porcupine.Operation{ClientId: n, Input: c, Call: int64(time.Since(h.start))}
		a := h.do(ctx, c)
		op.Output, op.Return = a, int64(time.Since(h.start))
		if a.unknown {
			op.Return = math.MaxInt64
			if len(c.reads) > 0 {
				continue // it says nothing, and does not count
			}
			if r.IntN(3) > 0 {
				again = new(*c)
			}
		}
		h.mu.Lock()
		h.ops = append(h.ops, op)
		h.mu.Unlock()
		done++
	}
}

func (h *history) choose(r *rand.Rand) *call {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := call{group: r.IntN(groups)}
	sent := h.sent[c.group]
	switch k := r.IntN(100); {
	case k < 30:
		c.reads = r.Perm(perGroup)[:1+r.IntN(3)]
		return &c
	case k < 42 && len(sent) > 0: // one of the last, so that some are under way just now
		c = sent[len(sent)-1-r.IntN(min(len(sent), 8))]
		if k < 34 { // other content under its id
			c.content, c.moves = 1, []move{{c.moves[0].debit, c.moves[0].credit, 1000}}
		}
		return &c
	}
	c.id = h.ids[c.group]
	h.ids[c.group]++
	for range 1 + r.IntN(2) {
		pair := r.Perm(perGroup)
		if r.IntN(3) == 0 {
			pair[0], pair[1] = 0, 1+r.IntN(perGroup-1) // money comes in
		}
		c.moves = append(c.moves, move{pair[0], pair[1], 1 + r.Int64N(60)})
	}
	h.sent[c.group] = append(sent, c)
	return &c
}

func (h *history) do(ctx context.Context, c *call) (a answer) {
	if len(c.reads) > 0 {
		ids := make([]ledger.AccountID, len(c.reads))
		for i, account := range c.reads {
			ids[i] = accountID(c.group, account)
		}
		balances, err := h.Balances(ctx, ids...)
		for i, b := range balances {
			a.seen[i] = seen{b.Posted.Shift(scale).IntPart(), b.Version}
		}
		a.unknown = err != nil
		return a
	}
	tx := ledger.Transaction{ID: txID("g", c.group, "-", c.id)}
	for _, m := range c.moves {
		tx.Postings = append(tx.Postings, posting(accountID(c.group, m.debit), accountID(c.group, m.credit), m.amount))
	}
	results, err := h.Post(ctx, []ledger.Transaction{tx})
	if err != nil {
		return answer{unknown: true}
	}
	h.decidedAt(c, results[0])
	return answer{verdict: results[0].Verdict, posting: results[0].Posting, duplicate: results[0].Duplicate}
}

// decidedAt notes answers to one transaction that differ in when it was decided: the model has no clock.
func (h *history) decidedAt(c *call, r ledger.Result) {
	if r.Verdict == ledger.Conflict {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if first, ok := h.at[string(r.ID)]; ok && !first.Equal(r.At) {
		h.odd = append(h.odd, fmt.Sprintf("%s, content %d: decided at %v and at %v", r.ID, c.content, first, r.At))
	}
	h.at[string(r.ID)] = r.At
}

// check runs the checker and logs what it had to do.
func (h *history) check(t *testing.T, m porcupine.Model) porcupine.CheckResult {
	t.Helper()
	start := time.Now()
	result := porcupine.CheckOperationsTimeout(m, h.ops, checkLimit)
	unknown, duplicates, refused := 0, 0, 0
	for _, op := range h.ops {
		a := op.Output.(answer)
		switch {
		case a.unknown:
			unknown++
		case a.duplicate:
			duplicates++
		case a.verdict != ledger.Posted:
			refused++
		}
	}
	t.Logf("%s in %v: %d operations in %v, %d of them unknown, %d duplicates, %d refused", result, time.Since(start).Round(time.Millisecond),
		len(h.ops), start.Sub(h.start).Round(time.Millisecond), unknown, duplicates, refused)
	return result
}

// explain logs, of each group whose history has no explanation, the operations around where the longest attempt at one gave up.
func (h *history) explain(t *testing.T, m porcupine.Model) {
	t.Helper()
	for _, part := range m.Partition(h.ops) {
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
		openGroups(t, store)
		seed := oneSeed(t)
		record(t, flaky(store, seed), operations, seed).linearizable(t, strict)
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
		openGroups(t, store)
		stop := cutConnections(t, newPool(t, url, "cutter", 1), name)
		h := record(t, store, size(operations/2, operations), oneSeed(t))
		cut := stop()
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

// flaky fails every hundredth call, half of them after they were done. The checker's work grows with what nobody was told.
func flaky(store ledger.Store, seed uint64) ledger.Store {
	var mu sync.Mutex
	r := dice(seed, clients)
	return &ledgertest.Flaky{Store: store, Fault: func(int64) ledgertest.Fault {
		mu.Lock()
		defer mu.Unlock()
		switch r.IntN(200) {
		case 0:
			return ledgertest.NotDone
		case 1:
			return ledgertest.DoneNotSaid
		}
		return ledgertest.Healthy
	}}
}

// cutConnections ends one busy connection of the named pool after the other, until stop is called, which returns how many.
func cutConnections(t *testing.T, pool *pgxpool.Pool, name string) (stop func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var cut int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for pause(ctx, 40*time.Millisecond) == nil {
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
