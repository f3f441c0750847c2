package redisidem_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/internal/herdtest"
	"github.com/safetill/safetill/idempotency/redisidem"
	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
)

func TestHerdChild(t *testing.T) {
	herdtest.Child(t, func(_ context.Context, url string) (idempotency.Store, error) {
		options, err := redis.ParseURL(url)
		if err != nil {
			return nil, err
		}
		return redisidem.NewStore(redis.NewClient(options), nil)
	})
}

// A thousand first requests at once from four processes: one run, and all get its result.
func TestHerd(t *testing.T) {
	t.Parallel()
	h := herdtest.Start(t, herdtest.Options{
		URL: testdb.RedisURL(t), Processes: 4, Requests: 250, Work: time.Second, Lease: 30 * time.Second, Key: "a",
	})
	answers := h.Wait()
	herdtest.Same(t, answers, 1000)
	require.Len(t, h.Charges(), 1)
	for _, a := range answers {
		require.Zero(t, a.Failed)
	}
}

// The same, and Redis is killed while the work runs.
func TestHerdWhileTheServerIsKilled(t *testing.T) {
	t.Parallel()
	server := testdb.NewRedis(t, localdb.Options{Settings: map[string]string{"appendfsync": "always"}})
	h := herdtest.Start(t, herdtest.Options{
		URL: server.URL(), Processes: 4, Requests: 250, Work: 2 * time.Second, Lease: 30 * time.Second, Key: "a",
	})
	h.AwaitRun()
	require.NoError(t, server.Kill())
	require.NoError(t, server.Start(t.Context()))
	herdtest.Same(t, h.Wait(), 1000)
	require.Len(t, h.Charges(), 1)
}

// The process that runs the work is killed before its effect: another takes over when the lease is over.
func TestHerdWhoseRunnerIsKilled(t *testing.T) {
	t.Parallel()
	h := herdtest.Start(t, herdtest.Options{
		URL: testdb.RedisURL(t), Processes: 4, Requests: 250, Work: 2 * time.Second, Lease: 3 * time.Second, Key: "a",
	})
	h.Kill(h.AwaitRun())
	herdtest.Same(t, h.Wait(), 750)
	require.Len(t, h.Charges(), 1)
	require.Len(t, h.Runs(), 2)
}
