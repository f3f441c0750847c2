package proof

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

const (
	currency = "NGN"
	scale    = 2
	patience = time.Minute // for whatever should take a second
)

// size is how much a test does: ordinarily, and where SAFETILL_PROOF=full.
func size(ordinary, full int) int {
	if os.Getenv("SAFETILL_PROOF") == "full" {
		return full
	}
	return ordinary
}

// seeds returns the first seed, which it logs, and n, or the one seed that the caller asks for.
func seeds(t *testing.T, n int) (first uint64, count int) {
	t.Helper()
	first, count = rand.Uint64()>>1, n
	if s := os.Getenv("SAFETILL_PROOF_SEED"); s != "" {
		var err error
		first, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err, "SAFETILL_PROOF_SEED")
		count = 1
	}
	t.Logf("SAFETILL_PROOF_SEED=%d", first)
	return first, count
}

func oneSeed(t *testing.T) uint64 {
	t.Helper()
	s, _ := seeds(t, 1)
	return s
}

// dice are the random choices of one goroutine.
func dice(seed, who uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, who)) }

func minor(n int64) decimal.Decimal { return decimal.New(n, -scale) }

func cents(d decimal.Decimal) int64 { return d.Shift(scale).IntPart() }

func posting(debit, credit ledger.AccountID, amount int64) ledger.Posting {
	return ledger.Posting{Debit: debit, Credit: credit, Amount: minor(amount), Currency: currency}
}

// bank is an account that grows by debits and has no floor; wallet one that grows by credits and has.
func bank(id ledger.AccountID) ledger.Account {
	return ledger.Account{ID: id, Currency: currency, Normal: ledger.Debit}
}

func wallet(id ledger.AccountID, floor int64) ledger.Account {
	return ledger.Account{ID: id, Currency: currency, Normal: ledger.Credit, Floor: new(minor(floor))}
}

func newLedger(tb testing.TB, store ledger.Store) *ledger.Ledger {
	tb.Helper()
	l, err := ledger.New(store, nil)
	require.NoError(tb, err)
	return l
}

// newPool is a pool whose connections PostgreSQL lists under the given name.
func newPool(t *testing.T, url, name string, conns int32) *pgxpool.Pool {
	t.Helper()
	conf, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	conf.MaxConns = conns
	conf.ConnConfig.RuntimeParams["application_name"] = name
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func migrated(t *testing.T, pool *pgxpool.Pool) ledger.Store {
	t.Helper()
	require.NoError(t, pgledger.Migrate(t.Context(), pool, nil))
	return pgledger.NewStore(pool, nil)
}

// pause waits, or returns the error of a context that ends before.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// verified fails where the ledger does not add up.
func verified(t *testing.T, l *ledger.Ledger) ledger.Report {
	t.Helper()
	r, err := l.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, r.Breaks)
	return r
}

func txID(parts ...any) ledger.TransactionID { return ledger.TransactionID(fmt.Sprint(parts...)) }
