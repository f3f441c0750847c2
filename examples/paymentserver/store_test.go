package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/examples/internal/receivables"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// storeUnderTest is a store with customers GIG00001 to GIG00003 and the ledger behind it.
type storeUnderTest struct {
	store

	ledger *ledger.Ledger
}

var storeKinds = map[string]func(t *testing.T) storeUnderTest{
	"memory": func(t *testing.T) storeUnderTest {
		t.Helper()
		l, err := ledger.New(ledger.NewMemory(nil), nil)
		require.NoError(t, err)
		return storeUnderTest{newMemoryStore(l), l}
	},
	"postgres": func(t *testing.T) storeUnderTest {
		t.Helper()
		return storeIn(t, testdb.Postgres(t))
	},
	"strict postgres": func(t *testing.T) storeUnderTest {
		t.Helper()
		pool, err := pgxpool.New(t.Context(), testdb.PostgresURL(t)+"&default_transaction_isolation=serializable")
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		return storeIn(t, pool)
	},
}

func storeIn(t *testing.T, pool *pgxpool.Pool) storeUnderTest {
	t.Helper()
	keys, err := pgidem.NewStore(pool, nil)
	require.NoError(t, err)
	require.NoError(t, prepare(t.Context(), pool, keys, true))
	l, err := ledger.New(pgledger.NewStore(pool, nil), nil)
	require.NoError(t, err)
	return storeUnderTest{newPGStore(pool), l}
}

func TestStore(t *testing.T) {
	t.Parallel()
	for kind, open := range storeKinds {
		for name, test := range map[string]func(t *testing.T, s storeUnderTest){
			"accepts each payment of a batch by itself":   storeAcceptsBatch,
			"completes what was pending":                  storeCompletes,
			"keeps the first acceptance":                  storeKeepsFirst,
			"posts once":                                  storePostsOnce,
			"seeds once":                                  storeSeeds,
			"pages customers":                             storePages,
			"takes empty batches":                         storeEmpty,
			"writes nothing when its context has ended":   storeCanceled,
			"accepts concurrent copies of a batch once":   storeConcurrentAccept,
			"completes concurrent copies once":            storeConcurrentComplete,
			"posts concurrently, in any order, just once": storeConcurrentPost,
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				s := open(t)
				made, err := seed(t.Context(), s, 3)
				require.NoError(t, err)
				require.Equal(t, 3, made)
				test(t, s)
				report, err := s.ledger.Verify(t.Context())
				require.NoError(t, err)
				require.Empty(t, report.Breaks)
			})
		}
	}
}

// storePayment is a good payment of GIG00001; its state is as paymentBody sets it.
func storePayment(reference, status, amount string) *payment {
	p := &payment{
		Reference: reference, CustomerID: "GIG00001", BankStatus: status, Amount: decimal.RequireFromString(amount), Date: "2025-11-07 14:54:16",
	}
	p.State = p.firstState()
	return p
}

// storeBatch is n payments of 1.25 each, whose references begin with prefix.
func storeBatch(prefix, status string, n int) []*payment {
	batch := make([]*payment, n)
	for i := range batch {
		batch[i] = storePayment(fmt.Sprintf("%s-%03d", prefix, i), status, "1.25")
		batch[i].CustomerID = customerID(i%3 + 1)
	}
	return batch
}

func storeReferences(batch []*payment) []string {
	references := make([]string, len(batch))
	for i, p := range batch {
		references[i] = p.Reference
	}
	return references
}

func (s storeUnderTest) mustAccept(t *testing.T, batch ...*payment) []acceptance {
	t.Helper()
	got, err := s.accept(t.Context(), batch, false)
	require.NoError(t, err)
	require.Len(t, got, len(batch))
	return got
}

func (s storeUnderTest) mustFind(t *testing.T, reference string) payment {
	t.Helper()
	found, err := s.find(t.Context(), reference)
	require.NoError(t, err)
	require.Len(t, found, 1, reference)
	return found[0]
}

// mustTotal checks how many payments there are by state, and what is posted.
func (s storeUnderTest) mustTotal(t *testing.T, payments map[string]int64, posted string) {
	t.Helper()
	got, err := s.totals(t.Context())
	require.NoError(t, err)
	require.Equal(t, payments, got.Payments)
	require.Equal(t, posted, got.Posted.String())
}

