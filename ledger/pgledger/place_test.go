package pgledger_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
)

// Where a row was, there is another one now, or nothing.
func TestRowsThatHaveMovedAreFound(t *testing.T) {
	t.Parallel()
	f := open(t)
	for n := range 10 {
		f.want(t, ledger.Posted, move(fmt.Sprint("in", n), "bank", "a", "5"), move(fmt.Sprint("on", n), "a", "b", "2"))
		if n%2 == 0 {
			exec(t, f.pool, "UPDATE ledger_accounts SET floor = floor")
			exec(t, f.pool, "VACUUM FULL ledger_accounts")
		}
	}
	f.balance(t, "a", "30", 20)
	f.balance(t, "b", "20", 10)
	f.verify(t)
}

// Who goes straight to a row does not clear its page, and a full page sends its rows to others, with a new entry in each index. Not parallel: what
// a snapshot of another test sees cannot be cleared.
func TestAccountsStayOnTheirPages(t *testing.T) {
	const accounts = 200
	pool := newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 1 }) // what it did is counted when it says so
	f := openOn(t, pool)
	var all []ledger.Account
	for n := range accounts {
		all = append(all, ledger.Account{ID: ledger.AccountID(fmt.Sprint("account", n)), Currency: "NGN", Normal: ledger.Debit})
	}
	require.NoError(t, f.Open(t.Context(), all...))
	exec(t, pool, "ALTER TABLE ledger_accounts SET (autovacuum_enabled = off)")
	for batch := range 200 {
		var txs []ledger.Transaction
		for n, account := range rand.Perm(accounts - 1)[:20] {
			txs = append(txs, move(fmt.Sprint(batch, "-", n), all[account].ID, all[account+1].ID, "1"))
		}
		f.want(t, ledger.Posted, txs...)
	}
	exec(t, pool, "SELECT pg_stat_force_next_flush()")
	moved := count(t, pool, "SELECT n_tup_upd - n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'ledger_accounts'::regclass")
	require.Less(t, moved, 300, "of about 7,600")
	f.verify(t)
}
