package ratelimit_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ratelimit"
)

var errDown = errors.New("store is down")

// remote is a store of which the limiter does not know that it is in memory.
type remote struct {
	memory *ratelimit.Memory
	calls  atomic.Int64
	down   atomic.Bool
	slow   atomic.Int64 // ns that an answer takes
}

func newRemote() *remote {
	return &remote{memory: ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: time.Now})}
}

func (r *remote) Decide(ctx context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	r.calls.Add(1)
	fail := func(err error) []ratelimit.Reply {
		replies := make([]ratelimit.Reply, len(calls))
		for i := range replies {
			replies[i].Err = err
		}
		return replies
	}
	if d := time.Duration(r.slow.Load()); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return fail(context.Cause(ctx))
		}
	}
	if r.down.Load() {
		return fail(errDown)
	}
	return r.memory.Decide(ctx, calls)
}

// limiterOn is a limiter on a remote store.
func limiterOn(t testing.TB, l ratelimit.Limit, o *ratelimit.Options) (*ratelimit.Limiter, *remote) {
	t.Helper()
	r := newRemote()
	limiter, err := ratelimit.New(r, l, o)
	require.NoError(t, err)
	return limiter, r
}

func allow(t testing.TB, l *ratelimit.Limiter, key string) ratelimit.Result {
	t.Helper()
	r, err := l.Allow(t.Context(), key)
	require.NoError(t, err)
	return r
}

func TestPoliciesOfAStoreThatFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policy  ratelimit.OnError
		source  ratelimit.Source
		allowed []bool
	}{
		{ratelimit.FailOpen, ratelimit.FromFailOpen, []bool{true, true, true}},
		{ratelimit.FailClosed, ratelimit.FromFailClosed, []bool{false, false, false}},
		{ratelimit.FailLocal, ratelimit.FromFallback, []bool{true, true, false}},
	} {
		var failures []error
		l, store := limiterOn(t, ratelimit.PerMinute(4), &ratelimit.Options{
			OnError: c.policy, Share: 0.5, Hooks: ratelimit.Hooks{OnStoreError: func(err error) { failures = append(failures, err) }},
		})
		store.down.Store(true)
		for i, want := range c.allowed {
			r := allow(t, l, "k")
			require.Equal(t, want, r.Allowed, "%v, call %d", c.source, i)
			require.Equal(t, c.source, r.Source)
			require.Equal(t, !want, r.RetryAfter > 0)
		}
		require.Equal(t, []error{errDown, errDown, errDown}, failures)
		never, err := l.AllowN(t.Context(), "k", 5)
		require.NoError(t, err)
		require.False(t, never.Allowed, "more than there can ever be")
		require.Equal(t, ratelimit.Never, never.RetryAfter)
		require.Error(t, l.Reset(t.Context(), "k"), "nobody can stand in for a reset")
	}
}

// Half of a limit can be one that cannot be counted exactly. A store that fails must not bring a process down over it.
func TestShareThatCannotBeCounted(t *testing.T) {
	t.Parallel()
	whole := ratelimit.Limit{Rate: 500_000_000, Per: time.Second, Burst: 1_000_000_000}
	require.NoError(t, whole.Validate())
	part := whole
	part.Rate, part.Burst = 166_666_666, 333_333_333
	require.Error(t, part.Validate())
	l, store := limiterOn(t, whole, &ratelimit.Options{OnError: ratelimit.FailLocal, Share: 1. / 3})
	store.down.Store(true)
	r := allow(t, l, "k")
	require.True(t, r.Allowed)
	require.Equal(t, ratelimit.FromFallback, r.Source)
}

