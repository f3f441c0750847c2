package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// historyStores are the stores that a history is read from.
func historyStores(t *testing.T, test func(*testing.T, ledger.Store)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
		test(t, ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time {
			now = now.Add(time.Minute)
			return now
		}}))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		pool := testdb.Postgres(t)
		require.NoError(t, pgledger.Migrate(t.Context(), pool, nil))
		test(t, pgledger.NewStore(pool, nil))
	})
}

var historyAccounts = []ledger.Account{
	{ID: "bank", Currency: "NGN", Normal: ledger.Debit},
	{ID: "ada", Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.Zero)},
	{ID: "obi", Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.New(-500, 0))},
	{ID: "fees", Currency: "NGN", Normal: ledger.Debit, Floor: new(decimal.Zero)},
	{ID: "idle", Currency: "NGN", Normal: ledger.Credit},
}

// postAtRandom posts batches of all kinds between all accounts but the last; many are refused.
func postAtRandom(t *testing.T, l *ledger.Ledger) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	require.NoError(t, l.Open(t.Context(), historyAccounts...))
	n := 0
	for range 25 {
		txs := make([]ledger.Transaction, 1+r.IntN(6))
		for i := range txs {
			n++
			txs[i].ID = ledger.TransactionID(fmt.Sprint("tx", n))
			txs[i].Kind = ledger.Kind(max(0, r.IntN(8)-3))
			if txs[i].Kind > ledger.KindHold {
				txs[i].Of = ledger.TransactionID(fmt.Sprint("tx", 1+r.IntN(n)))
				continue
			}
			for range 1 + r.IntN(3) {
				from := r.IntN(4)
				txs[i].Postings = append(txs[i].Postings, ledger.Posting{
					Debit: historyAccounts[from].ID, Credit: historyAccounts[(from+1+r.IntN(3))%4].ID,
					Amount: decimal.New(1+r.Int64N(50_000), -2), Currency: "NGN",
				})
			}
		}
		_, err := l.Post(t.Context(), txs)
		require.NoError(t, err)
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	historyStores(t, func(t *testing.T, store ledger.Store) {
		l, err := ledger.New(store, nil)
		require.NoError(t, err)
		postAtRandom(t, l)
		for _, a := range historyAccounts {
			entries := sameBalanceFromEntries(t, l, a)
			sameBalanceAtEachTime(t, l, a, entries)
		}
	})
}

// sameBalanceFromEntries folds an account's entries, at once and in two parts.
func sameBalanceFromEntries(t *testing.T, l *ledger.Ledger, a ledger.Account) (entries []ledger.Entry) {
	t.Helper()
	stored, err := l.Balances(t.Context(), a.ID)
	require.NoError(t, err)
	want := stored[0]

	zero := ledger.Balance{Account: a.ID, Currency: a.Currency, Normal: a.Normal}
	have, err := ledger.Fold(l.Entries(t.Context(), a.ID, 0), zero, func(b ledger.Balance, e ledger.Entry) (ledger.Balance, error) {
		entries = append(entries, e)
		return b.Add(e)
	})
	require.NoError(t, err)
	equalBalance(t, want, have)

	half := zero
	for _, e := range entries[:len(entries)/2] {
		half, err = half.Add(e)
		require.NoError(t, err)
	}
	have, err = ledger.Fold(l.Entries(t.Context(), a.ID, half.Version), half, ledger.Balance.Add)
	require.NoError(t, err)
	equalBalance(t, want, have)
	return entries
}

func equalBalance(t *testing.T, want, have ledger.Balance) {
	t.Helper()
	require.Equal(t, want.Version, have.Version, want.Account)
	require.True(t, want.Posted.Equal(have.Posted), "%s: %s, folded %s", want.Account, want.Posted, have.Posted)
	require.True(t, want.Debits.Equal(have.Debits), "%s: %s, folded %s", want.Account, want.Debits, have.Debits)
	require.True(t, want.Credits.Equal(have.Credits), "%s: %s, folded %s", want.Account, want.Credits, have.Credits)
	require.True(t, have.Available.Equal(have.Posted), "%s", want.Account)
}

func sameBalanceAtEachTime(t *testing.T, l *ledger.Ledger, a ledger.Account, entries []ledger.Entry) {
	t.Helper()
	at := func(when time.Time) ledger.PastBalance {
		b, err := l.BalanceAt(t.Context(), a.ID, when)
		require.NoError(t, err)
		require.Equal(t, a.ID, b.Account)
		require.Equal(t, a.Currency, b.Currency)
		require.Equal(t, a.Normal, b.Normal)
		return b
	}
	same := func(want ledger.Entry, have ledger.PastBalance) {
		require.Equal(t, want.Version, have.Version, a.ID)
		require.True(t, want.Balance.Equal(have.Posted), "%s: %s, want %s", a.ID, have.Posted, want.Balance)
		require.True(t, want.At.Equal(have.At))
	}
	for i, e := range entries {
		if i+1 < len(entries) && entries[i+1].At.Equal(e.At) {
			continue // a later entry has the same time: that one is the last
		}
		same(e, at(e.At))
		same(e, at(e.At.Add(1)))
	}
	var last ledger.Entry // nothing, for an account without entries
	if len(entries) > 0 {
		last = entries[len(entries)-1]
		same(ledger.Entry{}, at(entries[0].At.Add(-1)))
	}
	same(last, at(time.Now().AddDate(100, 0, 0)))
	same(ledger.Entry{}, at(time.Time{}))
}

