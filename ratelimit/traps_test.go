package ratelimit_test

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/race"
	"github.com/safetill/safetill/ratelimit"
)

// Each test is named after a way in which rate limiters have gone wrong.

// hand is a clock that is set by hand.
type hand struct {
	mu sync.Mutex
	at time.Time
}

func newHand() *hand { return &hand{at: time.UnixMicro(1_700_000_000_000_000)} }

func (h *hand) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

func (h *hand) move(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = h.at.Add(d)
}

func inMemory(t testing.TB, l ratelimit.Limit, h *hand) *ratelimit.Limiter {
	t.Helper()
	limiter, err := ratelimit.New(ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: h.now}), l, nil)
	require.NoError(t, err)
	return limiter
}

func TestPeriodOfNoWholeSecond(t *testing.T) {
	t.Parallel()
	h := newHand()
	l := inMemory(t, ratelimit.Limit{Rate: 1, Per: 1900 * time.Millisecond}, h)
	admitted := 0
	for range 150 {
		if allow(t, l, "k").Allowed {
			admitted++
		}
		h.move(100 * time.Millisecond)
	}
	require.Equal(t, 8, admitted, "1 in 1.9 s, for 15 s")
}

func TestNoTokenIsLostToRounding(t *testing.T) {
	t.Parallel()
	store := ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: newHand().now})
	for burst := int64(1); burst <= 10_000; burst++ {
		l, err := ratelimit.New(store, ratelimit.PerSecond(burst).Named(strconv.FormatInt(burst, 10)), nil)
		require.NoError(t, err)
		if burst <= 300 {
			for range burst {
				require.True(t, allow(t, l, "k").Allowed, "burst %d", burst)
			}
		} else {
			r, err := l.AllowN(t.Context(), "k", burst-1)
			require.NoError(t, err)
			require.Equal(t, int64(1), r.Remaining, "burst %d", burst)
			require.True(t, allow(t, l, "k").Allowed, "burst %d", burst)
		}
		require.False(t, allow(t, l, "k").Allowed, "burst %d", burst)
	}
}

func TestSteadyClientGetsAllThatIsHis(t *testing.T) {
	t.Parallel()
	for _, rate := range []int64{1, 3, 7, 10, 30, 333, 999_983} {
		h := newHand()
		burst := int64(1)
		if 1_000_000%rate != 0 {
			burst = 2 // his clock has microseconds, and calls are due between them
		}
		l := inMemory(t, ratelimit.PerSecond(rate).WithBurst(burst), h)
		start := h.at
		for i := range 2000 {
			h.at = start.Add(time.Duration((int64(i)*1_000_000+rate-1)/rate) * time.Microsecond) // just when it is due
			require.True(t, allow(t, l, "k").Allowed, "%d/s, call %d", rate, i)
		}
	}
}

func TestClockThatGoesBackAndForthGivesNothingAway(t *testing.T) {
	t.Parallel()
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.SlidingLog, ratelimit.SlidingCounter, ratelimit.FixedWindow} {
		h := newHand()
		limit := ratelimit.PerSecond(1000).As(a)
		if a == ratelimit.TokenBucket {
			limit = limit.WithBurst(10)
		}
		l := inMemory(t, limit, h)
		admitted := int64(0)
		for i := range 20_000 {
			h.move(2 * time.Millisecond * time.Duration(1-2*(i%2)))
			if allow(t, l, "k").Allowed {
				admitted++
			}
		}
		require.LessOrEqual(t, admitted, limit.Capacity()+2, "%v: 20,000 calls whose times are 2 ms apart", a)
	}
}

func TestClockThatIsSetBackAnHourHeals(t *testing.T) {
	t.Parallel()
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.GCRA, ratelimit.SlidingLog, ratelimit.SlidingCounter, ratelimit.FixedWindow} {
		h := newHand()
		l := inMemory(t, ratelimit.PerSecond(5).As(a), h)
		for range 5 {
			allow(t, l, "k")
		}
		h.move(-time.Hour)
		r := allow(t, l, "k")
		require.False(t, r.Allowed, "%v", a)
		require.LessOrEqual(t, r.RetryAfter, 2*time.Second, "%v", a)
		h.move(r.RetryAfter)
		require.True(t, allow(t, l, "k").Allowed, "%v", a)
	}
}

// mostIn is the most that was admitted within any span.
func mostIn(admitted []time.Time, span time.Duration) (most int) {
	for i, j := 0, 0; j < len(admitted); j++ {
		for admitted[j].Sub(admitted[i]) >= span {
			i++
		}
		most = max(most, j-i+1)
	}
	return most
}

