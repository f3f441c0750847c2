package settlement

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
	"github.com/safetill/safetill/saga/sagatest"
)

// teller is a bank of a world in which it may fail.
type teller struct{ *sagatest.Provider }

func (b teller) Pay(ctx context.Context, key string, amount decimal.Decimal) (string, error) {
	return b.Do(ctx, key, amount.IntPart())
}

func (b teller) Find(ctx context.Context, key string) (string, error) {
	receipt, outcome, err := b.Verify(ctx, key)
	if err == nil && outcome == saga.Unknown {
		err = errors.New("the bank does not know")
	}
	return receipt, err
}

// A process dies at every write and every step of a settlement, in turn: the books
// agree with the bank, and no hold is left.
func TestCrashASettlementEverywhere(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	require.NoError(t, errors.Join(pgsaga.Migrate(t.Context(), pool, nil), pgledger.Migrate(t.Context(), pool, nil)))
	books := pgledger.NewStore(pool, nil)
	l, err := ledger.New(books, nil)
	require.NoError(t, err)
	var mu sync.Mutex
	tills := map[*sagatest.World]ledger.AccountID{}
	hundred := decimal.New(100, 0)
	till := func(w *sagatest.World) ledger.AccountID { // with 100 in it
		mu.Lock()
		defer mu.Unlock()
		if tills[w] == "" {
			id := fmt.Sprint("till-", len(tills))
			tills[w] = ledger.AccountID(id)
			require.NoError(t, l.Open(t.Context(), ledger.Account{ID: tills[w], Currency: "NGN", Normal: ledger.Debit},
				ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit}))
			_, err := l.PostOne(t.Context(), ledger.Transaction{ID: ledger.TransactionID(id), Postings: []ledger.Posting{
				{Debit: tills[w], Credit: "ada", Amount: hundred, Currency: "NGN"},
			}})
			require.NoError(t, err)
		}
		return tills[w]
	}
	got := sagatest.CrashEverywhere(t, sagatest.Scenario[Order]{
		Store: func(testing.TB) saga.Store { return pgsaga.NewStore(pool, nil) }, Input: Order{Amount: hundred},
		Lease: 150 * time.Millisecond, Parallel: 12, Pairs: 20,
		Saga: func(w *sagatest.World) (*saga.Definition[Order], []saga.Registered) {
			def, err := define(Accounts{From: till(w), To: "bank", Currency: "NGN"},
				func(tx pgx.Tx) (*ledger.Ledger, error) { return ledger.New(books.In(tx), nil) }, teller{w.Provider("bank")})
			require.NoError(t, err)
			return def, nil
		},
		Check: func(w *sagatest.World, r saga.Result[Order]) error {
			b, err := l.Balances(context.Background(), till(w))
			if err != nil {
				return err
			}
			want := hundred
			if r.Status == saga.Completed {
				want = decimal.Zero
			}
			if !b[0].Posted.Equal(want) || !b[0].Available.Equal(want) {
				return fmt.Errorf("the till has %s, %s of it available, and not %s", b[0].Posted, b[0].Available, want)
			}
			return nil
		},
	})
	require.Greater(t, got.Runs, 50)
	report, err := l.Verify(t.Context())
	require.NoError(t, err)
	require.True(t, report.OK())
}
