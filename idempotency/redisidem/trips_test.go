package redisidem_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/testdb"
)

// wire counts what is sent over connections: a request that waits for its answer is one write.
type wire struct{ writes atomic.Int64 }

type wireConn struct {
	net.Conn
	*wire
}

func (c wireConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func (w *wire) client(tb testing.TB) *redis.Client {
	tb.Helper()
	options, err := redis.ParseURL(testdb.RedisURL(tb))
	require.NoError(tb, err)
	options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return wireConn{conn, w}, err
	}
	rdb := redis.NewClient(options)
	tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func doOn(tb testing.TB, store idempotency.Store) func() idempotency.Result[string] {
	tb.Helper()
	guard, err := idempotency.New(store, nil)
	require.NoError(tb, err)
	q := requests(1)[0]
	return func() idempotency.Result[string] {
		result, err := idempotency.Do(tb.Context(), guard, q.Key, q.Fingerprint,
			func(context.Context, *idempotency.Run) (string, error) { return "receipt", nil })
		if err != nil {
			tb.Fatal(err)
		}
		return result
	}
}

// Counted on the wire: a run is two round trips, a replay one.
func TestReplayIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	var w wire
	rdb := w.client(t)
	doOn(t, newStore(t, rdb))() // connects, and the server learns the scripts
	do := doOn(t, newStore(t, rdb))
	before := w.writes.Load()
	require.False(t, do().Replayed)
	require.EqualValues(t, 2, w.writes.Load()-before)
	for range 10 {
		before = w.writes.Load()
		require.True(t, do().Replayed)
		require.EqualValues(t, 1, w.writes.Load()-before)
	}
}

func BenchmarkDoReplay(b *testing.B) {
	do := doOn(b, newStore(b, testdb.Redis(b)))
	do()
	for b.Loop() {
		do()
	}
}
