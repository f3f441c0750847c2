package idempotency

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The last one of a room that has been settled leaves when there is another room for the key already: those in it still hear.
func TestARoomIsNotClosedByThoseOfTheLastOne(t *testing.T) {
	t.Parallel()
	var l lobby
	q := &Request{Key: Key{Scope: "tenant", Op: "pay", Value: "a"}}
	first := l.enter(q, true)
	l.settle(q.Key, q.Fingerprint, 0, nil)
	second := l.enter(q, true)
	require.NotSame(t, first, second)
	l.leave(q, first)
	require.Same(t, second, l.enter(q, false))
	l.nudge(q.Key, q.Fingerprint)
	require.Len(t, second.wake, 1)
	l.settle(q.Key, q.Fingerprint, 0, nil)
	require.Equal(t, Completed, second.record.Outcome)
	require.Zero(t, l.open.Load())
}

// Those who have waited in vain leave nothing behind, and the last one closes the room.
func TestARoomIsClosedBehindTheLastOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := NewMemory(nil)
		key := Key{Scope: "tenant", Op: "pay", Value: "a"}
		_, err := store.ClaimOne(t.Context(), Request{Key: key, Lease: time.Hour})
		require.NoError(t, err)
		g, err := New(store, &Options{Wait: 2 * time.Second})
		require.NoError(t, err)
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				_, err := Do(t.Context(), g, key, Fingerprint{}, func(context.Context, *Run) (int, error) { panic("must not run") })
				require.ErrorIs(t, err, ErrInFlight)
			})
			time.Sleep(time.Second)
		}
		time.Sleep(time.Millisecond)
		require.EqualValues(t, 1, g.lobby.open.Load(), "the second one waits yet")
		all.Wait()
		require.Zero(t, g.lobby.open.Load())
		require.Empty(t, g.lobby.rooms)
	})
}
