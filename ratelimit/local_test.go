package ratelimit

import (
	"context"
	"math"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Each test is of one guard of local, and fails without it.

// neighbour is a key that shares a shard with another.
func neighbour(c *local, key string) string {
	d := c.limiter.limit.digest
	for i := 0; ; i++ {
		if other := strconv.Itoa(i); d(other)%localShards == d(key)%localShards && other != key {
			return other
		}
	}
}

// changing is a limit that a test changes.
type changing struct{ atomic.Pointer[Limit] }

func (c *changing) set(l Limit) { c.Store(&l) }

func (c *changing) options() Options {
	return Options{Timeout: time.Minute, LimitFor: func(context.Context, string) Limit { return *c.Load() }}
}

func TestChangedLimitHasItsOwnBound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var limit changing
		limit.set(quota(1000))
		s := newSpy()
		h := hybrid(t, s, quota(1000), HybridOptions{Options: limit.options(), Period: time.Hour})
		running(t, h.Run)
		admitted := admit(t, h, "k", 1)
		limit.set(quota(20)) // of which 2 need not be told
		for range 15 {
			admitted += admit(t, h, "k", 1)
			require.LessOrEqual(t, admitted-(20-s.remaining(t, quota(20), "k")), int64(2), "not told")
		}
	})
}

func TestAnswerOfAnOldLimitSaysNothingOfTheNewOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, c := range []struct {
			used, to   int64
			old, fresh bool
		}{
			{500, 20, true, false},
			{500, 900, true, true},
			{1000, 20, false, false},
		} {
			for _, start := range []func(s Store, o Options) runs{
				func(s Store, o Options) runs { return hybrid(t, s, quota(1000), HybridOptions{Options: o}) },
				func(s Store, o Options) runs { return leased(t, s, quota(1000), LeasedOptions{Options: o}) },
			} {
				var limit changing
				limit.set(quota(1000))
				s := newSpy()
				d := start(s, limit.options())
				stop := running(t, d.Run)
				others := Op{Kind: Charge, Limit: quota(1000), Key: "k", N: c.used}
				require.NoError(t, s.Store.Decide(t.Context(), []Call{{Ops: []Op{others}}})[0].Err)
				gate := make(chan struct{})
				s.set(func() { s.gate = gate })
				var all sync.WaitGroup
				var old, fresh Result
				all.Go(func() { old, _ = d.Allow(context.Background(), "k") })
				synctest.Wait()
				limit.set(quota(c.to))
				all.Go(func() { fresh, _ = d.Allow(context.Background(), "k") })
				synctest.Wait()
				close(gate)
				all.Wait()
				require.Equal(t, c.old, old.Allowed, "%T %+v", d, c)
				require.Equal(t, c.fresh, fresh.Allowed, "%T %+v", d, c)
				require.NoError(t, stop())
			}
		}
	})
}

func TestUnitsOfAnOldLimitAreGivenBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var limit changing
		limit.set(quota(1100))
		s := newSpy()
		d := leased(t, s, quota(1100), LeasedOptions{Options: limit.options(), Idle: time.Hour})
		running(t, d.Run)
		require.EqualValues(t, 1, admit(t, d, "k", 1))
		_, ops := s.asked()
		held := units(ops, Take) - 1
		require.Positive(t, held)
		limit.set(quota(5)) // of which nothing may be held
		require.Zero(t, admit(t, d, "k", 1), "until then they are used")
		time.Sleep(2 * leasePeriod)
		_, ops = s.asked()
		require.Equal(t, held, units(ops, Return))
	})
}

// What a key holds that has made way is given back at once, and not when it would have been idle: until then it would be remembered all the same.
func TestUnitsOfAKeyThatMadeWayAreGivenBackAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		d := leased(t, s, quota(1100), LeasedOptions{MaxKeys: 1, Idle: time.Hour})
		running(t, d.Run)
		require.EqualValues(t, 1, admit(t, d, "k", 1))
		require.EqualValues(t, 1, admit(t, d, neighbour(d.local, "k"), 1))
		time.Sleep(2 * leasePeriod)
		l := d.local.limiter.limit.Limit
		require.Equal(t, l.Burst-1, s.remaining(t, l, "k"))
	})
}

