package redisqueue_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
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
	q := open(t, dial(t, srv.URL()), time.Second)
	ctx, cancel := context.WithCancel(t.Context())

	var mu sync.Mutex
	handled := map[string]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		err := queue.Consume(ctx, q, &queue.ConsumeOptions{Workers: 3, Batch: 20, ErrorMax: time.Second}, func(_ context.Context, msgs []queue.Message) error {
			mu.Lock()
			defer mu.Unlock()
			for _, m := range msgs {
				handled[string(m.Body)] = true
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()

	var pushed atomic.Int64 // acknowledged
	acknowledged := pushUntil(ctx, t, q, &wg, &pushed, 3000)
	for kill := range 2 {
		require.Eventually(t, func() bool { return pushed.Load() > int64(1000*(kill+1)) }, time.Minute, time.Millisecond)
		require.NoError(t, srv.Kill())
		require.NoError(t, srv.Start(ctx))
	}
	all := <-acknowledged
	require.GreaterOrEqual(t, len(all), 3000)
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, body := range all {
			if !handled[body] {
				return false
			}
		}
		return true
	}, time.Minute, 20*time.Millisecond)
}

// pushUntil pushes in the background until n messages are acknowledged, and then sends which. Pushes that fail do not count,
// whether they happened or not.
func pushUntil(ctx context.Context, t *testing.T, q queue.Queue, wg *sync.WaitGroup, count *atomic.Int64, n int) <-chan []string {
	t.Helper()
	out := make(chan []string, 1)
	wg.Go(func() {
		var all []string
		for i := 0; len(all) < n && ctx.Err() == nil; i++ {
			a, b := fmt.Sprint(i, "a"), fmt.Sprint(i, "b")
			if q.Push(ctx, []byte(a), []byte(b)) == nil {
				all = append(all, a, b)
				count.Store(int64(len(all)))
			}
		}
		out <- all
	})
	return out
}
