package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
)

// exitLimit is what a supervisor gives a program before it kills it.
const exitLimit = 10 * time.Second

func TestTermUnderLoad(t *testing.T) {
	t.Parallel()
	p := startServer(t, "-migrate", "-postgres", testdb.PostgresURL(t), "-redis", testdb.RedisURL(t))
	b := newBank(t, "term", p)
	b.during(t, 200, func(ctx context.Context) error {
		for range 2 {
			if err := errors.Join(pause(ctx, 2*time.Second), p.Term()); err != nil {
				return err
			}
			code, err := p.wait(exitLimit)
			if err == nil && code != 0 {
				err = fmt.Errorf("exit code %d: %s", code, p.lastLine())
			}
			limit, cancel := context.WithTimeout(ctx, startLimit)
			err = errors.Join(err, p.restart(limit))
			cancel()
			if err != nil {
				return err
			}
		}
		return pause(ctx, time.Second)
	})
	b.allAcknowledged(t)
	b.settle(t, drainLimit)
}

// TestTermInOrder: first a balancer learns of it, then the port closes, and a
// request that had begun is answered.
func TestTermInOrder(t *testing.T) {
	t.Parallel()
	p := startServer(t, "-migrate", "-postgres", testdb.PostgresURL(t), "-redis", testdb.RedisURL(t))
	b := newBank(t, "order", p)
	begun, late := b.next(), b.next()
	conn := p.dial(t)
	body := begun.body()
	_, err := fmt.Fprintf(conn, "POST /api/v1/payments HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", p.addr, len(body), body[:20])
	require.NoError(t, err)
	require.NoError(t, wantStatus(t.Context(), b, "http://"+p.addr+"/readyz", http.StatusOK))

	require.NoError(t, p.Term())
	eventually(t, 400*time.Millisecond, func() error {
		return wantStatus(t.Context(), b, "http://"+p.addr+"/readyz", http.StatusServiceUnavailable)
	})
	require.NoError(t, b.pay(t.Context(), late), "until the balancer has looked")
	require.Equal(t, map[int]int{http.StatusAccepted: 1}, late.answered)
	eventually(t, 5*time.Second, func() error {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.addr)
		if err != nil {
			return nil //nolint:nilerr // refused is what is awaited
		}
		return errors.Join(errors.New("the port is open"), c.Close())
	})
	_, err = conn.Write([]byte(body[20:]))
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusAccepted, resp.StatusCode)
	begun.acknowledged = true

	code, err := p.wait(exitLimit)
	require.NoError(t, err)
	require.Zero(t, code, p.lastLine())
	require.NoError(t, p.restart(t.Context()))
	b.settle(t, drainLimit)
}

// TestTermWithSilentConnections: a balancer keeps connections open that have
// never carried a request, and a client may send half of one and wait.
func TestTermWithSilentConnections(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]string{"nothing sent": "", "half a request": "POST /api/v1/payments HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startServer(t)
			_, err := p.dial(t).Write([]byte(begin))
			require.NoError(t, err)
			b := newBank(t, "silent", p) // the server has seen the connection meanwhile
			require.NoError(t, b.pay(t.Context(), b.next()))
			require.NoError(t, p.Term())
			code, err := p.wait(exitLimit)
			require.NoError(t, err)
			require.Zero(t, code, p.lastLine())
		})
	}
}

// TestTermWhilePostgresIsGone: what was taken is in Redis, and waits there.
func TestTermWhilePostgresIsGone(t *testing.T) {
	t.Parallel()
	db := testdb.NewPostgres(t)
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", syncedRedis(t).URL())
	b := newBank(t, "term-outage", p)
	require.NoError(t, db.Stop(t.Context()))
	for range 50 {
		require.NoError(t, b.pay(t.Context(), b.next()))
	}
	require.NoError(t, p.Term())
	code, err := p.wait(exitLimit)
	require.NoError(t, err)
	require.Zero(t, code, p.lastLine())
	require.NoError(t, errors.Join(db.Start(t.Context()), p.restart(t.Context())))
	b.allAcknowledged(t)
	b.settle(t, drainLimit)
}

