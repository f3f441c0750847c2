package pglock_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/lock/locktest"
	"github.com/safetill/safetill/idempotency/pglock"
	"github.com/safetill/safetill/internal/testdb"
)

var (
	_ pglock.DB = (*pgxpool.Pool)(nil)
	_ pglock.DB = (*pgx.Conn)(nil)
	_ pglock.DB = pgx.Tx(nil)
)

const patience = 30 * time.Second // for what must come on a slow machine

func migrated(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	pool := testdb.Postgres(tb)
	require.NoError(tb, pglock.Migrate(tb.Context(), pool, nil))
	return pool
}

func newLocker(tb testing.TB, pool *pgxpool.Pool, o pglock.Options) *pglock.Locker {
	tb.Helper()
	l, err := pglock.New(pool, &o)
	require.NoError(tb, err)
	return l
}

func TestLocker(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	locktest.Run(t, func(tb testing.TB, o lock.Options) locktest.Locker {
		return newLocker(tb, pool, pglock.Options{Lease: o.Lease, Wait: o.Wait, WriteTimeout: o.WriteTimeout, Logger: o.Logger})
	})
}

// never is the work of one who must not get the lock.
func never(context.Context, lock.Held) error { panic("must not run") }

// The server's default isolation is stricter: a token must still be above those of earlier holders.
func TestLockerWhereTransactionsAreSerializable(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig(testdb.PostgresURL(t))
	require.NoError(t, err)
	config.ConnConfig.RuntimeParams["default_transaction_isolation"] = "serializable"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	read, err := pgxpool.New(t.Context(), config.ConnString()) // migrations want READ COMMITTED
	require.NoError(t, err)
	require.NoError(t, pglock.Migrate(t.Context(), read, nil))
	read.Close()
	a, b := newLocker(t, pool, pglock.Options{Wait: patience}), newLocker(t, pool, pglock.Options{Wait: patience})
	var last idempotency.Token
	done := make(chan error, 2)
	for _, l := range []*pglock.Locker{a, b} {
		go func() {
			var err error
			for range 20 {
				err = errors.Join(err, l.Do(t.Context(), t.Name(), "a", func(_ context.Context, held lock.Held) error {
					if held.Token <= last {
						return errors.New("token does not grow")
					}
					last = held.Token
					return nil
				}))
			}
			done <- err
		}()
	}
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}

