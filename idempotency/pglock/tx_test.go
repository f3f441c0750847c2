package pglock_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/pglock"
)

// inTx runs f in a transaction that is committed.
func inTx(tb testing.TB, pool *pgxpool.Pool, f func(tx pgx.Tx)) {
	tb.Helper()
	require.NoError(tb, pgx.BeginFunc(tb.Context(), pool, func(tx pgx.Tx) error {
		f(tx)
		return nil
	}))
}

// A plain read and a plain write, 64 times at once on two names that are locked in either order.
func TestInTxExcludes(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	_, err := pool.Exec(t.Context(), `CREATE TABLE counter AS SELECT 0 AS n`)
	require.NoError(t, err)
	done := make(chan error, 64)
	for i := range cap(done) {
		names := []string{"a", "b"}
		if i%2 == 1 {
			names = []string{"b", "a", "b"}
		}
		go func() {
			done <- pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				if err := pglock.InTx(t.Context(), tx, patience, t.Name(), names...); err != nil {
					return err
				}
				var n int
				if err := tx.QueryRow(t.Context(), `SELECT n FROM counter`).Scan(&n); err != nil {
					return err
				}
				_, err := tx.Exec(t.Context(), `UPDATE counter SET n = $1`, n+1)
				return err
			})
		}()
	}
	for range cap(done) {
		require.NoError(t, <-done)
	}
	var n int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT n FROM counter`).Scan(&n))
	require.Equal(t, cap(done), n)
}

// The loser is told so, and its transaction is as it was: what it wrote and its own lock_timeout are still there.
func TestInTxHeld(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	session := newLocker(t, pool, pglock.Options{Wait: -1})
	inTx(t, pool, func(tx pgx.Tx) {
		require.NoError(t, pglock.InTx(t.Context(), tx, 0, t.Name(), "a", "b"))
		require.NoError(t, pglock.InTx(t.Context(), tx, 0, t.Name(), "a")) // it has it already
		require.ErrorIs(t, session.Do(t.Context(), t.Name(), "b", never), lock.ErrHeld)
		inTx(t, pool, func(other pgx.Tx) {
			_, err := other.Exec(t.Context(), `SET LOCAL lock_timeout = '7s'`)
			require.NoError(t, err)
			_, err = other.Exec(t.Context(), `CREATE TABLE written ()`)
			require.NoError(t, err)
			begin := time.Now()
			for _, wait := range []time.Duration{-1, 50 * time.Millisecond} {
				require.ErrorIs(t, pglock.InTx(t.Context(), other, wait, t.Name(), "c", "b"), lock.ErrHeld)
			}
			require.GreaterOrEqual(t, time.Since(begin), 50*time.Millisecond)
			require.NoError(t, pglock.InTx(t.Context(), tx, 0, t.Name(), "c")) // the refused have not kept the other name
			require.NoError(t, pglock.InTx(t.Context(), other, 0, t.Name()+"2", "a"))
			var limit string
			require.NoError(t, other.QueryRow(t.Context(), `SHOW lock_timeout`).Scan(&limit))
			require.Equal(t, "7s", limit)
		})
	})
	_, err := pool.Exec(t.Context(), `SELECT FROM written`)
	require.NoError(t, err)
	inTx(t, pool, func(tx pgx.Tx) { require.NoError(t, pglock.InTx(t.Context(), tx, -1, t.Name(), "a", "b")) })
	token(t, session)
	inTx(t, pool, func(tx pgx.Tx) {
		require.ErrorIs(t, pglock.InTx(t.Context(), tx, 0, t.Name(), "ok", ""), idempotency.ErrInvalid)
		require.NoError(t, pglock.InTx(t.Context(), tx, 0, t.Name())) // of no names
	})
}

// The waiting one gets the lock with the commit, and sees what was committed.
func TestInTxWaitsForTheCommit(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	_, err := pool.Exec(t.Context(), `CREATE TABLE payments (request text)`)
	require.NoError(t, err)
	var seen int
	done := make(chan error, 1)
	inTx(t, pool, func(tx pgx.Tx) {
		require.NoError(t, pglock.InTx(t.Context(), tx, 0, t.Name(), "a"))
		go func() {
			done <- pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				if err := pglock.InTx(t.Context(), tx, patience, t.Name(), "a"); err != nil {
					return err
				}
				return tx.QueryRow(t.Context(), `SELECT count(*) FROM payments`).Scan(&seen)
			})
		}()
		require.Eventually(t, func() bool {
			var waiting bool
			err := pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
				AND (classid::bigint << 32 | objid::bigint) = $1)`, pglock.Hash(t.Name(), "a")).Scan(&waiting)
			return err == nil && waiting
		}, patience, 5*time.Millisecond)
		_, err := tx.Exec(t.Context(), `INSERT INTO payments VALUES ('r1')`)
		require.NoError(t, err)
	})
	require.NoError(t, <-done)
	require.Equal(t, 1, seen)
}