// TestTermWhilePostgresHangs: what was taken is in Redis, or in the hands of a settlement
// that has to let go of it.
func TestTermWhilePostgresHangs(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	db := testdb.NewPostgres(t)
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", syncedRedis(t).URL())
	b := newBank(t, "term-hang", p)
	require.NoError(t, b.pay(t.Context(), b.next()))
	conn, err := pgx.Connect(t.Context(), db.URL())
	require.NoError(t, err)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, begun := b.settlement(t.Context(), p, "s1", "0.01")
	require.True(t, begun)
	_, err = tx.Exec(t.Context(), `LOCK TABLE payments, sagas, ledger_accounts IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	for range 20 {
		require.NoError(t, b.pay(t.Context(), b.next()))
	}
	require.NoError(t, p.Term())
	code, err := p.wait(startLimit)
	require.NoError(t, err)
	require.Zero(t, code, p.lastLine())
	require.NoError(t, errors.Join(tx.Rollback(t.Context()), conn.Close(t.Context()), p.restart(t.Context())))
	b.allAcknowledged(t)
	b.settle(t, drainLimit)
}

func TestStartWithoutRedis(t *testing.T) {
	t.Parallel()
	rdb := syncedRedis(t)
	require.NoError(t, rdb.Stop(t.Context()))
	p := startServer(t, "-migrate", "-postgres", testdb.PostgresURL(t), "-redis", rdb.URL())
	b := newBank(t, "no-redis", p)
	for range 50 {
		require.NoError(t, b.pay(t.Context(), b.next()))
	}
	eventually(t, drainLimit, func() error { return b.agree(t.Context(), p) }) // nobody knows the queues now

	require.NoError(t, rdb.Start(t.Context()))
	usesRedis(t, b, p)
	b.settle(t, drainLimit)
}

// usesRedis pays until the server has found that Redis is back.
func usesRedis(t testing.TB, b *bank, p *program) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		if err := b.pay(t.Context(), b.next()); err != nil { // the breaker needs a call to try with
			return err
		}
		var s statsView
		if err := b.get(t.Context(), p.admin, "admin/stats", &s); err != nil || s.Breakers["redis"] == "closed" {
			return err
		}
		return fmt.Errorf("breakers are %v", s.Breakers)
	})
}

// TestRedisThatComesAfterTheServer is used for what it is needed most, too.
func TestRedisThatComesAfterTheServer(t *testing.T) {
	t.Parallel()
	rdb, db := syncedRedis(t), testdb.NewPostgres(t)
	require.NoError(t, rdb.Stop(t.Context()))
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", rdb.URL())
	b := newBank(t, "later-redis", p)
	require.NoError(t, rdb.Start(t.Context()))
	usesRedis(t, b, p)
	require.NoError(t, db.Stop(t.Context()))
	outage, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	require.NoError(t, b.pay(outage, b.next()))
	require.NoError(t, db.Start(t.Context()))
	b.settle(t, drainLimit)
}

// TestSpilledPaymentsOutliveAStartWithoutRedis: the outage that filled the spill
// list was one of the machine, and Redis comes back after the server.
func TestSpilledPaymentsOutliveAStartWithoutRedis(t *testing.T) {
	t.Parallel()
	rdb, db := syncedRedis(t), testdb.NewPostgres(t)
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", rdb.URL())
	b := newBank(t, "spilled", p)
	require.NoError(t, db.Stop(t.Context()))
	for range 50 {
		require.NoError(t, b.pay(t.Context(), b.next()))
	}
	b.allAcknowledged(t)
	p.Kill()
	require.NoError(t, errors.Join(rdb.Kill(), db.Start(t.Context()), p.restart(t.Context()), rdb.Start(t.Context())))
	b.settle(t, drainLimit)
}

func TestStartWithoutSchema(t *testing.T) {
	t.Parallel()
	p := newProgram(t, "-postgres", testdb.PostgresURL(t))
	err := p.start(t.Context())
	require.ErrorContains(t, err, "-migrate")
	require.ErrorContains(t, err, "schema")
	code, err := p.wait(exitLimit)
	require.NoError(t, err)
	require.Equal(t, 1, code)
}

func TestStartWithoutPostgres(t *testing.T) {
	t.Parallel()
	db := testdb.NewPostgres(t)
	require.NoError(t, db.Stop(t.Context()))
	p := newProgram(t, "-postgres", db.URL())
	begin := time.Now()
	err := p.start(t.Context())
	require.ErrorContains(t, err, "refused")
	require.NotContains(t, err.Error(), "-migrate", "which would not help")
	require.Less(t, time.Since(begin), 30*time.Second)
}
