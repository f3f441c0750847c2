package main

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
)

// TestRedisThatHangs takes connections and answers nothing: no payment is refused for
// it, since PostgreSQL is there.
func TestRedisThatHangs(t *testing.T) {
	t.Parallel()
	rdb := syncedRedis(t)
	p := startServer(t, "-migrate", "-postgres", testdb.PostgresURL(t), "-redis", rdb.URL(),
		"-limit-ip", "5000", "-limit-customer", "5000", "-limit-global", "5000")
	options, err := redis.ParseURL(rdb.URL())
	require.NoError(t, err)
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	b := newBank(t, "hangs", p)
	b.during(t, 50, func(ctx context.Context) error {
		if err := client.Do(ctx, "CLIENT", "PAUSE", 8_000, "ALL").Err(); err != nil {
			return err
		}
		return pause(ctx, 6*time.Second)
	})
	b.allAcknowledged(t)
	require.Zero(t, b.answers["503"])
	b.settle(t, drainLimit)
}
