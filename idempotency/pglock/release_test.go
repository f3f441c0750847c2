package pglock_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/pglock"
)

// wire is a connection that breaks with the next that is sent, or that is cut: then it sends nothing, and the server does not hear of its end;
// or whose server is frozen, and does not answer.
type wire struct {
	net.Conn
	breaks, cut, frozen *atomic.Bool
	unheard             chan struct{} // gets what is sent to a frozen server
}

func (w wire) Write(p []byte) (int, error) {
	switch {
	case w.breaks.Load():
		return 0, errors.Join(errors.New("broken"), w.Conn.Close())
	case w.cut.Load():
		return 0, errors.New("cut")
	case w.frozen.Load():
		select {
		case w.unheard <- struct{}{}:
		default:
		}
		return len(p), nil
	}
	return w.Conn.Write(p)
}

func (w wire) Close() error {
	if w.cut.Load() {
		return w.SetDeadline(time.Now())
	}
	return w.Conn.Close()
}

// wired returns a pool whose connections are w's.
func wired(t *testing.T, pool *pgxpool.Pool, w *wire) *pgxpool.Pool {
	t.Helper()
	w.breaks, w.cut, w.frozen = new(atomic.Bool), new(atomic.Bool), new(atomic.Bool)
	w.unheard = make(chan struct{}, 1)
	config := pool.Config()
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		}
		return wire{conn, w.breaks, w.cut, w.frozen, w.unheard}, err
	}
	own, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(own.Close)
	return own
}

// The release does not reach the server: the connection is closed, and the lock ends with it. The log says so, if there is one.
func TestLockThatIsNotReleasedEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	var w wire
	holders := wired(t, pool, &w)
	other := newLocker(t, pool, pglock.Options{Wait: patience})
	var said bytes.Buffer
	for _, logger := range []*slog.Logger{nil, slog.New(slog.NewTextHandler(&said, nil))} {
		w.breaks.Store(false)
		l := newLocker(t, holders, pglock.Options{Lease: time.Hour, WriteTimeout: 100 * time.Millisecond, Logger: logger})
		require.NoError(t, l.Do(t.Context(), t.Name(), "a", func(context.Context, lock.Held) error {
			w.breaks.Store(true)
			return nil
		}))
		token(t, other)
	}
	require.Contains(t, said.String(), "lock not released")
}

// The holder is cut off, and the server does not see its connection end: after the lease it takes the lock away by itself. The holder is told
// by its own clock, and returns that beside what its work returned.
func TestHolderThatIsCutOffLosesTheLock(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	var w wire
	holders := wired(t, pool, &w)
	l := newLocker(t, holders, pglock.Options{Lease: time.Second, WriteTimeout: 100 * time.Millisecond})
	other := newLocker(t, pool, pglock.Options{Wait: patience})
	own := errors.New("own")
	for name, failure := range map[string]error{"a": nil, "b": own, "c": lock.ErrLost} {
		w.cut.Store(false)
		err := l.Do(t.Context(), t.Name(), name, func(ctx context.Context, _ lock.Held) error {
			w.cut.Store(true)
			<-ctx.Done()
			require.NoError(t, other.Do(t.Context(), t.Name(), name, func(context.Context, lock.Held) error { return nil }))
			return failure
		})
		require.ErrorIs(t, err, lock.ErrLost)
		switch {
		case failure == nil:
			require.ErrorContains(t, err, "its connection failed")
			require.NotContains(t, err.Error(), "nil")
		case errors.Is(failure, lock.ErrLost):
			require.Equal(t, failure, err)
		default:
			require.ErrorIs(t, err, own)
		}
	}
}

// The name is another process' for longer than one waits: the server's queue is left in time, and the connection is kept.
func TestWaitAtTheServerRunsOut(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	var said bytes.Buffer
	holder, waiter := newLocker(t, pool, pglock.Options{}), newLocker(t, pool, pglock.Options{
		Wait: 50 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&said, nil)),
	})
	require.NoError(t, holder.Do(t.Context(), t.Name(), "a", func(ctx context.Context, _ lock.Held) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		err := lock.ErrStale
		for !errors.Is(err, lock.ErrHeld) { // on a slow machine it may wait in vain for a connection
			err = waiter.Do(ctx, t.Name(), "a", never)
			require.NoError(t, ctx.Err())
		}
		return nil
	}))
	require.Empty(t, said.String())
}

// The server's limit for a statement is shorter than the wait: the name is held all the same, and the caller's transaction as it was.
func TestWaitAtTheServerEndsWithItsStatementTimeout(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	config := pool.Config()
	config.ConnConfig.RuntimeParams["statement_timeout"] = "500"
	strict, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(strict.Close)
	waiter := newLocker(t, strict, pglock.Options{Wait: patience})
	inTx(t, pool, func(holder pgx.Tx) {
		require.NoError(t, pglock.InTx(t.Context(), holder, 0, t.Name(), "a"))
		require.ErrorIs(t, waiter.Do(t.Context(), t.Name(), "a", never), lock.ErrHeld)
		inTx(t, strict, func(tx pgx.Tx) {
			require.ErrorIs(t, pglock.InTx(t.Context(), tx, patience, t.Name(), "a"), lock.ErrHeld)
			require.NoError(t, pglock.InTx(t.Context(), tx, patience, t.Name(), "b"))
		})
	})
	token(t, waiter)
}

// A driver that asks the server to stop, rather than closing the connection, gets the code of statement_timeout: it is the caller who has left.
func TestWaitThatTheServerIsAskedToEnd(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	config := pool.Config()
	config.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: patience}
	}
	asking, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(asking.Close)
	waiter := newLocker(t, asking, pglock.Options{Wait: patience})
	token(t, waiter) // it has a connection
	inTx(t, pool, func(holder pgx.Tx) {
		require.NoError(t, pglock.InTx(t.Context(), holder, 0, t.Name(), "a"))
		ctx, hangUp := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- waiter.Do(ctx, t.Name(), "a", never) }()
		for waiting := false; !waiting; {
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'advisory'
				AND (classid::bigint << 32 | objid::bigint) = $1)`, pglock.Hash(t.Name(), "a")).Scan(&waiting))
		}
		hangUp()
		require.ErrorIs(t, <-done, context.Canceled)
	})
	token(t, waiter)
}

// A caller that nobody bounds must not wait for as long as its client does: the server, or its host, hangs.
func TestServerThatIsFrozenGivesNoLock(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	for _, wait := range []time.Duration{-1, 50 * time.Millisecond} {
		var w wire
		l := newLocker(t, wired(t, pool, &w), pglock.Options{Wait: wait, WriteTimeout: 100 * time.Millisecond})
		token(t, l)
		w.frozen.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		err := l.Do(ctx, t.Name(), "a", never)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, ctx.Err(), "the caller would have waited")
	}
}

// The work is done while the server is asked whether it still hears, and does not answer: that is not waited for until the lease is over.
func TestReleaseDoesNotWaitForAFrozenServer(t *testing.T) {
	t.Parallel()
	const lease = 12 * time.Second
	var w wire
	l := newLocker(t, wired(t, migrated(t), &w), pglock.Options{Lease: lease, WriteTimeout: 100 * time.Millisecond})
	begin := time.Now()
	require.NoError(t, l.Do(t.Context(), t.Name(), "a", func(context.Context, lock.Held) error {
		w.frozen.Store(true)
		<-w.unheard
		return nil
	}))
	require.Less(t, time.Since(begin), lease*3/4)
}
