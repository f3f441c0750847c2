package pgledger_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
)

// grouped runs a group over f's ledger until the test ends.
func grouped(t *testing.T, f fixture, o *ledger.GroupOptions) *ledger.Group {
	t.Helper()
	g, err := ledger.NewGroup(f.Ledger, o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return g
}

// 64 callers on two hot accounts, each id from two of them at once: everything once, and each hears of its own.
func TestGroupManyCallers(t *testing.T) {
	t.Parallel()
	const callers, rounds = 64, 25
	f := open(t)
	g := grouped(t, f, nil)
	var firsts atomic.Int64
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := range rounds {
				batch := []ledger.Transaction{
					move(fmt.Sprint(c/2, "-", n), "bank", "a", "1"), move(fmt.Sprint("own-", c, "-", n), "bank", "b", "2"),
					move(fmt.Sprint("much-", c, "-", n), "a", "b", "99999"),
				}
				results, err := g.Post(t.Context(), batch)
				if err != nil {
					t.Error(err)
					return
				}
				for i, want := range []ledger.Verdict{ledger.Posted, ledger.Posted, ledger.InsufficientFunds} {
					if r := results[i]; r.ID != batch[i].ID || r.Verdict != want || i > 0 && r.Duplicate {
						t.Errorf("%q heard %+v", batch[i].ID, r)
					}
				}
				if !results[0].Duplicate {
					firsts.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, callers/2*rounds, firsts.Load())
	f.balance(t, "a", fmt.Sprint(callers/2*rounds), callers/2*rounds)
	f.balance(t, "b", fmt.Sprint(2*callers*rounds), callers*rounds)
	f.verify(t)
}

// 64 callers of one transaction each post through a group while PostgreSQL is killed again and again.
func TestGroupServerKilledUnderLoad(t *testing.T) {
	t.Parallel()
	const callers, transfers, kills = 64, 60, 5
	server := testdb.NewPostgres(t)
	f := openOn(t, newPool(t, server.URL(), func(c *pgxpool.Config) { c.MaxConns = 4 }))
	g := grouped(t, f, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var acknowledged sync.Map
	var answered, failed atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	for c := range callers {
		wg.Go(func() {
			for n := range transfers { // a failed one is not repeated: only what was acknowledged must be there
				tx := move(fmt.Sprint(c, "-", n), "bank", []ledger.AccountID{"a", "b"}[n%2], "1")
				if _, err := g.PostOne(ctx, tx); err == nil {
					acknowledged.Store(tx.ID, true)
				} else {
					failed.Add(1)
				}
				answered.Add(1)
			}
		})
	}
	for kill := range kills {
		eventually(t, "answers", func() bool { return answered.Load() >= int64(callers*transfers*(kill+1)/(kills+2)) })
		require.NoError(t, server.Kill())
		require.NoError(t, server.Start(ctx))
	}
	wg.Wait()
	require.NoError(t, ctx.Err())
	rows, err := f.pool.Query(t.Context(), "SELECT transaction_id FROM ledger_postings")
	require.NoError(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[ledger.TransactionID])
	require.NoError(t, err)
	there := map[ledger.TransactionID]bool{}
	for _, id := range ids {
		require.False(t, there[id], "%s is there twice", id)
		there[id] = true
	}
	lost, n := 0, 0
	acknowledged.Range(func(id, _ any) bool {
		n++
		if !there[id.(ledger.TransactionID)] {
			lost++
		}
		return true
	})
	t.Logf("%d kills: %d acknowledged, %d failed, %d of those are there", kills, n, failed.Load(), len(ids)-n)
	require.Zero(t, lost, "acknowledged and not there")
	require.Positive(t, failed.Load(), "the kills have tested nothing")
	f.verify(t)
}

// What a trigger of the user's refuses fails its caller, and not those who share the commit.
func TestGroupPoison(t *testing.T) {
	t.Parallel()
	f, release := locked(t, func(c *pgxpool.Config) { c.MaxConns = 4 })
	poison(t, f)
	g := grouped(t, f, &ledger.GroupOptions{AtOnce: 1})
	const callers = 32
	faults := make([]error, callers)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = g.PostOne(t.Context(), move("waits", "bank", "a", "1")) })
	waitForLock(t, f.pool, 1)
	for c := range callers { // all behind the one that waits, so in one batch
		wg.Go(func() {
			id := fmt.Sprint(c)
			if c == 21 {
				id = "poison"
			}
			_, faults[c] = g.PostOne(t.Context(), move(id, "bank", "b", "1"))
		})
	}
	release()
	wg.Wait()
	for c, err := range faults {
		if c == 21 {
			require.ErrorContains(t, err, "poisoned")
		} else {
			require.NoError(t, err)
		}
	}
	f.balance(t, "b", fmt.Sprint(callers-1), callers-1)
	f.verify(t)
}