func TestNewRefusesBadOptions(t *testing.T) {
	t.Parallel()
	_, err := pglock.New(nil, &pglock.Options{Lease: -1, Wait: 25 * 24 * time.Hour, WriteTimeout: time.Microsecond})
	require.ErrorIs(t, err, idempotency.ErrInvalid)
	for _, field := range []string{"pool is nil", "lease", "wait", "write timeout"} {
		require.ErrorContains(t, err, field)
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	l := newLocker(t, pool, pglock.Options{})
	_, missing := errors.AsType[*pglock.SchemaError](l.CheckSchema(t.Context()))
	require.True(t, missing)
	err := l.Do(t.Context(), t.Name(), "a", never) // it has no token
	require.Error(t, err)
	require.NotErrorIs(t, err, lock.ErrHeld)
	passed := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		return pglock.NewFence(nil).Pass(t.Context(), tx, t.Name(), "a", 1)
	})
	for _, err := range []error{err, passed} {
		require.ErrorAs(t, err, new(*pglock.SchemaError))
		require.ErrorContains(t, err, "pglock.Migrate brings them to version 1")
	}
	var left int // a session's locks are not rolled back with its transaction
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
		AND (classid::bigint << 32 | objid::bigint) = $1`, pglock.Hash(t.Name(), "a")).Scan(&left))
	require.Zero(t, left)
	require.NoError(t, pglock.Migrate(t.Context(), pool, nil))
	require.NoError(t, pglock.Migrate(t.Context(), pool, nil))
	require.NoError(t, l.CheckSchema(t.Context()))
	token(t, l)
}

// A change comes as the next file: databases out there have run this one.
func TestShippedMigrationsDoNotChange(t *testing.T) {
	t.Parallel()
	shipped := map[string]string{
		"0001_init.sql": "cd8273810e9238c7ac8a7b9b8be86248ab7d54b60bd2d26e88b7aa153a0ae244",
	}
	names, err := fs.Glob(pglock.Migrations(), "*")
	require.NoError(t, err)
	require.Len(t, names, len(shipped))
	for _, name := range names {
		text, err := fs.ReadFile(pglock.Migrations(), name)
		require.NoError(t, err)
		sum := sha256.Sum256(text)
		require.Equal(t, shipped[name], hex.EncodeToString(sum[:]), name)
	}
}

func TestDoTellsWhyItHasNoConnection(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://127.0.0.1:1/none")
	require.NoError(t, err)
	l := newLocker(t, pool, pglock.Options{})
	err = l.Do(t.Context(), t.Name(), "a", nil)
	require.EqualError(t, err, "idempotency: work is nil")
	require.EqualError(t, pglock.InTx(t.Context(), nil, time.Second, t.Name(), "a"), "idempotency: tx is nil")
	require.EqualError(t, pglock.NewFence(nil).Pass(t.Context(), nil, t.Name(), "a", 1), "idempotency: tx is nil")
	pool.Close()
	require.EqualError(t, l.Do(t.Context(), t.Name(), "a", never), "pglock: no connection: closed pool")
}

// The last token was given out when the clock was ahead, or the server is a replica that was promoted: the next is above it.
func TestTokenGrowsWhenTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	ahead := idempotency.Token(time.Now().Add(time.Hour).UnixMicro())
	inTx(t, pool, func(tx pgx.Tx) { require.NoError(t, pglock.NewFence(nil).Pass(t.Context(), tx, t.Name(), "a", ahead)) })
	require.Equal(t, ahead+1, token(t, newLocker(t, pool, pglock.Options{})))
}

// The row is lost, as after a restore from a backup of before: the token comes from the clock.
func TestTokensOutgrowARestore(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	l := newLocker(t, pool, pglock.Options{})
	before := token(t, l)
	_, err := pool.Exec(t.Context(), `DELETE FROM lock_fences`)
	require.NoError(t, err)
	require.Greater(t, token(t, l), before)
}

// The row is of an earlier holder, as after a failover to a replica that had not heard of the last one: the token comes from the clock.
func TestTokenOutgrowsAHolderWhoWasNotReplicated(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	last := idempotency.Token(time.Now().Add(-time.Second).UnixMicro()) // the one that was lost
	inTx(t, pool, func(tx pgx.Tx) {
		require.NoError(t, pglock.NewFence(nil).Pass(t.Context(), tx, t.Name(), "a", last-60_000_000))
	})
	require.Greater(t, token(t, newLocker(t, pool, pglock.Options{})), last)
}

func token(tb testing.TB, l *pglock.Locker) (got idempotency.Token) {
	tb.Helper()
	require.NoError(tb, l.Do(tb.Context(), tb.Name(), "a", func(_ context.Context, held lock.Held) error {
		got = held.Token
		return nil
	}))
	return got
}

// 64 callers wait for a name, and there is one connection for them beside the holder's.
func TestWaitersOfOneProcessShareAConnection(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig(testdb.PostgresURL(t))
	require.NoError(t, err)
	config.MaxConns = 2
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, pglock.Migrate(t.Context(), pool, nil))
	l := newLocker(t, pool, pglock.Options{Wait: patience})
	done := make(chan error, 64)
	for range cap(done) {
		go func() {
			done <- l.Do(t.Context(), t.Name(), "a", func(ctx context.Context, _ lock.Held) error {
				return pool.Ping(ctx) // the work gets a connection
			})
		}()
	}
	for range cap(done) {
		require.NoError(t, <-done)
	}
}

// A setting that is left behind would end other people's connections.
func TestConnectionGoesBackAsItCame(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig(testdb.PostgresURL(t))
	require.NoError(t, err)
	config.MaxConns = 1
	config.ConnConfig.RuntimeParams["idle_session_timeout"] = "1h"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, pglock.Migrate(t.Context(), pool, nil))
	var before, after int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT pg_backend_pid()`).Scan(&before))
	for _, wait := range []time.Duration{time.Minute, -1} {
		l := newLocker(t, pool, pglock.Options{Wait: wait})
		token(t, l)
		var idle, limit string
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT current_setting('idle_session_timeout'), current_setting('lock_timeout'), pg_backend_pid()`).
			Scan(&idle, &limit, &after))
		require.Equal(t, []string{"1h", "0"}, []string{idle, limit})
		require.Equal(t, before, after) // the very connection
	}
	var locks int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = $1`, after).Scan(&locks))
	require.Zero(t, locks)
}

