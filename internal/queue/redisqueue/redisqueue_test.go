package redisqueue_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/queue"
	"github.com/safetill/safetill/internal/queue/queuetest"
	"github.com/safetill/safetill/internal/queue/redisqueue"
	"github.com/safetill/safetill/internal/testdb"
)

func open(t testing.TB, rdb redis.UniversalClient, lease time.Duration) *redisqueue.Queue {
	t.Helper()
	q, err := redisqueue.New(rdb, t.Name()+"/"+rand.Text(), &redisqueue.Options{Lease: lease})
	require.NoError(t, err)
	return q
}

func TestRedis(t *testing.T) {
	t.Parallel()
	rdb := testdb.Redis(t)
	queuetest.Run(t, func(t testing.TB, lease time.Duration) queue.Queue { return open(t, rdb, lease) })
}

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	rdb := testdb.RedisCluster(t)
	queuetest.Run(t, func(t testing.TB, lease time.Duration) queue.Queue { return open(t, rdb, lease) })
}

func TestNewReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := redisqueue.New(nil, "a}b", &redisqueue.Options{Lease: time.Microsecond})
	for _, want := range []string{"client", "a}b", "Lease"} {
		require.ErrorContains(t, err, want)
	}
}

func TestScriptsAreLoadedAgain(t *testing.T) {
	t.Parallel()
	srv := testdb.NewRedis(t)
	rdb := dial(t, srv.URL())
	q := open(t, rdb, time.Minute)
	for range 2 {
		require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
		require.NoError(t, q.Push(t.Context(), []byte("a")))
		msgs, err := q.Claim(t.Context(), "w", 1)
		require.NoError(t, err)
		require.Len(t, msgs, 1)
		require.NoError(t, q.Return(t.Context(), "w", msgs...))
		_, err = q.Reap(t.Context())
		require.NoError(t, err)
	}
}

func TestIdlePollsWriteNothing(t *testing.T) {
	t.Parallel()
	srv := testdb.NewRedis(t)
	rdb := dial(t, srv.URL())
	q := open(t, rdb, time.Minute)
	msgs, err := q.Claim(t.Context(), "w", 1)
	require.NoError(t, err)
	require.Empty(t, msgs)
	before := offset(t, rdb)
	for range 100 {
		_, err := q.Claim(t.Context(), "w", 1)
		require.NoError(t, err)
		_, err = q.Reap(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, before, offset(t, rdb))
	n, err := rdb.DBSize(t.Context()).Result()
	require.NoError(t, err)
	require.Zero(t, n)
}

// offset is how much the server has written to its append-only file.
func offset(t *testing.T, rdb *redis.Client) string {
	t.Helper()
	for line := range strings.Lines(rdb.Info(t.Context(), "persistence").Val()) {
		if strings.HasPrefix(line, "aof_current_size:") {
			return line
		}
	}
	require.Fail(t, "no append-only file")
	return ""
}

// A server that has reached its maxmemory refuses pushes. If it refused claims too, nothing could ever relieve it.
func TestFullServerDrains(t *testing.T) {
	t.Parallel()
	srv := testdb.NewRedis(t)
	rdb := dial(t, srv.URL())
	ctx := t.Context()
	q := open(t, rdb, 100*time.Millisecond)
	for i := range 30 {
		require.NoError(t, q.Push(ctx, fmt.Append(nil, i)))
	}
	_, err := q.Claim(ctx, "dead", 10)
	require.NoError(t, err)
	require.NoError(t, rdb.ConfigSet(ctx, "maxmemory", "1").Err())
	require.ErrorContains(t, q.Push(ctx, []byte("x")), "OOM")

	require.Eventually(t, func() bool {
		n, err := q.Reap(ctx)
		require.NoError(t, err)
		return n == 10
	}, 30*time.Second, 10*time.Millisecond)
	got := 0
	for got < 30 {
		msgs, err := q.Claim(ctx, "w", 7)
		require.NoError(t, err)
		_, err = q.Claim(ctx, "w", 0)
		require.NoError(t, err)
		require.NoError(t, q.Return(ctx, "w", msgs...))
		again, err := q.Claim(ctx, "w", 7)
		require.NoError(t, err)
		require.Len(t, again, len(msgs))
		require.NoError(t, q.Ack(ctx, "w", again...))
		got += len(again)
	}
	s, err := q.Stats(ctx)
	require.NoError(t, err)
	require.Zero(t, s)
}

// deaf is a connection that, once armed, receives one reply and loses it, together with itself.
type deaf struct {
	net.Conn
	armed *atomic.Bool
}

func (d deaf) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	if n > 0 && d.armed.CompareAndSwap(true, false) {
		return 0, errors.Join(io.ErrUnexpectedEOF, d.Close())
	}
	return n, err
}

// The client repeats a command whose reply it lost. A claim that it repeated would leave the first batch with a worker that
// has never heard of it, lives on and renews it.
func TestClaimWithLostReplyIsNotRepeated(t *testing.T) {
	t.Parallel()
	o, err := redis.ParseURL(testdb.NewRedis(t).URL())
	require.NoError(t, err)
	var armed atomic.Bool
	o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return deaf{c, &armed}, err
	}
	rdb := redis.NewClient(o)
	defer func() { require.NoError(t, rdb.Close()) }()
	ctx := t.Context()
	q := open(t, rdb, 200*time.Millisecond)
	require.NoError(t, q.Push(ctx, []byte("1"), []byte("2")))
	_, err = q.Claim(ctx, "w", 0) // loads the script
	require.NoError(t, err)

	armed.Store(true)
	_, err = q.Claim(ctx, "w", 1)
	require.Error(t, err)
	require.False(t, armed.Load())
	s, err := q.Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, queue.Stats{Ready: 1, Claimed: 1}, s, "claimed once, and the caller knows that something is wrong")

	require.Eventually(t, func() bool {
		n, err := q.Reap(ctx)
		require.NoError(t, err)
		return n == 1
	}, 30*time.Second, 10*time.Millisecond)
	msgs, err := q.Claim(ctx, "another name", 2)
	require.NoError(t, err)
	require.Equal(t, "1", string(msgs[0].Body))
	require.Equal(t, 2, msgs[0].Attempts)
}

