package ratelimit

import (
	"strconv"
	"sync"
	"testing"
	"time"

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

// A call locks the counters of several keys in one order, whatever order it has them in: else two that have the same keys could wait for each other.
func TestSeveralKeysAreLockedInOneOrder(t *testing.T) {
	t.Parallel()
	m := NewMemory(nil)
	l := PerSecond(10)
	p, err := planOf(l)
	require.NoError(t, err)
	shard := func(key string) *sync.Mutex { return &m.shards[p.digest(key)%shards].mu }
	low, high := "0", "0"
	for i := 1; p.digest(low)%shards == p.digest(high)%shards; i++ {
		high = strconv.Itoa(i)
	}
	if p.digest(low)%shards > p.digest(high)%shards {
		low, high = high, low
	}
	shard(high).Lock()
	done := make(chan Reply)
	go func() {
		done <- m.Decide(t.Context(), []Call{{Ops: []Op{{Limit: l, Key: high, N: 1}, {Limit: l, Key: low, N: 1}}}})[0]
	}()
	require.Eventually(t, func() bool { // it has the lower one, and waits for the other
		if shard(low).TryLock() {
			shard(low).Unlock()
			return false
		}
		return true
	}, time.Minute, time.Millisecond)
	shard(high).Unlock()
	require.NoError(t, (<-done).Err)
}
