package pgidem_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/testdb"
)

// PostgreSQL is killed after the effect and before its completion, and starts again: the charge is recorded, and what was
// acknowledged before is still there.
func TestServerKilledBetweenEffectAndCompletion(t *testing.T) {
	t.Parallel()
	server := testdb.NewPostgres(t)
	pool, err := pgxpool.New(t.Context(), server.URL())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, pgidem.Migrate(t.Context(), pool, nil))
	guard, err := idempotency.New(newStore(t, pool), &idempotency.Options{WriteTimeout: time.Minute})
	require.NoError(t, err)
	batch := requests(3)
	do := func(n int, work func()) (idempotency.Result[int], error) {
		return idempotency.Do(t.Context(), guard, batch[n].Key, batch[n].Fingerprint, func(context.Context, *idempotency.Run) (int, error) {
			work()
			return n, nil
		})
	}
	_, err = do(0, func() {})
	require.NoError(t, err)

	var restart sync.WaitGroup
	charges := 0
	_, err = do(1, func() {
		charges++
		require.NoError(t, server.Kill())
		_, err := do(2, func() { panic("must not run: the store is down") })
		require.Error(t, err)
		restart.Go(func() { _ = server.Start(t.Context()) })
	})
	restart.Wait()
	require.NoError(t, err)
	for n := range 2 {
		result, err := do(n, func() { charges++ })
		require.NoError(t, err)
		require.Equal(t, idempotency.Result[int]{Value: n, Replayed: true}, result)
	}
	require.Equal(t, 1, charges)
}
