package pgidem_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
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

// pool is of one connection, on which all statements are prepared.
func (w *wire) pool(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	config, err := pgxpool.ParseConfig(migratedURL(tb, testdb.PostgresURL(tb)))
	require.NoError(tb, err)
	config.MaxConns = 1
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return wireConn{conn, w}, err
	}
	pool, err := pgxpool.NewWithConfig(tb.Context(), config)
	require.NoError(tb, err)
	tb.Cleanup(pool.Close)
	return pool
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
	pool := w.pool(t)
	doOn(t, newStore(t, pool))() // prepares the statements
	do := doOn(t, newStore(t, pool))
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
	do := doOn(b, newStore(b, migrated(b)))
	do()
	for b.Loop() {
		do()
	}
}
