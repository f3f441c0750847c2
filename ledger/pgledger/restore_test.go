package pgledger_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// backup keeps the accounts as they are, and restore brings them back as a backup does, or a standby that had not received the last commits:
// without what was posted meanwhile, and with rows where they have been.
func backup(t *testing.T, f fixture) (restore func()) {
	t.Helper()
	exec(t, f.pool, "CREATE TABLE accounts_kept AS SELECT * FROM ledger_accounts")
	return func() {
		t.Helper()
		exec(t, f.pool, "TRUNCATE ledger_accounts, ledger_transactions, ledger_postings")
		exec(t, f.pool, "INSERT INTO ledger_accounts OVERRIDING SYSTEM VALUE SELECT * FROM accounts_kept ORDER BY no")
		exec(t, f.pool, "SELECT setval(pg_get_serial_sequence('ledger_accounts', 'no'), max(no)) FROM ledger_accounts")
	}
}

// A version counts commits. Where some were lost, another server's come to the same version with other sums.
func TestSumsOfALostCommitAreNotBuiltOn(t *testing.T) {
	t.Parallel()
	f := open(t)
	servers := stores(t, f, 2, nil)
	restore := backup(t, f)
	want(t, servers[0], ledger.Posted, move("lost", "bank", "a", "100"))
	restore()
	want(t, servers[1], ledger.Posted, move("kept", "bank", "a", "1"))
	want(t, servers[0], ledger.InsufficientFunds, move("spends what was lost", "a", "b", "100"))
	f.balance(t, "a", "1", 1)
	f.verify(t)
}

// An account's number is given again where the commit that had opened it was lost.
func TestTheNumberOfALostAccountIsNotBuiltOn(t *testing.T) {
	t.Parallel()
	f := open(t)
	servers := stores(t, f, 2, nil)
	restore := backup(t, f)
	require.NoError(t, f.Open(t.Context(), ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit}))
	want(t, servers[0], ledger.Posted, move("lost", "bank", "ada", "1"))
	restore()
	require.NoError(t, f.Open(t.Context(), ledger.Account{ID: "amy", Currency: "NGN", Normal: ledger.Credit}))
	want(t, servers[1], ledger.Posted, move("kept", "bank", "amy", "1"))
	want(t, servers[0], ledger.UnknownAccount, move("for ada", "bank", "ada", "1"))
	f.balance(t, "amy", "1", 1)
	f.verify(t)
}

// Tables that were filled anew from elsewhere may have an account where it was, as it was, under another number. Several times, since places are not gone
// by each time.
func TestAnAccountMayHaveAnotherNumber(t *testing.T) {
	t.Parallel()
	f := open(t)
	for n := range 10 {
		f.want(t, ledger.Posted, move(fmt.Sprint(n), "bank", "a", "1"))
		exec(t, f.pool, "CREATE TABLE kept AS SELECT *, (ctid::text::point)[1]::bigint AS place FROM ledger_accounts")
		exec(t, f.pool, "TRUNCATE ledger_accounts")
		exec(t, f.pool, `
INSERT INTO ledger_accounts (no, id, currency, scale, normal, floor, debits, credits, version) OVERRIDING SYSTEM VALUE
SELECT coalesce(no, -place) + 10, coalesce(id, 'none' || place), 'NGN', 2, coalesce(normal, 1), floor, coalesce(debits, 0), coalesce(credits, 0), coalesce(version, 0)
FROM generate_series(1, (SELECT max(place) FROM kept)) place LEFT JOIN kept USING (place) ORDER BY place`)
		exec(t, f.pool, "DELETE FROM ledger_accounts WHERE id LIKE 'none%'")
		exec(t, f.pool, "UPDATE ledger_postings SET debit_no = debit_no + 10, credit_no = credit_no + 10")
		exec(t, f.pool, "DROP TABLE kept")
	}
	f.want(t, ledger.Posted, move("last", "bank", "a", "1"))
	f.balance(t, "a", "11", 11)
	f.verify(t)
}
