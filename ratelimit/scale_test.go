package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// spy is a store that counts, fails, stalls, and remembers what it was asked.
type spy struct {
	Store
	mu        sync.Mutex
	questions int
	ops       []Op
	fail      func(calls []Call) error // before it is carried out
	lose      bool                     // carried out, and fails
	gate      chan struct{}            // waited for, if there is one
}

var errSpy = errors.New("store: down")

func newSpy() *spy { return &spy{Store: NewMemory(&MemoryOptions{Now: time.Now})} }

func (s *spy) Decide(ctx context.Context, calls []Call) []Reply {
	s.mu.Lock()
	s.questions++
	for _, c := range calls {
		s.ops = append(s.ops, c.Ops...)
	}
	fail, lose, gate := s.fail, s.lose, s.gate
	s.mu.Unlock()
	replies := make([]Reply, len(calls))
	var err error
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err == nil && fail != nil {
		err = fail(calls)
	}
	if err == nil {
		replies = s.Store.Decide(ctx, calls)
		if lose {
			err = errSpy
		}
	}
	for i := range replies {
		if err != nil {
			replies[i] = Reply{Err: err}
		}
	}
	return replies
}

// set changes how it behaves, and forgets what it was asked.
func (s *spy) set(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
	s.questions, s.ops = 0, nil
}

func (s *spy) asked() (questions int, ops []Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.questions, s.ops
}

func down([]Call) error { return errSpy }

// units sums up what ops of a kind were about.
func units(ops []Op, kind Kind) (n int64) {
	for i := range ops {
		if ops[i].Kind == kind {
			n += ops[i].N
		}
	}
	return n
}

func (s *spy) remaining(t *testing.T, l Limit, key string) int64 {
	r := s.Store.Decide(t.Context(), []Call{{Ops: []Op{{Kind: Peek, Limit: l, Key: key, N: 1}}}})[0]
	require.NoError(t, r.Err)
	return r.Outcomes[0].Remaining
}

func hybrid(t *testing.T, s Store, l Limit, o HybridOptions) *Hybrid {
	o.Nodes = max(1, o.Nodes)
	h, err := NewHybrid(s, l, &o)
	require.NoError(t, err)
	return h
}

func leased(t *testing.T, s Store, l Limit, o LeasedOptions) *Leased {
	o.Nodes = max(1, o.Nodes)
	d, err := NewLeased(s, l, &o)
	require.NoError(t, err)
	return d
}

// running runs until the test says stop, or has ended, and lets it begin first. For use in a bubble.
func running(t *testing.T, run func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	synctest.Wait()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// admit asks n times and returns how often it was allowed.
func admit(t *testing.T, d Decider, key string, n int) (allowed int64) {
	for range n {
		r, err := d.Allow(t.Context(), key)
		require.NoError(t, err)
		if r.Allowed {
			allowed++
		}
	}
	return allowed
}

func bubble(t *testing.T, do func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, do)
}

// quota is so much that hardly anything comes back during a test.
func quota(n int64) Limit { return Limit{Rate: n, Per: 360 * 24 * time.Hour} }

var every = []Algorithm{TokenBucket, GCRA, SlidingLog, SlidingCounter, FixedWindow}