func (s storeUnderTest) paid(t *testing.T, customers ...string) (sum decimal.Decimal) {
	t.Helper()
	for _, id := range customers {
		b, err := s.ledger.Balances(t.Context(), receivables.Account(id))
		require.NoError(t, err)
		sum = sum.Add(b[0].Credits)
	}
	return sum
}

func storeAcceptsBatch(t *testing.T, s storeUnderTest) {
	s.mustAccept(t, storePayment("old", bankComplete, "10"), storePayment("used", bankComplete, "10"), storePayment("both", bankComplete, "10"))

	unknown, both := storePayment("nobody", bankComplete, "10"), storePayment("both", bankComplete, "10")
	unknown.CustomerID, both.CustomerID = "GIG00004", "GIG00004"
	got := s.mustAccept(t,
		storePayment("z-new", bankComplete, "10"),
		unknown,
		storePayment("old", bankComplete, "10.00"),
		storePayment("used", bankComplete, "10.01"),
		both, // unknown comes first
		storePayment("failed", "FAILED", "10"),
		storePayment("a-new", bankComplete, "0.01"),
	)
	for i, want := range []acceptance{
		{}, {err: errUnknownCustomer}, {repeat: true}, {err: errOtherContent}, {err: errUnknownCustomer}, {}, {},
	} {
		require.ErrorIs(t, got[i].err, want.err, i)
		if want.err == nil {
			require.Equal(t, want.repeat, got[i].repeat, i)
			require.WithinDuration(t, time.Now(), got[i].first, time.Minute, i)
		}
	}
	for _, reference := range []string{"nobody", "NEW", ""} {
		found, err := s.find(t.Context(), reference)
		require.NoError(t, err)
		require.Empty(t, found, reference)
	}
	p := s.mustFind(t, "z-new")
	require.Equal(t, "GIG00001", p.CustomerID)
	require.Equal(t, bankComplete, p.BankStatus)
	require.Equal(t, "10", p.Amount.String())
	require.Equal(t, "2025-11-07 14:54:16", p.Date)
	require.True(t, p.AcceptedAt.Equal(got[0].first))
	require.True(t, p.PostedAt.IsZero())
	require.Equal(t, stateRecorded, s.mustFind(t, "failed").State)
	require.Equal(t, "10", s.mustFind(t, "used").Amount.String())
	s.mustTotal(t, map[string]int64{stateReceived: 5, stateRecorded: 1}, "0")
}

func storeCompletes(t *testing.T, s storeUnderTest) {
	for _, c := range []struct {
		name   string
		next   string // status
		change func(p *payment)
		err    error
	}{
		{"same", bankComplete, nil, nil},
		{"later", bankComplete, func(p *payment) { p.Date = "2025-11-08 09:00:00" }, nil},
		{"failed", "FAILED", nil, nil},
		{"cancelled", "CANCELLED", nil, nil},
		{"amount", bankComplete, func(p *payment) { p.Amount = decimal.New(501, -2) }, errOtherContent},
		{"customer", bankComplete, func(p *payment) { p.CustomerID = "GIG00002" }, errOtherContent},
		{"pending again", bankPending, func(p *payment) { p.Date = "2025-11-08 09:00:00" }, errOtherContent},
	} {
		first := s.mustAccept(t, storePayment(c.name, bankPending, "5.00"))[0].first
		require.Equal(t, stateRecorded, s.mustFind(t, c.name).State)
		due, err := s.post(t.Context(), []string{c.name})
		require.NoError(t, err)
		require.Empty(t, due, "what is pending is not posted")

		next := storePayment(c.name, c.next, "5")
		if c.change != nil {
			c.change(next)
		}
		got := s.mustAccept(t, next)[0]
		require.ErrorIs(t, got.err, c.err, c.name)
		p := s.mustFind(t, c.name)
		if c.err != nil {
			require.Equal(t, bankPending, p.BankStatus, c.name)
			require.Equal(t, stateRecorded, p.State, c.name)
			require.Equal(t, "5", p.Amount.String(), c.name)
			continue
		}
		require.False(t, got.repeat, c.name)
		require.True(t, got.first.After(first) && got.first.Equal(p.AcceptedAt), "%s: the wait for the bank is not ours", c.name)
		require.Equal(t, c.next, p.BankStatus, c.name)
		require.Equal(t, next.firstState(), p.State, c.name)
		require.Equal(t, next.Date, p.Date, c.name)
		again := s.mustAccept(t, next)[0]
		require.NoError(t, again.err, c.name)
		require.True(t, again.repeat && again.first.Equal(got.first), c.name)
		late := s.mustAccept(t, storePayment(c.name, bankPending, "5"))[0]
		require.NoError(t, late.err, "late news of what is decided is no other payment")
		require.True(t, late.repeat)
		// What is settled stays so, whichever way.
		for _, status := range []string{bankComplete, "FAILED", "CANCELLED"} {
			if status != c.next {
				require.ErrorIs(t, s.mustAccept(t, storePayment(c.name, status, "5"))[0].err, errOtherContent, c.name)
			}
		}
		require.Equal(t, next.firstState(), s.mustFind(t, c.name).State, c.name)
	}
	due, err := s.post(t.Context(), []string{"same", "later", "failed", "cancelled", "amount", "customer", "pending again"})
	require.NoError(t, err)
	require.Len(t, due, 2)
	s.mustTotal(t, map[string]int64{statePosted: 2, stateRecorded: 5}, "10")
}

