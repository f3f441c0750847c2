package pgledger_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

const patience = 30 * time.Second

// eventually polls until ok, or fails when patience is at its end.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// newPool is a pool of the test's own schema, whose connections are told from others' by their application_name.
func newPool(t *testing.T, url string, edit func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	conf, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	conf.ConnConfig.RuntimeParams["application_name"] = t.Name()[:min(63, len(t.Name()))]
	edit(conf)
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// waitForLock waits until n statements on the ledger in this schema wait for a lock.
func waitForLock(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	var schema string
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT current_schema()").Scan(&schema))
	const waiting = `SELECT count(DISTINCT w.pid) FROM pg_locks w JOIN pg_locks h ON h.pid = w.pid JOIN pg_class c ON c.oid = h.relation
		WHERE NOT w.granted AND c.relnamespace = $1::regnamespace`
	eventually(t, "a lock to be waited for", func() bool { return count(t, pool, waiting, schema) >= n })
}

// Callers post at once while PostgreSQL is killed again and again. Each repeats a batch until it is answered.
func TestServerKilledUnderLoad(t *testing.T) {
	t.Parallel()
	const callers, batches, kills = 16, 60, 4
	server := testdb.NewPostgres(t)
	pool := newPool(t, server.URL(), func(c *pgxpool.Config) { c.MaxConns = callers })
	f := openOn(t, pool)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var mu sync.Mutex
	posted := map[ledger.TransactionID]bool{}
	var answered, unknown, repeated atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	for c := range callers {
		wg.Go(func() {
			for n := range batches {
				to := []ledger.AccountID{"a", "b"}[n%2]
				batch := []ledger.Transaction{
					move(fmt.Sprint("in-", c, "-", n), "bank", to, "3"), move(fmt.Sprint("out-", c, "-", n), to, "bank", "2"),
					move(fmt.Sprint("much-", c, "-", n), to, "bank", "99999"),
				}
				results, err := f.Post(ctx, batch)
				for ; err != nil && ctx.Err() == nil; results, err = f.Post(ctx, batch) {
					unknown.Add(1)
					time.Sleep(5 * time.Millisecond) // the server is down just now; ctx bounds the tries
				}
				answered.Add(1)
				mu.Lock()
				for _, r := range results {
					posted[r.ID] = r.Verdict == ledger.Posted
					if r.Duplicate {
						repeated.Add(1)
					}
				}
				mu.Unlock()
			}
		})
	}
	for kill := range kills {
		eventually(t, "answers", func() bool { return answered.Load() >= int64(callers*batches*(kill+1)/(kills+2)) })
		require.NoError(t, server.Kill())
		require.NoError(t, server.Start(ctx))
	}
	wg.Wait()
	require.NoError(t, ctx.Err())
	t.Logf("%d kills: %d batches answered, %d calls failed, %d transactions had been posted by a failed one",
		kills, answered.Load(), unknown.Load(), repeated.Load())
	require.GreaterOrEqual(t, unknown.Load(), int64(kills), "the kills have tested nothing")
	require.Len(t, posted, 3*callers*batches)

	rows, err := pool.Query(t.Context(), "SELECT transaction_id FROM ledger_postings")
	require.NoError(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[ledger.TransactionID])
	require.NoError(t, err)
	require.Len(t, ids, 2*callers*batches, "each once, by its number of postings")
	for _, id := range ids {
		require.True(t, posted[id], "%s was posted and not acknowledged", id)
	}
	f.balance(t, "bank", fmt.Sprint(callers*batches), 2*callers*batches)
	f.verify(t)
}

// locked is a ledger whose account a is locked by another transaction.
func locked(t *testing.T, edit func(*pgxpool.Config)) (f fixture, release func()) {
	t.Helper()
	url := testdb.PostgresURL(t)
	holder := newPool(t, url, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["application_name"] = "holder" })
	openOn(t, holder)
	pool := newPool(t, url, edit)
	tx, err := holder.Begin(t.Context())
	require.NoError(t, err)
	exec(t, tx, "SELECT 1 FROM ledger_accounts WHERE id = 'a' FOR UPDATE")
	release = sync.OnceFunc(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	t.Cleanup(release)
	return fixture{Ledger: on(t, pool), pool: pool}, release
}

// noneOpen fails if a connection of the pool is left in a transaction.
func noneOpen(t *testing.T, f fixture) {
	t.Helper()
	eventually(t, "open transactions to end", func() bool {
		return count(t, f.pool, `SELECT count(*) FROM pg_stat_activity
			WHERE application_name = $1 AND pid <> pg_backend_pid() AND (state LIKE 'idle in transaction%' OR state = 'active')`, t.Name()) == 0
	})
}

// One waits for the row, the others for their turn.
func TestCancelledWhileWaitingForALock(t *testing.T) {
	t.Parallel()
	f, release := locked(t, func(c *pgxpool.Config) { c.MaxConns = 4 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const waiters = 3
	failed := make(chan error, waiters)
	for i := range waiters {
		go func() {
			_, err := f.Post(ctx, []ledger.Transaction{move(fmt.Sprint(i), "bank", "a", "1"), move(fmt.Sprint("b", i), "bank", "b", "1")})
			failed <- err
		}()
	}
	waitForLock(t, f.pool, 1)
	start := time.Now()
	cancel()
	for range waiters {
		require.ErrorIs(t, <-failed, context.Canceled)
	}
	require.Less(t, time.Since(start), 5*time.Second)
	noneOpen(t, f)
	eventually(t, "the connections", func() bool { return f.pool.Stat().AcquiredConns() == 0 })
	release()
	require.Zero(t, f.verify(t).Transactions)
	f.want(t, ledger.Posted, move("0", "bank", "a", "1"))
	f.balance(t, "a", "1", 1)
}

func TestStatementTimeoutLeavesNothing(t *testing.T) {
	t.Parallel()
	f, release := locked(t, func(c *pgxpool.Config) {
		c.MaxConns = 2
		c.ConnConfig.RuntimeParams["statement_timeout"] = "200"
	})
	_, err := f.Post(t.Context(), []ledger.Transaction{move("b", "bank", "b", "1"), move("a", "bank", "a", "1")})
	e, ok := errors.AsType[*pgconn.PgError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "57014", e.Code)
	noneOpen(t, f)
	release()
	require.Zero(t, f.verify(t).Transactions)
	f.want(t, ledger.Posted, move("b", "bank", "b", "1"), move("a", "bank", "a", "1"))
	f.verify(t)
}

// A store that needed a second connection while it holds one would wait for itself.
func TestPoolOfOneConnection(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 1 })
	f := openOn(t, pool)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for n := range 10 {
				if _, err := f.Post(ctx, []ledger.Transaction{move(fmt.Sprint(c, "-", n), "bank", "a", "1")}); err != nil {
					t.Error(err)
				}
			}
			if err := f.Open(ctx, ledger.Account{ID: ledger.AccountID(fmt.Sprint("new", c)), Currency: "NGN", Normal: ledger.Debit}); err != nil {
				t.Error(err)
			}
			for _, err := range f.Entries(ctx, "a", 0) { // another call while the pages are read
				if _, err2 := f.Balances(ctx, "a"); err != nil || err2 != nil {
					t.Error(err, err2)
				}
			}
		})
	}
	wg.Wait()
	f.balance(t, "a", "80", 80)
	f.verify(t)
}