func TestScaleFaults(t *testing.T) {
	t.Parallel()
	good := PerSecond(100)
	for name, err := range map[string]error{
		"nodes":       second(NewHybrid(newSpy(), good, nil)),
		"over":        second(NewHybrid(newSpy(), good, &HybridOptions{Nodes: 1, MaxOver: 1.5})),
		"limit":       second(NewHybrid(newSpy(), PerSecond(0), &HybridOptions{Nodes: 1})),
		"store":       second(NewHybrid(nil, good, &HybridOptions{Nodes: 1})),
		"concurrency": second(NewHybrid(newSpy(), good.As(Concurrency), &HybridOptions{Nodes: 1})),
		"period":      second(NewHybrid(newSpy(), good, &HybridOptions{Nodes: 1, Period: -1})),
		"keys":        second(NewHybrid(newSpy(), good, &HybridOptions{Nodes: 1, MaxKeys: -1})),
		"leasedKeys":  second(NewLeased(newSpy(), good, &LeasedOptions{Nodes: 1, MaxKeys: -1})),
		"leasedPlace": second(NewLeased(newSpy(), good.As(Concurrency), &LeasedOptions{Nodes: 1})),
		"leasedNodes": second(NewLeased(newSpy(), good, nil)),
		"reserve":     second(NewLeased(newSpy(), good, &LeasedOptions{Nodes: 1, Reserve: 2})),
		"leasedLimit": second(NewLeased(newSpy(), PerSecond(-1), &LeasedOptions{Nodes: 1})),
		"leasedBurst": second(NewLeased(newSpy(), good.As(FixedWindow).WithBurst(7), &LeasedOptions{Nodes: 1})),
		"leasedLog":   second(NewLeased(newSpy(), good.As(SlidingLog).WithBurst(7), &LeasedOptions{Nodes: 1})),
		"idle":        second(NewLeased(newSpy(), good, &LeasedOptions{Nodes: 1, Idle: -1})),
		"self":        second(NewOwned("", NewMembers("a"), func(string) Peer { return nil }, good, nil)),
		"members":     second(NewOwned("a", nil, nil, good, nil)),
		"owned":       second(NewOwned("a", NewMembers("a"), func(string) Peer { return nil }, good.As(Concurrency), nil)),
	} {
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	h := hybrid(t, newSpy(), good, HybridOptions{})
	for _, key := range []string{"", string(make([]byte, MaxKey+1))} {
		_, err := h.Allow(t.Context(), key)
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorIs(t, h.Reset(t.Context(), key), ErrInvalid)
		_, err = h.Peek(t.Context(), key)
		require.ErrorIs(t, err, ErrInvalid)
	}
	_, err := h.AllowN(t.Context(), "k", 0)
	require.ErrorIs(t, err, ErrInvalid)
}

func second[T any](_ T, err error) error { return err }

// Nothing depends on Run but the number of questions.
func TestWithoutRunTheStoreDecides(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, d := range []func(s Store) Decider{
			func(s Store) Decider { return hybrid(t, s, quota(50), HybridOptions{}) },
			func(s Store) Decider { return leased(t, s, quota(55), LeasedOptions{}) },
			func(s Store) Decider { return leased(t, s, quota(55).As(SlidingLog), LeasedOptions{}) },
			func(s Store) Decider { return leased(t, s, quota(50).As(FixedWindow), LeasedOptions{}) }, // of which none is held back
		} {
			s := newSpy()
			require.EqualValues(t, 50, admit(t, d(s), "k", 60))
			_, ops := s.asked()
			require.EqualValues(t, 51, units(ops, Take), "and a refusal is remembered")
		}
	})
}

// A lone client that waits as it is told is always admitted.
func TestScaledWaitIsEnough(t *testing.T) {
	for _, a := range every {
		for _, rate := range []int64{7, 100, 3000} {
			t.Run(fmt.Sprint(a, rate), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					l := Limit{Algorithm: a, Rate: rate, Per: time.Second}
					h, d := hybrid(t, newSpy(), l, HybridOptions{}), leased(t, newSpy(), l, LeasedOptions{})
					running(t, h.Run)
					running(t, d.Run)
					for _, who := range []Decider{h, d} {
						waits := 0
						for range min(4*rate, 6000) {
							r, err := who.Allow(t.Context(), "k")
							require.NoError(t, err)
							if r.Allowed {
								continue
							}
							waits++
							require.Positive(t, r.RetryAfter)
							require.LessOrEqual(t, r.RetryAfter, 2*time.Second)
							time.Sleep(r.RetryAfter)
							r, err = who.Allow(t.Context(), "k")
							require.NoError(t, err)
							require.True(t, r.Allowed, "%T, after %d waits", who, waits)
						}
						require.Positive(t, waits)
					}
				})
			})
		}
	}
}

// Who asks for more than what was refused a moment ago is told how long he has to wait for that, and not for what was refused.
func TestScaledWaitForMoreThanWasRefusedIsEnough(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, a := range []Algorithm{TokenBucket, SlidingLog, SlidingCounter, FixedWindow} {
			l := PerSecond(100).As(a)
			h, d := hybrid(t, newSpy(), l, HybridOptions{}), leased(t, newSpy(), l, LeasedOptions{})
			running(t, h.Run)
			running(t, d.Run)
			for _, by := range []Decider{h, d} {
				for range 20 {
					admit(t, by, "k", 5)
					time.Sleep(10 * time.Millisecond)
				}
				admit(t, by, "k", 100)
				r, err := by.AllowN(t.Context(), "k", 70)
				require.NoError(t, err)
				require.False(t, r.Allowed, "%T of %v", by, a)
				time.Sleep(r.RetryAfter)
				r, err = by.AllowN(t.Context(), "k", 70)
				require.NoError(t, err)
				require.True(t, r.Allowed, "%T of %v: %v more to wait", by, a, r.RetryAfter)
			}
		}
	})
}