func storeKeepsFirst(t *testing.T, s storeUnderTest) {
	first := s.mustAccept(t, storePayment("R", bankComplete, "10"))[0].first
	for range 3 {
		got := s.mustAccept(t, storePayment("R", bankComplete, "10"))[0]
		require.NoError(t, got.err)
		require.True(t, got.repeat)
		require.True(t, first.Equal(got.first), "%s, then %s", first, got.first)
		_, err := s.post(t.Context(), []string{"R"})
		require.NoError(t, err)
	}
	p := s.mustFind(t, "R")
	require.True(t, first.Equal(p.AcceptedAt))
	require.False(t, p.PostedAt.Before(p.AcceptedAt))
	require.ErrorIs(t, s.mustAccept(t, storePayment("R", "FAILED", "10"))[0].err, errOtherContent)
	require.Equal(t, statePosted, s.mustFind(t, "R").State)
}

func storePostsOnce(t *testing.T, s storeUnderTest) {
	s.mustAccept(t, append(storeBatch("B", bankComplete, 100), storeBatch("F", "FAILED", 3)...)...)
	references := append(storeReferences(storeBatch("B", "", 100)), "F-000", "F-001", "nothing", "B-007", "B-007") // as messages do come twice
	due, err := s.post(t.Context(), references)
	require.NoError(t, err)
	posted := map[string]bool{}
	for _, p := range due {
		require.Equal(t, statePosted, p.State, "%s: %s", p.Reference, p.Reason)
		require.Empty(t, p.Reason)
		require.False(t, p.PostedAt.IsZero() || p.AcceptedAt.IsZero())
		posted[p.Reference] = true
	}
	require.Len(t, posted, 100)
	for range 2 {
		due, err = s.post(t.Context(), references)
		require.NoError(t, err)
		require.Empty(t, due)
	}
	s.mustTotal(t, map[string]int64{statePosted: 100, stateRecorded: 3}, "125")
	require.Equal(t, "42.5", s.paid(t, "GIG00001").String())
	require.Equal(t, "125", s.paid(t, "GIG00001", "GIG00002", "GIG00003").String())
	require.Equal(t, statePosted, s.mustFind(t, "B-007").State)
	none, err := s.received(t.Context(), 0, 10)
	require.NoError(t, err)
	require.Empty(t, none)
}

func storeSeeds(t *testing.T, s storeUnderTest) {
	for _, c := range [][2]int{{3, 0}, {1, 0}, {5, 2}, {1100, 1095}, {1100, 0}} {
		made, err := seed(t.Context(), s, c[0])
		require.NoError(t, err)
		require.Equal(t, c[1], made)
	}
	b, err := s.ledger.Balances(t.Context(), receivables.Account("GIG00001"), receivables.Account("GIG01100"), receivables.Financed)
	require.NoError(t, err)
	require.Equal(t, "1000000", b[0].Posted.String())
	require.Equal(t, "1000000", b[1].Posted.String())
	require.Equal(t, "1100000000", b[2].Posted.String())
}

