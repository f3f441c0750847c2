package proof

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

const (
	perTransaction = 8 // postings
	perBatch       = 10
	contested      = 3 // transactions of a batch whose ids others send at the same time, over other accounts
)

// Half of the callers go through the accounts and the ids forth, the others back. PostgreSQL looks for deadlocks after 20 ms, so that
// each that there is counts, also where the store would repeat what was broken.
func TestOppositeOrders(t *testing.T) {
	t.Parallel()
	postings, seed := size(20_000, 1_000_000), oneSeed(t)
	server := testdb.NewPostgres(t, localdb.Options{Settings: map[string]string{"deadlock_timeout": "20ms"}})
	pool := newPool(t, server.URL(), t.Name(), clients)
	l := newLedger(t, migrated(t, pool))
	openWallets(t, l)
	for c := range clients {
		require.NoError(t, l.Open(t.Context(), bank(ownBank(c))))
	}
	_, err := pool.Exec(t.Context(), "ANALYZE ledger_accounts") // of so few, plans are made that no full table has
	require.NoError(t, err)
	// Of one server's batches those that share an account take turns, and would meet no deadlock in whatever order they lock.
	servers := []*ledger.Ledger{l, newLedger(t, pgledger.NewStore(pool, nil)), newLedger(t, pgledger.NewStore(pool, &pgledger.Options{Cache: -1}))}

	var made, taken, errs atomic.Int64
	start := time.Now()
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			r := dice(seed, uint64(c))
			for n := 0; made.Load() < int64(postings); n++ {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				results, err := servers[c%len(servers)].Post(ctx, crossing(c, n, r.Perm(wallets)))
				cancel()
				if err != nil {
					t.Errorf("caller %d, batch %d: %v", c, n, err)
					errs.Add(1)
					return
				}
				for i, r := range results {
					switch {
					case r.Verdict == ledger.Posted && !r.Duplicate && i >= contested:
						made.Add(perTransaction)
					case r.Verdict == ledger.Posted && !r.Duplicate:
						made.Add(1)
					case r.Verdict == ledger.Conflict && i < contested:
						taken.Add(1)
					default:
						t.Errorf("caller %d, batch %d: %+v", c, n, r)
					}
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, errs.Load())
	report := verified(t, l)
	require.Equal(t, 2*made.Load(), report.Entries)
	took := time.Since(start)
	watch := newPool(t, server.URL(), "watch", 1)
	found := deadlocks(t, watch, pool)
	t.Logf("%d postings in %v, %d deadlocks; %d times an id was another's", made.Load(), took.Round(time.Millisecond), found, taken.Load())
	require.Zero(t, found)

	pool = newPool(t, server.URL(), t.Name(), 2)
	deadlock(t, pool)
	require.EqualValues(t, 1, deadlocks(t, watch, pool), "so the counter counts")
}

// ownBank is a caller's: one that all share would be locked by each batch before all else, and keep them apart.
func ownBank(caller int) ledger.AccountID { return ledger.AccountID(fmt.Sprint("bank", caller)) }

// crossing is a batch that touches all accounts in an order, or in the opposite one. Its first transactions have ids that every
// caller sends in its n-th batch, each over accounts of its own: there it is the ids that are waited for.
func crossing(caller, n int, perm []int) []ledger.Transaction {
	var shared, own []ledger.Transaction
	for i := range contested {
		shared = append(shared, ledger.Transaction{
			ID:       txID("shared-", n, "-", i),
			Postings: []ledger.Posting{posting(ownBank(caller), walletID(caller), int64(caller+1))},
		})
	}
	for i := range perBatch - contested {
		tx := ledger.Transaction{ID: txID(caller, "-", n, "-", i)}
		for k := range perTransaction { // round the wallets and back to the first: no floor is passed at the end
			from, to := perm[k], perm[(k+1)%perTransaction]
			tx.Postings = append(tx.Postings, posting(walletID(from), walletID(to), 1))
		}
		if caller%2 == 1 {
			slices.Reverse(tx.Postings)
		}
		own = append(own, tx)
	}
	if caller%2 == 1 {
		slices.Reverse(shared)
		slices.Reverse(own)
	}
	return append(shared, own...)
}

// deadlocks closes the pool and returns how many deadlocks PostgreSQL has counted: a connection tells what it saw when it ends.
func deadlocks(t *testing.T, watch, pool *pgxpool.Pool) (n int64) {
	t.Helper()
	pool.Close()
	number := func(sql string, args ...any) {
		require.NoError(t, watch.QueryRow(t.Context(), sql, args...).Scan(&n))
	}
	end := time.Now().Add(patience)
	for n = 1; n > 0; number("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", t.Name()) {
		require.True(t, time.Now().Before(end), "%d connections do not end", n)
		require.NoError(t, pause(t.Context(), 10*time.Millisecond))
	}
	number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
	return n
}

// deadlock makes one, by hand.
func deadlock(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	const lock = "SELECT 1 FROM ledger_accounts WHERE id = $1 FOR UPDATE"
	first, err := pool.Begin(t.Context())
	require.NoError(t, err)
	second, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err1 := first.Exec(t.Context(), lock, "wallet0")
	_, err2 := second.Exec(t.Context(), lock, "wallet1")
	require.NoError(t, errors.Join(err1, err2))
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err1 = first.Exec(t.Context(), lock, "wallet1")
		err1 = errors.Join(err1, first.Rollback(t.Context()))
	})
	_, err2 = second.Exec(t.Context(), lock, "wallet0")
	err2 = errors.Join(err2, second.Rollback(t.Context()))
	wg.Wait()
	broken, ok := errors.AsType[*pgconn.PgError](errors.Join(err1, err2))
	require.True(t, ok)
	require.Equal(t, "40P01", broken.Code)
}