// A store that panics when units are given back has failed, as one that panics when it is asked for some.
func TestRunSurvivesAStoreThatPanics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		d := leased(t, s, quota(1000), LeasedOptions{})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan any, 1)
		go func() {
			defer func() { ended <- recover() }()
			_ = d.Run(ctx)
		}()
		synctest.Wait()
		admit(t, d, "k", 1)
		s.set(func() { s.fail = func([]Call) error { panic("out of order") } })
		time.Sleep(3 * time.Second) // they are idle, and are given back
		_, ops := s.asked()
		require.Positive(t, units(ops, Return))
		require.Empty(t, ended)
		stop()
		require.Nil(t, <-ended)
	})
}

// Where Run does not end as it should the store decides, and nobody waits for an answer that nobody will get.
func TestNobodyWaitsForARunThatIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		var isUnknown atomic.Bool
		h := hybrid(t, s, quota(1000), HybridOptions{NodesNow: func() int {
			if isUnknown.Load() {
				panic("no registry")
			}
			return 1
		}})
		for _, fault := range []func(){
			func() { s.set(func() { s.fail = func([]Call) error { runtime.Goexit(); return nil } }) },
			func() { isUnknown.Store(true) },
		} {
			ended := make(chan any, 1)
			go func() {
				defer func() { ended <- recover() }()
				_ = h.Run(t.Context())
			}()
			synctest.Wait()
			admit(t, h, "k", 10)
			fault()
			<-ended
			s.set(func() { s.fail = nil })
			require.EqualValues(t, 200, admit(t, h, "k", 200))
			questions, _ := s.asked()
			require.Equal(t, 200, questions)
		}
	})
}

// The store hangs, and those who ask it leave before its time is up: who has more patience is not left waiting for one after the other of them.
func TestPatientCallerIsAnsweredBesideImpatientOnes(t *testing.T) {
	for _, start := range []func(t *testing.T, s Store) Decider{
		func(t *testing.T, s Store) Decider {
			h := hybrid(t, s, quota(1000), HybridOptions{})
			running(t, h.Run)
			return h
		},
		func(t *testing.T, s Store) Decider {
			d := leased(t, s, quota(1000), LeasedOptions{})
			running(t, d.Run)
			return d
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSpy()
			d := start(t, s)
			admit(t, d, "k", 99)
			s.set(func() { s.gate = make(chan struct{}) })
			end := time.Now().Add(2 * time.Second)
			for range 30 {
				go func() {
					for time.Now().Before(end) {
						ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
						_, err := d.AllowN(ctx, "k", 50)
						cancel()
						if err == nil {
							return // the breaker is open
						}
					}
				}()
				time.Sleep(200 * time.Microsecond)
			}
			begin := time.Now()
			r, err := d.AllowN(t.Context(), "k", 50)
			require.NoError(t, err)
			require.Equal(t, FromFailOpen, r.Source)
			require.LessOrEqual(t, time.Since(begin), 60*time.Millisecond)
			time.Sleep(3 * time.Second)
		})
	}
}

// Research's trap 17: what could not be reported is reported later, and until then the bound holds.
func TestLostAsyncBatches(t *testing.T) {
	for _, lose := range []bool{false, true} {
		t.Run(fmt.Sprint("carried out ", lose), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, limit := newSpy(), quota(1000)
				h := hybrid(t, s, limit, HybridOptions{Nodes: 2, Options: Options{OnError: FailClosed}})
				stop := running(t, h.Run)
				require.EqualValues(t, 1, admit(t, h, "k", 1))
				s.set(func() {
					if s.fail, s.lose = down, lose; lose {
						s.fail = nil
					}
				})
				require.EqualValues(t, 50, admit(t, h, "k", 200), "a bound, while the store is down")
				time.Sleep(10 * time.Second)
				require.Zero(t, admit(t, h, "k", 1))
				_, ops := s.asked()
				require.GreaterOrEqual(t, units(ops, Charge), int64(100), "it is tried again")
				s.set(func() { s.fail, s.lose = nil, false })
				time.Sleep(2 * time.Second)
				if !lose {
					require.EqualValues(t, 1000-51, s.remaining(t, limit, "k"))
				} else {
					require.LessOrEqual(t, s.remaining(t, limit, "k"), int64(1000-51), "twice at worst, never not at all")
				}
				require.NoError(t, stop())
			})
		})
	}
}

// One of a batch fails: the others are not reported twice.
func TestPartOfABatchFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		h := hybrid(t, partly{s, "bad"}, quota(1000), HybridOptions{})
		running(t, h.Run)
		admit(t, h, "good", 11)
		admit(t, h, "bad", 11)
		time.Sleep(time.Second)
		_, ops := s.asked()
		require.EqualValues(t, 10, units(ops, Charge))
		require.EqualValues(t, 1000-11, s.remaining(t, quota(1000), "good"))
	})
}

// partly does not answer for one key, but to takes.
type partly struct {
	Store
	bad string
}