func TestFaultsOfACallAreErrorsUnderEveryPolicy(t *testing.T) {
	t.Parallel()
	bad := ratelimit.Limit{}
	l, store := limiterOn(t, ratelimit.PerMinute(4), &ratelimit.Options{LimitFor: func(_ context.Context, key string) ratelimit.Limit {
		if key == "bad" {
			return bad
		}
		return ratelimit.PerMinute(4)
	}})
	for _, call := range []func() error{
		func() error { _, err := l.Allow(t.Context(), ""); return err },
		func() error { _, err := l.AllowN(t.Context(), "k", 0); return err },
		func() error { _, err := l.AllowN(t.Context(), "k", -1); return err },
		func() error { _, err := l.Allow(t.Context(), string(make([]byte, ratelimit.MaxKey+1))); return err },
		func() error { _, err := l.Allow(t.Context(), "bad"); return err },
		func() error { _, err := l.All(t.Context()); return err },
		func() error { _, err := l.All(t.Context(), ratelimit.Check{Limit: bad, Key: "k"}); return err },
		func() error { _, err := l.Acquire(t.Context(), "k", 1); return err },
		func() error { return l.WaitN(t.Context(), "k", 0) },
		func() error { return l.Reset(t.Context(), "") },
	} {
		require.ErrorIs(t, call(), ratelimit.ErrInvalid)
	}
	_, err := l.AllowN(t.Context(), "k", -1)
	require.EqualError(t, err, "ratelimit: n is not at least 1: -1")
	_, err = l.All(t.Context())
	require.EqualError(t, err, "ratelimit: checks are not 1 to 32: 0")
	same := ratelimit.Check{Limit: ratelimit.PerMinute(4), Key: "k"}
	_, err = l.All(t.Context(), same, same)
	require.ErrorContains(t, err, "ratelimit: checks have one counter twice")
	_, err = l.All(t.Context(), ratelimit.Check{Limit: ratelimit.PerMinute(4).As(ratelimit.Concurrency), Key: "k"})
	require.ErrorContains(t, err, "ratelimit: algorithm is concurrency", "a check has no holder that could be at fault")
	require.Zero(t, store.calls.Load(), "a store was asked of nonsense")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = l.Allow(ended, "k")
	require.ErrorIs(t, err, context.Canceled, "who is gone is not admitted by the policy")
}

// The breaker leaves a dead store alone, and lets one caller of a herd see whether it is back.
func TestBreakerHalfOpensWithoutAHerd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var changes []bool
		l, store := limiterOn(t, ratelimit.PerMinute(1000), &ratelimit.Options{Hooks: ratelimit.Hooks{OnBreaker: func(open bool) { changes = append(changes, open) }}})
		store.down.Store(true)
		for range 100 {
			require.Equal(t, ratelimit.FromFailOpen, allow(t, l, "k").Source)
		}
		require.EqualValues(t, 5, store.calls.Load(), "it opens at the fifth failure in a row")
		time.Sleep(time.Second)
		store.slow.Store(int64(10 * time.Millisecond))
		done := make(chan ratelimit.Source, 64)
		for range 64 {
			go func() {
				r, _ := l.Allow(t.Context(), "k")
				done <- r.Source
			}()
		}
		for range 64 {
			require.Equal(t, ratelimit.FromFailOpen, <-done)
		}
		require.EqualValues(t, 6, store.calls.Load(), "one of 64 asks when it half-opens")
		store.down.Store(false)
		time.Sleep(time.Second)
		require.Equal(t, ratelimit.FromStore, allow(t, l, "k").Source)
		require.Equal(t, ratelimit.FromStore, allow(t, l, "k").Source)
		require.Equal(t, []bool{true, false}, changes)
	})
}

// A call that is not to be decided, as of keys in several slots, is no sign of life: the store need not have been asked.
func TestFaultOfACallClosesNoBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var changes []bool
		faulty := silent{replies: func(int) []ratelimit.Reply { return []ratelimit.Reply{{Err: ratelimit.ErrInvalid}} }}
		down := silent{replies: func(int) []ratelimit.Reply { return []ratelimit.Reply{{Err: errDown}} }}
		store := &silent{}
		l, err := ratelimit.New(store, ratelimit.PerMinute(4), &ratelimit.Options{
			Hooks: ratelimit.Hooks{OnBreaker: func(open bool) { changes = append(changes, open) }},
		})
		require.NoError(t, err)
		ask := func(as silent) {
			*store = as
			_, _ = l.Allow(t.Context(), "k")
		}
		for range 5 {
			ask(down)
			ask(faulty)
		}
		require.Equal(t, []bool{true}, changes, "five failures in a row")
		time.Sleep(time.Second)
		ask(faulty)
		require.Equal(t, []bool{true}, changes)
		ask(down)
	})
}

// A clock that is set back an hour neither refuses a key nor leaves a store alone for an hour.
func TestClockOfAProcessThatIsSetBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Int64
		o := ratelimit.Options{Now: func() time.Time { return time.Now().Round(0).Add(-time.Duration(back.Load())) }}
		refused, _ := limiterOn(t, ratelimit.PerSecond(1), &o)
		failing, store := limiterOn(t, ratelimit.PerSecond(100), &o)
		require.True(t, allow(t, refused, "k").Allowed)
		require.False(t, allow(t, refused, "k").Allowed)
		store.down.Store(true)
		for range 6 {
			require.Equal(t, ratelimit.FromFailOpen, allow(t, failing, "k").Source)
		}
		store.down.Store(false)
		back.Store(int64(time.Hour))
		time.Sleep(2 * time.Second)
		require.True(t, allow(t, refused, "k").Allowed)
		require.Equal(t, ratelimit.FromStore, allow(t, failing, "k").Source)
	})
}

