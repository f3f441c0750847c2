package join

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// start runs a joiner and returns what stops it.
func start(o *Options, handle func([]*Call[int, int])) (*Joiner[int, int], func()) {
	j := New(o, handle)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = j.Run(ctx) })
	return j, func() {
		cancel()
		running.Wait()
	}
}

// square answers each item with its square.
func square(calls []*Call[int, int]) {
	for _, c := range calls {
		c.Answer(c.Item*c.Item, nil)
	}
}

func TestAnIdleItemWaitsForTheWindowOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j, stop := start(nil, square)
		for n := range 3 {
			begin := time.Now()
			got, err := j.Do(t.Context(), n)
			require.NoError(t, err)
			require.Equal(t, n*n, got)
			require.Equal(t, 2*time.Millisecond, time.Since(begin))
			time.Sleep(time.Hour) // an old window does not shorten the next one
		}
		stop()
		_, err := j.Do(t.Context(), 3)
		require.ErrorIs(t, err, ErrStopped)
	})
}

func TestBatchesGrowWhileOthersAreUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sizes []int
		j, stop := start(&Options{Size: 10, AtOnce: 1}, func(calls []*Call[int, int]) {
			time.Sleep(time.Second)
			mu.Lock()
			sizes = append(sizes, len(calls))
			mu.Unlock()
			square(calls)
		})
		var callers sync.WaitGroup
		for n := range 25 { // the 12th on wait until the first batch is through
			callers.Go(func() {
				got, err := j.Do(t.Context(), n)
				require.NoError(t, err)
				require.Equal(t, n*n, got)
			})
			if n == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		callers.Wait()
		stop()
		require.Equal(t, []int{1, 10, 10, 4}, sizes)
	})
}

func TestAFullBatchDoesNotWaitForTheWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j, stop := start(&Options{Size: 2, Window: time.Hour}, square)
		begin := time.Now()
		var callers sync.WaitGroup
		for n := range 4 {
			callers.Go(func() {
				got, err := j.Do(t.Context(), n)
				require.NoError(t, err)
				require.Equal(t, n*n, got)
			})
		}
		callers.Wait()
		require.Zero(t, time.Since(begin))
		stop()
	})
}

// Callers who keep coming do not keep a joiner from ending.
func TestNothingIsTakenAfterTheStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		j, stop := start(&Options{AtOnce: 1}, func(calls []*Call[int, int]) {
			<-release
			square(calls)
		})
		var callers sync.WaitGroup
		do := func(n int, want error) {
			callers.Go(func() {
				_, err := j.Do(t.Context(), n)
				require.ErrorIs(t, err, want)
			})
			time.Sleep(time.Second)
		}
		do(1, nil) // is under way
		do(2, nil) // is in the next batch
		callers.Go(stop)
		synctest.Wait()
		do(3, ErrStopped)
		close(release)
		callers.Wait()
	})
}

func TestOptionsThatAreNoneAreTheDefaults(t *testing.T) {
	t.Parallel()
	for _, o := range []*Options{nil, {}, {Size: -1, Window: -1, AtOnce: -1}} {
		require.Equal(t, Options{Size: 100, Window: 2 * time.Millisecond, AtOnce: 2}, New(o, square).o)
	}
}

func TestNoMoreBatchesAreUnderWayThanMayBe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var under atomic.Int64
		j, stop := start(&Options{Size: 1, AtOnce: 2}, func(calls []*Call[int, int]) {
			require.LessOrEqual(t, under.Add(1), int64(2))
			time.Sleep(time.Second)
			under.Add(-1)
			square(calls)
		})
		begin := time.Now()
		var callers sync.WaitGroup
		for n := range 6 {
			callers.Go(func() {
				_, err := j.Do(t.Context(), n)
				require.NoError(t, err)
			})
		}
		callers.Wait()
		require.Equal(t, 3*time.Second, time.Since(begin))
		stop()
	})
}

func TestEachCallerGetsItsAnswerAsSoonAsItIsGiven(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		odd := errors.New("odd")
		j, stop := start(nil, func(calls []*Call[int, int]) {
			for _, c := range calls {
				time.Sleep(time.Second)
				switch {
				case c.Item == 3: // is forgotten
				case c.Item%2 == 1:
					c.Answer(0, odd)
				default:
					c.Answer(c.Item*c.Item, nil)
					c.Answer(0, odd) // too late
				}
			}
		})
		begin := time.Now()
		var callers sync.WaitGroup
		for n := range 4 {
			callers.Go(func() {
				got, err := j.Do(t.Context(), n)
				switch n {
				case 1:
					require.ErrorIs(t, err, odd)
				case 3:
					require.ErrorIs(t, err, ErrUnanswered)
				default:
					require.NoError(t, err)
					require.Equal(t, n*n, got)
				}
				after := time.Duration(min(n+1, 4)) * time.Second
				require.Equal(t, after+2*time.Millisecond, time.Since(begin))
			})
			synctest.Wait() // in this order
		}
		callers.Wait()
		stop()
	})
}

func TestACallerThatGivesUpDoesNotTakeItsItemBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var handled atomic.Int64
		j, stop := start(nil, func(calls []*Call[int, int]) {
			time.Sleep(time.Second)
			handled.Add(int64(len(calls)))
			square(calls)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := j.Do(ctx, 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		stop()
		require.EqualValues(t, 1, handled.Load())
	})
	j := New(nil, square)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := j.Do(ctx, 1)
	require.ErrorIs(t, err, context.Canceled)
}

// A handler that ends its goroutine, as a failed test in it does, leaves no caller waiting, nor the batches behind it.
func TestAHandlerThatEndsItsGoroutineHasForgottenItsItems(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j, stop := start(&Options{Size: 1, AtOnce: 1}, func(calls []*Call[int, int]) {
			if calls[0].Item == 0 {
				runtime.Goexit()
			}
			square(calls)
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := j.Do(ctx, 0)
		require.ErrorIs(t, err, ErrUnanswered)
		got, err := j.Do(ctx, 3)
		require.NoError(t, err)
		require.Equal(t, 9, got)
		stop()
	})
}

func TestEveryItemThatWasTakenIsHandledOnce(t *testing.T) {
	t.Parallel()
	var handled sync.Map
	var n, twice atomic.Int64
	j, stop := start(&Options{Size: 7, Window: 50 * time.Microsecond, AtOnce: 3}, func(calls []*Call[int, int]) {
		for _, c := range calls {
			if _, ok := handled.LoadOrStore(c.Item, true); ok {
				twice.Add(1)
			}
			n.Add(1)
		}
		square(calls)
	})
	var answered atomic.Int64
	var asking sync.WaitGroup
	for c := range 64 {
		asking.Go(func() {
			for i := range 200 {
				item := c*1000 + i
				got, err := j.Do(t.Context(), item)
				if err != nil {
					require.ErrorIs(t, err, ErrStopped)
					return
				}
				require.Equal(t, item*item, got)
				if answered.Add(1) == 10_000 {
					go stop() // in the middle of it; waited for below
				}
			}
		})
	}
	asking.Wait()
	stop()
	require.Zero(t, twice.Load())
	require.Equal(t, answered.Load(), n.Load())
}