func (p partly) Decide(ctx context.Context, calls []Call) []Reply {
	replies := make([]Reply, len(calls))
	for i, c := range calls {
		if c.Ops[0].Key == p.bad && c.Ops[0].Kind == Charge {
			replies[i].Err = errSpy
		} else {
			replies[i] = p.Store.Decide(ctx, []Call{c})[0]
		}
	}
	return replies
}

// Of keys that nobody uses there are no questions, and those that are used go together.
func TestIdleKeysAreNotSynced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		h := hybrid(t, s, quota(1000), HybridOptions{Nodes: 5})
		running(t, h.Run)
		for i := range 1000 {
			require.EqualValues(t, 3, admit(t, h, strconv.Itoa(i), 3))
		}
		s.set(func() {})
		time.Sleep(250 * time.Millisecond)
		questions, ops := s.asked()
		require.EqualValues(t, 2000, units(ops, Charge))
		require.Equal(t, 2, questions, "512 keys each")
		s.set(func() {})
		time.Sleep(time.Minute)
		questions, _ = s.asked()
		require.Zero(t, questions)
	})
}

// What two processes have admitted too much is repaid before anybody is admitted again.
func TestNegativeBalanceIsRepaid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), PerSecond(1000).WithBurst(1000)
		a := hybrid(t, s, limit, HybridOptions{Nodes: 2})
		b := hybrid(t, s, limit, HybridOptions{Nodes: 2})
		running(t, a.Run)
		running(t, b.Run)
		got := admit(t, a, "k", 1) + admit(t, b, "k", 1) // both know of nearly all
		got += admit(t, a, "k", 2000)
		got += admit(t, b, "k", 2000) // it knew of 998
		require.Greater(t, got, int64(1000))
		require.LessOrEqual(t, got, int64(1100))
		time.Sleep(time.Microsecond)
		require.NoError(t, second(b.AllowN(t.Context(), "k", 60))) // more than its bound: all is told
		least := s.remaining(t, limit, "k")
		require.Negative(t, least)
		require.GreaterOrEqual(t, least, int64(-100))
		r, err := b.Allow(t.Context(), "k")
		require.NoError(t, err)
		require.False(t, r.Allowed)
		time.Sleep(time.Duration(-least) * time.Millisecond)
		require.Zero(t, admit(t, a, "k", 1)+admit(t, b, "k", 1), "nothing before it is repaid")
		time.Sleep(200 * time.Millisecond)
		require.Positive(t, admit(t, a, "k", 1))
	})
}

// A process that is gone takes its bound along, and no more.
func TestCrashLosesAtMostItsBound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), quota(1000)
		h := hybrid(t, s, limit, HybridOptions{Nodes: 10})
		running(t, h.Run)
		require.EqualValues(t, 1+10+1+10, admit(t, h, "k", 1+10+1+10)) // take, bound, charge and take, bound
		s.set(func() { s.fail = down })                                // which ends Run's reports, too
		require.EqualValues(t, 1000-12, s.remaining(t, limit, "k"))
	})
}

// A bound of less than a unit is none: the store decides.
func TestBoundUnderOneIsSynchronous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		h := hybrid(t, s, quota(100), HybridOptions{Nodes: 11})
		running(t, h.Run)
		require.EqualValues(t, 100, admit(t, h, "k", 200))
		time.Sleep(time.Second)
		_, ops := s.asked()
		require.EqualValues(t, 101, units(ops, Take))
		require.Zero(t, units(ops, Charge))
	})
}

func TestChangedNumberOfNodes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		var nodes atomic.Int64
		nodes.Store(1)
		h := hybrid(t, s, quota(1000), HybridOptions{NodesNow: func() int { return int(nodes.Load()) }})
		running(t, h.Run)
		admit(t, h, "k", 61)
		nodes.Store(20)
		time.Sleep(250 * time.Millisecond)
		s.set(func() {})
		admit(t, h, "k", 60)
		questions, _ := s.asked()
		require.Equal(t, 10, questions, "each sixth")
	})
}

// A changed limit holds at once, both ways, and what was used stays so.
func TestChangedLimitAtRunTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var limit atomic.Pointer[Limit]
		set := func(l Limit) { limit.Store(&l) }
		set(quota(100))
		o := Options{LimitFor: func(context.Context, string) Limit { return *limit.Load() }}
		h := hybrid(t, newSpy(), quota(100), HybridOptions{Options: o})
		d := leased(t, newSpy(), quota(100), LeasedOptions{Options: o, Reserve: 0.05})
		running(t, h.Run)
		running(t, d.Run)
		for _, who := range []Decider{h, d} {
			set(quota(100))
			first := admit(t, who, "k", 150)
			require.InDelta(t, 100, first, 5)
			require.Zero(t, admit(t, who, "k", 10))
			set(quota(200))
			require.InDelta(t, 200-first, admit(t, who, "k", 150), 10)
			set(quota(10))
			require.Zero(t, admit(t, who, "k", 10))
			set(Limit{})
			require.ErrorIs(t, second(who.Allow(t.Context(), "k")), ErrInvalid)
		}
	})
}