// silent is a store that answers too little.
type silent struct {
	ratelimit.Store
	replies func(n int) []ratelimit.Reply
}

func (s silent) Decide(_ context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	return s.replies(len(calls))
}

// A store of somebody else's, or a peer of another version, that answers too little has failed. It must not bring its callers down.
func TestAStoreThatAnswersTooLittleHasFailed(t *testing.T) {
	t.Parallel()
	for name, replies := range map[string]func(n int) []ratelimit.Reply{
		"no reply":       func(int) []ratelimit.Reply { return nil },
		"no outcome":     func(n int) []ratelimit.Reply { return make([]ratelimit.Reply, n) },
		"too many":       func(n int) []ratelimit.Reply { return make([]ratelimit.Reply, n+1) },
		"one outcome":    func(n int) []ratelimit.Reply { return []ratelimit.Reply{{Outcomes: make([]ratelimit.Outcome, n)}} },
		"three outcomes": func(n int) []ratelimit.Reply { return []ratelimit.Reply{{Outcomes: make([]ratelimit.Outcome, n+2)}} },
	} {
		l, err := ratelimit.New(silent{replies: replies}, ratelimit.PerMinute(4), nil)
		require.NoError(t, err)
		both, err := l.All(t.Context(), ratelimit.Check{Limit: ratelimit.PerMinute(4), Key: "a"}, ratelimit.Check{Limit: ratelimit.PerMinute(4), Key: "b"})
		require.NoError(t, err, name)
		require.Equal(t, ratelimit.FromFailOpen, both.Each[1].Source, name)
		if name == "one outcome" {
			continue
		}
		require.Equal(t, ratelimit.FromFailOpen, allow(t, l, "k").Source, name)
		r, err := l.Reserve(t.Context(), "k", 1, 0)
		require.NoError(t, err)
		require.Equal(t, ratelimit.FromFailOpen, r.Result.Source, name)
		require.Error(t, l.Reset(t.Context(), "k"), name)
	}
}

func TestNoAnswerTakesLongerThanTheTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, store := limiterOn(t, ratelimit.PerMinute(10), nil)
		store.slow.Store(int64(time.Hour))
		start := time.Now()
		require.Equal(t, ratelimit.FromFailOpen, allow(t, l, "k").Source)
		require.Equal(t, 20*time.Millisecond, time.Since(start))
	})
}

// At ten times the limit a question is asked for each call that is admitted, and one for each wait.
func TestDeniedKeysAreAnsweredLocally(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, store := limiterOn(t, ratelimit.PerSecond(10), nil)
		allowed := 0
		for range 1000 { // 100/s for 10 s
			r := allow(t, l, "k")
			if r.Allowed {
				allowed++
			} else {
				require.Positive(t, r.RetryAfter)
			}
			time.Sleep(10 * time.Millisecond)
		}
		require.Equal(t, 109, allowed, "10 to begin with, then 10 a second")
		require.LessOrEqual(t, store.calls.Load(), int64(220), "a call that is admitted and one that is refused each 100 ms")

		for range 10 {
			allow(t, l, "k")
		}
		before := store.calls.Load()
		require.Equal(t, ratelimit.FromDenyCache, allow(t, l, "k").Source)
		require.Equal(t, before, store.calls.Load())
		require.NoError(t, l.Reset(t.Context(), "k"))
		require.Equal(t, ratelimit.FromStore, allow(t, l, "k").Source, "a reset is seen at once")
	})
}