// countLines counts the entries that are read.
type countLines struct {
	ledger.Store
	calls, limits int
}

func (c *countLines) Lines(ctx context.Context, id ledger.AccountID, after int64, limit int) ([]ledger.Recorded, error) {
	c.calls++
	c.limits += limit
	return c.Store.Lines(ctx, id, after, limit)
}

func TestBalanceAtReadsFewEntries(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	store := &countLines{Store: ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time {
		now = now.Add(time.Second)
		return now
	}})}
	l, err := ledger.New(store, nil)
	require.NoError(t, err)
	require.NoError(t, l.Open(t.Context(), historyAccounts...))
	const n = 1000
	for i := range n {
		_, err := l.PostOne(t.Context(), ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint(i)), Postings: []ledger.Posting{
			{Debit: "bank", Credit: "ada", Amount: decimal.New(1, 0), Currency: "NGN"},
		}})
		require.NoError(t, err)
	}
	for i := range n {
		store.calls, store.limits = 0, 0
		b, err := l.BalanceAt(t.Context(), "ada", now.Add(-time.Duration(i)*time.Second))
		require.NoError(t, err)
		require.EqualValues(t, n-i, b.Version)
		require.LessOrEqual(t, store.calls, bits.Len(n)+1)
		require.Equal(t, store.calls, store.limits)
	}
}

func TestBalanceAtErrors(t *testing.T) {
	t.Parallel()
	l, err := ledger.New(ledger.NewMemory(nil), nil)
	require.NoError(t, err)
	_, err = l.BalanceAt(t.Context(), "nobody", time.Now())
	unknown, ok := errors.AsType[*ledger.UnknownAccountError](err)
	require.True(t, ok)
	require.EqualValues(t, "nobody", unknown.ID)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = l.BalanceAt(ctx, "nobody", time.Now())
	require.ErrorIs(t, err, context.Canceled)

	store := &forgetful{ledger.NewMemory(nil)}
	l, err = ledger.New(store, nil)
	require.NoError(t, err)
	postAtRandom(t, l)
	_, err = l.BalanceAt(t.Context(), "bank", time.Now())
	_, ok = errors.AsType[*ledger.HistoryError](err)
	require.True(t, ok, "%v", err)
}

// An account's only entry is its last one.
func TestBalanceAtOfOneEntry(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l, _ := newGroup(t, ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { return now }}), nil)
	_, err := l.PostOne(t.Context(), pay("1"))
	require.NoError(t, err)
	for at, version := range map[time.Time]int64{now.Add(-1): 0, now: 1, now.Add(1): 1} {
		b, err := l.BalanceAt(t.Context(), "shop", at)
		require.NoError(t, err)
		require.Equal(t, version, b.Version)
		require.Equal(t, fmt.Sprint(version), b.Posted.String())
	}
}

// gap has lost the second entry: who asks for it is given the third.
type gap struct{ ledger.Store }

func (g gap) Lines(ctx context.Context, id ledger.AccountID, after int64, limit int) ([]ledger.Recorded, error) {
	page, err := g.Store.Lines(ctx, id, after, limit+1)
	page = slices.DeleteFunc(page, func(r ledger.Recorded) bool { return r.Version == 2 })
	return page[:min(limit, len(page))], err
}

func TestBalanceAtNamesTheEntryThatIsMissing(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l, _ := newGroup(t, gap{ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { now = now.Add(time.Second); return now }})}, nil)
	for _, id := range []string{"1", "2", "3"} {
		_, err := l.PostOne(t.Context(), pay(id))
		require.NoError(t, err)
	}
	_, err := l.BalanceAt(t.Context(), "shop", now.Add(-time.Second))
	require.ErrorContains(t, err, `entry 2 of "shop" is missing`)
}

// forgetful has lost all entries.
type forgetful struct{ ledger.Store }

func (forgetful) Lines(context.Context, ledger.AccountID, int64, int) ([]ledger.Recorded, error) {
	return nil, nil
}

func TestFoldStopsAtTheFirstError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	entries := func(yield func(ledger.Entry, error) bool) {
		_ = yield(ledger.Entry{Version: 1}, nil) && yield(ledger.Entry{Version: 2}, nil) && yield(ledger.Entry{}, broken)
	}
	sum := func(n int64, e ledger.Entry) (int64, error) { return n + e.Version, nil }
	n, err := ledger.Fold(entries, 10, sum)
	require.ErrorIs(t, err, broken)
	require.EqualValues(t, 13, n)

	stop := errors.New("stop")
	n, err = ledger.Fold(entries, 10, func(n int64, e ledger.Entry) (int64, error) {
		if e.Version == 2 {
			return 0, stop
		}
		return sum(n, e)
	})
	require.ErrorIs(t, err, stop)
	require.EqualValues(t, 11, n)
}

