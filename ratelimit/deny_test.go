package ratelimit

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Whoever is refused under many keys fills no memory: so many are remembered, and refusals that are over make way.
func TestRefusalsThatAreRememberedAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSpy()
		l, err := New(s, PerSecond(1), &Options{DenyCache: 16})
		require.NoError(t, err)
		for i := range 1000 {
			require.EqualValues(t, 1, admit(t, l, strconv.Itoa(i), 3))
			require.LessOrEqual(t, len(l.denied.keys), 16)
		}
		require.Len(t, l.denied.keys, 16)
		time.Sleep(time.Second)
		admit(t, l, "k", 2)
		s.set(func() {})
		require.Zero(t, admit(t, l, "k", 100))
		questions, _ := s.asked()
		require.Zero(t, questions, "it has a place among those that are over")

		none, err := New(s, PerSecond(1), &Options{DenyCache: -1})
		require.NoError(t, err)
		admit(t, none, "other", 10)
		questions, _ = s.asked()
		require.Equal(t, 10, questions)
	})
}
