package ratelimit_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ratelimit"
)

func TestWaitServesInOrderAndOnTime(t *testing.T) {
	t.Parallel()
	for _, limit := range []ratelimit.Limit{
		ratelimit.PerSecond(10).WithBurst(1), ratelimit.PerSecond(10).As(ratelimit.GCRA),
		ratelimit.PerSecond(10).As(ratelimit.SlidingLog), ratelimit.PerSecond(10).As(ratelimit.FixedWindow), ratelimit.PerSecond(10).As(ratelimit.SlidingCounter),
	} {
		synctest.Test(t, func(t *testing.T) {
			l, _ := limiterOn(t, limit, &ratelimit.Options{DenyCache: -1})
			start := time.Now()
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() { require.NoError(t, l.Wait(t.Context(), "k")) })
			}
			wg.Wait()
			took := time.Since(start)
			require.GreaterOrEqual(t, took, 3900*time.Millisecond, "%v", limit.Algorithm)
			require.LessOrEqual(t, took, 8*time.Second, "%v", limit.Algorithm)
		})
	}
}

// Who cannot be served before the deadline is told at once, and is charged nothing.
func TestWaitServesAsManyInOrderAsTheBucketHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, s := limiterOn(t, ratelimit.PerSecond(10), nil)
		r, err := l.AllowN(t.Context(), "k", 10)
		require.NoError(t, err)
		require.True(t, r.Allowed)
		asked := s.calls.Load()
		served := make(chan int, 10)
		for i := range 10 {
			go func() {
				if err := l.Wait(context.Background(), "k"); err != nil {
					t.Error(err)
				}
				served <- i
			}()
			synctest.Wait()
		}
		for i := range 10 {
			require.Equal(t, i, <-served)
		}
		require.EqualValues(t, 10, s.calls.Load()-asked)
	})
}

func TestWaitRefusesWhatComesTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, _ := limiterOn(t, ratelimit.PerSecond(1), nil)
		require.NoError(t, l.Wait(t.Context(), "k"))
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, l.Wait(ctx, "k"), ratelimit.ErrRefused)
		require.ErrorIs(t, l.WaitN(t.Context(), "k", 2), ratelimit.ErrRefused, "more than there can ever be")
		require.Zero(t, time.Since(start))
		require.NoError(t, l.Wait(t.Context(), "k"))
		require.Equal(t, time.Second, time.Since(start))
	})
}

func TestWaitGivesBackWhatItsCallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, _ := limiterOn(t, ratelimit.PerSecond(1), nil)
		require.NoError(t, l.Wait(t.Context(), "k"))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		require.ErrorIs(t, l.Wait(ctx, "k"), context.Canceled)
		start := time.Now()
		require.NoError(t, l.Wait(t.Context(), "k"))
		require.Equal(t, 900*time.Millisecond, time.Since(start), "what the other one had taken ahead is there again")
	})
}

func TestReserveAndCancel(t *testing.T) {
	t.Parallel()
	for _, limit := range []ratelimit.Limit{
		ratelimit.PerMinute(2), ratelimit.PerMinute(2).As(ratelimit.SlidingLog), ratelimit.PerMinute(2).As(ratelimit.FixedWindow), ratelimit.PerMinute(2).As(ratelimit.SlidingCounter),
	} {
		l, _ := limiterOn(t, limit, &ratelimit.Options{DenyCache: -1})
		r, err := l.Reserve(t.Context(), "k", 2, 0)
		require.NoError(t, err)
		require.True(t, r.Result.Allowed)
		require.Zero(t, r.Delay)
		require.False(t, allow(t, l, "k").Allowed)
		require.NoError(t, r.Cancel(t.Context()))
		require.NoError(t, r.Cancel(t.Context()), "twice is as once")
		full, err := l.AllowN(t.Context(), "k", 2)
		require.NoError(t, err)
		require.True(t, full.Allowed, "%v", limit.Algorithm)
		refused, err := l.Reserve(t.Context(), "k", 1, 0)
		require.NoError(t, err)
		require.False(t, refused.Result.Allowed)
		require.NoError(t, refused.Cancel(t.Context()), "nothing was taken")
		require.False(t, allow(t, l, "k").Allowed, "%v: and nothing given back", limit.Algorithm)
	}
}

