package pgledger_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// trips counts what goes to the server and back.
type trips struct{ n atomic.Int64 }

func (c *trips) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}
func (c *trips) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (c *trips) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	c.n.Add(1)
	return ctx
}
func (c *trips) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (c *trips) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func TestRoundTrips(t *testing.T) {
	t.Parallel()
	count := &trips{}
	f := openOn(t, newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.ConnConfig.Tracer = count }))
	n := 0
	post := func(debit, credit ledger.AccountID, want ledger.Verdict) int64 {
		n++
		before := count.n.Load()
		f.want(t, want, move(fmt.Sprint(n), debit, credit, "1"))
		return count.n.Load() - before
	}
	require.EqualValues(t, 2, post("bank", "a", ledger.Posted), "the accounts are read")
	require.EqualValues(t, 1, post("bank", "a", ledger.Posted))
	require.EqualValues(t, 1, post("a", "bank", ledger.Posted), "also one with a floor")
	require.EqualValues(t, 2, post("bank", "b", ledger.Posted), "b is read")
	require.EqualValues(t, 1, post("a", "b", ledger.Posted))
	require.EqualValues(t, 2, post("a", "b", ledger.InsufficientFunds), "a refusal is decided under the lock")
	require.EqualValues(t, 1, post("bank", "a", ledger.Posted), "which has left the accounts known")
	require.EqualValues(t, 3, post("bank", "nobody", ledger.UnknownAccount))
	before := count.n.Load()
	f.want(t, ledger.Conflict, move("1", "bank", "a", "2"))
	require.EqualValues(t, 4, count.n.Load()-before, "in vain, rolled back, under the lock")

	tx, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	before = count.n.Load()
	want(t, on(t, tx), ledger.Posted, move("in the caller's", "bank", "a", "1"))
	require.EqualValues(t, 3, count.n.Load()-before, "its savepoint goes ahead of statements that the connection does not know")
	before = count.n.Load()
	want(t, on(t, tx), ledger.Posted, move("and again", "bank", "a", "1"))
	require.EqualValues(t, 2, count.n.Load()-before, "with its savepoint")
	require.NoError(t, tx.Commit(t.Context()))
	f.verify(t)
}

// stores returns n stores with a cache each, as so many servers have.
func stores(t *testing.T, f fixture, n int, o *pgledger.Options) []*ledger.Ledger {
	t.Helper()
	all := make([]*ledger.Ledger, n)
	for i := range all {
		l, err := ledger.New(pgledger.NewStore(f.pool, o), nil)
		require.NoError(t, err)
		all[i] = l
	}
	return all
}

// What one server has cached is moved by the other, in every way there is.
func TestOldAccountsInTheCacheDecideNothing(t *testing.T) {
	t.Parallel()
	f := open(t)
	both := stores(t, f, 2, nil)
	one, two := both[0], both[1]
	for _, l := range both { // both know the accounts
		want(t, l, ledger.Posted, move(fmt.Sprintf("in%p", l), "bank", "a", "50"))
	}
	want(t, one, ledger.Posted, move("one-1", "a", "b", "10"))
	want(t, two, ledger.Posted, move("two-1", "a", "b", "20"))
	want(t, one, ledger.Posted, move("one-2", "a", "b", "30"))
	want(t, two, ledger.InsufficientFunds, move("two-2", "a", "b", "41")) // 40 are left
	want(t, one, ledger.Posted, move("one-3", "bank", "a", "1"))
	want(t, two, ledger.Posted, move("two-3", "a", "b", "41"))                                                                       // two has seen it refused
	want(t, one, ledger.Conflict, move("two-3", "bank", "a", "9"))                                                                   // an id of the other's
	want(t, one, ledger.Posted, move("one-4", "bank", "a", "100"), hold("hold", "a", "b", "90"))                                     // reserved by one,
	want(t, two, ledger.InsufficientFunds, move("two-4", "a", "b", "11"))                                                            // respected by two
	want(t, two, ledger.Posted, move("two-5", "a", "b", "10"), ledger.Transaction{ID: "free", Kind: ledger.KindRelease, Of: "hold"}) // released by two,
	want(t, one, ledger.Posted, move("one-5", "a", "b", "90"))                                                                       // known to one
	f.balance(t, "a", "0", 10)
	want(t, one, ledger.Posted, move("one-8", "bank", "a", "60"))
	want(t, two, ledger.Posted, hold("all", "a", "b", "60"))
	both8, err := one.Post(t.Context(), []ledger.Transaction{move("takes", "a", "b", "60"), move("brings", "bank", "a", "60")})
	require.NoError(t, err)
	require.Equal(t, ledger.InsufficientFunds, both8[0].Verdict, "it is held, also where it would be brought back")
	require.Equal(t, ledger.Posted, both8[1].Verdict)
	want(t, two, ledger.Posted, ledger.Transaction{ID: "none", Kind: ledger.KindRelease, Of: "all"}, move("two-9", "a", "b", "120"))
	f.balance(t, "a", "0", 13)
	exec(t, f.pool, "UPDATE ledger_accounts SET floor = -1000 WHERE id = 'a'")
	want(t, one, ledger.Posted, move("one-6", "a", "b", "5"))
	exec(t, f.pool, "UPDATE ledger_accounts SET floor = -500 WHERE id = 'a'")
	want(t, one, ledger.InsufficientFunds, move("one-7", "a", "b", "5"))
	f.verify(t)
}