// Two servers start and open the same accounts, each in an order of its own.
func TestAccountsOpenedInOppositeOrders(t *testing.T) {
	t.Parallel()
	f := open(t)
	for round := range 10 {
		var forth, back []ledger.Account
		for n := range 200 {
			a := ledger.Account{ID: ledger.AccountID(fmt.Sprint(round, "-", n)), Currency: "NGN", Normal: ledger.Debit}
			forth, back = append(forth, a), append([]ledger.Account{a}, back...)
		}
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				if err := f.Open(t.Context(), [][]ledger.Account{forth, back}[i%2]...); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	require.EqualValues(t, 10*200+3, f.verify(t).Accounts)
}

// Poolers ask for other ways to send statements than the driver's default; the defaults of a server may be stricter.
func TestOtherConnectionSettings(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*pgx.ConnConfig){
		"cache describe":  func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe },
		"describe exec":   func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec },
		"exec":            func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeExec },
		"simple protocol": func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol },
		"serializable":    func(c *pgx.ConnConfig) { c.RuntimeParams["default_transaction_isolation"] = "serializable" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openOn(t, newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 16; edit(c.ConnConfig) }))
			poison(t, f)
			exec(t, f.pool, `CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF current_setting('transaction_isolation') <> 'read committed' THEN RAISE EXCEPTION 'who waited must see what was done meanwhile'; END IF; RETURN new; END $$`)
			exec(t, f.pool, "CREATE TRIGGER look BEFORE INSERT ON ledger_transactions FOR EACH ROW EXECUTE FUNCTION look()")
			batch := []ledger.Transaction{move("1", "bank", "a", "5"), move("2", "a", "b", "2.50")}
			for range 2 {
				f.want(t, ledger.Posted, batch...)
				f.want(t, ledger.InsufficientFunds, move("3", "a", "b", "5"))
				f.want(t, ledger.UnknownAccount, move("4", "nobody", "b", "5"))
				_, err := f.Post(t.Context(), []ledger.Transaction{move("5", "bank", "b", "1"), move("poison", "bank", "a", "1")})
				require.ErrorContains(t, err, "poisoned")
			}
			var wg sync.WaitGroup
			for i := range 16 { // where one snapshot held for a transaction, four attempts would not do
				wg.Go(func() {
					for n := range 5 {
						if _, err := f.Post(t.Context(), []ledger.Transaction{move(fmt.Sprint("at once ", i, n), "bank", "b", "1")}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			for e, err := range f.Entries(t.Context(), "a", 1) {
				require.NoError(t, err)
				require.Equal(t, "2.5", e.Balance.String())
			}
			f.balance(t, "b", "82.5", 81)
			f.verify(t)
		})
	}
}

// Two servers start at once and open the same accounts. In a transaction with a single snapshot the second could not see what it waited for.
func TestOpenAtOnceWhereTheDefaultIsASnapshot(t *testing.T) {
	t.Parallel()
	url := testdb.PostgresURL(t)
	f := openOn(t, newPool(t, url, func(*pgxpool.Config) {}))
	strict := newPool(t, url, func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["default_transaction_isolation"] = "repeatable read"
	})
	account := ledger.Account{ID: "c", Currency: "NGN", Normal: ledger.Debit}
	tx := begin(t, f, pgx.TxOptions{})
	require.NoError(t, on(t, tx).Open(t.Context(), account))
	second := on(t, strict)
	opened := make(chan error, 1)
	go func() { opened <- second.Open(t.Context(), account) }()
	waitForLock(t, f.pool, 1)
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-opened)
}

