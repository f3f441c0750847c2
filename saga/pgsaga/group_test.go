package pgsaga

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// recorder is a group whose batches take a second of a bubble's time.
func recorder(batches *[][]string) *group {
	var mu sync.Mutex
	return &group{timeout: time.Minute, send: func(_ context.Context, items []*item) {
		var ids []string
		for _, i := range items {
			ids = append(ids, i.id)
			i.at = time.Now()
		}
		mu.Lock()
		*batches = append(*batches, ids)
		mu.Unlock()
		time.Sleep(time.Second)
	}}
}

func items(ids ...string) (all []*item) {
	for _, id := range ids {
		all = append(all, &item{id: id, size: 10})
	}
	return all
}

// come lets a caller in and returns when it waits.
func come(t *testing.T, g *group, ctx context.Context, wg *sync.WaitGroup, ids ...string) *error { //nolint:revive // t first
	t.Helper()
	var err error
	wg.Go(func() { err = g.do(ctx, items(ids...)) })
	synctest.Wait()
	return &err
}

func TestAnIdleGroupWritesAtOnceAndABusyOneTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var batches [][]string
		var wg sync.WaitGroup
		g := recorder(&batches)
		begin := time.Now()
		for n := range 10 {
			come(t, g, t.Context(), &wg, fmt.Sprint(n))
		}
		wg.Wait()
		require.Equal(t, [][]string{{"0"}, {"1"}, {"2", "3", "4", "5", "6", "7", "8", "9"}}, batches)
		require.Equal(t, 2*time.Second, time.Since(begin))
		require.Zero(t, g.under)
		require.Zero(t, g.items)
	})
}

// An update that finds two new states for a row takes either.
func TestTwoWritesOfASagaAreNotInOneBatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var batches [][]string
		var wg sync.WaitGroup
		g := recorder(&batches)
		for _, id := range []string{"x", "y", "a", "b", "a", "a", "c"} {
			come(t, g, t.Context(), &wg, id)
		}
		wg.Wait()
		require.ElementsMatch(t, [][]string{{"x"}, {"y"}, {"a", "b", "c"}, {"a"}, {"a"}}, batches)
		require.Zero(t, g.under)
		require.Zero(t, g.items)
		require.Empty(t, g.queue)
	})
}

func TestABatchIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var batches [][]string
		var wg sync.WaitGroup
		g := recorder(&batches)
		come(t, g, t.Context(), &wg, "x")
		come(t, g, t.Context(), &wg, "y")
		var many []string
		for n := range 2*maxItems + 1 {
			many = append(many, fmt.Sprint(n))
		}
		come(t, g, t.Context(), &wg, many...)
		for n, id := range []string{"large", "larger", "half", "other half", "and one more"} {
			large := items(id)
			if large[0].size = maxBytes + 1; n > 1 {
				large[0].size = maxBytes / 2
			}
			wg.Go(func() { _ = g.do(t.Context(), large) })
			synctest.Wait()
		}
		wg.Wait()
		n := 0
		for _, b := range batches {
			n += len(b)
			require.LessOrEqual(t, len(b), maxItems)
		}
		require.Equal(t, len(many)+7, n)
		require.Contains(t, batches, []string{"large"})
		require.Contains(t, batches, []string{"larger"})
		require.Contains(t, batches, []string{"half", "other half"})
		require.Zero(t, g.under)
		require.Zero(t, g.items)
	})
}