// A clock that is set back does not refuse a key for longer, and does not make an old batch good.
func TestClockStepsBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var offset atomic.Int64
		o := Options{Now: func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }}
		for _, a := range every {
			l := Limit{Algorithm: a, Rate: 100, Per: time.Second}
			h, d := hybrid(t, newSpy(), l, HybridOptions{Options: o}), leased(t, newSpy(), l, LeasedOptions{Options: o})
			stopH, stopD := running(t, h.Run), running(t, d.Run)
			for _, who := range []Decider{h, d} {
				admit(t, who, "k", 500)
				offset.Add(-int64(time.Hour))
				time.Sleep(2 * time.Second)
				require.Positive(t, admit(t, who, "k", 1), "%v %T", a, who)
			}
			require.NoError(t, errors.Join(stopH(), stopD()))
		}
	})
}

// At ten times the limit, on one key: at least 100 checks for a question. At half of it, 200 a second: at least 10.
func TestQuestionsPerCheck(t *testing.T) {
	for _, c := range []struct {
		cell
		least float64
	}{
		{cell{rate: 1000, nodes: 2, demand: 10}, 100},
		{cell{rate: 1000, nodes: 1, demand: 10}, 100},
		{cell{rate: 1600, nodes: 4, demand: 0.5}, 10},
		{cell{algorithm: SlidingLog, rate: 1000, nodes: 2, demand: 10}, 100},
		{cell{algorithm: SlidingCounter, rate: 1000, nodes: 2, demand: 10}, 100},
		{cell{algorithm: FixedWindow, rate: 1000, nodes: 2, demand: 10}, 100},
	} {
		c.period, c.fault, c.seed = 100*time.Millisecond, noFault, 7
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			for _, who := range []contestant{hybrids, leases} {
				m := c.simulate(t, who)
				per := float64(m.checks) / float64(m.questions)
				t.Logf("%s: %.0f checks a question", who.name, per)
				require.GreaterOrEqual(t, per, c.least, who.name)
			}
		})
	}
}

func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), quota(1000)
		h := hybrid(t, s, limit, HybridOptions{})
		stop := running(t, h.Run)
		require.ErrorContains(t, h.Run(t.Context()), "running already")
		admit(t, h, "k", 42)
		require.NoError(t, stop())
		require.EqualValues(t, 1000-42, s.remaining(t, limit, "k"))
		admit(t, h, "k", 1)
		require.EqualValues(t, 1000-43, s.remaining(t, limit, "k"), "afterwards every check is the store's")

		stop = running(t, h.Run) // it may run again
		admit(t, h, "k", 10)
		s.set(func() { s.fail = down })
		require.ErrorContains(t, stop(), "1 counters could not be told to the store: store: down")
	})
}

// A caller who hangs up while it asks for others does not fail them.
func TestCallerHangsUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		h := hybrid(t, s, quota(1000), HybridOptions{Options: Options{OnError: FailClosed, Timeout: time.Second}})
		running(t, h.Run)
		gate := make(chan struct{})
		s.set(func() { s.gate = gate })
		ctx, cancel := context.WithCancel(t.Context())
		var first, other error
		var r Result
		var all sync.WaitGroup
		all.Go(func() { _, first = h.Allow(ctx, "k") })
		synctest.Wait()
		all.Go(func() { r, other = h.Allow(context.Background(), "k") })
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(gate)
		all.Wait()
		require.ErrorIs(t, first, context.Canceled)
		require.NoError(t, other)
		require.True(t, r.Allowed)
		require.Equal(t, FromStore, r.Source)
	})
}

// A thousand callers at the bound are one question; when the store hangs, all have the policy's answer in its time.
func TestCallersWaitForOneQuestion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSpy()
		h := hybrid(t, s, quota(1000), HybridOptions{Options: Options{Timeout: 20 * time.Millisecond}, Nodes: 10})
		running(t, h.Run)
		admit(t, h, "k", 11)
		s.set(func() { s.gate = make(chan struct{}) })
		begin := time.Now()
		var all sync.WaitGroup
		var open atomic.Int64
		for range 1000 {
			all.Go(func() {
				if r, err := h.Allow(context.Background(), "k"); err == nil && r.Allowed && r.Source == FromFailOpen {
					open.Add(1)
				}
			})
		}
		all.Wait()
		require.Equal(t, 20*time.Millisecond, time.Since(begin))
		require.EqualValues(t, 1000, open.Load())
		questions, _ := s.asked()
		require.Equal(t, 1, questions)
	})
}

