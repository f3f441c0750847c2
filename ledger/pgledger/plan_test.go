package pgledger_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
)

// The driver's statements get their plans while the tables are as good as empty, and keep them: nothing analyzes the tables later. What is then
// posted and read beside 50,000 other postings must still be found by an index.
func TestPlansOfAnEmptyLedgerDoNotScanAFullOne(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 1 }) // all statements are cached on it
	f := openOn(t, pool)
	for _, table := range []string{"accounts", "transactions", "postings"} {
		exec(t, pool, "ALTER TABLE ledger_"+table+" SET (autovacuum_enabled = off)")
	}
	exec(t, pool, "ANALYZE ledger_accounts, ledger_transactions, ledger_postings") // of three accounts, the plan would be to read them all
	n := 0
	use := func() {
		n++
		in, out := move(fmt.Sprint("in", n), "bank", "a", "5"), move(fmt.Sprint("out", n), "a", "b", "2")
		f.want(t, ledger.Posted, in, out, in)
		f.want(t, ledger.UnknownAccount, move(fmt.Sprint("unknown", n), "nobody", "b", "1"))
		_, err := f.Balances(t.Context(), "a", "b", "bank")
		require.NoError(t, err)
		for _, err := range f.Entries(t.Context(), "a", int64(2*n-2)) {
			require.NoError(t, err)
		}
	}
	for range 8 { // after five the plans no longer look at the arguments
		use()
	}
	fill(t, pool, 50_000)
	before := scans(t, pool)
	for range 8 {
		use()
	}
	require.Equal(t, before, scans(t, pool))
	f.verify(t)
}

// scans counts the sequential scans of each table so far. The pool has one connection: what that did is counted when it says so.
func scans(t *testing.T, pool *pgxpool.Pool) map[string]int {
	t.Helper()
	exec(t, pool, "SELECT pg_stat_force_next_flush()")
	found := map[string]int{}
	for _, table := range []string{"ledger_accounts", "ledger_transactions", "ledger_postings"} {
		found[table] = count(t, pool, "SELECT seq_scan FROM pg_stat_user_tables WHERE relid = $1::text::regclass", table)
	}
	return found
}

// To plan a statement takes longer than to carry it out. Left to itself, PostgreSQL would do so for each batch where it thinks that a plan for these
// very arguments is better.
func TestNothingIsPlannedAnew(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 1 })
	f := openOn(t, pool)
	for n := range 20 {
		f.want(t, ledger.Posted, move(fmt.Sprint("quick", n), "bank", "a", "5"))
		f.want(t, ledger.InsufficientFunds, move(fmt.Sprint("locked", n), "b", "a", "2"))
		f.want(t, ledger.Posted, hold(fmt.Sprint("hold", n), "bank", "a", "1"), ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("capture", n)), Kind: ledger.KindCapture, Of: ledger.TransactionID(fmt.Sprint("hold", n))})
		f.want(t, ledger.Posted, ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("back", n)), Kind: ledger.KindReverse, Of: ledger.TransactionID(fmt.Sprint("quick", n))})
		require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := on(t, tx).PostOne(t.Context(), move(fmt.Sprint("callers", n), "bank", "a", "1"))
			return err
		}))
		_, err := stores(t, f, 1, nil)[0].PostOne(t.Context(), move(fmt.Sprint("unseen", n), "bank", "a", "1"))
		require.NoError(t, err)
		_, err = f.Balances(t.Context(), "a", "b")
		require.NoError(t, err)
	}
	require.Zero(t, count(t, pool, "SELECT count(*) FROM pg_prepared_statements WHERE custom_plans > 5"))
	require.Positive(t, count(t, pool, "SELECT count(*) FROM pg_prepared_statements WHERE generic_plans > 5"))
}

// Most holds that can expire have not: to find those that have, the others are not to be read. A clock that is asked for each row is no
// bound for an index.
func TestExpiredHoldsAreFoundWithoutTheOthers(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 1 })
	f := openOn(t, pool)
	batch := func(n int, expires time.Duration) (holds []ledger.Transaction) {
		for i := range n {
			h := move(fmt.Sprint("hold ", expires, i), "bank", "a", "1")
			h.Kind, h.Expires = ledger.KindHold, expires
			holds = append(holds, h)
		}
		return holds
	}
	f.want(t, ledger.Posted, append(batch(2000, time.Hour), batch(5, time.Microsecond)...)...)
	read := func() int {
		exec(t, pool, "SELECT pg_stat_force_next_flush()")
		return count(t, pool, "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelid = 'ledger_transactions_expiring'::regclass")
	}
	before := read()
	for _, want := range []int{5, 0, 0} {
		n, err := f.ExpireHolds(t.Context(), 100)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	require.Less(t, read()-before, 100)
	f.verify(t)
}
