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

func down(context.Context) error { return errDown }

func fine(context.Context) error { return nil }

func TestOpensOnExactlyTheFifthFailureInARow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New("test", time.Second, isDown)
		fail := func(n int) {
			for range n {
				require.True(t, b.Unavailable(b.Do(t.Context(), down)))
			}
		}
		fail(4)
		require.NoError(t, b.Do(t.Context(), fine))
		fail(4)
		require.True(t, b.Closed())
		fail(1)
		require.Equal(t, "open", b.State())
		err := b.Do(t.Context(), func(context.Context) error { t.Error("called while open"); return nil })
		require.True(t, b.Unavailable(err))

		time.Sleep(Pause + time.Millisecond)
		require.NoError(t, b.Do(t.Context(), fine))
		require.True(t, b.Closed())
	})
}

// While one call tries whether the server is back, others are not made, and told as when
// the breaker was open: they have somewhere else to go. If the one hangs up, the next tries.
func TestOneCallTriesWhetherTheServerIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New("test", time.Second, isDown)
		for range Trips {
			_ = b.Do(t.Context(), down)
		}
		time.Sleep(Pause + time.Millisecond)
		for _, end := range []error{context.Canceled, nil} {
			tries, answer := make(chan struct{}), make(chan error)
			tried := make(chan error, 1)
			go func() {
				tried <- b.Do(t.Context(), func(context.Context) error { close(tries); return <-answer })
			}()
			<-tries
			err := b.Do(t.Context(), func(context.Context) error { t.Error("called beside the one that tries"); return nil })
			require.Error(t, err)
			require.True(t, b.Unavailable(err))
			require.Equal(t, "half-open", b.State())
			require.False(t, b.Closed())
			answer <- end
			require.ErrorIs(t, <-tried, end)
		}
		require.True(t, b.Closed())
	})
}

func TestAClientThatHangsUpIsNoFailure(t *testing.T) {
	t.Parallel()
	b := New("test", time.Second, func(err error) bool { return err != nil })
	for range 1000 {
		require.ErrorIs(t, b.Do(t.Context(), func(context.Context) error { return context.Canceled }), context.Canceled)
	}
	require.True(t, b.Closed())
	// Nor is it a success: it must not keep a breaker from opening.
	for range Trips {
		_ = b.Do(t.Context(), down)
		_ = b.Do(t.Context(), func(context.Context) error { return context.Canceled })
	}
	require.False(t, b.Closed())
}

func TestAnErrorOfTheStatementIsNoFailure(t *testing.T) {
	t.Parallel()
	b := New("test", time.Second, isDown)
	bad := errors.New("bad statement")
	for range 100 {
		require.ErrorIs(t, b.Do(t.Context(), func(context.Context) error { return bad }), bad)
	}
	require.True(t, b.Closed())
	require.False(t, b.Unavailable(bad))
}

func TestACallHasADeadlineAndAResult(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New("test", 3*time.Second, func(err error) bool { return err != nil })
		begin := time.Now()
		hangs := func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		for range Trips {
			_, err := Call(t.Context(), b, hangs)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.Equal(t, Trips*3*time.Second, time.Since(begin))
		require.False(t, b.Closed(), "a server that hangs does not work")

		time.Sleep(Pause + time.Millisecond)
		got, err := Call(t.Context(), b, func(context.Context) (int, error) { return 7, nil })
		require.NoError(t, err)
		require.Equal(t, 7, got)
	})
}