func TestCancelTwiceGivesBackOnce(t *testing.T) {
	t.Parallel()
	l, _ := limiterOn(t, ratelimit.PerHour(10), &ratelimit.Options{Timeout: time.Minute})
	_, err := l.AllowN(t.Context(), "k", 5)
	require.NoError(t, err)
	r, err := l.Reserve(t.Context(), "k", 3, 0)
	require.NoError(t, err)
	require.NoError(t, r.Cancel(t.Context()))
	require.NoError(t, r.Cancel(t.Context()))
	left, err := l.Peek(t.Context(), "k")
	require.NoError(t, err)
	require.EqualValues(t, 5, left.Remaining)
}

// The policy stands in for a store, not for a caller who has left.
func TestNobodyReservesForWhoHasLeft(t *testing.T) {
	t.Parallel()
	l, s := limiterOn(t, ratelimit.PerHour(10), nil)
	s.down.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Reserve(ctx, "k", 1, 0)
	require.ErrorIs(t, err, context.Canceled)
	r, err := l.Reserve(t.Context(), "k", 1, 0)
	require.NoError(t, err)
	require.Equal(t, ratelimit.FromFailOpen, r.Result.Source)
}

func TestUnitsThatHaveComeBackAreNotGivenBackAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, _ := limiterOn(t, ratelimit.PerSecond(5), nil)
		var held []*ratelimit.Reservation
		reserve := func(n int64) {
			r, err := l.Reserve(t.Context(), "k", n, 0)
			require.NoError(t, err)
			require.True(t, r.Result.Allowed)
			held = append(held, r)
		}
		for range 20 {
			reserve(5)
			time.Sleep(time.Second)
		}
		admitted := 0
		for _, r := range held {
			for allow(t, l, "k").Allowed {
				admitted++
			}
			require.NoError(t, r.Cancel(t.Context()))
		}
		require.Equal(t, 5, admitted, "in one instant")
		require.False(t, allow(t, l, "k").Allowed)
		time.Sleep(time.Second)
		reserve(5)
		time.Sleep(600 * time.Millisecond)
		r, err := l.AllowN(t.Context(), "k", 3)
		require.NoError(t, err)
		require.True(t, r.Allowed, "what has come back")
		require.NoError(t, held[20].Cancel(t.Context()))
		r, err = l.AllowN(t.Context(), "k", 3)
		require.NoError(t, err)
		require.False(t, r.Allowed)
		require.EqualValues(t, 2, r.Remaining, "what has not")
	})
}

// A counter is reset while somebody holds units of it, and others use it up: who then gives back makes no room for more.
func TestWhatWasResetIsNotGivenBack(t *testing.T) {
	t.Parallel()
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.SlidingLog, ratelimit.FixedWindow, ratelimit.SlidingCounter} {
		synctest.Test(t, func(t *testing.T) {
			l, _ := limiterOn(t, ratelimit.PerHour(10).As(a), nil)
			left := func(key string) int64 {
				r, err := l.Peek(t.Context(), key)
				require.NoError(t, err)
				return r.Remaining
			}
			reserve := func(key string) *ratelimit.Reservation {
				r, err := l.Reserve(t.Context(), key, 5, 0)
				require.NoError(t, err)
				require.True(t, r.Result.Allowed)
				return r
			}
			old, other := reserve("k"), reserve("other")
			require.NoError(t, l.Reset(t.Context(), "k"))
			fresh := reserve("k")
			_, err := l.AllowN(t.Context(), "k", 5)
			require.NoError(t, err)
			require.NoError(t, old.Cancel(t.Context()))
			require.Zero(t, left("k"), "%v", a)
			require.NoError(t, fresh.Cancel(t.Context()))
			require.EqualValues(t, 5, left("k"), "%v: what was taken after the reset is there again", a)
			require.NoError(t, other.Cancel(t.Context()))
			require.EqualValues(t, 10, left("other"), "%v: of which nothing was reset", a)
		})
	}
}

