package lock_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/lock/locktest"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/idempotency/redisidem"
	"github.com/safetill/safetill/internal/testdb"
)

func locker(tb testing.TB, store idempotency.Store, o lock.Options) *lock.Locker {
	tb.Helper()
	l, err := lock.New(store, &o)
	require.NoError(tb, err)
	return l
}

// never is the work of one who must not get the lock.
func never(context.Context, lock.Held) error { panic("must not run") }

func TestOnMemory(t *testing.T) {
	t.Parallel()
	store := idempotency.NewMemory(nil)
	locktest.Run(t, func(tb testing.TB, o lock.Options) locktest.Locker { return locker(tb, store, o) })
}

func TestOnRedis(t *testing.T) {
	t.Parallel()
	store, err := redisidem.NewStore(testdb.Redis(t), nil)
	require.NoError(t, err)
	locktest.Run(t, func(tb testing.TB, o lock.Options) locktest.Locker { return locker(tb, store, o) })
}

func TestOnPostgres(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	require.NoError(t, pgidem.Migrate(t.Context(), pool, nil))
	store, err := pgidem.NewStore(pool, nil)
	require.NoError(t, err)
	locktest.Run(t, func(tb testing.TB, o lock.Options) locktest.Locker { return locker(tb, store, o) })
}

func TestNewRefusesBadOptions(t *testing.T) {
	t.Parallel()
	_, err := lock.New(nil, &lock.Options{Lease: -1})
	require.ErrorIs(t, err, idempotency.ErrInvalid)
	require.ErrorContains(t, err, "store")
	require.ErrorContains(t, err, "lease")
}

func TestDoNamesWhatIsInvalid(t *testing.T) {
	t.Parallel()
	l := locker(t, idempotency.NewMemory(nil), lock.Options{})
	require.EqualError(t, l.Do(t.Context(), "s", "a", nil), "idempotency: work is nil")
	require.ErrorContains(t, new(lock.Locker).Do(t.Context(), "s", "a", never), "guard is nil")
	require.EqualError(t, l.Do(t.Context(), "", "a", never), "idempotency: scope is empty")
}

// A key of the same three parts was completed or is in flight: the work must not be skipped as done.
func TestKeyOfTheSameNameIsNotALock(t *testing.T) {
	t.Parallel()
	store := idempotency.NewMemory(nil)
	guard, err := idempotency.New(store, &idempotency.Options{Wait: -1})
	require.NoError(t, err)
	l := locker(t, store, lock.Options{Wait: -1})
	key := idempotency.Key{Scope: "s", Op: "safetill/lock", Value: "a"}
	for _, fp := range []idempotency.Fingerprint{{}, idempotency.FingerprintOf([]byte(key.Op))} {
		key.Value += "a"
		_, err = idempotency.Do(t.Context(), guard, key, fp, func(context.Context, *idempotency.Run) (struct{}, error) {
			require.Error(t, l.Do(t.Context(), "s", key.Value, never))
			return struct{}{}, nil
		})
		require.NoError(t, err)
		require.ErrorContains(t, l.Do(t.Context(), "s", key.Value, never), "is not a lock")
	}
}