func storePages(t *testing.T, s storeUnderTest) {
	// They do not come in their order: the customer after GIG99999 is before it.
	for _, ids := range [][]string{{"GIG00012", "GIG00007"}, {"GIG00009", "GIG00007", "GIG00005"}} {
		_, err := s.open(t.Context(), ids)
		require.NoError(t, err)
	}
	made, err := seed(t.Context(), s, 12)
	require.NoError(t, err)
	require.Equal(t, 12-3-4, made)
	for _, c := range []struct {
		limit, offset int
		want          []string
	}{
		{2, 0, []string{"GIG00001", "GIG00002"}},
		{3, 8, []string{"GIG00009", "GIG00010", "GIG00011"}},
		{100, 11, []string{"GIG00012"}},
		{100, 12, nil},
		{1, 1 << 30, nil},
	} {
		ids, total, err := s.customers(t.Context(), c.limit, c.offset)
		require.NoError(t, err)
		require.EqualValues(t, 12, total)
		require.True(t, slices.Equal(c.want, ids), "%v", ids)
	}
}

func storeEmpty(t *testing.T, s storeUnderTest) {
	require.Empty(t, s.mustAccept(t))
	for _, references := range [][]string{nil, {}, {"nothing"}} {
		due, err := s.post(t.Context(), references)
		require.NoError(t, err)
		require.Empty(t, due)
	}
	s.mustTotal(t, map[string]int64{}, "0")
}

func storeCanceled(t *testing.T, s storeUnderTest) {
	s.mustAccept(t, storePayment("R", bankComplete, "10"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// The memory may answer all the same: it needs no time. A failure writes nothing.
	if _, err := s.accept(ctx, []*payment{storePayment("N", bankComplete, "10")}, false); err != nil {
		found, err := s.find(t.Context(), "N")
		require.NoError(t, err)
		require.Empty(t, found)
	}
	_, err := s.post(ctx, []string{"R"})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, stateReceived, s.mustFind(t, "R").State)
	require.Equal(t, "0", s.paid(t, "GIG00001").String())
}

const (
	storeCallers = 8
	storeLimit   = 15 * time.Second // PostgreSQL finds a deadlock after 1 s
)

// storeTogether lets every caller accept its own copy of the batch at once, half of
// them from its end, and returns how often each reference was fresh.
func storeTogether(t *testing.T, s storeUnderTest, batch []*payment) map[string]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), storeLimit)
	defer cancel()
	answers := make([][]acceptance, storeCallers)
	faults := make([]error, storeCallers)
	copies := make([][]*payment, storeCallers)
	start := make(chan struct{})
	var callers sync.WaitGroup
	for i := range storeCallers {
		for _, p := range batch {
			own := *p
			copies[i] = append(copies[i], &own)
		}
		if i%2 == 1 {
			slices.Reverse(copies[i])
		}
		callers.Go(func() {
			<-start
			answers[i], faults[i] = s.accept(ctx, copies[i], false)
		})
	}
	close(start)
	callers.Wait()
	fresh, first := map[string]int{}, map[string]time.Time{}
	for i := range storeCallers {
		require.NoError(t, faults[i])
		for k, a := range answers[i] {
			reference := copies[i][k].Reference
			require.NoError(t, a.err, "caller %d, %s", i, reference)
			if !a.repeat {
				fresh[reference]++
			}
			if _, ok := first[reference]; !ok {
				first[reference] = a.first
			}
			require.True(t, first[reference].Equal(a.first), "%s: %s and %s", reference, first[reference], a.first)
		}
	}
	return fresh
}

func storeConcurrentAccept(t *testing.T, s storeUnderTest) {
	for round := range 5 {
		batch := storeBatch(fmt.Sprintf("C%d", round), bankComplete, 100)
		fresh := storeTogether(t, s, batch)
		for _, p := range batch {
			require.Equal(t, 1, fresh[p.Reference], p.Reference)
		}
	}
	s.mustTotal(t, map[string]int64{stateReceived: 500}, "0")
}

