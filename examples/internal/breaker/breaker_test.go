package breaker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var errDown = errors.New("down")

func isDown(err error) bool { return errors.Is(err, errDown) }

func down() error { return errDown }

func TestOpensOnExactlyTheFifthFailureInARow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New("test", isDown)
		fail := func(n int) {
			for range n {
				require.True(t, b.Unavailable(b.Do(down)))
			}
		}
		fail(4)
		require.NoError(t, b.Do(func() error { return nil }))
		fail(4)
		require.True(t, b.Closed())
		fail(1)
		require.Equal(t, "open", b.State())
		err := b.Do(func() error { t.Error("called while open"); return nil })
		require.True(t, b.Unavailable(err))

		time.Sleep(Pause + time.Millisecond)
		require.NoError(t, b.Do(func() error { return nil }))
		require.True(t, b.Closed())
	})
}

func TestAClientThatHangsUpIsNoFailure(t *testing.T) {
	t.Parallel()
	b := New("test", func(err error) bool { return err != nil })
	for range 1000 {
		require.ErrorIs(t, b.Do(func() error { return context.Canceled }), context.Canceled)
	}
	require.True(t, b.Closed())
	// Nor is it a success: it must not keep a breaker from opening.
	for range Trips {
		_ = b.Do(down)
		_ = b.Do(func() error { return context.Canceled })
	}
	require.False(t, b.Closed())
}

func TestAnErrorOfTheStatementIsNoFailure(t *testing.T) {
	t.Parallel()
	b := New("test", isDown)
	bad := errors.New("bad statement")
	for range 100 {
		require.ErrorIs(t, b.Do(func() error { return bad }), bad)
	}
	require.True(t, b.Closed())
	require.False(t, b.Unavailable(bad))
}
