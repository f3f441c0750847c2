package pgledger_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

func begin(t *testing.T, f fixture, o pgx.TxOptions) pgx.Tx {
	t.Helper()
	tx, err := f.pool.BeginTx(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(t.Context()) })
	return tx
}

func exec(t *testing.T, db pgledger.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func count(t *testing.T, db pgledger.DB, sql string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(t.Context(), sql, args...).Scan(&n), sql)
	return n
}

// Postings are there exactly if the caller's other rows are.
func TestPostingsShareTheCallersFate(t *testing.T) {
	t.Parallel()
	f := open(t)
	exec(t, f.pool, "CREATE TABLE orders (id text)")
	store := pgledger.NewStore(f.pool, nil)
	ledgers := map[string]func(pgx.Tx) *ledger.Ledger{
		"NewStore": func(tx pgx.Tx) *ledger.Ledger { return on(t, tx) },
		"With": func(tx pgx.Tx) *ledger.Ledger {
			l, err := ledger.New(store.In(tx), nil)
			require.NoError(t, err)
			return l
		},
	}
	n := 0
	for name, over := range ledgers {
		id := ledger.TransactionID(name)
		tx := begin(t, f, pgx.TxOptions{})
		exec(t, tx, "INSERT INTO orders VALUES ($1)", name)
		want(t, over(tx), ledger.Posted, move(string(id), "bank", "a", "10"))
		f.balance(t, "a", fmt.Sprint(10*n), n) // nobody else sees it yet
		require.NoError(t, tx.Rollback(t.Context()))
		f.balance(t, "a", fmt.Sprint(10*n), n)
		require.Equal(t, n, count(t, f.pool, "SELECT count(*) FROM orders"))

		tx = begin(t, f, pgx.TxOptions{})
		exec(t, tx, "INSERT INTO orders VALUES ($1)", name)
		r, err := over(tx).PostOne(t.Context(), move(string(id), "bank", "a", "10"))
		require.NoError(t, err)
		require.False(t, r.Duplicate, "what was rolled back was never decided")
		require.NoError(t, tx.Commit(t.Context()))
		n++
		f.balance(t, "a", fmt.Sprint(10*n), n)
		require.Equal(t, n, count(t, f.pool, "SELECT count(*) FROM orders"))
	}
	f.verify(t)
}

