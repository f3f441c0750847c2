package redisqueue_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/queue"
	"github.com/safetill/safetill/internal/queue/queuetest"
	"github.com/safetill/safetill/internal/queue/redisqueue"
	"github.com/safetill/safetill/internal/testdb"
)

const (
	crashURL  = "SAFETILL_REDISQUEUE_CRASH_URL"
	crashName = "crash"
)

func TestMain(m *testing.M) {
	queuetest.CrashWorker(func(context.Context) (queue.Queue, error) {
		o, err := redis.ParseURL(os.Getenv(crashURL))
		if err != nil {
			return nil, err
		}
		return redisqueue.New(redis.NewClient(o), crashName, &redisqueue.Options{Lease: queuetest.CrashLease})
	})
	os.Exit(m.Run())
}

// With BLPOP in place of claims a trial of this lost 120 jobs.
func TestKilledWorkersLoseNothing(t *testing.T) {
	t.Parallel()
	url := testdb.RedisURL(t)
	q, err := redisqueue.New(dial(t, url), crashName, &redisqueue.Options{Lease: queuetest.CrashLease})
	require.NoError(t, err)
	queuetest.Crash(t, q, 20_000, crashURL+"="+url)
}

// Redis is killed while messages are pushed and consumed, and started again: every push that was acknowledged is handled.
func TestKilledRedisKeepsAcknowledgedPushes(t *testing.T) {
	t.Parallel()
	srv := testdb.NewRedis(t, localdb.Options{Settings: map[string]string{"appendfsync": "always"}})
	queuetest.KillServer(t, open(t, dial(t, srv.URL()), time.Second), 3000, func(ctx context.Context) error {
		return errors.Join(srv.Kill(), srv.Start(ctx))
	})
}