// Units are given back by whom others stand behind, who have taken ahead what comes back later: they and whoever comes then are not two bursts.
func TestGivingBackMakesNoSecondBurstOfThoseBehind(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ first, behind int64 }{{10, 10}, {5, 10}, {10, 4}, {4, 6}, {1, 9}, {1, 10}} {
		synctest.Test(t, func(t *testing.T) {
			l, _ := limiterOn(t, ratelimit.PerSecond(10), nil)
			reserve := func(n int64) *ratelimit.Reservation {
				r, err := l.Reserve(t.Context(), "k", n, time.Minute)
				require.NoError(t, err)
				require.True(t, r.Result.Allowed)
				return r
			}
			first := reserve(test.first)
			behind := reserve(test.behind)
			require.NoError(t, first.Cancel(t.Context()))
			time.Sleep(behind.Delay)
			admitted := test.behind // they are used now
			for allow(t, l, "k").Allowed {
				admitted++
			}
			require.EqualValues(t, 10, admitted, "in one instant, of %+v", test)
		})
	}
}

func TestReserveAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, _ := limiterOn(t, ratelimit.PerSecond(2), nil)
		for i, delay := range []time.Duration{0, 0, 500 * time.Millisecond, time.Second} {
			r, err := l.Reserve(t.Context(), "k", 1, time.Minute)
			require.NoError(t, err)
			require.True(t, r.Result.Allowed, "%d", i)
			require.Equal(t, delay, r.Delay)
		}
		r, err := l.Reserve(t.Context(), "k", 1, time.Minute)
		require.NoError(t, err)
		require.False(t, r.Result.Allowed, "more than a refill ahead")
		r, err = l.Reserve(t.Context(), "other", 3, time.Minute)
		require.NoError(t, err)
		require.False(t, r.Result.Allowed, "more than the bucket holds")
		require.Equal(t, ratelimit.Never, r.Result.RetryAfter)
	})
}

func TestAcquire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, store := limiterOn(t, ratelimit.Limit{Algorithm: ratelimit.Concurrency, Rate: 2, Per: 10 * time.Second}, nil)
		_, err := l.Allow(t.Context(), "k")
		require.ErrorIs(t, err, ratelimit.ErrInvalid, "places are acquired")
		acquire := func() *ratelimit.Permit {
			p, err := l.Acquire(t.Context(), "k", 1)
			require.NoError(t, err)
			return p
		}
		a, b, c := acquire(), acquire(), acquire()
		require.True(t, a.Result.Allowed && b.Result.Allowed)
		require.False(t, c.Result.Allowed)
		require.Equal(t, 10*time.Second, c.Result.RetryAfter)
		require.NoError(t, c.Release(t.Context()), "nothing was held")
		require.False(t, acquire().Result.Allowed)
		require.NoError(t, a.Release(t.Context()))
		require.NoError(t, a.Release(t.Context()))
		d := acquire()
		require.True(t, d.Result.Allowed)
		require.False(t, acquire().Result.Allowed, "a release twice frees one place")

		time.Sleep(9 * time.Second)
		held, err := b.Extend(t.Context())
		require.NoError(t, err)
		require.True(t, held)
		time.Sleep(time.Second) // d's lease is over
		require.True(t, acquire().Result.Allowed)
		held, err = d.Extend(t.Context())
		require.NoError(t, err)
		require.False(t, held, "another has the place")

		store.down.Store(true)
		free := acquire()
		require.Equal(t, ratelimit.FromFailOpen, free.Result.Source)
		require.NoError(t, free.Release(t.Context()))
	})
}

// Who extends a permit in the background may do so a moment after it was released, or have asked and not been heard yet.
func TestPlacesAreNotTakenAgainAfterTheirRelease(t *testing.T) {
	t.Parallel()
	store := &overtaken{remote: newRemote()}
	l, err := ratelimit.New(store, ratelimit.Limit{Algorithm: ratelimit.Concurrency, Rate: 1, Per: time.Hour}, nil)
	require.NoError(t, err)
	for _, isUnderWay := range []bool{false, true} {
		p, err := l.Acquire(t.Context(), "k", 1)
		require.NoError(t, err)
		require.True(t, p.Result.Allowed)
		ctx, cancel := context.WithCancel(t.Context())
		if isUnderWay {
			store.by = func() {
				require.NoError(t, p.Release(t.Context()))
				cancel() // as the work does when it ends
			}
		} else {
			require.NoError(t, p.Release(t.Context()))
		}
		held, err := p.Extend(ctx)
		require.NoError(t, err)
		require.False(t, held)
		r, err := l.Peek(t.Context(), "k")
		require.NoError(t, err)
		require.True(t, r.Allowed, "nobody is at work")
		cancel()
	}
}