// Two copies of COMPLETE meet on one that was PENDING: the second waits for the
// first's row, and finds COMPLETE there, which its snapshot has not seen. It is a
// repeat all the same.
func storeConcurrentComplete(t *testing.T, s storeUnderTest) {
	for round := range 5 {
		name := fmt.Sprintf("D%d", round)
		s.mustAccept(t, storeBatch(name, bankPending, 100)...)
		batch := storeBatch(name, bankComplete, 100)
		fresh := storeTogether(t, s, batch)
		for _, p := range batch {
			require.Equal(t, 1, fresh[p.Reference], p.Reference)
		}
	}
	s.mustTotal(t, map[string]int64{stateReceived: 500}, "0")
}

func storeConcurrentPost(t *testing.T, s storeUnderTest) {
	const n = 200
	batch := storeBatch("E", bankComplete, n)
	s.mustAccept(t, batch...)
	ctx, cancel := context.WithTimeout(t.Context(), storeLimit)
	defer cancel()
	faults := make(chan error, 2*storeCallers)
	var posted atomic.Int64
	var callers sync.WaitGroup
	for i := range storeCallers {
		references := storeReferences(batch)
		if i%2 == 1 {
			slices.Reverse(references)
		}
		callers.Go(func() {
			due, err := s.post(ctx, references)
			posted.Add(int64(len(due)))
			faults <- err
		})
		callers.Go(func() { // repeats lock the same rows
			_, err := s.accept(ctx, batch, false)
			faults <- err
		})
	}
	callers.Wait()
	close(faults)
	for err := range faults {
		require.NoError(t, err)
	}
	// What a repeat had locked was skipped: a sweep finds it.
	rest, err := s.received(t.Context(), 0, n)
	require.NoError(t, err)
	due, err := s.post(t.Context(), rest)
	require.NoError(t, err)
	require.Len(t, due, len(rest))
	require.Equal(t, n, int(posted.Load())+len(due))
	s.mustTotal(t, map[string]int64{statePosted: n}, "250")
	require.Equal(t, "250", s.paid(t, "GIG00001", "GIG00002", "GIG00003").String())
}

// The rest is PostgreSQL's alone: in memory nothing is spilled, and no message lost.

func storeSpilled(p *payment, ago time.Duration) *payment {
	p.AcceptedAt = time.Now().Add(-ago).Round(time.Microsecond)
	return p
}

func TestPGStoreKeepsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	s := storeKinds["postgres"](t)
	_, err := seed(t.Context(), s, 3)
	require.NoError(t, err)
	s.mustAccept(t, storePayment("taken", bankComplete, "10"), storePayment("pending", bankPending, "10"))

	good, repeat, other := storePayment("good", bankComplete, "10"), storePayment("taken", bankComplete, "10"), storePayment("taken-2", bankComplete, "10")
	nobody, nobodyPending := storePayment("nobody", bankComplete, "10"), storePayment("nobody-pending", bankPending, "10")
	nobody.CustomerID, nobodyPending.CustomerID = "GIG00009", "GIG00009"
	s.mustAccept(t, storePayment("taken-2", bankComplete, "11"))
	batch := []*payment{good, repeat, other, nobody, nobodyPending, storePayment("pending", bankComplete, "10")}
	for _, p := range batch {
		storeSpilled(p, time.Hour)
	}
	got, err := s.accept(t.Context(), batch, true)
	require.NoError(t, err)
	require.NoError(t, got[0].err)
	require.True(t, got[0].first.Equal(good.AcceptedAt), "it was acknowledged with that time")
	require.True(t, got[1].err == nil && got[1].repeat)
	require.ErrorIs(t, got[2].err, errOtherContent)
	require.ErrorIs(t, got[3].err, errUnknownCustomer)
	require.ErrorIs(t, got[4].err, errUnknownCustomer)
	require.True(t, got[5].err == nil && !got[5].repeat)
	for _, p := range batch[3:5] {
		kept := s.mustFind(t, p.Reference)
		require.Equal(t, stateRejected, kept.State)
		require.Equal(t, "unknown_customer", kept.Reason)
		require.True(t, kept.AcceptedAt.Equal(p.AcceptedAt))
		require.Equal(t, "10", kept.Amount.String())
	}
	// The drain brings a batch again when it was killed before it acknowledged.
	again, err := s.accept(t.Context(), batch, true)
	require.NoError(t, err)
	require.True(t, again[0].repeat && again[5].repeat)
	due, err := s.post(t.Context(), storeReferences(batch))
	require.NoError(t, err)
	require.Len(t, due, 4, "good, taken, taken-2, pending")
	s.mustTotal(t, map[string]int64{statePosted: 4, stateRejected: 2}, "41")
}

