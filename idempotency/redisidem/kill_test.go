package redisidem_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
)

// Redis, with an append-only file synced at each write, is killed after the effect and before its completion, and starts
// again: the charge is recorded, and what was acknowledged before is still there.
func TestServerKilledBetweenEffectAndCompletion(t *testing.T) {
	t.Parallel()
	server := testdb.NewRedis(t, localdb.Options{Settings: map[string]string{"appendfsync": "always"}})
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	guard, err := idempotency.New(newStore(t, rdb), &idempotency.Options{WriteTimeout: time.Minute})
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