// What holds reserve and the floor are no part of a version, and the constraint sees only what a batch leaves. A store that was wrong about
// an account reads it anew for a while, so each of these was right until then.
func TestHoldsAndFloorsOfOthersAreNoticed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from, to ledger.AccountID // debit and credit of what is taken; a hold is with a third
		change   func(*testing.T, fixture)
	}{
		"held debits":  {"a", "bank", func(t *testing.T, f fixture) { f.want(t, ledger.Posted, hold("hold", "a", "b", "60")) }},
		"held credits": {"bank", "till", func(t *testing.T, f fixture) { f.want(t, ledger.Posted, hold("hold", "b", "till", "60")) }},
		"floor":        {"b", "bank", func(t *testing.T, f fixture) { exec(t, f.pool, "UPDATE ledger_accounts SET floor = 0 WHERE id = 'b'") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			require.NoError(t, f.Open(t.Context(), ledger.Account{ID: "till", Currency: "NGN", Normal: ledger.Debit, Floor: new(decimal.Zero)}))
			f.want(t, ledger.Posted, move("into a", "bank", "a", "60"), move("into till", "till", "bank", "60"))
			exec(t, f.pool, "UPDATE ledger_accounts SET floor = -6000 WHERE id = 'b'")
			l := stores(t, f, 1, nil)[0]
			take, bring := func(id string) ledger.Transaction { return move(id, c.from, c.to, "60") }, func(id string) ledger.Transaction { return move(id, c.to, c.from, "60") }
			want(t, l, ledger.Posted, take("it knows the accounts"), bring("as they are"))
			c.change(t, f)
			r, err := l.Post(t.Context(), []ledger.Transaction{take("takes"), bring("brings it back")})
			require.NoError(t, err)
			require.Equal(t, ledger.InsufficientFunds, r[0].Verdict)
			require.Equal(t, ledger.Posted, r[1].Verdict)
			f.verify(t)
		})
	}
}

// A clock that is read before the wait for an account, as now() is, gives its entry a moment before that of the entry that was waited for.
func TestTheClockIsReadBehindTheWait(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]*pgledger.Options{"quick": nil, "locked": {Cache: -1}} {
		f, release := locked(t, func(*pgxpool.Config) {})
		l := stores(t, f, 1, o)[0]
		posted := make(chan error, 1)
		var results []ledger.Result
		go func() {
			var err error
			results, err = l.Post(t.Context(), []ledger.Transaction{move("1", "bank", "a", "1")})
			posted <- err
		}()
		waitForLock(t, f.pool, 1)
		var waited time.Time
		require.NoError(t, f.pool.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&waited))
		release()
		require.NoError(t, <-posted)
		require.True(t, results[0].At.After(waited), name)
	}
}

func hold(id string, debit, credit ledger.AccountID, amount string) ledger.Transaction {
	tx := move(id, debit, credit, amount)
	tx.Kind = ledger.KindHold
	return tx
}

// Three servers, one of them without a cache, post to the same accounts; each account ends above its floor and adds up.
func TestServersThatShareAccounts(t *testing.T) {
	t.Parallel()
	const accounts, callers, batches = 12, 4, 60
	f := openOn(t, newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 12 }))
	name := func(n int) ledger.AccountID { return ledger.AccountID(fmt.Sprintf("acc%02d", n)) }
	var seed []ledger.Transaction
	for n := range accounts {
		require.NoError(t, f.Open(t.Context(), ledger.Account{ID: name(n), Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.Zero)}))
		seed = append(seed, move(fmt.Sprint("seed", n), "bank", name(n), "40"))
	}
	f.want(t, ledger.Posted, seed...)
	servers := append(stores(t, f, 2, &pgledger.Options{Cache: 8}), stores(t, f, 1, &pgledger.Options{Cache: -1})...)
	var posted, refused atomic.Int64
	var all sync.WaitGroup
	for s, l := range servers {
		for c := range callers {
			all.Go(func() {
				for b := range batches {
					var batch []ledger.Transaction
					for n := range 1 + rand.IntN(6) {
						from := rand.IntN(accounts)
						to := (from + 1 + rand.IntN(accounts-1)) % accounts
						batch = append(batch, move(fmt.Sprint(s, "-", c, "-", b, "-", n), name(from), name(to), fmt.Sprint(1+rand.IntN(30))))
					}
					results, err := l.Post(t.Context(), batch)
					if err != nil {
						t.Error(err)
						return
					}
					for _, r := range results {
						switch r.Verdict {
						case ledger.Posted:
							posted.Add(1)
						case ledger.InsufficientFunds:
							refused.Add(1)
						default:
							t.Errorf("%+v", r)
						}
					}
				}
			})
		}
	}
	all.Wait()
	require.Positive(t, refused.Load())
	report := f.verify(t)
	require.Equal(t, posted.Load()+refused.Load()+accounts, report.Transactions)
}