// The fence: of two holders the later one's transaction is the last, whoever writes what.
func TestFence(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	fence := pglock.NewFence(nil)
	pass := func(tx pgx.Tx, name string, token idempotency.Token) error {
		return fence.Pass(t.Context(), tx, t.Name(), name, token)
	}
	inTx(t, pool, func(tx pgx.Tx) {
		require.NoError(t, pass(tx, "a", 41))
		require.NoError(t, pass(tx, "a", 41)) // more than once by one holder
	})
	inTx(t, pool, func(tx pgx.Tx) {
		require.NoError(t, pass(tx, "a", 42))
		require.NoError(t, pass(tx, "b", 41))
	})
	inTx(t, pool, func(tx pgx.Tx) {
		require.ErrorIs(t, pass(tx, "a", 41), lock.ErrStale)
		require.ErrorIs(t, pass(tx, "a", 0), idempotency.ErrInvalid)
		require.ErrorIs(t, pass(tx, "", 1), idempotency.ErrInvalid)
		require.NoError(t, pass(tx, "a", 42))
	})
	// What was rolled back has not passed.
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, pass(tx, "a", 43))
	require.NoError(t, tx.Rollback(t.Context()))
	inTx(t, pool, func(tx pgx.Tx) { require.NoError(t, pass(tx, "a", 42)) })
}

// An earlier holder has passed and not yet committed: the later one waits, and comes after it.
func TestFenceWaitsForWhoHasPassed(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	fence := pglock.NewFence(nil)
	later := make(chan error, 1)
	order := make(chan string, 2)
	inTx(t, pool, func(tx pgx.Tx) {
		require.NoError(t, fence.Pass(t.Context(), tx, t.Name(), "a", 41))
		go func() {
			later <- pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				err := fence.Pass(t.Context(), tx, t.Name(), "a", 42)
				order <- "later"
				return err
			})
		}()
		locker := newLocker(t, pool, pglock.Options{Wait: -1})
		require.ErrorIs(t, locker.Do(t.Context(), t.Name(), "a", never), lock.ErrHeld) // nor is a lock given out on top of it
		order <- "earlier"
	})
	require.NoError(t, <-later)
	require.Equal(t, []string{"earlier", "later"}, []string{<-order, <-order})
}

// The column of a row: the stale owner's write changes no row.
// The trap: the name is won after a wait for its fence that is longer than the lease, which is taken for over.
func TestLeaseBeginsBehindTheWaitForTheFence(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	l := newLocker(t, pool, pglock.Options{Lease: 2 * time.Second, Wait: patience})
	before := token(t, l)
	done := make(chan error, 1)
	inTx(t, pool, func(tx pgx.Tx) {
		require.NoError(t, pglock.NewFence(nil).Pass(t.Context(), tx, t.Name(), "a", before))
		go func() {
			done <- l.Do(t.Context(), t.Name(), "a", func(ctx context.Context, _ lock.Held) error {
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(100 * time.Millisecond):
					return nil
				}
			})
		}()
		for waiting := false; !waiting; {
			require.NoError(t, tx.QueryRow(t.Context(),
				`SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid)`).Scan(&waiting))
		}
		_, err := tx.Exec(t.Context(), `SELECT pg_sleep(2)`)
		require.NoError(t, err)
	})
	require.NoError(t, <-done)
}

func TestWritten(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	_, err := pool.Exec(t.Context(), `CREATE TABLE accounts AS SELECT 1 AS id, 100 AS balance, 0::bigint AS fence`)
	require.NoError(t, err)
	write := func(balance int, token idempotency.Token) error {
		return pglock.Written(pool.Exec(t.Context(),
			`UPDATE accounts SET balance = $1, fence = $2 WHERE id = 1 AND fence < $2`, balance, token))
	}
	require.NoError(t, write(20, 42))
	for _, stale := range []idempotency.Token{41, 42} {
		require.ErrorIs(t, write(0, stale), lock.ErrStale)
	}
	_, err = pool.Exec(t.Context(), `SELECT`+strconv.Itoa(1)+`/0`)
	require.Equal(t, err, pglock.Written(pool.Exec(t.Context(), `SELECT`+strconv.Itoa(1)+`/0`)))
	var balance int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT balance FROM accounts`).Scan(&balance))
	require.Equal(t, 20, balance)
}