// poison makes the last statement of a batch fail when it writes a posting of the transaction "poison": everything before it was
// written by then.
func poison(t *testing.T, f fixture) {
	t.Helper()
	exec(t, f.pool, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'poisoned'; END $$`)
	exec(t, f.pool, `CREATE TRIGGER poison BEFORE INSERT ON ledger_postings FOR EACH ROW WHEN (new.transaction_id = 'poison') EXECUTE FUNCTION refuse()`)
}

func TestFailureInTheMidstOfABatchLeavesNothing(t *testing.T) {
	t.Parallel()
	f := open(t)
	poison(t, f)
	batch := []ledger.Transaction{move("1", "bank", "a", "1"), move("poison", "bank", "b", "1"), move("2", "bank", "a", "1")}
	for range 3 {
		_, err := f.Post(t.Context(), batch)
		require.ErrorContains(t, err, "poisoned")
	}
	f.balance(t, "a", "0", 0)
	f.balance(t, "bank", "0", 0)
	require.Zero(t, f.verify(t).Transactions)
	f.want(t, ledger.Posted, batch[0], batch[2])
	f.balance(t, "a", "2", 2)
	f.verify(t)
}

func TestFailedPostLeavesTheCallersTransactionUsable(t *testing.T) {
	t.Parallel()
	f := open(t)
	poison(t, f)
	exec(t, f.pool, "CREATE TABLE orders (id text)")
	tx := begin(t, f, pgx.TxOptions{})
	l := on(t, tx)
	exec(t, tx, "INSERT INTO orders VALUES ('before')")
	want(t, l, ledger.Posted, move("1", "bank", "a", "1"))

	_, err := l.Post(t.Context(), []ledger.Transaction{move("2", "bank", "a", "1"), move("poison", "bank", "b", "1")})
	require.ErrorContains(t, err, "poisoned")
	err = l.Open(t.Context(), ledger.Account{ID: "a", Currency: "USD", Normal: ledger.Debit})
	require.ErrorAs(t, err, new(*ledger.AccountExistsError))

	exec(t, tx, "INSERT INTO orders VALUES ('after')")
	want(t, l, ledger.Posted, move("3", "bank", "b", "1"))
	want(t, l, ledger.InsufficientFunds, move("4", "a", "b", "9"))
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, 2, count(t, f.pool, "SELECT count(*) FROM orders"))
	f.balance(t, "a", "1", 1)
	f.balance(t, "b", "1", 1)
	require.EqualValues(t, 3, f.verify(t).Transactions)
}

// A pool throws away a connection that is left in a transaction; a single one has to be left clean.
func TestFailedPostLeavesAConnectionUsable(t *testing.T) {
	t.Parallel()
	f := open(t)
	poison(t, f)
	conn, err := f.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	l := on(t, conn.Conn())
	_, err = l.Post(t.Context(), []ledger.Transaction{move("1", "bank", "a", "1"), move("poison", "bank", "b", "1")})
	require.ErrorContains(t, err, "poisoned")
	require.EqualValues(t, 'I', conn.Conn().PgConn().TxStatus())
	want(t, l, ledger.Posted, move("1", "bank", "a", "1"))
	require.EqualValues(t, 'I', conn.Conn().PgConn().TxStatus())
	f.balance(t, "a", "1", 1)
}

// Posting has settings of its own for the planner, and must not leave them to the caller's statements.
func TestCallersPlannerSettingsAreRestored(t *testing.T) {
	t.Parallel()
	f := open(t)
	poison(t, f)
	settings := func(db pgledger.DB) (s [4]string) {
		require.NoError(t, db.QueryRow(t.Context(), `SELECT current_setting('enable_seqscan'), current_setting('enable_mergejoin'),
current_setting('enable_hashjoin'), current_setting('plan_cache_mode')`).Scan(&s[0], &s[1], &s[2], &s[3]))
		return s
	}
	defaults := [4]string{"on", "on", "on", "auto"}
	for i, was := range [][4]string{defaults, {"off", "off", "off", "force_custom_plan"}} {
		conn, err := f.pool.Acquire(t.Context())
		require.NoError(t, err)
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		exec(t, tx, `SELECT set_config('enable_seqscan', $1, true), set_config('enable_mergejoin', $2, true), set_config('enable_hashjoin', $3, true),
set_config('plan_cache_mode', $4, true)`, was[0], was[1], was[2], was[3])
		want(t, on(t, tx), ledger.Posted, move(fmt.Sprint(i), "bank", "a", "1"))
		require.Equal(t, was, settings(tx), "after a success")
		_, err = on(t, tx).Post(t.Context(), []ledger.Transaction{move("poison", "bank", "b", "1")})
		require.ErrorContains(t, err, "poisoned")
		require.Equal(t, was, settings(tx), "after a failure")
		want(t, on(t, tx), ledger.UnknownTarget, ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("reverse", i)), Kind: ledger.KindReverse, Of: "nothing"})
		_, err = on(t, tx).Balances(t.Context(), "a")
		require.NoError(t, err)
		for _, err := range on(t, tx).Entries(t.Context(), "a", 0) {
			require.NoError(t, err)
		}
		require.Equal(t, was, settings(tx), "after reading")
		exec(t, tx, "SET LOCAL jit = on")
		_, err = on(t, tx).Verify(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, count(t, tx, "SELECT count(*) WHERE current_setting('jit') = 'on'"))
		require.NoError(t, tx.Commit(t.Context()))
		require.Equal(t, defaults, settings(conn.Conn()), "after the commit")

		want(t, on(t, conn.Conn()), ledger.Posted, move(fmt.Sprint("conn", i), "bank", "a", "1"))
		_, err = on(t, conn.Conn()).Balances(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, defaults, settings(conn.Conn()), "after a transaction of our own")
		conn.Release()
	}
}

// Who begins to post in a transaction that has failed already has no savepoint to roll back to, and takes none of the caller's.
func TestOnlyItsOwnSavepointIsRolledBackTo(t *testing.T) {
	t.Parallel()
	f := open(t)
	conn, err := f.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for range 2 { // the second time the connection knows the statements
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		exec(t, tx, "SAVEPOINT safetill_ledger")
		_, err = tx.Exec(t.Context(), "SELECT 1 / 0")
		require.Error(t, err)
		_, err = on(t, tx).PostOne(t.Context(), move("1", "bank", "a", "1"))
		require.ErrorContains(t, err, "aborted")
		_, err = tx.Exec(t.Context(), "SELECT 1")
		require.ErrorContains(t, err, "aborted", "it is for the caller to decide what becomes of it")
		require.NoError(t, tx.Rollback(t.Context()))

		tx, err = conn.Begin(t.Context())
		require.NoError(t, err)
		want(t, on(t, tx), ledger.Posted, move("2", "bank", "a", "1"))
		_, err = tx.Exec(t.Context(), "RELEASE SAVEPOINT safetill_ledger")
		require.ErrorContains(t, err, "does not exist", "none is left")
		require.NoError(t, tx.Rollback(t.Context()))
	}
}

// A transaction of the caller's own making need not tell its connection.
type noConn struct{ pgx.Tx }

func (noConn) Conn() *pgx.Conn { return nil }

func TestATransactionThatHidesItsConnection(t *testing.T) {
	t.Parallel()
	f := open(t)
	tx := begin(t, f, pgx.TxOptions{})
	for _, id := range []string{"1", "2"} {
		want(t, on(t, noConn{tx}), ledger.Posted, move(id, "bank", "a", "1"))
	}
	require.NoError(t, tx.Commit(t.Context()))
	f.balance(t, "a", "2", 2)
}

// A caller's transaction that sees one snapshot only was too slow: it is told to begin again, and posts nothing wrong.
func TestSnapshotTransactionIsToldToRepeat(t *testing.T) {
	t.Parallel()
	f := open(t)
	require.NoError(t, f.Open(t.Context(),
		ledger.Account{ID: "c", Currency: "NGN", Normal: ledger.Debit}, ledger.Account{ID: "d", Currency: "NGN", Normal: ledger.Credit}))
	for i, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		id := func(s string) string { return fmt.Sprint(s, i) }
		for name, c := range map[string]struct{ others, own ledger.Transaction }{
			"accounts moved":                {move(id("x"), "bank", "a", "1"), move(id("y"), "bank", "a", "1")},
			"id posted, other accounts":     {move(id("z"), "bank", "a", "1"), move(id("z"), "c", "d", "1")},
			"id refused, accounts at rest":  {move(id("r"), "b", "d", "1"), move(id("r"), "b", "d", "1")},
			"same transaction, posted just": {move(id("s"), "c", "d", "1"), move(id("s"), "c", "d", "1")},
		} {
			tx := begin(t, f, pgx.TxOptions{IsoLevel: level})
			count(t, tx, "SELECT count(*) FROM ledger_accounts") // the snapshot
			_, err := f.Post(t.Context(), []ledger.Transaction{c.others})
			require.NoError(t, err)
			_, err = on(t, tx).Post(t.Context(), []ledger.Transaction{c.own})
			require.Error(t, err, name)
			require.True(t, pg.Retryable(err), "%s: %v", name, err)
			var e *pgconn.PgError
			require.ErrorAs(t, err, &e, name)
			require.Equal(t, "40001", e.Code, name)
			require.NoError(t, tx.Rollback(t.Context()))

			tx = begin(t, f, pgx.TxOptions{IsoLevel: level}) // as told
			_, err = on(t, tx).Post(t.Context(), []ledger.Transaction{c.own})
			require.NoError(t, err, name)
			require.NoError(t, tx.Commit(t.Context()))
		}
	}
	f.balance(t, "a", "6", 6)
	f.balance(t, "c", "2", 2) // "same transaction" once per level; the id of others was taken
	f.verify(t)
}

// A waits on no account of B, only its id is taken by B, whose transaction is open.
func TestRacedIDWithOtherAccounts(t *testing.T) {
	t.Parallel()
	f := open(t)
	require.NoError(t, f.Open(t.Context(),
		ledger.Account{ID: "c", Currency: "NGN", Normal: ledger.Debit}, ledger.Account{ID: "d", Currency: "NGN", Normal: ledger.Credit}))
	for i, c := range []struct {
		commit, within bool // within a transaction of the caller's
		want           ledger.Verdict
	}{{true, false, ledger.Conflict}, {false, false, ledger.Posted}, {true, true, ledger.Conflict}} {
		id := fmt.Sprint("raced", i)
		tx := begin(t, f, pgx.TxOptions{})
		want(t, on(t, tx), ledger.Posted, move(id, "bank", "a", "1"))
		got := make(chan ledger.Result, 1)
		go func() {
			defer close(got)
			batch := []ledger.Transaction{move(id, "c", "d", "1"), move(id+"neighbour", "c", "d", "1")}
			var r []ledger.Result
			var err error
			if c.within {
				err = pgx.BeginFunc(t.Context(), f.pool, func(db pgx.Tx) error {
					l, err := ledger.New(pgledger.NewStore(db, nil), nil)
					if err != nil {
						return err
					}
					r, err = l.Post(t.Context(), batch)
					return err
				})
			} else {
				r, err = f.Post(t.Context(), batch)
			}
			if err != nil || r[1].Verdict != ledger.Posted {
				t.Errorf("%+v, %v", r, err)
				return
			}
			got <- r[0]
		}()
		waitForLock(t, f.pool, 1)
		if c.commit {
			require.NoError(t, tx.Commit(t.Context()))
		} else {
			require.NoError(t, tx.Rollback(t.Context()))
		}
		require.Equal(t, c.want, (<-got).Verdict)
	}
	f.balance(t, "a", "2", 2)
	f.balance(t, "c", "4", 4)
	f.verify(t)
}

// A DB of the caller's own, say one that traces, has the four methods and no more.
func TestDBOfTheCallersOwn(t *testing.T) {
	t.Parallel()
	f := open(t)
	l := on(t, struct{ pgledger.DB }{f.pool})
	require.NoError(t, l.Open(t.Context(), ledger.Account{ID: "c", Currency: "NGN", Normal: ledger.Debit}))
	for range 2 {
		want(t, l, ledger.Posted, move("1", "c", "a", "1"))
		want(t, l, ledger.InsufficientFunds, move("2", "a", "b", "2"))
	}
	poison(t, f)
	_, err := l.Post(t.Context(), []ledger.Transaction{move("poison", "c", "a", "1")})
	require.ErrorContains(t, err, "poisoned")
	require.Zero(t, f.pool.Stat().AcquiredConns(), "what was begun is rolled back")
	f = fixture{Ledger: l, pool: f.pool}
	f.balance(t, "c", "1", 1)
	for e, err := range l.Entries(t.Context(), "a", 0) {
		require.NoError(t, err)
		require.Equal(t, ledger.AccountID("c"), e.Contra)
	}
	require.EqualValues(t, 2, f.verify(t).Transactions)
}

// A connection that is in a transaction was taken for one that is not, and the batch's COMMIT was that of the caller's transaction.
func TestAConnectionInATransactionIsRefused(t *testing.T) {
	t.Parallel()
	f := open(t)
	exec(t, f.pool, "CREATE TABLE orders (id text)")
	conn, err := f.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	single, pooled := on(t, conn.Conn()), on(t, conn)
	for n, l := range []*ledger.Ledger{single, pooled, single, pooled} { // the second time the accounts are not known any more
		name, db := fmt.Sprint(n), []pgledger.DB{conn.Conn(), conn}[n%2]
		want(t, l, ledger.Posted, move(name, "bank", "a", "1"))
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		exec(t, tx, "INSERT INTO orders VALUES ('1')")
		_, err = l.Post(t.Context(), []ledger.Transaction{move(name+", in between", "bank", "a", "1")})
		require.ErrorContains(t, err, "the connection is in a transaction")
		require.ErrorContains(t, l.Open(t.Context(), ledger.Account{ID: "c", Currency: "NGN", Normal: ledger.Debit}), "the connection is in a transaction")
		_, err = l.Verify(t.Context())
		require.ErrorContains(t, err, "the connection is in a transaction")
		require.ErrorContains(t, pgledger.Migrate(t.Context(), db, nil), "the connection is in a transaction")
		_, err = l.Seal(t.Context())
		require.ErrorContains(t, err, "not within a transaction")
		exec(t, tx, "INSERT INTO orders VALUES ('2')")
		want(t, on(t, tx), ledger.Posted, move(name+", with the transaction", "bank", "a", "1"))
		require.NoError(t, tx.Rollback(t.Context()))
		require.Zero(t, count(t, f.pool, "SELECT count(*) FROM orders"))
	}
	f.balance(t, "a", "4", 4)
	f.verify(t)
}

// A statement that the connection does not know was prepared before the savepoint, and what a capture is of was read before it.
func TestPostThatFailsBeforeItsLocksLeavesTheCallersTransactionUsable(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.want(t, ledger.Posted, move("in", "bank", "a", "10"), hold("hold", "a", "b", "5"))
	release := ledger.Transaction{ID: "release", Kind: ledger.KindRelease, Of: "hold"}
	for name, c := range map[string]struct {
		locked string
		tx     ledger.Transaction
		known  bool // the connection has the statements
		mode   pgx.QueryExecMode
	}{
		"prepare":           {"ledger_accounts", move("1", "bank", "a", "1"), false, pgx.QueryExecModeCacheStatement},
		"prepare a look":    {"ledger_holds", release, false, pgx.QueryExecModeCacheStatement},
		"look for a target": {"ledger_holds", release, true, pgx.QueryExecModeCacheStatement},
		"ask each time":     {"ledger_accounts", move("1", "bank", "a", "1"), true, pgx.QueryExecModeDescribeExec},
	} {
		config := f.pool.Config().ConnConfig
		config.DefaultQueryExecMode = c.mode
		conn, err := pgx.ConnectConfig(t.Context(), config)
		require.NoError(t, err)
		if c.known {
			warm, err := conn.Begin(t.Context())
			require.NoError(t, err)
			want(t, on(t, warm), ledger.Posted, c.tx)
			require.NoError(t, warm.Rollback(t.Context()))
		}
		other := begin(t, f, pgx.TxOptions{})
		exec(t, other, "LOCK TABLE "+c.locked)
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		exec(t, tx, "SET LOCAL lock_timeout = '50ms'")
		for range 2 { // what has failed is not known by then
			_, err = on(t, tx).Post(t.Context(), []ledger.Transaction{c.tx})
			require.ErrorContains(t, err, "lock timeout", name)
		}
		require.NoError(t, other.Rollback(t.Context()))
		want(t, on(t, tx), ledger.Posted, move(name, "bank", "a", "1"))
		require.NoError(t, tx.Commit(t.Context()), name)
		require.NoError(t, conn.Close(t.Context()))
	}
	f.balance(t, "a", "14", 5)
	f.verify(t)
}
