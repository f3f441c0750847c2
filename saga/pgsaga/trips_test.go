package pgsaga_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/saga"
)

// wire counts what is sent over connections: a request that waits for its answer is one
// write.
type wire struct{ writes atomic.Int64 }

type wireConn struct {
	net.Conn
	*wire
}

func (c wireConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// open is a store over one connection, on which all statements are prepared.
func (w *wire) open(tb testing.TB) fixture {
	tb.Helper()
	return openOn(tb, newPool(tb, testdb.PostgresURL(tb), func(c *pgxpool.Config) {
		c.MaxConns = 1
		c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return wireConn{conn, w}, err
		}
	}))
}

// Counted on the wire: what each call costs.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	var w wire
	f := w.open(t)
	f.exec(t, "CREATE TABLE effects (id text)")
	trips := func(want int64, call func()) {
		t.Helper()
		before := w.writes.Load()
		call()
		require.Equal(t, want, w.writes.Load()-before)
	}
	all := func(id string, trips func(int64, func())) {
		t.Helper()
		trips(6, func() { // a saga of five steps
			if _, err := f.run(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
		r := f.create(t, id+"+", "me")
		trips(3, func() { // with the work's own statement
			write := ahead(r)
			require.NoError(t, f.SaveTx(t.Context(), write, apply(write, fine)))
		})
		trips(1, func() { require.NoError(t, f.Renew(t.Context(), []*saga.Lease{{ID: id + "+", Token: 1}}, time.Minute)) })
		trips(1, func() { require.NoError(t, f.Deliver(t.Context(), id+"+", "go", []byte("1"))) })
		trips(2, func() { require.NoError(t, f.Deliver(t.Context(), id+"+", "go", []byte("1"))) })
		trips(1, func() { require.Empty(t, f.claim(t, "you", 1)) })
		trips(2, func() { require.NotNil(t, f.find(t, id)) })
		trips(2, func() { // it is there already
			require.NoError(t, f.Create(t.Context(), []*saga.Create{{Record: begun(id+"+", "you"), Lease: time.Minute}}))
		})
	}
	all("prepare", func(_ int64, call func()) { call() })
	all("count", trips)
}
