package pglock_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/pglock"
)

// Names are the callers', and without end: what nobody wants any more is forgotten, whether the lock was had or not.
func TestNamesThatNobodyWantsAreForgotten(t *testing.T) {
	t.Parallel()
	l := newLocker(t, migrated(t), pglock.Options{Wait: -1})
	require.NoError(t, l.Do(t.Context(), t.Name(), "a", func(context.Context, lock.Held) error {
		require.Equal(t, 1, l.Names())
		require.ErrorIs(t, l.Do(t.Context(), t.Name(), "a", never), lock.ErrHeld)
		return nil
	}))
	require.Zero(t, l.Names())
}