// While no process can reach the store, each has its share of what comes back, and that is charged afterwards.
func TestFallbackBeginsEmptyAndIsCharged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), PerSecond(1000)
		h := hybrid(t, s, limit, HybridOptions{Nodes: 10, Options: Options{OnError: FailLocal, Share: 0.1}})
		running(t, h.Run)
		require.EqualValues(t, 1, admit(t, h, "k", 1))
		s.set(func() { s.fail = down })
		require.EqualValues(t, 10, admit(t, h, "k", 100), "the bound")
		time.Sleep(500 * time.Millisecond)
		got := admit(t, h, "k", 100)
		require.InDelta(t, 50, got, 1, "half a second's share")
		s.set(func() { s.fail = nil })
		time.Sleep(3 * time.Second)
		_, ops := s.asked()
		require.Equal(t, 10+got, units(ops, Charge))
		r, err := h.Allow(t.Context(), "k")
		require.NoError(t, err)
		require.NotEqual(t, FromFallback, r.Source)
	})
}

// What a process holds when Run ends is given back, of however many batches it is; of a log what the last one was.
func TestUnitsOfSeveralBatchesAreGivenBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, a := range every {
			s, l := newSpy(), Limit{Algorithm: a, Rate: 11_000, Per: 360 * 24 * time.Hour, Burst: 11_000}
			d := leased(t, s, l, LeasedOptions{})
			stop := running(t, d.Run)
			used := int64(0)
			for batches := 0; batches < 3; used++ {
				before, _ := s.asked()
				require.EqualValues(t, 1, admit(t, d, "k", 1))
				synctest.Wait() // a batch is asked for before the last one is used up
				if after, _ := s.asked(); after > before {
					batches++
				}
			}
			require.NoError(t, stop())
			_, ops := s.asked()
			lost := units(ops, Take) - units(ops, Return) - used
			if a == SlidingLog {
				require.Positive(t, lost)
				require.LessOrEqual(t, lost, int64(100), "a quarter of a batch")
			} else {
				require.Zero(t, lost, "%v", a)
			}
		}
	})
}

// Units that nobody has used for a while are not lost where a question for more is just on its way.
func TestIdleUnitsAreNotLostBesideAQuestion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), quota(1100)
		d := leased(t, s, limit, LeasedOptions{Options: Options{Timeout: time.Second}})
		stop := running(t, d.Run)
		admit(t, d, "k", 1)
		time.Sleep(950 * time.Millisecond) // all but idle
		gate := make(chan struct{})
		s.set(func() { s.gate = gate })
		var all sync.WaitGroup
		all.Go(func() {
			if r, err := d.AllowN(context.Background(), "k", 40); err != nil || !r.Allowed { // more than it holds
				t.Errorf("%+v %v", r, err)
			}
		})
		time.Sleep(400 * time.Millisecond)
		s.set(func() { s.gate = nil })
		close(gate)
		all.Wait()
		require.NoError(t, stop())
		require.EqualValues(t, 1000-41, s.remaining(t, d.local.limiter.limit.Limit, "k"))
	})
}

// More keys than there is room for cost questions, and nothing that has to be told is forgotten.
func TestBoundedNumberOfKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, other, limit := newSpy(), newSpy(), quota(1000)
		h := hybrid(t, s, limit, HybridOptions{MaxKeys: 128})
		d := leased(t, other, limit, LeasedOptions{MaxKeys: 128})
		stop, stopLeased := running(t, h.Run), running(t, d.Run)
		for i := range 2000 {
			require.EqualValues(t, 3, admit(t, h, strconv.Itoa(i), 3))
			require.EqualValues(t, 3, admit(t, d, strconv.Itoa(i), 3))
		}
		for _, c := range []*local{h.local, d.local} {
			n := 0
			for i := range c.shards {
				n += len(c.shards[i].entries)
			}
			require.LessOrEqual(t, n, 128)
		}
		require.NoError(t, errors.Join(stop(), stopLeased()))
		for i := range 2000 {
			require.EqualValues(t, 997, s.remaining(t, limit, strconv.Itoa(i)))
			l := d.local.limiter.limit.Limit
			require.Equal(t, l.Burst-3, other.remaining(t, l, strconv.Itoa(i)), "what a key held that made way is given back")
		}
	})
}