func dial(t testing.TB, url string) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(url)
	require.NoError(t, err)
	rdb := redis.NewClient(o)
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	return rdb
}

// Who asks whether anything is left must not be told that nothing is while a message goes from hand to hand.
func TestStatsMissNoMessageThatMoves(t *testing.T) {
	t.Parallel()
	rdb := testdb.Redis(t)
	q := open(t, rdb, time.Minute)
	require.NoError(t, q.Push(t.Context(), []byte("a")))
	ctx, stop := context.WithCancel(t.Context())
	var moving sync.WaitGroup
	defer moving.Wait()
	defer stop()
	moving.Go(func() {
		for ctx.Err() == nil {
			if msgs, err := q.Claim(ctx, "w", 1); err == nil {
				_ = q.Return(ctx, "w", msgs...)
			}
		}
	})
	for range 5000 {
		st, err := q.Stats(t.Context())
		require.NoError(t, err)
		require.Positive(t, st.Ready+st.Claimed)
	}
}

// A worker is late, and renews its lease when a reaper has found that it has run out and not yet taken its messages: it keeps them, and is the only one
// to work on them.
func TestWorkerWhoIsFoundDeadAndIsNotKeepsItsMessages(t *testing.T) {
	t.Parallel()
	url := testdb.NewRedis(t).URL()
	short, err := redisqueue.New(dial(t, url), "q", &redisqueue.Options{Lease: time.Millisecond})
	require.NoError(t, err)
	worker, err := redisqueue.New(dial(t, url), "q", &redisqueue.Options{Lease: time.Hour})
	require.NoError(t, err)
	rdb := dial(t, url)
	var late beforeReap
	rdb.AddHook(&late)
	reaper, err := redisqueue.New(rdb, "q", nil)
	require.NoError(t, err)

	require.NoError(t, short.Push(t.Context(), []byte("a")))
	msgs, err := short.Claim(t.Context(), "w", 1)
	require.NoError(t, err)
	require.Len(t, msgs, 1)
	late.renew = func() {
		_, err := worker.Claim(t.Context(), "w", 0)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		n, err := reaper.Reap(t.Context())
		require.NoError(t, err)
		require.Zero(t, n)
		return late.renewed
	}, 30*time.Second, time.Millisecond)
	s, err := reaper.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, queue.Stats{Claimed: 1}, s)
	require.NoError(t, worker.Ack(t.Context(), "w", msgs...))
	s, err = reaper.Stats(t.Context())
	require.NoError(t, err)
	require.Zero(t, s)
}

// beforeReap lets a worker renew its lease before the script that gives back what it holds.
type beforeReap struct {
	renew   func()
	renewed bool
}

func (h *beforeReap) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *beforeReap) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); len(args) == 7 && args[6] == "w" && !h.renewed { // three keys, and the worker
			h.renewed = true
			h.renew()
		}
		return next(ctx, cmd)
	}
}

func (h *beforeReap) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A lease lasts as long as was promised, to the millisecond.
func TestLeaseDoesNotEndEarly(t *testing.T) {
	t.Parallel()
	rdb := dial(t, testdb.NewRedis(t).URL())
	q, err := redisqueue.New(rdb, "q", &redisqueue.Options{Lease: time.Hour})
	require.NoError(t, err)
	require.NoError(t, q.Push(t.Context(), []byte("a")))
	before := rdb.Time(t.Context()).Val()
	_, err = q.Claim(t.Context(), "w", 1)
	require.NoError(t, err)
	require.GreaterOrEqual(t, int64(rdb.ZScore(t.Context(), "queue:{q}:leases", "w").Val()), before.Add(time.Hour).UnixMilli())
}

// The dead leave nothing behind: a reaper looks at a hundred of them at a time, and would never get to those who come after a hundred that stay.
func TestReapedWorkersAreForgotten(t *testing.T) {
	t.Parallel()
	rdb := dial(t, testdb.NewRedis(t).URL())
	q, err := redisqueue.New(rdb, "q", &redisqueue.Options{Lease: time.Millisecond})
	require.NoError(t, err)
	const workers = 250
	for i := range workers {
		require.NoError(t, q.Push(t.Context(), []byte(fmt.Sprint(i))))
		_, err := q.Claim(t.Context(), fmt.Sprint("w", i), 1)
		require.NoError(t, err)
	}
	reaped := 0
	require.Eventually(t, func() bool {
		n, err := q.Reap(t.Context())
		require.NoError(t, err)
		reaped += n
		return reaped == workers
	}, 30*time.Second, time.Millisecond)
	require.ElementsMatch(t, []string{"queue:{q}:back", "queue:{q}:seq"}, rdb.Keys(t.Context(), "*").Val())
	msgs, err := q.Claim(t.Context(), "w", workers)
	require.NoError(t, err)
	for i, m := range msgs {
		require.Equal(t, fmt.Sprint(i), string(m.Body), "in their old order")
	}
}
