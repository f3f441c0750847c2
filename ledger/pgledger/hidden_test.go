package pgledger_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// Row security lets an account of another tenant be in the way of an insert and hides it from the look behind it. Its row was taken for
// granted there.
func TestOpenOfAnAccountThatIsHidden(t *testing.T) {
	t.Parallel()
	f := open(t)
	tx := begin(t, f, pgx.TxOptions{})
	exec(t, tx, "CREATE ROLE safetill_tenant") // goes with the transaction
	exec(t, tx, "DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO safetill_tenant', current_schema()); END $$")
	exec(t, tx, "GRANT ALL ON ledger_accounts TO safetill_tenant")
	exec(t, tx, "ALTER TABLE ledger_accounts ENABLE ROW LEVEL SECURITY")
	exec(t, tx, "SET LOCAL app.tenant = 'one'")
	exec(t, tx, "ALTER TABLE ledger_accounts ADD COLUMN tenant text DEFAULT current_setting('app.tenant')")
	exec(t, tx, "CREATE POLICY own ON ledger_accounts USING (tenant = current_setting('app.tenant'))")
	exec(t, tx, "SET LOCAL ROLE safetill_tenant")
	exec(t, tx, "SET LOCAL app.tenant = 'two'")
	l := on(t, tx)
	account := ledger.Account{ID: "a", Currency: "NGN", Normal: ledger.Credit}
	require.ErrorContains(t, l.Open(t.Context(), account), `account "a" is not there after its insert`)
	account.ID = "c"
	require.NoError(t, l.Open(t.Context(), account), "the transaction is usable")
}