// The table at Algorithm says what each admits at most in any Per; this is a caller who aims at it.
func TestMostThatIsAdmittedInAnyPeriod(t *testing.T) {
	t.Parallel()
	const n = 100
	for a, want := range map[ratelimit.Algorithm][2]int{ // at least, at most
		ratelimit.TokenBucket:    {199, 200},
		ratelimit.GCRA:           {100, 101},
		ratelimit.SlidingLog:     {100, 100},
		ratelimit.SlidingCounter: {190, 200},
		ratelimit.FixedWindow:    {200, 200},
	} {
		h := newHand()
		l := inMemory(t, ratelimit.PerSecond(n).As(a), h)
		var admitted []time.Time
		h.move(999 * time.Millisecond) // the end of a window
		for range 4000 {
			for allow(t, l, "k").Allowed {
				admitted = append(admitted, h.now())
			}
			h.move(time.Millisecond)
		}
		most := mostIn(admitted, time.Second)
		require.GreaterOrEqual(t, most, want[0], "%v", a)
		require.LessOrEqual(t, most, want[1], "%v", a)
	}
}

func TestTwoHundredThousandADayDoNotOverflow(t *testing.T) {
	t.Parallel()
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.SlidingLog, ratelimit.SlidingCounter, ratelimit.FixedWindow} {
		h := newHand()
		l := inMemory(t, ratelimit.Limit{Rate: 200_000, Per: 24 * time.Hour, Algorithm: a}, h)
		r, err := l.AllowN(t.Context(), "k", 200_000)
		require.NoError(t, err)
		require.True(t, r.Allowed, "%v", a)
		h.move(24*time.Hour - time.Duration(h.at.UnixNano()%int64(24*time.Hour)) + 12*time.Hour) // noon of the next day
		admitted := 0
		for range 400 {
			r, err := l.AllowN(t.Context(), "k", 1000)
			require.NoError(t, err)
			if r.Allowed {
				admitted += 1000
			}
		}
		require.LessOrEqual(t, admitted, 200_000, "%v", a)
		if a == ratelimit.SlidingCounter {
			require.Equal(t, 100_000, admitted, "half of the day before counts")
		}
	}
}

func TestRefusalsDoNotBurnWhatIsLeft(t *testing.T) {
	t.Parallel()
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.SlidingLog, ratelimit.SlidingCounter, ratelimit.FixedWindow} {
		h := newHand()
		l := inMemory(t, ratelimit.PerMinute(10).As(a), h)
		for _, c := range []struct {
			n    int64
			want bool
		}{{8, true}, {5, false}, {5, false}, {1, true}, {1, true}, {1, false}} {
			r, err := l.AllowN(t.Context(), "k", c.n)
			require.NoError(t, err)
			require.Equal(t, c.want, r.Allowed, "%v: %d", a, c.n)
		}
	}
}

func TestClientOfTwiceTheRateIsNotStarved(t *testing.T) {
	t.Parallel()
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.GCRA, ratelimit.SlidingLog, ratelimit.SlidingCounter, ratelimit.FixedWindow} {
		h := newHand()
		l := inMemory(t, ratelimit.PerSecond(10).As(a), h)
		admitted := 0
		for range 20 * 60 {
			if allow(t, l, "k").Allowed {
				admitted++
			}
			h.move(50 * time.Millisecond)
		}
		tolerance := 12.0
		if a == ratelimit.SlidingCounter {
			tolerance = 60 // it spreads the window before evenly over its time
		}
		require.InDelta(t, 600, admitted, tolerance, "%v: 10/s for 60 s", a)
	}
}

func TestLoneClientWhoWaitsIsAlwaysAdmitted(t *testing.T) {
	t.Parallel()
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.GCRA, ratelimit.SlidingLog, ratelimit.SlidingCounter, ratelimit.FixedWindow} {
		for _, rate := range []int64{1, 3, 7, 2000, 999_983} {
			h := newHand()
			l := inMemory(t, ratelimit.PerSecond(rate).As(a), h)
			for i := range 500 {
				r, err := l.AllowN(t.Context(), "k", 1+int64(i)%l0(rate))
				require.NoError(t, err)
				if r.Allowed || r.RetryAfter == ratelimit.Never {
					continue
				}
				h.move(r.RetryAfter)
				again, err := l.AllowN(t.Context(), "k", 1+int64(i)%l0(rate))
				require.NoError(t, err)
				require.True(t, again.Allowed, "%v at %d/s after %v", a, rate, r.RetryAfter)
			}
		}
	}
}

func l0(rate int64) int64 { return min(rate, 5) }

func TestLimitsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	good := ratelimit.PerSecond(5)
	for field, l := range map[string]ratelimit.Limit{
		"rate":      {Rate: 0, Per: time.Second},
		"rate ":     {Rate: -1, Per: time.Second},
		"rate  ":    {Rate: math.MaxInt64, Per: time.Second},
		"per":       {Rate: 1},
		"per ":      {Rate: 1, Per: -time.Second},
		"per  ":     {Rate: 1, Per: time.Nanosecond},
		"per   ":    {Rate: 1, Per: math.MaxInt64},
		"burst":     good.WithBurst(-1),
		"burst ":    good.WithBurst(math.MaxInt64),
		"burst  ":   {Rate: 1, Per: 24 * time.Hour, Burst: 1_000_000},        // takes 2,700 years to refill
		"burst   ":  {Rate: 999_999_937, Per: time.Hour, Burst: 999_999_999}, // cannot be counted exactly
		"burst    ": good.As(ratelimit.FixedWindow).WithBurst(7),             // has none
		"rate   ":   {Rate: ratelimit.MaxLog + 1, Per: time.Second, Algorithm: ratelimit.SlidingLog},
		"rate    ":  {Rate: ratelimit.MaxLog + 1, Per: time.Second, Algorithm: ratelimit.Concurrency},
		"name":      good.Named("a b"),
		"name ":     good.Named("größe"),
		"algorithm": good.As(ratelimit.Concurrency + 1),
	} {
		_, err := ratelimit.New(ratelimit.NewMemory(nil), l, nil)
		require.ErrorIs(t, err, ratelimit.ErrInvalid, "%q %+v", field, l)
	}
	for _, l := range []ratelimit.Limit{
		{Rate: ratelimit.MaxRate, Per: time.Second, Algorithm: ratelimit.FixedWindow}, // these keep no entry of each
		{Rate: ratelimit.MaxRate, Per: time.Second, Algorithm: ratelimit.SlidingCounter},
		{Rate: 1, Per: ratelimit.MaxPer, Burst: 10},                              // takes MaxRefill
		{Rate: 999_999_937, Per: time.Hour, Burst: 1 << 53 / int64(999_999_937)}, // can just be counted
	} {
		_, err := ratelimit.New(ratelimit.NewMemory(nil), l, nil)
		require.NoError(t, err, "%+v", l)
	}
	for _, none := range []ratelimit.Store{(*ratelimit.Memory)(nil), (*remote)(nil)} { // as left by who does not look at an error
		_, err := ratelimit.New(none, good, nil)
		require.ErrorIs(t, err, ratelimit.ErrInvalid, "%T", none)
	}
	_, err := ratelimit.New(nil, ratelimit.Limit{Name: "ä"}, &ratelimit.Options{Timeout: -1, Share: 2})
	require.ErrorContains(t, err, "store is nil")
	for _, field := range []string{"name", "rate", "per", "Timeout", "Share"} {
		require.ErrorContains(t, err, field, "all faults at once")
	}
}

// Millions of other keys neither fill the memory nor bring back what an exhausted key has used.
func TestHostileKeysNeitherGrowNorReset(t *testing.T) { // alone: the heap is that of all tests that run beside it
	hostile := 1_000_000
	switch {
	case proofOps() > 0:
		hostile = 10_000_000
	case race.Enabled:
		hostile = 200_000
	}
	h := newHand()
	store := ratelimit.NewMemory(&ratelimit.MemoryOptions{MaxKeys: 50_000, Now: h.now})
	l, err := ratelimit.New(store, ratelimit.PerHour(3), nil)
	require.NoError(t, err)
	for range 3 {
		allow(t, l, "victim")
	}
	require.False(t, allow(t, l, "victim").Allowed)
	before := heapBytes()
	for i := range hostile {
		allow(t, l, "x"+strconv.Itoa(i))
	}
	require.False(t, allow(t, l, "victim").Allowed, "an exhausted limit was forgotten")
	require.Less(t, heapBytes()-before, 8e6, "for 50,000 keys")
	require.True(t, allow(t, l, "somebody new").Allowed, "keys that have used little make way")
	runtime.KeepAlive(store)
}

// Limits and keys whose names are the same, or each other's, have counters of their own: a small limit must not cut down what is used of a large one.
func TestNamesOfLimitsAndKeysDoNotCancelOut(t *testing.T) {
	t.Parallel()
	for _, keys := range [][2]string{{"large", "small"}, {"small", "large"}} {
		store := ratelimit.NewMemory(nil)
		large, err := ratelimit.New(store, ratelimit.PerHour(1000).Named("large"), nil)
		require.NoError(t, err)
		small, err := ratelimit.New(store, ratelimit.PerHour(10).Named("small"), nil)
		require.NoError(t, err)
		require.True(t, allow(t, small, keys[1]).Allowed)
		r, err := large.AllowN(t.Context(), keys[0], 1000)
		require.NoError(t, err)
		require.True(t, r.Allowed, "it is not the counter of the small limit")
		require.True(t, allow(t, small, keys[1]).Allowed, "nor the other way round")
		require.False(t, allow(t, large, keys[0]).Allowed, "all of it is used")
	}
}