// Who asks for more than what was refused a moment ago is told how long he has to wait for that, and not for what was refused.
func TestDeniedKeyThatAsksForMoreWaitsForAllOfIt(t *testing.T) {
	t.Parallel()
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.SlidingLog, ratelimit.SlidingCounter, ratelimit.FixedWindow} {
		synctest.Test(t, func(t *testing.T) {
			l, store := limiterOn(t, ratelimit.PerSecond(10).As(a), nil)
			for range 10 {
				require.True(t, allow(t, l, "k").Allowed)
				time.Sleep(20 * time.Millisecond)
			}
			time.Sleep(time.Second / 4)
			for r := allow(t, l, "k"); r.Allowed; { // so that the refusal of one unit is remembered
				r = allow(t, l, "k")
			}
			asked := store.calls.Load()
			r, err := l.AllowN(t.Context(), "k", 7)
			require.NoError(t, err)
			require.False(t, r.Allowed, "%v", a)
			if a == ratelimit.TokenBucket {
				require.Equal(t, asked, store.calls.Load(), "it can be computed here")
			}
			time.Sleep(r.RetryAfter)
			r, err = l.AllowN(t.Context(), "k", 7)
			require.NoError(t, err)
			require.True(t, r.Allowed, "%v: %v more to wait", a, r.RetryAfter)
		})
	}
}

// What is given back is there at once, also for who was refused because it was taken: of a log that may be an hour sooner.
func TestWhatIsGivenBackIsNotDenied(t *testing.T) {
	t.Parallel()
	l, _ := limiterOn(t, ratelimit.PerHour(1).As(ratelimit.SlidingLog), nil)
	r, err := l.Reserve(t.Context(), "k", 1, 0)
	require.NoError(t, err)
	require.False(t, allow(t, l, "k").Allowed)
	require.NoError(t, r.Cancel(t.Context()))
	require.True(t, allow(t, l, "k").Allowed)
}

func TestAllAsksNothingWhenOneCheckIsDenied(t *testing.T) {
	t.Parallel()
	l, store := limiterOn(t, ratelimit.PerSecond(10), nil)
	checks := []ratelimit.Check{{Limit: ratelimit.PerHour(1).Named("user"), Key: "u"}, {Limit: ratelimit.PerHour(100).Named("all"), Key: "u"}}
	first, err := l.All(t.Context(), checks...)
	require.NoError(t, err)
	require.True(t, first.Allowed)
	second, err := l.All(t.Context(), checks...)
	require.NoError(t, err)
	require.False(t, second.Allowed)
	require.Equal(t, 0, second.Tightest())
	asked := store.calls.Load()
	third, err := l.All(t.Context(), checks...)
	require.NoError(t, err)
	require.False(t, third.Allowed)
	require.Equal(t, []ratelimit.Source{ratelimit.FromDenyCache, ratelimit.NotAsked}, []ratelimit.Source{third.Each[0].Source, third.Each[1].Source})
	require.Equal(t, asked, store.calls.Load())
	left, err := l.All(t.Context(), ratelimit.Check{Limit: checks[1].Limit, Key: "u"})
	require.NoError(t, err)
	require.EqualValues(t, 98, left.Each[0].Remaining, "refused calls have charged nothing")
}

// A key that is hammered is reset: who is refused before the store has done so, and hears of it only afterwards, leaves no refusal behind.
func TestResetOutlastsARefusalThatIsOnItsWay(t *testing.T) {
	t.Parallel()
	for _, resetFirst := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			held := &heldAnswers{remote: newRemote(), gate: make(chan struct{})}
			l, err := ratelimit.New(held, ratelimit.PerHour(1), &ratelimit.Options{Timeout: time.Minute})
			require.NoError(t, err)
			require.True(t, allow(t, l, "k").Allowed)
			ask := func() { require.False(t, allow(t, l, "k").Allowed) }
			reset := func() { require.NoError(t, l.Reset(t.Context(), "k")) }
			if resetFirst { // the reset is slow to get to the store, and others are refused meanwhile
				held.before.Store(int64(ratelimit.Reset))
				go reset()
				synctest.Wait()
				ask()
				close(held.gate)
			} else { // the refusal is slow to come back
				held.after.Store(true)
				go ask()
				synctest.Wait()
				held.after.Store(false)
				reset()
				close(held.gate)
			}
			synctest.Wait()
			require.True(t, allow(t, l, "k").Allowed)
		})
	}
}

// heldAnswers holds calls of a kind before they are carried out, or all afterwards.
type heldAnswers struct {
	*remote
	before atomic.Int64
	after  atomic.Bool
	gate   chan struct{}
}

func (h *heldAnswers) Decide(ctx context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	if kind := h.before.Load(); kind != 0 && calls[0].Ops[0].Kind == ratelimit.Kind(kind) {
		<-h.gate
	}
	after := h.after.Load()
	replies := h.remote.Decide(ctx, calls)
	if after {
		<-h.gate
	}
	return replies
}
