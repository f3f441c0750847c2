package pgledger_test

import (
	"fmt"
	"testing"

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