// Where all keys are exhausted none makes way: new ones share a counter, and are in order again when there is room.
func TestMemoryFullOfExhaustedKeys(t *testing.T) {
	t.Parallel()
	h := newHand()
	l, err := ratelimit.New(ratelimit.NewMemory(&ratelimit.MemoryOptions{MaxKeys: 2_560, Now: h.now}), ratelimit.PerHour(1), nil)
	require.NoError(t, err)
	admitted := 0
	for i := range 100_000 {
		if allow(t, l, fmt.Sprint("x", i)).Allowed {
			admitted++
		}
	}
	require.InDelta(t, 2560+256, admitted, 300, "one each, and one for each crowd")
	h.move(2 * time.Hour)
	for i := range 300 { // of 256 parts none gets more than its 10
		require.True(t, allow(t, l, fmt.Sprint("y", i)).Allowed)
		require.False(t, allow(t, l, fmt.Sprint("y", i)).Allowed)
	}
}

// A place that is held outlasts any number of other keys, and one that was released, or whose lease is over, makes way for them.
func TestPlacesAreNotForgotten(t *testing.T) {
	t.Parallel()
	h := newHand()
	l, err := ratelimit.New(ratelimit.NewMemory(&ratelimit.MemoryOptions{MaxKeys: 256, Now: h.now}),
		ratelimit.Limit{Algorithm: ratelimit.Concurrency, Rate: 1, Per: time.Minute}, nil)
	require.NoError(t, err)
	acquire := func(key string) *ratelimit.Permit {
		p, err := l.Acquire(t.Context(), key, 1)
		require.NoError(t, err)
		return p
	}
	others := func() (admitted int) {
		for i := range 10_000 {
			if acquire(fmt.Sprint("x", i)).Result.Allowed {
				admitted++
			}
		}
		return admitted
	}
	held := acquire("k")
	require.True(t, held.Result.Allowed)
	require.Equal(t, 511, others(), "one for each part but that of k, and one for each crowd")
	require.False(t, acquire("k").Result.Allowed)
	require.NoError(t, held.Release(t.Context()))
	require.Equal(t, 1, others(), "the one that has made way")
	h.move(time.Minute)
	require.Equal(t, 512, others(), "those whose leases are over")
}

// What a crowd has used stays used when its part is searched for what is idle, as it is every second, and nothing is found.
func TestCrowdIsNotForgotten(t *testing.T) {
	t.Parallel()
	for _, a := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.SlidingLog, ratelimit.SlidingCounter, ratelimit.FixedWindow} {
		h := newHand()
		l, err := ratelimit.New(ratelimit.NewMemory(&ratelimit.MemoryOptions{MaxKeys: 256, Now: h.now}), ratelimit.Limit{Rate: 1, Per: 24 * time.Hour, Algorithm: a}, nil)
		require.NoError(t, err)
		for i := range 10_000 {
			allow(t, l, fmt.Sprint("x", i))
		}
		for range 100 {
			h.move(2 * time.Second)
			require.False(t, allow(t, l, "one of the crowd").Allowed, "%v", a)
		}
		h.move(48 * time.Hour)
		require.True(t, allow(t, l, "one of the crowd").Allowed, "%v", a)
	}
}

func heapBytes() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// What is over is forgotten, but not a microsecond early.
func TestCountersAreNotForgottenEarly(t *testing.T) {
	t.Parallel()
	h := newHand()
	store := ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: h.now})
	l, err := ratelimit.New(store, ratelimit.Limit{Rate: 1, Per: 10 * time.Second, Burst: 10}, nil)
	require.NoError(t, err)
	r, err := l.AllowN(t.Context(), "k", 10)
	require.NoError(t, err)
	require.True(t, r.Allowed)
	h.move(100*time.Second - time.Microsecond)
	for i := range 100_000 { // tables are rebuilt, and drop what is over
		allow(t, l, "x"+strconv.Itoa(i))
	}
	left, err := l.Peek(t.Context(), "k")
	require.NoError(t, err)
	require.EqualValues(t, 9, left.Remaining)
	h.move(time.Microsecond)
	left, err = l.Peek(t.Context(), "k")
	require.NoError(t, err)
	require.EqualValues(t, 10, left.Remaining)
}

func TestMemoryCostsNoAllocation(t *testing.T) {
	l := inMemory(t, ratelimit.PerSecond(1000), newHand())
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = l.Allow(ctx, "k") }))
}
