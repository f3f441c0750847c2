// Package permanentid_test shows what is behind the 24 hours for which a result
// is replayed: an id that the ledger has for ever, derived from the same key.
// Neither package knows of the other; a string is all that goes between them.
package permanentid_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/ledger"
)

// shop takes payments once for each key.
type shop struct {
	guard *idempotency.Guard
	books *ledger.Ledger
	now   time.Time
}

func newShop(ctx context.Context) (*shop, error) {
	s := &shop{now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	clock := func() time.Time { return s.now }
	var err error
	if s.guard, err = idempotency.New(idempotency.NewMemory(&idempotency.MemoryOptions{Now: clock}), nil); err != nil {
		return nil, err
	}
	if s.books, err = ledger.New(ledger.NewMemory(&ledger.MemoryOptions{Now: clock}), nil); err != nil {
		return nil, err
	}
	return s, s.books.Open(ctx,
		ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit},
		ledger.Account{ID: "shop", Currency: "NGN", Normal: ledger.Credit})
}

// pay moves 80.50 from Ada to the shop, and returns what was decided and whether the work was run to say so.
func (s *shop) pay(ctx context.Context, tenant, key string) (verdict string, replayed bool, err error) {
	k, err := idempotency.NewKey(tenant, "create-payment", key)
	if err != nil {
		return "", false, err
	}
	result, err := idempotency.Do(ctx, s.guard, k, idempotency.FingerprintOf([]byte("80.50")),
		func(ctx context.Context, run *idempotency.Run) (string, error) {
			r, err := s.books.PostOne(ctx, ledger.Transaction{
				ID: ledger.TransactionID(run.Key().ID("transfer")), // the permanent id
				Postings: []ledger.Posting{
					{Debit: "ada", Credit: "shop", Amount: decimal.RequireFromString("80.50"), Currency: "NGN"},
				},
			})
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("%v, duplicate %t", r.Verdict, r.Duplicate), nil
		})
	return result.Value, result.Replayed, err
}

func Example() {
	ctx := context.Background()
	s, err := newShop(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	pay := func(tenant string) {
		verdict, replayed, err := s.pay(ctx, tenant, "k-1")
		balances, _ := s.books.Balances(ctx, "shop")
		fmt.Printf("%s; replayed %t; error %v; the shop has %v\n", verdict, replayed, err, balances[0].Posted)
	}
	pay("tenant-7")
	pay("tenant-7") // the key's record answers
	s.now = s.now.Add(25 * time.Hour)
	pay("tenant-7") // the record is gone, the work runs, and the ledger remembers
	pay("tenant-8") // somebody else's key of the same name
	// Output:
	// posted, duplicate false; replayed false; error <nil>; the shop has 80.5
	// posted, duplicate false; replayed true; error <nil>; the shop has 80.5
	// posted, duplicate true; replayed false; error <nil>; the shop has 80.5
	// posted, duplicate false; replayed false; error <nil>; the shop has 161
}

// Whatever bytes a key has, its id is one that the ledger takes.
func TestEveryIDIsATransactionID(t *testing.T) {
	t.Parallel()
	s, err := newShop(t.Context())
	require.NoError(t, err)
	for _, key := range []string{"\x00", "\xff\xfe", " ", "é", string(make([]byte, 255))} {
		verdict, _, err := s.pay(t.Context(), "tenant", key)
		require.NoError(t, err)
		require.Equal(t, "posted, duplicate false", verdict)
	}
}