func TestPGStoreFindsWhatIsReceived(t *testing.T) {
	t.Parallel()
	s := storeKinds["postgres"](t)
	_, err := seed(t.Context(), s, 3)
	require.NoError(t, err)
	ages := []time.Duration{time.Hour, 3 * time.Hour, 2 * time.Hour, time.Minute, 0}
	for i, age := range ages {
		_, err := s.accept(t.Context(), []*payment{storeSpilled(storePayment(fmt.Sprintf("A-%d", i), bankComplete, "10"), age)}, true)
		require.NoError(t, err)
	}
	_, err = s.accept(t.Context(), []*payment{storeSpilled(storePayment("recorded", "FAILED", "10"), 5*time.Hour)}, true)
	require.NoError(t, err)
	for _, c := range []struct {
		age   time.Duration
		limit int
		want  []string
	}{
		{0, 10, []string{"A-1", "A-2", "A-0", "A-3", "A-4"}},
		{0, 2, []string{"A-1", "A-2"}},
		{30 * time.Second, 10, []string{"A-1", "A-2", "A-0", "A-3"}},
		{90 * time.Minute, 10, []string{"A-1", "A-2"}},
		{24 * time.Hour, 10, nil},
	} {
		got, err := s.received(t.Context(), c.age, c.limit)
		require.NoError(t, err)
		require.True(t, slices.Equal(c.want, got), "%s: %v", c.age, got)
	}
	_, err = s.post(t.Context(), []string{"A-1", "A-0"})
	require.NoError(t, err)
	got, err := s.received(t.Context(), 0, 10)
	require.NoError(t, err)
	require.Equal(t, []string{"A-2", "A-3", "A-4"}, got)
}

// A server whose clock is an hour ahead takes a payment while the database is down, the
// message of it is lost, and an hour goes by in which nobody posts it.
func TestPGStoreFindsWhatWasReceivedByAClockThatIsAhead(t *testing.T) {
	t.Parallel()
	s := storeKinds["postgres"](t)
	_, err := seed(t.Context(), s, 1)
	require.NoError(t, err)
	_, err = s.accept(t.Context(), []*payment{storeSpilled(storePayment("ahead", bankComplete, "10"), -time.Hour)}, true)
	require.NoError(t, err)
	for _, age := range []time.Duration{0, sweepAge} {
		got, err := s.received(t.Context(), age, 10)
		require.NoError(t, err)
		require.Equal(t, []string{"ahead"}, got)
	}
}

// A payment whose customer's account is closed to it is not in the way of others.
func TestPGStorePostsBesideARejectedOne(t *testing.T) {
	t.Parallel()
	s := storeKinds["postgres"](t)
	_, err := seed(t.Context(), s, 2)
	require.NoError(t, err)
	pool := s.store.(*pgStore).pool
	_, err = pool.Exec(t.Context(), `INSERT INTO customers (id) VALUES ('GIG00003')`) // without an account
	require.NoError(t, err)
	s.mustAccept(t, storeBatch("X", bankComplete, 3)...)
	due, err := s.post(t.Context(), []string{"X-000", "X-001", "X-002"})
	require.NoError(t, err)
	require.Len(t, due, 3)
	p := s.mustFind(t, "X-002")
	require.Equal(t, stateRejected, p.State)
	require.Equal(t, "unknown_account", p.Reason)
	s.mustTotal(t, map[string]int64{statePosted: 2, stateRejected: 1}, "2.5")
	require.Equal(t, "2.5", s.paid(t, "GIG00001", "GIG00002").String())
}

// A spilled notice of a customer that was unknown is kept as REJECTED. When the customer
// is there and the payment completes, why it was rejected is no more true.
func TestPGStoreForgetsWhyAPendingPaymentWasRejected(t *testing.T) {
	t.Parallel()
	s := storeKinds["postgres"](t)
	pending := storeSpilled(storePayment("later", bankPending, "10"), time.Hour)
	got, err := s.accept(t.Context(), []*payment{pending}, true)
	require.NoError(t, err)
	require.ErrorIs(t, got[0].err, errUnknownCustomer)
	require.Equal(t, "unknown_customer", s.mustFind(t, "later").Reason)
	_, err = seed(t.Context(), s, 1)
	require.NoError(t, err)
	require.NoError(t, s.mustAccept(t, storePayment("later", bankComplete, "10"))[0].err)
	for _, state := range []string{stateReceived, statePosted} {
		p := s.mustFind(t, "later")
		require.Equal(t, state, p.State)
		require.Empty(t, p.Reason)
		_, err = s.post(t.Context(), []string{"later"})
		require.NoError(t, err)
	}
}