func TestBalanceAddNamesTheBreak(t *testing.T) {
	t.Parallel()
	ten := decimal.New(10, 0)
	b := ledger.Balance{Account: "ada", Normal: ledger.Credit, Version: 3, Posted: ten, Credits: ten, HeldDebits: ten}
	good := ledger.Entry{Account: "ada", Version: 4, Side: ledger.Debit, Amount: decimal.New(4, 0), Balance: decimal.New(6, 0)}
	after, err := b.Add(good)
	require.NoError(t, err)
	require.Equal(t, "6", after.Posted.String())
	require.Equal(t, "4", after.Debits.String())
	require.Equal(t, "-4", after.Available.String())
	require.Equal(t, "10", after.HeldDebits.String())
	for what, edit := range map[string]func(*ledger.Entry){
		`ledger: entry 4 of "obi" is not of "ada"`:                func(e *ledger.Entry) { e.Account = "obi" },
		`ledger: entry 5 of "ada" follows entry 3`:                func(e *ledger.Entry) { e.Version = 5 },
		`ledger: entry 4 of "ada" has no side`:                    func(e *ledger.Entry) { e.Side = 0 },
		`ledger: entry 4 of "ada" leaves 6, should leave 14`:      func(e *ledger.Entry) { e.Side = ledger.Credit },
		`ledger: entry 4 of "ada" leaves 6.01, should leave 6`:    func(e *ledger.Entry) { e.Balance = decimal.New(601, -2) },
		`ledger: entry 4 of "ada" leaves 6, should leave 5.99`:    func(e *ledger.Entry) { e.Amount = decimal.New(401, -2) },
		`ledger: entry 3 of "ada" follows entry 3`:                func(e *ledger.Entry) { e.Version = 3 },
		`ledger: entry 4 of "ada" leaves 6, should leave 9.99999`: func(e *ledger.Entry) { e.Amount = decimal.New(1, -5) },
	} {
		e := good
		edit(&e)
		same, err := b.Add(e)
		_, ok := errors.AsType[*ledger.HistoryError](err)
		require.True(t, ok)
		require.EqualError(t, err, what)
		require.Equal(t, b, same)
	}
}

func ExampleLedger_BalanceAt() {
	ctx := context.Background()
	day := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	l, err := ledger.New(ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { return day }}), nil)
	if err != nil {
		panic(err)
	}
	err = l.Open(ctx,
		ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit},
		ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit},
	)
	if err != nil {
		panic(err)
	}
	for _, id := range []ledger.TransactionID{"january", "february", "march"} {
		pay := []ledger.Posting{{Debit: "bank", Credit: "ada", Amount: decimal.New(100, 0), Currency: "NGN"}}
		if _, err := l.PostOne(ctx, ledger.Transaction{ID: id, Postings: pay}); err != nil {
			panic(err)
		}
		day = day.AddDate(0, 0, 28)
	}
	b, err := l.BalanceAt(ctx, "ada", time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))
	fmt.Println(b.Posted, "at version", b.Version, err)
	// Output: 200 at version 2 <nil>
}

func ExampleFold() {
	ctx := context.Background()
	l, err := ledger.New(ledger.NewMemory(nil), nil)
	if err != nil {
		panic(err)
	}
	err = l.Open(ctx,
		ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit},
		ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit},
	)
	if err != nil {
		panic(err)
	}
	move := func(id ledger.TransactionID, debit, credit ledger.AccountID, amount int64) ledger.Transaction {
		return ledger.Transaction{ID: id, Postings: []ledger.Posting{
			{Debit: debit, Credit: credit, Amount: decimal.New(amount, 0), Currency: "NGN"},
		}}
	}
	if _, err := l.Post(ctx, []ledger.Transaction{move("in", "bank", "ada", 100), move("out", "ada", "bank", 30)}); err != nil {
		panic(err)
	}
	// How much ada ever had at most.
	most, err := ledger.Fold(l.Entries(ctx, "ada", 0), decimal.Zero, func(most decimal.Decimal, e ledger.Entry) (decimal.Decimal, error) {
		return decimal.Max(most, e.Balance), nil
	})
	fmt.Println(most, err)
	// Her balance, from nothing but entries.
	b, err := ledger.Fold(l.Entries(ctx, "ada", 0), ledger.Balance{Account: "ada", Currency: "NGN", Normal: ledger.Credit}, ledger.Balance.Add)
	fmt.Println(b.Posted, b.Debits, b.Credits, err)
	// That was a snapshot at version 2, from which to go on.
	if _, err := l.Post(ctx, []ledger.Transaction{move("more", "bank", "ada", 5)}); err != nil {
		panic(err)
	}
	b, err = ledger.Fold(l.Entries(ctx, "ada", b.Version), b, ledger.Balance.Add)
	fmt.Println(b.Posted, "at version", b.Version, err)
	// Output:
	// 100 <nil>
	// 70 30 100 <nil>
	// 75 at version 3 <nil>
}
