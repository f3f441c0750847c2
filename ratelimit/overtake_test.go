package ratelimit

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// A call over two counters goes by the later of their times. Who has read the clock before it and comes to the other one afterwards is not told that he
// comes too early.
func TestCallsThatOvertakeEachOther(t *testing.T) {
	t.Parallel()
	m := NewMemory(nil)
	limit := PerSecond(10)
	l, err := New(m, limit, nil)
	require.NoError(t, err)
	for i := range 64 {
		a, b := "a"+strconv.Itoa(i), "b"+strconv.Itoa(i)
		m.shards[l.limit.digest(b)%shards].last = m.micros() + 1_000_000
		r, err := l.All(t.Context(), Check{Limit: limit, Key: a, N: 9}, Check{Limit: limit, Key: b, N: 9})
		require.NoError(t, err)
		require.True(t, r.Allowed)
		require.EqualValues(t, 1, admit(t, l, a, 1))
		require.EqualValues(t, 1, admit(t, l, b, 1))
	}
}