// A key that has not told of its units does not make way: it would come back and have a second bound beside the first.
func TestUntoldKeyDoesNotMakeWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), quota(1000)
		h := hybrid(t, s, limit, HybridOptions{Nodes: 2, MaxKeys: 1, Period: time.Hour})
		running(t, h.Run)
		d := h.local.limiter.limit.digest
		other := "0"
		for i := 1; d(other)%localShards != d("k")%localShards; i++ {
			other = strconv.Itoa(i)
		}
		for n := int64(40); n <= 400; n += 40 {
			require.EqualValues(t, 40, admit(t, h, "k", 40))
			require.EqualValues(t, 1, admit(t, h, other, 1))
			require.LessOrEqual(t, n-(1000-s.remaining(t, limit, "k")), int64(50), "not told")
		}
	})
}

// What is admitted while a report is on its way is no part of the answer, and is not left any more.
func TestWhatIsAdmittedBesideAReportCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, limit := newSpy(), quota(100)
		h := hybrid(t, s, limit, HybridOptions{Options: Options{Timeout: time.Second, OnError: FailClosed}})
		running(t, h.Run)
		require.EqualValues(t, 7, admit(t, h, "k", 1+6)) // of the bound of 10, 6 are to be told
		others := Op{Limit: limit.Normal(), Key: "k", N: 87}
		require.NoError(t, s.Store.Decide(t.Context(), []Call{{Ops: []Op{others}}})[0].Err)
		gate := make(chan struct{})
		s.set(func() { s.gate = gate })
		time.Sleep(200 * time.Millisecond) // the first pass leaves alone what has just been asked for
		require.EqualValues(t, 4, admit(t, h, "k", 4))
		s.set(func() { s.gate = nil })
		close(gate)
		synctest.Wait()
		require.EqualValues(t, 100-87-7-4, admit(t, h, "k", 20), "the process has now told of all, and knows of all")
	})
}

// A batch of a window is not used after the window, though the clock was set back, and though a peek was the first to see that.
func TestClockThatIsSetBackMakesNoBatchGood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var offset atomic.Int64
		o := Options{Now: func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }}
		for _, a := range []Algorithm{FixedWindow, SlidingCounter} {
			s := newSpy()
			d := leased(t, s, Limit{Algorithm: a, Rate: 1100, Per: time.Second}, LeasedOptions{Options: o, Idle: time.Hour})
			stop := running(t, d.Run)
			admit(t, d, "k", 5)
			s.set(func() {})
			require.EqualValues(t, 1, admit(t, d, "k", 1))
			questions, _ := s.asked()
			require.Zero(t, questions, "there is a batch")
			for peeks := range 2 {
				offset.Add(-int64(time.Hour))
				time.Sleep(2 * time.Second)
				s.set(func() {})
				for range peeks {
					r, err := d.Peek(t.Context(), "k")
					require.NoError(t, err)
					require.Equal(t, FromStore, r.Source, "%v", a)
				}
				require.EqualValues(t, 1, admit(t, d, "k", 1))
				_, ops := s.asked()
				require.Positive(t, units(ops, Take), "%v after %d peeks", a, peeks)
			}
			require.NoError(t, stop())
		}
	})
}

func TestLocalPeekAndReset(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, start := range []func(s Store) Decider{
			func(s Store) Decider { h := hybrid(t, s, quota(1000), HybridOptions{}); running(t, h.Run); return h },
			func(s Store) Decider { d := leased(t, s, quota(1000), LeasedOptions{}); running(t, d.Run); return d },
		} {
			s := newSpy()
			d := start(s)
			r, err := d.Peek(t.Context(), "k")
			require.NoError(t, err)
			require.Equal(t, FromStore, r.Source)
			require.True(t, r.Allowed)
			admit(t, d, "k", 2)
			s.set(func() {})
			r, err = d.Peek(t.Context(), "k")
			require.NoError(t, err)
			require.Equal(t, FromLocal, r.Source)
			require.True(t, r.Allowed)
			require.InDelta(t, 998, r.Remaining, 91)
			require.LessOrEqual(t, r.Remaining, int64(998))
			admit(t, d, "k", 2000)
			r, err = d.Peek(t.Context(), "k")
			require.NoError(t, err)
			require.False(t, r.Allowed)
			require.Positive(t, r.RetryAfter)
			require.NoError(t, d.Reset(t.Context(), "k"))
			require.EqualValues(t, 500, admit(t, d, "k", 500))
			r, err = d.AllowN(t.Context(), "k", 100_000)
			require.NoError(t, err)
			require.Equal(t, Never, r.RetryAfter)
			s.set(func() { s.fail = down })
			require.ErrorIs(t, d.Reset(t.Context(), "k"), errSpy)
		}
	})
}