func TestMissingTables(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	store := pgledger.NewStore(pool, nil)
	missing, ok := errors.AsType[*pgledger.SchemaError](store.CheckSchema(t.Context()))
	require.True(t, ok)
	require.Equal(t, &pgledger.SchemaError{Line: "ledger", By: "pgledger.Migrate", Have: 0, Want: 2}, missing)
	l := on(t, pool)
	for name, call := range map[string]func(ctx context.Context) error{
		"Post": func(ctx context.Context) error {
			_, err := l.Post(ctx, []ledger.Transaction{move("1", "bank", "a", "1")})
			return err
		},
		"capture": func(ctx context.Context) error {
			_, err := l.PostOne(ctx, ledger.Transaction{ID: "2", Kind: ledger.KindCapture, Of: "1"})
			return err
		},
		"Open": func(ctx context.Context) error {
			return l.Open(ctx, ledger.Account{ID: "a", Currency: "NGN", Normal: ledger.Debit})
		},
		"Balances": func(ctx context.Context) error { _, err := l.Balances(ctx, "a"); return err },
		"Entries": func(ctx context.Context) error {
			for _, err := range l.Entries(ctx, "a", 0) {
				return err
			}
			return nil
		},
		"ExpireHolds": func(ctx context.Context) error { _, err := l.ExpireHolds(ctx, 1); return err },
		"Verify":      func(ctx context.Context) error { _, err := l.Verify(ctx); return err },
		"Seal":        func(ctx context.Context) error { _, err := l.Seal(ctx); return err },
		"VerifySeals": func(ctx context.Context) error { _, _, err := store.VerifySeals(ctx); return err },
	} {
		err := call(t.Context())
		missing, ok := errors.AsType[*pgledger.SchemaError](err)
		require.True(t, ok, "%s: %v", name, err)
		require.Equal(t, 2, missing.Want)
		require.ErrorContains(t, err, "pgledger.Migrate brings them to version 2", name)
		require.ErrorAs(t, err, new(*pgconn.PgError), name)
	}
	require.NoError(t, pgledger.Migrate(t.Context(), pool, nil))
	require.NoError(t, store.CheckSchema(t.Context()))
}