// A key that is being asked about does not make way, or what comes of it would be nobody's.
func TestKeyThatIsAskedAboutDoesNotMakeWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		d := leased(t, s, quota(1100), LeasedOptions{Options: Options{Timeout: time.Minute}, MaxKeys: 1, Idle: time.Hour})
		running(t, d.Run)
		gate := make(chan struct{})
		s.set(func() {
			s.fail = func(calls []Call) error {
				if calls[0].Ops[0].Key == "k" {
					<-gate
				}
				return nil
			}
		})
		var all sync.WaitGroup
		all.Go(func() { _, _ = d.Allow(context.Background(), "k") })
		synctest.Wait()
		r, err := d.Allow(t.Context(), neighbour(d.local, "k"))
		require.NoError(t, err)
		require.True(t, r.Allowed)
		require.Equal(t, FromStore, r.Source)
		close(gate)
		all.Wait()
		questions, _ := s.asked()
		require.Equal(t, 2, questions, "each was asked about once")
	})
}

// A key for which there is no room is decided by the store, else by the policy, and by neither for a caller who has left.
func TestKeyWithoutRoomIsDecidedByTheStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), quota(1000)
		h := hybrid(t, s, limit, HybridOptions{Options: Options{OnError: FailClosed}, MaxKeys: 1, Period: time.Hour})
		running(t, h.Run)
		require.EqualValues(t, 2, admit(t, h, "k", 2)) // of which it has to tell
		other := neighbour(h.local, "k")
		r, err := h.Allow(t.Context(), other)
		require.NoError(t, err)
		require.Equal(t, FromStore, r.Source)
		require.True(t, r.Allowed)
		require.EqualValues(t, 999, s.remaining(t, limit, other))
		s.set(func() { s.fail = down })
		r, err = h.Allow(t.Context(), other)
		require.NoError(t, err)
		require.Equal(t, FromFailClosed, r.Source)
		require.False(t, r.Allowed)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = h.Allow(gone, other)
		require.ErrorIs(t, err, context.Canceled)
	})
}

// Somebody else is always faster to ask, and hangs up: who waits asks beside him when Options.Timeout has passed since the first did.
func TestWhoIsAlwaysTooLateAsksBeside(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		h := hybrid(t, s, quota(1000), HybridOptions{Options: Options{Timeout: 80 * time.Millisecond}})
		running(t, h.Run)
		admit(t, h, "k", 1)
		c := h.local
		shard, d := c.find(c.limiter.limit, "k")
		e, f := shard.entries[d], &flight{done: make(chan struct{})}
		e.flight = f
		faster := func(err error) { // the flight ends, and another is under way before anybody else wakes
			shard.mu.Lock()
			c.land(e, f, err, err != nil)
			f = &flight{done: make(chan struct{})}
			e.flight = f
			shard.mu.Unlock()
			synctest.Wait()
		}
		type answer struct {
			Result
			err error
		}
		answers := make(chan answer, 1)
		ask := func(ctx context.Context) {
			go func() {
				r, err := h.AllowN(ctx, "k", 150)
				answers <- answer{r, err}
			}()
			synctest.Wait()
			faster(context.Canceled)
		}
		soon := func(answered int) {
			time.Sleep(40 * time.Millisecond)
			faster(context.Canceled)
			time.Sleep(39 * time.Millisecond)
			synctest.Wait()
			require.Empty(t, answers)
			time.Sleep(time.Millisecond)
			synctest.Wait()
			require.Len(t, answers, answered)
		}

		ask(context.Background())
		for range 7 {
			time.Sleep(10 * time.Millisecond)
			faster(context.Canceled)
		}
		faster(nil) // the store answers somebody
		time.Sleep(80 * time.Millisecond)
		synctest.Wait()
		require.Empty(t, answers)
		faster(context.Canceled)
		soon(1)
		r := <-answers
		require.NoError(t, r.err)
		require.True(t, r.Allowed)
		require.Equal(t, FromStore, r.Source)
		require.EqualValues(t, 1000-1-150, s.remaining(t, quota(1000), "k"))

		s.set(func() { s.fail = down })
		ask(context.Background())
		soon(1)
		r = <-answers
		require.NoError(t, r.err)
		require.Equal(t, FromFailOpen, r.Source, "the store does not answer him either")

		s.set(func() { s.gate = make(chan struct{}) })
		ctx, cancel := context.WithCancel(t.Context())
		ask(ctx)
		soon(0)
		cancel()
		require.ErrorIs(t, (<-answers).err, context.Canceled, "he leaves while he asks")
		shard.mu.Lock()
		c.land(e, f, nil, false)
		shard.mu.Unlock()
	})
}

