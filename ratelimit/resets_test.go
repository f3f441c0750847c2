package ratelimit

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Resets of very many keys fill no memory: of what was taken before those that are known it is not known whether it was reset, and it is not given back.
func TestResetsThatAreRememberedAreBounded(t *testing.T) {
	t.Parallel()
	l, err := New(NewMemory(nil), PerHour(10), nil)
	require.NoError(t, err)
	reserve := func() *Reservation {
		r, err := l.Reserve(t.Context(), "k", 5, 0)
		require.NoError(t, err)
		return r
	}
	old := reserve()
	require.NoError(t, l.Reset(t.Context(), "k"))
	for i := range 3 * maxResets {
		require.NoError(t, l.Reset(t.Context(), strconv.Itoa(i)))
		require.LessOrEqual(t, len(l.resets.last), maxResets)
	}
	fresh := reserve()
	require.EqualValues(t, 5, admit(t, l, "k", 5))
	require.NoError(t, old.Cancel(t.Context()))
	require.Zero(t, admit(t, l, "k", 1))
	require.NoError(t, fresh.Cancel(t.Context()))
	require.EqualValues(t, 5, admit(t, l, "k", 10))
}
