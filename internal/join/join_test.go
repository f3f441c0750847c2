package join

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type item struct {
	key string
	n   int
}

func key(i item) string { return i.key }

// start runs a joiner whose batches take the given time, and returns what stops it.
func start(o *Options, takes time.Duration, got func([]item)) (*Joiner[item], func()) {
	j := New(o, key, func(items []item) {
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
		handled := make(chan []item, 1)
		j, stop := start(nil, 0, func(items []item) { handled <- items })
		begin := time.Now()
		require.NoError(t, j.Put(t.Context(), item{"a", 1}))
		require.Len(t, <-handled, 1)
		require.Equal(t, 2*time.Millisecond, time.Since(begin))
		time.Sleep(time.Hour) // an old window does not shorten the next one
		begin = time.Now()
		require.NoError(t, j.Put(t.Context(), item{"b", 2}))
		require.Len(t, <-handled, 1)
		require.Equal(t, 2*time.Millisecond, time.Since(begin))
		stop()
		require.ErrorIs(t, j.Put(t.Context(), item{"c", 3}), ErrStopped)
	})
}

func TestBatchesGrowWhileOthersAreUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sizes []int
		j, stop := start(&Options{Size: 10, AtOnce: 1}, time.Second, func(items []item) {
			mu.Lock()
			defer mu.Unlock()
			sizes = append(sizes, len(items))
		})
		for n := range 25 { // the 12th on wait until the first batch is through
			require.NoError(t, j.Put(t.Context(), item{fmt.Sprint(n), n}))
			if n == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		stop()
		require.Equal(t, []int{1, 10, 10, 4}, sizes)
	})
}

func TestOneKeyOnceInABatchAndInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got [][]item
		j, stop := start(&Options{Size: 3, AtOnce: 1}, time.Millisecond, func(items []item) { got = append(got, items) })
		for n := range 5 {
			require.NoError(t, j.Put(t.Context(), item{"same", n}))
		}
		require.NoError(t, j.Put(t.Context(), item{"other", 9}))
		stop()
		require.Equal(t, [][]item{{{"same", 0}, {"other", 9}}, {{"same", 1}}, {{"same", 2}}, {{"same", 3}}, {{"same", 4}}}, got)
	})
}

func TestPutGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	j := New(nil, key, func([]item) {})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, j.Put(ctx, item{"a", 1}), context.Canceled)
}

func TestEveryItemThatWasTakenIsHandledOnce(t *testing.T) {
	t.Parallel()
	var handled sync.Map
	var n, twice atomic.Int64
	j, stop := start(&Options{Size: 7, Window: 50 * time.Microsecond, AtOnce: 3}, 0, func(items []item) {
		keys := map[string]bool{}
		for _, i := range items {
			if _, ok := handled.LoadOrStore(i.n, true); ok || keys[i.key] {
				twice.Add(1)
			}
			keys[i.key] = true
			n.Add(1)
		}
	})
	var taken atomic.Int64
	var putting sync.WaitGroup
	for c := range 64 {
		putting.Go(func() {
			for i := range 200 {
				if err := j.Put(t.Context(), item{fmt.Sprint(rand.IntN(20)), c*1000 + i}); err != nil {
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