// Many goroutines on few keys, in real time and under the race detector: no more than the limit and MaxOver are admitted.
func TestScaledUnderRace(t *testing.T) {
	t.Parallel()
	limit := quota(20_000)
	store := slow{NewMemory(nil)}
	var admitted [2][3]atomic.Int64
	var all, runs sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range 4 {
		h := hybrid(t, store, limit.Named("hybrid"), HybridOptions{Nodes: 4, Period: time.Millisecond, Options: Options{Timeout: time.Minute}})
		d := leased(t, store, limit.Named("leased"), LeasedOptions{Nodes: 4, Options: Options{Timeout: time.Minute}})
		runs.Go(func() { _ = h.Run(ctx) })
		runs.Go(func() { _ = d.Run(ctx) })
		for g := range 8 {
			all.Go(func() {
				for i := range 12_000 {
					who := (i + g) % 2
					r, err := []Decider{h, d}[who].AllowN(ctx, strconv.Itoa(i%3), int64(1+i%5))
					if err == nil && r.Allowed {
						admitted[who][i%3].Add(int64(1 + i%5))
					}
				}
			})
		}
	}
	all.Wait()
	stop()
	runs.Wait()
	for k := range 3 {
		require.LessOrEqual(t, admitted[0][k].Load(), int64(22_100), "hybrid") // some come back meanwhile
		require.LessOrEqual(t, admitted[1][k].Load(), int64(20_100), "leased")
		require.Greater(t, admitted[0][k].Load(), int64(19_900))
		require.Greater(t, admitted[1][k].Load(), int64(16_000))
	}
}

// slow hides that the store is in memory.
type slow struct{ m *Memory }

func (s slow) Decide(ctx context.Context, calls []Call) []Reply { return s.m.Decide(ctx, calls) }

// The way that most calls go costs no allocation.
func TestLocalDecisionsDoNotAllocate(t *testing.T) {
	h := hybrid(t, slow{NewMemory(nil)}, quota(1_000_000_000/2), HybridOptions{})
	d := leased(t, slow{NewMemory(nil)}, quota(1_000_000_000/2), LeasedOptions{})
	ctx, stop := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	runs.Go(func() { _ = h.Run(ctx) })
	runs.Go(func() { _ = d.Run(ctx) })
	defer runs.Wait()
	defer stop()
	for _, who := range []Decider{h, d} {
		require.Eventually(t, func() bool {
			r, err := who.Allow(ctx, "k")
			return err == nil && r.Source == FromLocal
		}, time.Minute, time.Millisecond)
		require.InDelta(t, 0, testing.AllocsPerRun(10_000, func() { _, _ = who.Allow(ctx, "k") }), 0.5)
	}
}

// runs is a Hybrid or a Leased.
type runs interface {
	Decider
	Run(ctx context.Context) error
}

// late holds the answers to takes.
type late struct {
	Store
	gate chan struct{}
}

func (l late) Decide(ctx context.Context, calls []Call) []Reply {
	replies := l.Store.Decide(ctx, calls)
	if calls[0].Ops[0].Kind == Take {
		<-l.gate
	}
	return replies
}

// A key that is hammered is reset: who is refused before the store has done so, and hears of it at once or only afterwards, has nobody refused here.
func TestLocalResetOutlastsARefusalThatIsOnItsWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit, o := Limit{Rate: 100, Per: time.Hour}, Options{Timeout: time.Minute}
		for _, start := range []func(s Store) runs{
			func(s Store) runs { return hybrid(t, s, limit, HybridOptions{Options: o}) },
			func(s Store) runs { return leased(t, s, limit, LeasedOptions{Options: o}) },
		} {
			for _, isRun := range []bool{true, false} {
				for _, isLate := range []bool{true, false} {
					resetUnderFire(t, start, isRun, isLate)
				}
			}
		}
	})
}

func resetUnderFire(t *testing.T, start func(s Store) runs, isRun, isLate bool) {
	s := newSpy()
	d, other := start(s), start(s)
	if isRun {
		running(t, d.Run)
	}
	admit(t, other, "k", 200) // d knows nothing of it yet
	reset, answer := make(chan struct{}), make(chan struct{})
	s.set(func() {
		s.fail = func(calls []Call) error {
			if calls[0].Ops[0].Kind == Reset {
				<-reset
			}
			return nil
		}
		s.Store = late{s.Store, answer}
	})
	if !isLate {
		close(answer)
	}
	var all sync.WaitGroup
	all.Go(func() {
		if err := d.Reset(context.Background(), "k"); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	for range 2 { // where Run does not run both ask
		all.Go(func() {
			if _, err := d.Allow(context.Background(), "k"); err != nil {
				t.Error(err)
			}
		})
	}
	synctest.Wait()
	close(reset)
	synctest.Wait()
	if isLate {
		close(answer)
	}
	all.Wait()
	require.EqualValues(t, 1, admit(t, d, "k", 1), "%T runs %v, late %v", d, isRun, isLate)
}
