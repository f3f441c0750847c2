package pgledger_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
	"github.com/safetill/safetill/ledger/pgledger"
)

func newStore(tb testing.TB) ledger.Store {
	tb.Helper()
	pool := testdb.Postgres(tb)
	require.NoError(tb, pgledger.Migrate(tb.Context(), pool, nil))
	return pgledger.NewStore(pool, nil)
}

func TestStore(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, newStore)
}

// fixture is a ledger in NGN: "bank" grows by debits and has no floor, "a" and "b" grow by credits and cannot fall below 0.
type fixture struct {
	*ledger.Ledger
	pool *pgxpool.Pool
}

func open(tb testing.TB) fixture {
	tb.Helper()
	return openOn(tb, testdb.Postgres(tb))
}

func openOn(tb testing.TB, pool *pgxpool.Pool) fixture {
	tb.Helper()
	require.NoError(tb, pgledger.Migrate(tb.Context(), pool, nil))
	f := fixture{Ledger: on(tb, pool), pool: pool}
	require.NoError(tb, f.Open(tb.Context(),
		ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit},
		ledger.Account{ID: "a", Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.Zero)},
		ledger.Account{ID: "b", Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.Zero)},
	))
	return f
}

// on is a ledger over db, of whatever kind.
func on(tb testing.TB, db pgledger.DB) *ledger.Ledger {
	tb.Helper()
	l, err := ledger.New(pgledger.NewStore(db, nil), nil)
	require.NoError(tb, err)
	return l
}

func move(id string, debit, credit ledger.AccountID, amount string) ledger.Transaction {
	return ledger.Transaction{ID: ledger.TransactionID(id), Postings: []ledger.Posting{
		{Debit: debit, Credit: credit, Amount: decimal.RequireFromString(amount), Currency: "NGN"},
	}}
}

func (f fixture) want(tb testing.TB, verdict ledger.Verdict, txs ...ledger.Transaction) {
	tb.Helper()
	want(tb, f.Ledger, verdict, txs...)
}

func want(tb testing.TB, l *ledger.Ledger, verdict ledger.Verdict, txs ...ledger.Transaction) {
	tb.Helper()
	results, err := l.Post(tb.Context(), txs)
	require.NoError(tb, err)
	for _, r := range results {
		require.Equal(tb, verdict, r.Verdict, r.ID)
	}
}

// balance checks what an account has, and its version.
func (f fixture) balance(tb testing.TB, id ledger.AccountID, posted string, version int) {
	tb.Helper()
	b, err := f.Balances(tb.Context(), id)
	require.NoError(tb, err)
	require.Equal(tb, posted, b[0].Posted.String(), id)
	require.EqualValues(tb, version, b[0].Version, id)
}

func (f fixture) verify(tb testing.TB) ledger.Report {
	tb.Helper()
	r, err := f.Verify(tb.Context())
	require.NoError(tb, err)
	require.Empty(tb, r.Breaks)
	require.True(tb, r.OK(), "seal %+v", r.Broken)
	return r
}
