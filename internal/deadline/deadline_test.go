package deadline_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/deadline"
)

const timeout = 80 * time.Millisecond

type key struct{}

// ended waits for one of two channels.
func ended(a, b <-chan struct{}) time.Duration {
	begun := time.Now()
	select {
	case <-a:
	case <-b:
	}
	return time.Since(begun)
}

func TestAContextEndsByTheTimeoutAndAtMostAnEighthSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := deadline.NewPool(timeout)
		parent, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, "value"))
		defer cancel()
		for _, parent := range []context.Context{context.Background(), parent} {
			for range 20 {
				for _, how := range []func(*deadline.Context) time.Duration{
					func(c *deadline.Context) time.Duration { return ended(c.Ends()) },
					func(c *deadline.Context) time.Duration { return ended(c.Done(), nil) },
				} {
					c := p.Within(parent)
					require.NoError(t, c.Err())
					require.NoError(t, c.Cause())
					require.Equal(t, parent.Value(key{}), c.Value(key{}))
					end, ok := c.Deadline()
					require.True(t, ok)
					left := time.Until(end)
					took := how(c)
					require.Equal(t, left, took)
					require.LessOrEqual(t, took, timeout)
					require.Greater(t, took, timeout*7/8)
					synctest.Wait()
					require.ErrorIs(t, c.Err(), context.DeadlineExceeded)
					require.ErrorIs(t, c.Cause(), context.DeadlineExceeded)
					c.End()
					time.Sleep(3 * time.Millisecond)
				}
				other := p.Within(parent) // in the middle of an eighth
				time.Sleep(7 * time.Millisecond)
				require.NoError(t, other.Err())
				other.End()
			}
		}
	})
}

// Who has been told that it has ended finds a reason, whichever of its timers was first.
func TestWhatHasEndedHasACause(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 200 {
		c := deadline.NewPool(50 * time.Microsecond).Within(parent)
		require.NotNil(t, c.Done())
		ended(c.Ends())
		require.ErrorIs(t, c.Cause(), context.DeadlineExceeded)
		c.End()
	}
}

func TestAContextEndsWithItsParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := deadline.NewPool(timeout)
		reason := errors.New("reason")
		for _, asked := range []bool{false, true} {
			parent, cancel := context.WithCancelCause(context.Background())
			c := p.Within(parent)
			defer c.End()
			if asked {
				require.NotNil(t, c.Done())
			}
			child, stop := context.WithCancel(c)
			defer stop()
			cancel(reason)
			require.Zero(t, ended(c.Ends()))
			require.Zero(t, ended(c.Done(), nil))
			require.Zero(t, ended(child.Done(), nil))
			require.ErrorIs(t, c.Err(), context.Canceled)
			require.Equal(t, reason, c.Cause())
			require.Equal(t, reason, context.Cause(child))
		}
		soon, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		c := p.Within(soon)
		defer c.End()
		end, ok := c.Deadline()
		require.True(t, ok)
		require.Equal(t, time.Millisecond, time.Until(end))
		require.Equal(t, time.Millisecond, ended(c.Ends()))
	})
}

func TestManyContextsShareATimer(t *testing.T) {
	p := deadline.NewPool(time.Hour)
	ctx := t.Context()
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { p.Within(ctx).End() }), 1.0)
	require.Zero(t, testing.AllocsPerRun(1000, func() { _ = p.Shared() }))
	end, ok := p.Shared().Deadline()
	require.True(t, ok)
	require.LessOrEqual(t, time.Until(end), time.Hour)
}

// Those who begin at any time have nearly all of the timeout, and no more by a parent who has longer.
func TestNobodyHasLessThanSevenEighths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := deadline.NewPool(timeout)
		patient, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		for range 200 {
			end, ok := p.Within(patient).Deadline()
			require.True(t, ok)
			require.Greater(t, time.Until(end), timeout*7/8)
			require.LessOrEqual(t, time.Until(end), timeout)
			time.Sleep(time.Millisecond)
		}
	})
}

// It keeps what package context asks of any: Done is one channel, and Err says why as soon as that is closed, or the parent has ended.
func TestAContextIsAsAnyOther(t *testing.T) {
	p := deadline.NewPool(time.Hour)
	parent, cancel := context.WithCancel(t.Context())
	unasked := p.Within(parent)
	defer unasked.End()
	c := p.Within(parent)
	done := c.Done()
	require.Equal(t, done, c.Done())
	require.NoError(t, c.Err())
	c.End()
	<-done
	require.ErrorIs(t, c.Err(), context.Canceled)
	require.NoError(t, unasked.Err())
	cancel()
	require.ErrorIs(t, unasked.Err(), context.Canceled)
}
