package pgledger_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
	"github.com/safetill/safetill/ledger/pgledger"
)

func newStore(t testing.TB) ledger.Store {
	t.Helper()
	pool := testdb.Postgres(t)
	require.NoError(t, pgledger.Migrate(t.Context(), pool, nil))
	return pgledger.NewStore(pool, nil)
}

func TestStore(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, newStore)
}
