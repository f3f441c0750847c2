package pgidem_test

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// tap sits between the driver and its only connection. While it is armed it counts what passes: each message of the client,
// and each answer of the server when it is there but nobody has read it.
type tap struct {
	mu     sync.Mutex
	armed  bool
	sent   bool // since the last answer
	trips  int
	events int
	at     func(event int, what string, conn net.Conn) (lost bool) // called before the event is over
}

// arm begins to count anew.
func (tp *tap) arm(at func(event int, what string, conn net.Conn) (lost bool)) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.armed, tp.sent, tp.trips, tp.events, tp.at = true, false, 0, 0, at
}

func (tp *tap) disarm() (trips, events int) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.armed = false
	return tp.trips, tp.events
}

// event returns what to do about one that has just come.
func (tp *tap) event(conn net.Conn, sent bool) func(what string) (lost bool) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if !tp.armed || !sent && !tp.sent {
		return func(string) bool { return false }
	}
	if tp.sent && !sent {
		tp.trips++
	}
	tp.sent = sent
	tp.events++
	n, at := tp.events, tp.at
	return func(what string) bool { return at != nil && at(n, what, conn) }
}

type tapped struct {
	net.Conn
	*tap
}

// Write sends message by message.
func (c tapped) Write(p []byte) (n int, err error) {
	for n < len(p) {
		size, kind := len(p)-n, ""
		if p[n] >= 'A' && size >= 5 { // the first messages of a connection have no kind
			size, kind = min(size, 1+int(binary.BigEndian.Uint32(p[n+1:]))), string(p[n])
		}
		if _, err := c.Conn.Write(p[n : n+size]); err != nil {
			return n, err
		}
		n += size
		if c.event(c.Conn, true)(kind) {
			return n, net.ErrClosed
		}
	}
	return n, nil
}

func (c tapped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.event(c.Conn, false)("answer") {
		return 0, net.ErrClosed
	}
	return n, err
}

// tapPool is a pool of one connection with a tap on it.
func tapPool(t testing.TB, conf *pgxpool.Config) (*pgxpool.Pool, *tap) {
	t.Helper()
	tp := &tap{}
	conf.MaxConns = 1
	dial := conf.ConnConfig.DialFunc
	conf.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return tapped{conn, tp}, err
	}
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(t.Context()), conf)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool, tp
}
