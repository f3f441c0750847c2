//go:build unix

package pglock_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/pglock"
	"github.com/safetill/safetill/internal/testdb"
)

// The holder lets go at the moment at which the wait for it is over, and the server's process sees both at once: it answers that it was
// canceled, and has the lock.
func TestLockThatIsWonAsItsWaitRunsOutIsGivenBack(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), testdb.NewPostgres(t).URL())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, pglock.Migrate(t.Context(), pool, nil))
	holder, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer holder.Release()
	_, err = holder.Exec(t.Context(), "SELECT pg_advisory_lock($1)", pglock.Hash(t.Name(), "a"))
	require.NoError(t, err)

	const wait = time.Second
	waiter := newLocker(t, pool, pglock.Options{Wait: wait})
	answer := make(chan error, 1)
	go func() { answer <- waiter.Do(t.Context(), t.Name(), "a", never) }()
	var pid int
	require.Eventually(t, func() bool {
		return holder.QueryRow(t.Context(), "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").Scan(&pid) == nil
	}, patience, time.Millisecond)
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	_, err = holder.Exec(t.Context(), "SELECT pg_advisory_unlock($1), pg_sleep($2)", pglock.Hash(t.Name(), "a"), wait.Seconds())
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	require.NoError(t, err)
	require.ErrorIs(t, <-answer, lock.ErrHeld)

	var held bool
	require.NoError(t, holder.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')").Scan(&held))
	require.False(t, held, "by a connection of the pool's, whoever asks")
	require.NoError(t, waiter.Do(t.Context(), t.Name(), "a", func(context.Context, lock.Held) error { return nil }))
}