// A caller whose goroutine the store ends leaves nobody waiting.
func TestNobodyWaitsForACallerWhoIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		h := hybrid(t, s, quota(1000), HybridOptions{Options: Options{Timeout: time.Minute}})
		running(t, h.Run)
		gate := make(chan struct{})
		s.set(func() {
			s.fail = func([]Call) error {
				<-gate
				runtime.Goexit()
				return nil
			}
		})
		go func() { _, _ = h.Allow(context.Background(), "k") }()
		synctest.Wait()
		answers := make(chan Result, 1)
		go func() {
			r, err := h.Allow(context.Background(), "k")
			if err != nil {
				t.Error(err)
			}
			answers <- r
		}()
		synctest.Wait()
		close(gate)
		synctest.Wait()
		require.Len(t, answers, 1)
		require.Equal(t, FromFailOpen, (<-answers).Source)
	})
}

// What has to be told is told by one of those who ask at the same time.
func TestUntoldUnitsAreToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), quota(1000)
		h := hybrid(t, s, limit, HybridOptions{Options: Options{Timeout: time.Minute}})
		stop := running(t, h.Run)
		admit(t, h, "k", 11)
		s.set(func() { s.fail = down })
		require.Error(t, stop())
		gate := make(chan struct{})
		s.set(func() { s.fail, s.gate = nil, gate })
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { _, _ = h.Allow(context.Background(), "k") })
		}
		synctest.Wait()
		close(gate)
		all.Wait()
		_, ops := s.asked()
		require.EqualValues(t, 10, units(ops, Charge))
		require.EqualValues(t, 1000-11-3, s.remaining(t, limit, "k"))
	})
}

// Run ends when a question that a caller has on its way is answered, and has told all by then.
func TestRunWaitsForWhatCallersHaveOnItsWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), quota(1000)
		h := hybrid(t, s, limit, HybridOptions{Options: Options{Timeout: time.Minute}, Period: time.Hour})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- h.Run(ctx) }()
		synctest.Wait()
		admit(t, h, "k", 11)
		admit(t, h, "other", 1)
		gate := make(chan struct{})
		s.set(func() { s.gate = gate })
		go func() { _, _ = h.AllowN(context.Background(), "k", 100) }()
		synctest.Wait()
		require.EqualValues(t, 1, admit(t, h, "k", 1))
		stop()
		synctest.Wait()
		require.Empty(t, ended)
		answers := make(chan Result, 1)
		go func() {
			r, _ := h.Allow(context.Background(), "other")
			answers <- r
		}()
		synctest.Wait()
		require.Empty(t, answers, "the store decides on it")
		close(gate)
		require.NoError(t, <-ended)
		require.Equal(t, FromStore, (<-answers).Source)
		require.EqualValues(t, 1000-11-100-1, s.remaining(t, limit, "k"))
	})
}

// few is a store that leaves answers out.
type few struct {
	Store
	replies, outcomes int
}

func (f few) Decide(ctx context.Context, calls []Call) []Reply {
	replies := f.Store.Decide(ctx, calls)
	for i := range replies {
		replies[i].Outcomes = replies[i].Outcomes[:f.outcomes]
	}
	return replies[:f.replies]
}

func TestStoreThatAnswersTooLittleHasFailed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, s := range []few{{NewMemory(nil), 0, 1}, {NewMemory(nil), 1, 0}} {
			h := hybrid(t, s, quota(1000), HybridOptions{Options: Options{OnError: FailClosed}})
			r, err := h.Allow(t.Context(), "k")
			require.NoError(t, err)
			require.Equal(t, FromFailClosed, r.Source)
		}
	})
}

// backwards is a store that decides on the last call first, as one may that is asked over several connections, and fails some.
type backwards struct {
	Store
	fail func(c Call, several bool) bool
}

func (b backwards) Decide(ctx context.Context, calls []Call) []Reply {
	replies := make([]Reply, len(calls))
	for i := len(calls) - 1; i >= 0; i-- {
		if replies[i].Err = errSpy; b.fail == nil || !b.fail(calls[i], len(calls) > 1) {
			replies[i] = b.Store.Decide(ctx, calls[i:i+1])[0]
		}
	}
	return replies
}