// Of many, a leader leaves the other as many as it takes, and has it begin.
func TestTwoBatchesShareWhoComes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ queued, other, takes, leaders int }{
		{400, 0, 200, 2},
		{397, 3, 200, 2}, // or it would be 397 and 3 in turn
		{300, 100, 200, 2},
		{100, 300, 100, 2},
		{100, 0, 64, 1}, // what is left is too little to begin with
		{60, 0, 60, 1},
		{2000, 0, maxItems, 2},
	} {
		g := &group{under: 1, items: c.other}
		if c.other > 0 {
			g.under = 2
		}
		for n := range c.queued {
			g.queue = append(g.queue, &item{id: fmt.Sprint(n), call: &call{open: 1, wake: make(chan message, 2)}})
		}
		batch := g.take()
		require.Len(t, batch, c.takes, "%+v", c)
		require.Len(t, g.queue, c.queued-c.takes, "%+v", c)
		require.Equal(t, c.takes+c.other, g.items, "%+v", c)
		require.Equal(t, c.leaders, g.under, "%+v", c)
		told := len(g.queue) > 0 && g.queue[0].call.leader
		require.Equal(t, c.other == 0 && c.leaders == 2, told, "%+v", c) // who leads knows
	}
}

// Who waits in the queue hangs up: its item is not written, and nobody waits for it.
func TestWhoHangsUpTakesItsItemsAlong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var batches [][]string
		var wg sync.WaitGroup
		g := recorder(&batches)
		ctx, cancel := context.WithCancel(t.Context())
		first := come(t, g, ctx, &wg, "leader", "of two")
		come(t, g, t.Context(), &wg, "y")
		gone := come(t, g, ctx, &wg, "gone", "too")
		come(t, g, t.Context(), &wg, "stays")
		cancel()
		synctest.Wait()
		require.ErrorIs(t, *gone, context.Canceled)
		wg.Wait()
		require.NoError(t, *first, "a leader stays to the end")
		require.Equal(t, [][]string{{"leader", "of two"}, {"y"}, {"stays"}}, batches)
		require.ErrorIs(t, g.do(ctx, items("z")), context.Canceled)
		require.Zero(t, g.under)
		require.Zero(t, g.items)
	})
}

// Callers come, wait, and hang up at every moment, also at that in which they are made
// leaders; nobody is left waiting, and no leader's place is lost.
func TestTheLeadIsNeverLost(t *testing.T) {
	t.Parallel()
	g := &group{timeout: time.Minute, send: func(context.Context, []*item) { time.Sleep(20 * time.Microsecond) }}
	var wg sync.WaitGroup
	for n := range 64 {
		wg.Go(func() {
			for i := range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((n*31+i*17)%400)*time.Microsecond)
				_ = g.do(ctx, items(fmt.Sprint(n%20), fmt.Sprint("other", n)))
				cancel()
			}
		})
	}
	wg.Wait()
	require.Zero(t, g.under)
	require.Zero(t, g.items)
	require.Empty(t, g.queue)
	require.NoError(t, g.do(t.Context(), items("last")))
}

// Who came as a leader is made another's successor before it has taken its batch, and
// leaves when that is done.
func TestTheLeadOfALeaderIsHandedOn(t *testing.T) {
	t.Parallel()
	g, c := &group{under: 2}, &call{open: 1, wake: make(chan message, 2)}
	g.queue = items("a")
	g.queue[0].call = c
	g.handOn() // of the other leader
	g.done(g.take())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, g.leave(ctx, c))
	require.Zero(t, g.under)
	require.Zero(t, g.items)
}

// Two leaders end, and one waits: it is made a leader once, and the other's place is free.
func TestTheLeadIsHandedToNobodyTwice(t *testing.T) {
	t.Parallel()
	g, c := &group{under: 2}, &call{open: 1, wake: make(chan message, 2)}
	g.queue = items("a")
	g.queue[0].call = c
	g.handOn()
	g.handOn()
	require.Equal(t, 1, g.under)
	require.Len(t, c.wake, 1)
}

// A leader that panics does not leave the others waiting.
func TestALeaderThatPanics(t *testing.T) {
	t.Parallel()
	calls := 0
	g := &group{timeout: time.Minute, send: func(context.Context, []*item) {
		if calls++; calls == 1 {
			panic("!")
		}
	}}
	require.Panics(t, func() { _ = g.do(t.Context(), items("a")) })
	require.NoError(t, g.do(t.Context(), items("b")))
	require.Zero(t, g.under)
	require.Zero(t, g.items)
}