// An account that two servers post to all the time is not guessed at each time.
func TestAttemptsInVainAreFew(t *testing.T) {
	t.Parallel()
	server := testdb.NewPostgres(t) // its counters are of this test alone
	f := openOn(t, newPool(t, server.URL(), func(c *pgxpool.Config) { c.MaxConns = 1 }))
	both := stores(t, f, 2, nil)
	rolledBack := func() int {
		exec(t, f.pool, "SELECT pg_stat_force_next_flush()")
		return count(t, f.pool, "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()")
	}
	before := rolledBack()
	const posts = 200
	for n := range posts {
		want(t, both[n%2], ledger.Posted, move(fmt.Sprint(n), "bank", "a", "1"))
	}
	require.Less(t, rolledBack()-before, posts/10)
	f.balance(t, "a", fmt.Sprint(posts), posts)
}

// One batch goes without a lock, another takes locks, and a few accounts are in both:
//
//	the first has locked y and wants x, in the order in which they were opened;
//	the second has locked x and wants y, in the order of their ids.
//
// Of few accounts that PostgreSQL has analyzed it would sort what is to be updated as it likes.
func TestBothWaysToPostLockInOneOrder(t *testing.T) {
	t.Parallel()
	url := testdb.PostgresURL(t)
	pool := newPool(t, url, func(c *pgxpool.Config) { c.MaxConns = 4 })
	f := openOn(t, pool)
	for _, id := range []ledger.AccountID{"y", "x"} { // the greater one first
		require.NoError(t, f.Open(t.Context(), ledger.Account{ID: id, Currency: "NGN", Normal: ledger.Debit}))
	}
	for n := range 300 {
		exec(t, pool, "INSERT INTO ledger_accounts (id, currency, scale, normal) VALUES ($1, 'NGN', 2, 1)", fmt.Sprint("other ", n))
		if n != 10 && n != 299 {
			continue
		}
		exec(t, pool, "VACUUM ANALYZE ledger_accounts")
		f.want(t, ledger.Posted, move(fmt.Sprint("x and y are known ", n), "x", "y", "1"))
		first, err := pool.Begin(t.Context())
		require.NoError(t, err)
		exec(t, first, "SELECT 1 FROM ledger_accounts WHERE id = 'y' FOR UPDATE")
		var wg sync.WaitGroup
		faults := make([]error, 2)
		wg.Go(func() {
			_, faults[0] = f.Post(t.Context(), []ledger.Transaction{move(fmt.Sprint("without ", n), "x", "y", "1")})
		})
		waitForLock(t, pool, 1)
		wg.Go(func() {
			faults[1] = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				exec(t, tx, "SET LOCAL deadlock_timeout = '20ms'") // so that it is the victim, which cannot do it again
				_, err := on(t, tx).Post(t.Context(), []ledger.Transaction{move(fmt.Sprint("with ", n), "x", "y", "1")})
				return err
			})
		})
		waitForLock(t, pool, 2)
		require.NoError(t, first.Rollback(t.Context()))
		wg.Wait()
		require.NoError(t, errors.Join(faults...), "%d accounts", n)
	}
	f.balance(t, "x", "6", 6)
	f.verify(t)
}

// panicking is a tracer with a fault.
type panicking struct{ now *atomic.Bool }

func (p panicking) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	if p.now.Load() {
		panic("tracer")
	}
	return ctx
}

func (panicking) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (panicking) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData)     {}
func (panicking) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (panicking) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// A server goes on where a handler has panicked. Its accounts must not be taken for ever.
func TestAPanicGivesTheAccountsBack(t *testing.T) {
	t.Parallel()
	faulty := panicking{&atomic.Bool{}}
	f := openOn(t, newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.ConnConfig.Tracer = faulty; c.MaxConns = 2 }))
	f.want(t, ledger.Posted, move("1", "bank", "a", "1"))
	faulty.now.Store(true)
	for range 3 {
		require.Panics(t, func() { _, _ = f.Post(t.Context(), []ledger.Transaction{move("2", "bank", "a", "1")}) })
	}
	faulty.now.Store(false)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := f.PostOne(ctx, move("2", "bank", "a", "1"))
	require.NoError(t, err)
	require.False(t, r.Duplicate)
	f.balance(t, "a", "2", 2)
	f.verify(t)
}
