package join

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// start runs a joiner whose batches take the given time, and returns what stops it.
func start(o *Options, takes time.Duration, got func([]int)) (*Joiner[int], func()) {
	j := New(o, func(items []int) {
		time.Sleep(takes)
		got(items)
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = j.Run(ctx) })
	return j, func() {
		cancel()
		running.Wait()
	}
}

func TestAnIdleItemWaitsForTheWindowOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		handled := make(chan []int, 1)
		j, stop := start(nil, 0, func(items []int) { handled <- items })
		begin := time.Now()
		require.NoError(t, j.Put(t.Context(), 1))
		require.Len(t, <-handled, 1)
		require.Equal(t, 2*time.Millisecond, time.Since(begin))
		time.Sleep(time.Hour) // an old window does not shorten the next one
		begin = time.Now()
		require.NoError(t, j.Put(t.Context(), 2))
		require.Len(t, <-handled, 1)
		require.Equal(t, 2*time.Millisecond, time.Since(begin))
		stop()
		require.ErrorIs(t, j.Put(t.Context(), 3), ErrStopped)
	})
}

func TestBatchesGrowWhileOthersAreUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sizes []int
		j, stop := start(&Options{Size: 10, AtOnce: 1}, time.Second, func(items []int) {
			mu.Lock()
			defer mu.Unlock()
			sizes = append(sizes, len(items))
		})
		for n := range 25 { // the 12th on wait until the first batch is through
			require.NoError(t, j.Put(t.Context(), n))
			if n == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		stop()
		require.Equal(t, []int{1, 10, 10, 4}, sizes)
	})
}

func TestPutGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	j := New(nil, func([]int) {})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, j.Put(ctx, 1), context.Canceled)
}

func TestEveryItemThatWasTakenIsHandledOnce(t *testing.T) {
	t.Parallel()
	var handled sync.Map
	var n, twice atomic.Int64
	j, stop := start(&Options{Size: 7, Window: 50 * time.Microsecond, AtOnce: 3}, 0, func(items []int) {
		for _, i := range items {
			if _, ok := handled.LoadOrStore(i, true); ok {
				twice.Add(1)
			}
			n.Add(1)
		}
	})
	var taken atomic.Int64
	var putting sync.WaitGroup
	for c := range 64 {
		putting.Go(func() {
			for i := range 200 {
				if err := j.Put(t.Context(), c*1000+i); err != nil {
					require.ErrorIs(t, err, ErrStopped)
					return
				}
				if taken.Add(1) == 10_000 {
					go stop() // in the middle of it; waited for below
				}
			}
		})
	}
	putting.Wait()
	stop()
	require.Zero(t, twice.Load())
	require.Equal(t, taken.Load(), n.Load())
}
