package pgidem_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/internal/herdtest"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/testdb"
)

func TestHerdChild(t *testing.T) {
	herdtest.Child(t, func(ctx context.Context, url string) (idempotency.Store, error) {
		config, err := pgxpool.ParseConfig(url)
		if err != nil {
			return nil, err
		}
		config.MaxConns = 16
		pool, err := pgxpool.NewWithConfig(ctx, config)
		if err != nil {
			return nil, err
		}
		return pgidem.NewStore(pool, nil)
	})
}

func migratedURL(tb testing.TB, url string) string {
	tb.Helper()
	pool, err := pgxpool.New(tb.Context(), url)
	require.NoError(tb, err)
	defer pool.Close()
	require.NoError(tb, pgidem.Migrate(tb.Context(), pool, nil))
	return url
}

// A thousand first requests at once from four processes: one run, and all get its result.
func TestHerd(t *testing.T) {
	t.Parallel()
	h := herdtest.Start(t, herdtest.Options{
		URL: migratedURL(t, testdb.PostgresURL(t)), Processes: 4, Requests: 250, Work: time.Second, Lease: 30 * time.Second, Key: "a",
	})
	answers := h.Wait()
	herdtest.Same(t, answers, 1000)
	require.Len(t, h.Charges(), 1)
	for _, a := range answers {
		require.Zero(t, a.Failed)
	}
}

// The same, and PostgreSQL is killed while the work runs.
func TestHerdWhileTheServerIsKilled(t *testing.T) {
	t.Parallel()
	server := testdb.NewPostgres(t)
	h := herdtest.Start(t, herdtest.Options{
		URL: migratedURL(t, server.URL()), Processes: 4, Requests: 250, Work: 2 * time.Second, Lease: 30 * time.Second, Key: "a",
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
		URL: migratedURL(t, testdb.PostgresURL(t)), Processes: 4, Requests: 250, Work: 2 * time.Second, Lease: 3 * time.Second, Key: "a",
	})
	h.Kill(h.AwaitRun())
	herdtest.Same(t, h.Wait(), 750)
	require.Len(t, h.Charges(), 1)
	require.Len(t, h.Runs(), 2)
}