// A check and the report that goes along may be carried out in either order. What is left is what both have left.
func TestReportThatIsCarriedOutAfterItsCheck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		h := hybrid(t, backwards{Store: s}, quota(100), HybridOptions{Period: time.Hour})
		running(t, h.Run)
		others := Op{Limit: quota(100), Key: "k", N: 75}
		require.NoError(t, s.Store.Decide(t.Context(), []Call{{Ops: []Op{others}}})[0].Err)
		require.EqualValues(t, 25, admit(t, h, "k", 100))
	})
}

// Of a check and the report that goes along either may fail, and the other not.
func TestReportOrItsCheckFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, fails := range []Kind{Charge, Take} {
			s := newSpy()
			b := backwards{Store: s, fail: func(c Call, several bool) bool { return several && c.Ops[0].Kind == fails }}
			h := hybrid(t, b, quota(150), HybridOptions{Options: Options{OnError: FailClosed}, Period: time.Hour})
			stop := running(t, h.Run)
			admit(t, h, "k", 16) // 15 are to be told
			r, err := h.Allow(t.Context(), "k")
			require.NoError(t, err)
			require.Equal(t, fails == Charge, r.Allowed)
			_, ops := s.asked()
			require.Equal(t, map[Kind]int64{Charge: 0, Take: 15}[fails], units(ops, Charge))
			require.NoError(t, stop())
			_, ops = s.asked()
			require.EqualValues(t, 15, units(ops, Charge), "once in the end")
		}
	})
}

// A call takes what is held and the rest from the store. Where the limit changes meanwhile, what was held is given back and not used as well.
func TestUnitsAreNotGivenBackAndUsed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var limit changing
		limit.set(quota(1100))
		s := newSpy()
		d := leased(t, s, quota(1100), LeasedOptions{Options: limit.options()})
		stop := running(t, d.Run)
		used := admit(t, d, "k", 1)
		gate := make(chan struct{})
		s.set(func() { s.gate = gate })
		var all sync.WaitGroup
		var r Result
		all.Go(func() { r, _ = d.AllowN(context.Background(), "k", 40) })
		synctest.Wait()
		limit.set(quota(550))
		all.Go(func() { _, _ = d.AllowN(context.Background(), "k", 500) })
		synctest.Wait()
		close(gate)
		all.Wait()
		require.True(t, r.Allowed)
		used += 40
		require.NoError(t, stop())
		_, ops := s.asked()
		left := s.remaining(t, d.local.limiter.limit.Limit, "k")
		require.LessOrEqual(t, left, 1000-used, "%+v", ops)
	})
}

// Each time that a store fails the policy's own limiter begins with nothing for a key that was counted: meanwhile its burst has come back, and was
// used at the store.
func TestFallbackBeginsEmptyEachTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		h := hybrid(t, s, PerSecond(8), HybridOptions{Options: Options{OnError: FailLocal}}) // decided by the store, check by check
		running(t, h.Run)
		for range 3 {
			s.set(func() { s.fail = nil })
			time.Sleep(3 * time.Second)
			require.EqualValues(t, 8, admit(t, h, "k", 9))
			time.Sleep(time.Second / 8)
			s.set(func() { s.fail = down })
			require.Zero(t, admit(t, h, "k", 9))
		}
		require.EqualValues(t, 8, admit(t, h, "another", 9), "which was not counted")
		time.Sleep(time.Second)
		require.EqualValues(t, 8, admit(t, h, "k", 9))
		s.set(func() { s.fail = nil })
		time.Sleep(3 * time.Second)
		_, ops := s.asked()
		require.EqualValues(t, 8+8, units(ops, Charge), "which is told")
	})
}

// What the policy admits without counting is not told afterwards.
func TestUncountedUnitsAreNotTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		h := hybrid(t, s, quota(1000), HybridOptions{})
		stop := running(t, h.Run)
		admit(t, h, "k", 1)
		s.set(func() { s.fail = down })
		require.EqualValues(t, 500, admit(t, h, "k", 500))
		s.set(func() { s.fail = nil })
		time.Sleep(2 * time.Second)
		require.NoError(t, stop())
		_, ops := s.asked()
		require.EqualValues(t, 100, units(ops, Charge))
	})
}

func TestResetForgetsWhatIsNotTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), quota(1000)
		h := hybrid(t, s, limit, HybridOptions{Options: Options{Timeout: time.Minute}})
		stop := running(t, h.Run)
		admit(t, h, "k", 11)
		require.NoError(t, h.Reset(t.Context(), "k"))
		time.Sleep(time.Second)
		require.EqualValues(t, 1000, s.remaining(t, limit, "k"))

		admit(t, h, "k", 11)
		gate := make(chan struct{})
		s.set(func() { s.gate = gate })
		time.Sleep(time.Second) // it is being told
		admit(t, h, "k", 1)
		done := make(chan error, 1)
		go func() { done <- h.Reset(context.Background(), "k") }()
		synctest.Wait()
		close(gate)
		require.NoError(t, <-done)
		require.NoError(t, stop())
		require.EqualValues(t, 1000, s.remaining(t, limit, "k"))
	})
}

// Peek asks the store where what is known here is of another limit, or of a Run that has ended.
func TestPeekTellsNothingOld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var limit changing
		limit.set(quota(1000))
		s := newSpy()
		h := hybrid(t, s, quota(1000), HybridOptions{Options: limit.options()})
		stop := running(t, h.Run)
		peek := func() Result {
			r, err := h.Peek(t.Context(), "k")
			require.NoError(t, err)
			return r
		}
		require.Equal(t, FromStore, peek().Source)
		admit(t, h, "k", 2)
		require.Equal(t, FromLocal, peek().Source)
		limit.set(quota(500))
		require.Equal(t, FromStore, peek().Source)
		limit.set(quota(1000))
		require.NoError(t, stop())
		require.Equal(t, FromStore, peek().Source)
	})
}

// There is one process at least, whatever is told.
func TestNoNodesAreOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		none := func() int { return 0 }
		s := newSpy()
		for _, d := range []runs{
			hybrid(t, s, quota(1000), HybridOptions{NodesNow: none}),
			leased(t, s, quota(1000), LeasedOptions{NodesNow: none}),
		} {
			running(t, d.Run)
			require.EqualValues(t, 2, admit(t, d, "k", 2))
			r, err := d.Allow(t.Context(), "k")
			require.NoError(t, err)
			require.Equal(t, FromLocal, r.Source)
		}
	})
}

// Of what is to be told one report is on its way at a time, a caller's or Run's.
func TestOneReportAtATime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, callersFirst := range []bool{true, false} {
			s, limit := newSpy(), quota(1000)
			h := hybrid(t, s, limit, HybridOptions{Options: Options{Timeout: time.Minute}})
			stop := running(t, h.Run)
			admit(t, h, "k", 11)
			gate := make(chan struct{})
			s.set(func() { s.gate = gate })
			if !callersFirst {
				time.Sleep(250 * time.Millisecond) // the second pass tells
			}
			var all sync.WaitGroup
			all.Go(func() { _, _ = h.AllowN(context.Background(), "k", 200) })
			synctest.Wait()
			time.Sleep(250 * time.Millisecond)
			questions, _ := s.asked()
			require.Equal(t, 1, questions)
			close(gate)
			all.Wait()
			require.NoError(t, stop())
			require.EqualValues(t, 1000-11-200, s.remaining(t, limit, "k"))
		}
	})
}

// A batch that comes before it is needed is no report: nothing was admitted that the store has not been told of.
func TestBatchIsNoReport(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		d := leased(t, s, quota(11_000), LeasedOptions{Options: Options{OnError: FailLocal}})
		stop := running(t, d.Run)
		for s.early() == 0 {
			require.EqualValues(t, 1, admit(t, d, "k", 1))
			synctest.Wait()
		}
		shard, key := d.local.find(d.local.limiter.limit, "k")
		require.Zero(t, shard.entries[key].pending)
		require.NoError(t, stop())
	})
}

// early is how many takes were asked for ahead of need, at least one unit each and more if they are there.
func (s *spy) early() (n int) {
	_, ops := s.asked()
	for i := range ops[min(1, len(ops)):] {
		if ops[i+1].Min == 1 && ops[i+1].N > 1 {
			n++
		}
	}
	return n
}

