package ratelimit

import (
	"context"
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

func TestRefusalIsOfItsLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limit := PerHour(10)
		l, err := New(newSpy(), limit, &Options{LimitFor: func(context.Context, string) Limit { return limit }})
		require.NoError(t, err)
		require.EqualValues(t, 10, admit(t, l, "k", 12))
		limit = PerHour(20)
		require.EqualValues(t, 10, admit(t, l, "k", 12), "it holds at once")
		limit = PerHour(10).As(SlidingLog)
		require.EqualValues(t, 10, admit(t, l, "k", 12))
		time.Sleep(time.Minute)
		r, err := l.AllowN(t.Context(), "k", 2)
		require.NoError(t, err)
		require.Equal(t, FromStore, r.Source, "which knows how much longer that takes")
		require.Equal(t, 59*time.Minute, r.RetryAfter)
	})
}

// Who asks for less than was refused may have it, and who asks for more than there can ever be never has.
func TestRefusalIsOfSoManyUnits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSpy()
		l, err := New(s, PerMinute(10), &Options{DenyCache: 2})
		require.NoError(t, err)
		ask := func(key string, n int64) Result {
			r, err := l.AllowN(t.Context(), key, n)
			require.NoError(t, err)
			return r
		}
		admit(t, l, "k", 5)
		require.False(t, ask("k", 6).Allowed)
		require.Equal(t, FromDenyCache, ask("k", 6).Source)
		more := ask("k", 11)
		require.Equal(t, FromDenyCache, more.Source)
		require.Equal(t, Never, more.RetryAfter)
		require.True(t, ask("k", 5).Allowed)

		for _, key := range []string{"a", "b", "c"} { // of which none is over
			admit(t, l, key, 11)
			require.Len(t, l.denied.keys, 2)
			require.Equal(t, FromDenyCache, ask(key, 1).Source)
		}
	})
}