// Who takes payments again and who posts them lock them in one order: else each waits for
// the other, and one of them fails. It is the order of their bytes, though the database
// sorts text by its language, and though they lie in another order in the table.
func TestPGStoreLocksInOneOrder(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool := storePoolIn(t, "en-US") // where a is before B
	keys, err := pgidem.NewStore(pool, nil)
	require.NoError(t, err)
	require.NoError(t, prepare(ctx, pool, keys, true))
	s := newPGStore(pool)
	_, err = seed(ctx, s, 1)
	require.NoError(t, err)
	batch := []*payment{storePayment("a", bankComplete, "10"), storePayment("B", bankComplete, "10")}
	for _, p := range batch {
		_, err = s.accept(ctx, []*payment{p}, false)
		require.NoError(t, err)
	}
	for name, locks := range map[string]func() error{
		"accept": func() error { _, err := s.accept(ctx, batch, false); return err },
		"post":   func() error { _, err := s.post(ctx, storeReferences(batch)); return err },
	} {
		const lock = `SELECT FROM payments WHERE reference = $1 FOR NO KEY UPDATE`
		other, err := pool.Begin(ctx)
		require.NoError(t, err)
		defer other.Rollback(ctx) //nolint:errcheck // it is committed below
		_, err = other.Exec(ctx, lock, "B")
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- locks() }()
		require.Eventually(t, func() bool {
			var waits bool
			err := other.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid)`).Scan(&waits)
			return err == nil && waits
		}, storeLimit, 5*time.Millisecond)
		_, err = other.Exec(ctx, lock+" NOWAIT", "a")
		require.NoError(t, err, "%s waits for B and has a already", name)
		require.NoError(t, other.Commit(ctx))
		require.NoError(t, <-done)
	}
}

// storePoolIn returns a pool on a database of its own that sorts by a language, and reads
// its tables from end to end.
func storePoolIn(t *testing.T, locale string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(testdb.PostgresURL(t))
	require.NoError(t, err)
	admin, err := pgx.ConnectConfig(t.Context(), config.ConnConfig)
	require.NoError(t, err)
	name := "test_" + strings.ToLower(rand.Text())
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_, err := admin.Exec(ctx, "DROP DATABASE IF EXISTS "+name)
		require.NoError(t, errors.Join(err, admin.Close(ctx)))
	})
	_, err = admin.Exec(t.Context(), "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING UTF8 LOCALE_PROVIDER icu ICU_LOCALE '"+locale+"'")
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "0A000" && os.Getenv("REQUIRE_BACKENDS") != "1" {
		t.Skip("this PostgreSQL is built without ICU")
	}
	require.NoError(t, err)
	config.ConnConfig.Database = name
	params := config.ConnConfig.RuntimeParams
	delete(params, "search_path")
	params["enable_indexscan"], params["enable_bitmapscan"] = "off", "off"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// What is neither inserted nor there is not acknowledged: somebody has deleted it between
// the two looks, or a trigger has dropped it.
func TestPGStoreDoesNotAcknowledgeWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s := storeKinds["postgres"](t)
	_, err := seed(t.Context(), s, 1)
	require.NoError(t, err)
	s.mustAccept(t, storePayment("there", bankComplete, "10"))
	_, err = s.store.(*pgStore).pool.Exec(t.Context(), `CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
		CREATE TRIGGER drop_it BEFORE INSERT ON payments FOR EACH ROW WHEN (NEW.reference = 'dropped') EXECUTE FUNCTION drop_it()`)
	require.NoError(t, err)
	for _, acknowledged := range []bool{false, true} {
		_, err = s.accept(t.Context(), []*payment{storePayment("there", bankComplete, "10"), storePayment("dropped", bankComplete, "10")}, acknowledged)
		require.ErrorIs(t, err, errGone)
	}
}