func TestRunThatIsGoneLeavesNothingOnItsWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), quota(1000)
		h := hybrid(t, s, limit, HybridOptions{Options: Options{Timeout: time.Minute}})
		go func() { _ = h.Run(context.Background()) }()
		synctest.Wait()
		admit(t, h, "k", 11)
		gate := make(chan struct{})
		s.set(func() {
			s.fail = func([]Call) error {
				<-gate
				runtime.Goexit()
				return nil
			}
		})
		time.Sleep(250 * time.Millisecond) // Run tells
		answers := make(chan Result, 1)
		go func() {
			r, _ := h.AllowN(context.Background(), "k", 200)
			answers <- r
		}()
		synctest.Wait()
		close(gate)
		synctest.Wait()
		require.Len(t, answers, 1)
		require.Equal(t, FromFailOpen, (<-answers).Source)
		s.set(func() { s.fail = nil })
		stop := running(t, h.Run)
		require.NoError(t, stop())
		require.EqualValues(t, 1000-11, s.remaining(t, limit, "k"))
	})
}

// The answer to a report of before the limit changed says nothing of what is left under the new one.
func TestReportOfAnOldLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var limit changing
		limit.set(quota(1000))
		s := newSpy()
		h := hybrid(t, s, quota(1000), HybridOptions{Options: limit.options()})
		running(t, h.Run)
		others := Op{Limit: quota(1000), Key: "k", N: 500}
		require.NoError(t, s.Store.Decide(t.Context(), []Call{{Ops: []Op{others}}})[0].Err)
		admit(t, h, "k", 11)
		gate := make(chan struct{})
		s.set(func() { s.gate = gate })
		time.Sleep(250 * time.Millisecond) // Run tells
		limit.set(quota(20))
		answers := make(chan Result, 1)
		go func() {
			r, _ := h.Allow(context.Background(), "k")
			answers <- r
		}()
		synctest.Wait()
		close(gate)
		require.False(t, (<-answers).Allowed)
	})
}

// A key that makes way gives back both what it holds and what it held of a window that is over.
func TestUnitsOfTwoWindowsAreGivenBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		d := leased(t, s, Limit{Algorithm: SlidingCounter, Rate: 1100, Per: 40 * time.Millisecond}, LeasedOptions{MaxKeys: 1, Idle: time.Hour})
		running(t, d.Run)
		time.Sleep(40*time.Millisecond - time.Duration(time.Now().UnixNano()%int64(40*time.Millisecond)))
		used := admit(t, d, "k", 1)
		time.Sleep(40 * time.Millisecond)
		used += admit(t, d, "k", 1)
		_, ops := s.asked()
		held := units(ops, Take) - used
		admit(t, d, neighbour(d.local, "k"), 1)
		time.Sleep(2 * leasePeriod)
		_, ops = s.asked()
		require.Equal(t, held, units(ops, Return))
	})
}

// The bound is of the lesser of rate and burst.
func TestBoundIsOfTheLesser(t *testing.T) {
	t.Parallel()
	for _, l := range []Limit{PerSecond(100).WithBurst(1000), PerSecond(1000).WithBurst(100)} {
		p, err := planOf(l)
		require.NoError(t, err)
		require.EqualValues(t, 5, (&hybridMode{over: 0.1}).bound(p, 2))
		require.EqualValues(t, 5, (&leasedMode{reserve: 0.1}).bound(p, 2))
	}
}

// A question is asked in one window and decided in the next: what is held of the first is not used in the second.
func TestUnitsOfOneWindowAreNotUsedInTheNext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		d := leased(t, s, Limit{Algorithm: FixedWindow, Rate: 1100, Per: time.Second}, LeasedOptions{Options: Options{Timeout: time.Minute}, Idle: time.Hour})
		running(t, d.Run)
		time.Sleep(time.Second - time.Duration(time.Now().UnixNano()%int64(time.Second)))
		require.EqualValues(t, 1, admit(t, d, "k", 1))
		time.Sleep(900 * time.Millisecond)
		gate := make(chan struct{})
		s.set(func() { s.gate = gate })
		var all sync.WaitGroup
		var r Result
		all.Go(func() { r, _ = d.AllowN(context.Background(), "k", 40) })
		time.Sleep(200 * time.Millisecond)
		close(gate)
		all.Wait()
		require.True(t, r.Allowed)
		require.LessOrEqual(t, 40+admit(t, d, "k", 1500), int64(1100))
	})
}