// overtaken is a store on the way to which something else is done first, once.
type overtaken struct {
	*remote
	by func()
}

func (o *overtaken) Decide(ctx context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	if by := o.by; by != nil {
		o.by = nil
		by()
	}
	return o.remote.Decide(ctx, calls)
}

// While the store fails and everything is refused, or the share of a fallback is too small, who waits asks once a cooldown, and not without end.
func TestWaitRestsWhileTheStoreFails(t *testing.T) {
	t.Parallel()
	for _, policy := range []ratelimit.OnError{ratelimit.FailClosed, ratelimit.FailLocal} {
		synctest.Test(t, func(t *testing.T) {
			asked := 0
			l, store := limiterOn(t, ratelimit.PerMinute(100), &ratelimit.Options{
				OnError: policy, Share: 0.01, Hooks: ratelimit.Hooks{OnDecision: func(ratelimit.Limit, string, ratelimit.Result) { asked++ }},
			})
			store.down.Store(true)
			time.AfterFunc(10*time.Second, func() { store.down.Store(false) })
			start := time.Now()
			require.NoError(t, l.WaitN(t.Context(), "k", 2))
			require.LessOrEqual(t, time.Since(start), 12*time.Second)
			require.LessOrEqual(t, asked, 13)
		})
	}
}

// Who gives back in a deferred call, by a context without end, does not hang with the store; who has a deadline has all of it.
func TestGivingBackEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		places, store := limiterOn(t, ratelimit.Limit{Algorithm: ratelimit.Concurrency, Rate: 2, Per: time.Hour}, nil)
		p, err := places.Acquire(t.Context(), "k", 1)
		require.NoError(t, err)
		units, err := ratelimit.New(store, ratelimit.PerMinute(2).Named("units"), nil)
		require.NoError(t, err)
		r, err := units.Reserve(t.Context(), "k", 1, 0)
		require.NoError(t, err)
		store.slow.Store(int64(time.Second))
		for _, f := range []func(ctx context.Context) error{
			func(ctx context.Context) error { _, err := p.Extend(ctx); return err }, p.Release, r.Cancel,
		} {
			start := time.Now()
			require.ErrorIs(t, f(context.Background()), context.DeadlineExceeded)
			require.LessOrEqual(t, time.Since(start), 20*time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		require.NoError(t, p.Release(ctx))
	})
}

// Places of which the answer was lost are not held when the work that the policy has admitted is over.
func TestPlacesThatAreGivenUnheardAreReleased(t *testing.T) {
	t.Parallel()
	for _, policy := range []ratelimit.OnError{ratelimit.FailOpen, ratelimit.FailLocal} {
		synctest.Test(t, func(t *testing.T) {
			store := mute{remote: newRemote()}
			l, err := ratelimit.New(&store, ratelimit.Limit{Algorithm: ratelimit.Concurrency, Rate: 2, Per: time.Hour}, &ratelimit.Options{OnError: policy})
			require.NoError(t, err)
			for range 5 {
				store.is.Store(true)
				p, err := l.Acquire(t.Context(), "k", 2)
				require.NoError(t, err)
				require.True(t, p.Result.Allowed)
				require.NotEqual(t, ratelimit.FromStore, p.Result.Source)
				store.is.Store(false)
				left, err := l.Peek(t.Context(), "k")
				require.NoError(t, err)
				require.Zero(t, left.Remaining, "they were given")
				require.NoError(t, p.Release(t.Context()))
				left, err = l.Peek(t.Context(), "k")
				require.NoError(t, err)
				require.EqualValues(t, 2, left.Remaining)
			}
		})
	}
}

// mute carries out what it is asked, and at times says nothing.
type mute struct {
	*remote
	is atomic.Bool
}

func (m *mute) Decide(ctx context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	replies := m.remote.Decide(ctx, calls)
	if m.is.Load() {
		return make([]ratelimit.Reply, len(calls))
	}
	return replies
}
