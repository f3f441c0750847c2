package idempotency

import (
	"testing"

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