// Units that a caller's question brings when Run is to end are given back, though nothing was held before.
func TestRunGivesBackWhatCallersHaveOnItsWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		d := leased(t, s, quota(11_000), LeasedOptions{Options: Options{Timeout: time.Minute}})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		synctest.Wait()
		gate := make(chan struct{})
		s.set(func() { s.gate = gate })
		go func() { _, _ = d.Allow(context.Background(), "k") }()
		synctest.Wait()
		stop()
		synctest.Wait()
		require.Empty(t, ended)
		close(gate)
		require.NoError(t, <-ended)
		require.EqualValues(t, 10_000-1, s.remaining(t, d.local.limiter.limit.Limit, "k"))
	})
}

// What the policy has admitted is charged, also where a batch is asked for before that.
func TestBatchLeavesWhatIsNotTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		d := leased(t, s, PerSecond(11_000), LeasedOptions{Options: Options{OnError: FailLocal, Failures: -1}, Idle: time.Hour})
		stop := running(t, d.Run)
		take := func(n int64) Result {
			r, err := d.AllowN(t.Context(), "k", n)
			require.NoError(t, err)
			return r
		}
		take(1)
		take(1000/8 - 1 - 32) // of the first batch 32 are left, a quarter and no less
		s.set(func() { s.fail = down })
		take(33)
		time.Sleep(time.Second)
		require.Equal(t, FromFallback, take(33).Source)
		s.set(func() { s.fail = nil })
		require.Equal(t, FromLocal, take(1).Source)
		synctest.Wait()
		_, ops := s.asked()
		require.Positive(t, units(ops, Take), "the next batch")
		require.NoError(t, stop())
		_, ops = s.asked()
		require.EqualValues(t, 33, units(ops, Charge))
	})
}

// A number that is far beyond any limit, as a client may claim of a body, is refused by the store where this process does not know the counter yet.
func TestHugeCallOfAnUnknownCounter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		l := PerSecond(7) // no unit comes back after whole microseconds
		h := hybrid(t, s, l, HybridOptions{Options: Options{Timeout: time.Minute}})
		s.Store.Decide(t.Context(), []Call{{Ops: []Op{{Kind: Charge, Limit: l, Key: "k", N: 7}}}})
		gate := make(chan struct{})
		s.set(func() { s.gate = gate })
		go func() { _, _ = h.Allow(context.Background(), "k") }()
		synctest.Wait()
		s.set(func() { s.gate = nil })
		require.Zero(t, admit(t, h, "k", 1), "beside the first, of which nothing is known yet")
		r, err := h.AllowN(t.Context(), "k", math.MaxInt64)
		require.NoError(t, err)
		require.Equal(t, Never, r.RetryAfter)
		close(gate)
	})
}

// What was admitted under a larger limit is told, also where the policy admits something under a small one before that.
func TestUntoldUnitsOutlastASmallerLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var limit changing
		limit.set(quota(1000))
		s, o := newSpy(), limit.options()
		o.OnError, o.Failures = FailLocal, -1
		h := hybrid(t, s, quota(1000), HybridOptions{Options: o, Period: time.Hour})
		stop := running(t, h.Run)
		require.EqualValues(t, 91, admit(t, h, "k", 91))
		s.set(func() { s.fail = down })
		limit.set(quota(10))
		require.EqualValues(t, 1, admit(t, h, "k", 1))
		limit.set(quota(1000))
		s.set(func() { s.fail = nil })
		require.EqualValues(t, 1, admit(t, h, "k", 1))
		require.NoError(t, stop())
		require.EqualValues(t, 1000-92, s.remaining(t, quota(1000), "k"))
	})
}

// A lone client that waits as it is told is admitted, also where its process asks for no crumbs any more.
func TestPromisedUnitsAreNoCrumbs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, a := range []Algorithm{SlidingLog, SlidingCounter, FixedWindow} {
			s := newSpy()
			d := leased(t, s, PerSecond(3000).As(a), LeasedOptions{})
			running(t, d.Run)
			for range 9000 {
				r, err := d.Allow(t.Context(), "k")
				require.NoError(t, err)
				synctest.Wait() // Run asks for the next batch as soon as it can
				if r.Allowed {
					continue
				}
				time.Sleep(r.RetryAfter)
				require.EqualValues(t, 1, admit(t, d, "k", 1), "%v: %v", a, r.RetryAfter)
				synctest.Wait()
			}
		}
	})
}
