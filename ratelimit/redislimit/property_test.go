package redislimit_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 is a new one")

// thorough is many where SAFETILL_PROOF=full asks for it, else few.
func thorough(few, many int) int {
	if os.Getenv("SAFETILL_PROOF") == "full" {
		return many
	}
	return few
}

func randomness(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// testStore returns a store that goes by *now.
func testStore(t *testing.T, now *int64, o *redislimit.Options) *redislimit.Store {
	t.Helper()
	s, err := redislimit.NewStore(testdb.Redis(t), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	if now != nil {
		s.SetClock(func() int64 { return *now })
	}
	return s
}

// oddLimits are of the kinds that get arithmetic wrong.
func oddLimits(r *rand.Rand, a ratelimit.Algorithm) ratelimit.Limit {
	bucket := a <= ratelimit.GCRA
	for {
		l := ratelimit.Limit{Algorithm: a, Rate: 1 + r.Int64N(20), Per: us(1 + r.Int64N(1000))}
		switch r.IntN(8) {
		case 0:
			l.Rate, l.Per = 200_000, 24*time.Hour
		case 1:
			l.Rate, l.Per = 1+r.Int64N(ratelimit.MaxRate), us(1+r.Int64N(ratelimit.MaxPer.Microseconds()))
		case 2:
			l.Rate, l.Per = ratelimit.MaxRate, ratelimit.MaxPer
		case 3:
			l.Rate, l.Per = 1+r.Int64N(ratelimit.MaxRate), us(1+r.Int64N(5))
		case 4:
			l.Rate, l.Per = 1+r.Int64N(100), ratelimit.MaxPer-us(r.Int64N(100))
		}
		if bucket {
			l.Burst = []int64{0, 1, 1 + r.Int64N(10_000), 1 + r.Int64N(ratelimit.MaxRate)}[r.IntN(4)]
		}
		if l = l.Normal(); l.Validate() == nil {
			return l
		}
	}
}

// someUnits is a number that is small, or near a bound.
func someUnits(r *rand.Rand, l ratelimit.Limit) int64 {
	c := l.Capacity()
	return max(1, []int64{1, 1, 1, 1 + r.Int64N(5), 1 + r.Int64N(c), c, c + 1, c - r.Int64N(3), 2*c + r.Int64N(3), 1 << 62}[r.IntN(10)])
}

func someOp(r *rand.Rand, l ratelimit.Limit, key string, at []int64) ratelimit.Op {
	op := ratelimit.Op{Limit: l, Key: key, N: someUnits(r, l)}
	switch r.IntN(20) {
	case 0, 1:
		op.Kind = ratelimit.Charge
	case 2, 3, 4:
		op.Kind = ratelimit.Peek
	case 5, 6:
		op.Kind = ratelimit.Return
		op.At = at[r.IntN(len(at))]
		if l.Algorithm <= ratelimit.GCRA && r.IntN(2) == 0 {
			op.Ahead = time.Duration(1+r.Int64N(2*(l.Per.Microseconds()/l.Rate*l.Capacity()+1))) * time.Microsecond
		}
	case 7:
		if r.IntN(4) == 0 {
			op.Kind = ratelimit.Reset
		}
	}
	if l.Algorithm == ratelimit.Concurrency {
		if op.Kind == ratelimit.Charge {
			op.Kind = ratelimit.Take
		}
		op.Holder = fmt.Sprint("h", r.IntN(30))
		return op
	}
	if op.Kind == ratelimit.Take || op.Kind == ratelimit.Peek {
		if r.IntN(5) == 0 {
			op.Min = 1 + r.Int64N(min(op.N, 1<<40))
		}
		if l.Algorithm <= ratelimit.GCRA && r.IntN(5) == 0 {
			op.Ahead = time.Duration(r.Int64N(int64(l.Per)) + 1)
		}
	}
	return op
}

// Random operations under limits that change, by a clock that jumps ahead and steps back, get the same outcomes as from a model in fractions of any
// size; and from the store in memory, but for concurrency limits whose clock steps back (there a refusal forgets leases that are over).
func TestOutcomesAreThoseOfTheModelAndOfMemory(t *testing.T) {
	t.Parallel()
	for a := ratelimit.TokenBucket; a <= ratelimit.Concurrency; a++ {
		t.Run(a.String(), func(t *testing.T) {
			t.Parallel()
			for _, back := range []bool{false, true} {
				compare(t, a, back)
			}
		})
	}
}

func compare(t *testing.T, a ratelimit.Algorithm, back bool) {
	t.Helper()
	r := randomness(t)
	now := int64(1_800_000_000_000_000)
	store := testStore(t, &now, &redislimit.Options{Flights: 1})
	memory := ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: func() time.Time { return time.UnixMicro(now) }})
	alike := !back || a != ratelimit.Concurrency
	m := newModel()
	for done, round := 0, 0; done < thorough(1_700, 90_000); round++ {
		// A family of limits on a key, for a while.
		now = 1_800_000_000_000_000 + r.Int64N(1_000_000)
		limits := []ratelimit.Limit{oddLimits(r, a)}
		other := a
		if a <= ratelimit.GCRA {
			other = ratelimit.Algorithm(r.IntN(2))
		} else if a == ratelimit.SlidingCounter || a == ratelimit.FixedWindow { // they share their counters
			other = ratelimit.SlidingCounter + ratelimit.Algorithm(r.IntN(2))
		}
		if r.IntN(2) == 0 {
			limits = append(limits, oddLimits(r, other))
		}
		if a == ratelimit.SlidingLog || a == ratelimit.Concurrency {
			for i := range limits {
				limits[i].Rate = 1 + r.Int64N(50)
				limits[i].Burst = limits[i].Rate
			}
		}
		at := []int64{now}
		for range 40 {
			calls := make([]ratelimit.Call, 1+r.IntN(8))
			for i := range calls {
				l := limits[r.IntN(len(limits))]
				ops := make([]ratelimit.Op, 1)
				if r.IntN(4) == 0 {
					ops = make([]ratelimit.Op, 1+r.IntN(4))
				}
				for k := range ops {
					ops[k] = someOp(r, l.Named(fmt.Sprint("n", k)), fmt.Sprint("key ", round), at)
				}
				calls[i].Ops = ops
				done += len(ops)
			}
			replies := store.Decide(t.Context(), calls)
			var remembered []ratelimit.Reply
			if alike && round < 40 { // it knows 16,384 limits in all
				remembered = memory.Decide(t.Context(), calls)
			}
			for i, c := range calls {
				want := m.decide(now, c)
				require.NoError(t, replies[i].Err)
				require.Equal(t, want, replies[i].Outcomes, "now %d: %+v", now, c.Ops)
				if remembered != nil {
					require.Equal(t, want, remembered[i].Outcomes, "memory, now %d: %+v", now, c.Ops)
				}
				at = append(at, want[0].At)
			}
			per := limits[0].Per.Microseconds()
			step := []int64{0, 1, 1 + r.Int64N(10), r.Int64N(per + 1), r.Int64N(3*per + 1)}[r.IntN(5)]
			if back && r.IntN(6) == 0 {
				step = -step
			}
			now += step
		}
	}
}