// The trap: the connection listens to a channel on which there is much to hear. Each notification put off the holder's next word to the
// server, which ended the session of a holder that was well.
func TestNotificationsDoNotKeepTheHolderSilent(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	config := pool.Config()
	config.MaxConns = 1
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "LISTEN much")
		return err
	}
	listening, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(listening.Close)
	var holder int
	require.NoError(t, listening.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&holder))
	l := newLocker(t, listening, pglock.Options{Lease: 6 * time.Second})
	require.NoError(t, l.Do(t.Context(), t.Name(), "a", func(ctx context.Context, _ lock.Held) error {
		var said, says time.Time
		for ctx.Err() == nil {
			_, err := pool.Exec(t.Context(), "NOTIFY much")
			require.NoError(t, err)
			require.NoError(t, pool.QueryRow(t.Context(), "SELECT query_start FROM pg_stat_activity WHERE pid = $1", holder).Scan(&says))
			if said.IsZero() {
				said = says
			}
			if says.After(said) {
				return nil
			}
		}
		return context.Cause(ctx)
	}))
}

// An administrator ends the holder's session: the work is told at once, and the next holder does not wait for the lease.
func TestLostConnectionEndsTheWork(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	l, other := newLocker(t, pool, pglock.Options{Lease: time.Hour}), newLocker(t, pool, pglock.Options{Wait: patience})
	var first idempotency.Token
	err := l.Do(t.Context(), t.Name(), "a", func(ctx context.Context, held lock.Held) error {
		first = held.Token
		_, err := pool.Exec(t.Context(), `
			SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
				AND (classid::bigint << 32 | objid::bigint) = $1`, pglock.Hash(t.Name(), "a"))
		require.NoError(t, err)
		select {
		case <-ctx.Done():
		case <-time.After(patience):
			t.Error("the work was not told")
		}
		require.ErrorIs(t, context.Cause(ctx), lock.ErrLost)
		require.Greater(t, token(t, other), first)
		return nil
	})
	require.ErrorIs(t, err, lock.ErrLost)
}

// The client hangs up, the work goes on by a context of its own, and the session is ended meanwhile: Do says so.
func TestLossIsToldAfterAHangUp(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	l, other := newLocker(t, pool, pglock.Options{Lease: time.Hour}), newLocker(t, pool, pglock.Options{Wait: patience})
	client, hangUp := context.WithCancel(t.Context())
	err := l.Do(client, t.Name(), "a", func(context.Context, lock.Held) error {
		hangUp()
		_, err := pool.Exec(t.Context(), `
			SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
				AND (classid::bigint << 32 | objid::bigint) = $1`, pglock.Hash(t.Name(), "a"))
		require.NoError(t, err)
		token(t, other)
		time.Sleep(time.Second) // the end of the session is on its way here too
		return nil
	})
	require.ErrorIs(t, err, lock.ErrLost)
}

// The table is in a schema that no search_path names.
func TestOtherSchema(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	var schema string
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT current_schema() || '_"locks"'`).Scan(&schema))
	require.NoError(t, pglock.Migrate(t.Context(), pool, &pglock.MigrateOptions{Schema: schema}))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_, err := pool.Exec(ctx, `DROP SCHEMA `+pgx.Identifier{schema}.Sanitize()+` CASCADE`)
		require.NoError(t, err)
	})
	l := newLocker(t, pool, pglock.Options{Schema: schema})
	require.NoError(t, l.CheckSchema(t.Context()))
	held := token(t, l)
	inTx(t, pool, func(tx pgx.Tx) {
		fence := pglock.NewFence(&pglock.FenceOptions{Schema: schema})
		require.ErrorIs(t, fence.Pass(t.Context(), tx, t.Name(), "a", held-1), lock.ErrStale)
		require.NoError(t, fence.Pass(t.Context(), tx, t.Name(), "a", held))
	})
}
