package ratelimittest

import (
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

// Open returns a new, empty store that takes the time from now. It is called several times in a test, and closes what it opens by t.Cleanup.
type Open func(t testing.TB, now func() time.Time) ratelimit.Store

// Run tests a store: each rule by itself, 64 callers at once, and ops random operations of each algorithm against a model in big numbers.
// 0 means 20,000. The seed of what fails is printed.
func Run(t *testing.T, ops int, open Open) {
	if ops == 0 {
		ops = 20_000
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"a bad call is refused and charges nothing", testBadCalls},
		{"a call is charged as a whole or not at all", testAllOrNothing},
		{"a peek and a refusal write nothing", testNothingWritten},
		{"a clock that was set back is believed by calls to several limits", testSetBackForSeveral},
		{"giving back leaves those behind what is theirs", testGivenBackBehind},
		{"names and keys have counters of their own", testCounters},
		{"a changed limit holds at once", testChangedLimit},
		{"a changed algorithm goes on", testChangedAlgorithm},
		{"holders hold, extend and let go", testHolders},
		{"a batch has a reply for each call", testBatch},
		{"64 callers get what there is and no more", testHerd},
		{"64 callers of several limits leave no partial charge", testHerdOfAll},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open)
		})
	}
	for _, a := range []ratelimit.Algorithm{
		ratelimit.TokenBucket, ratelimit.GCRA, ratelimit.SlidingLog, ratelimit.SlidingCounter, ratelimit.FixedWindow,
	} {
		t.Run("agrees with the model: "+a.String(), func(t *testing.T) {
			t.Parallel()
			againstModel(t, a, ops, open)
		})
	}
}

// clock is set by hand. It begins within a window, at a time that is no whole second.
type clock struct {
	mu sync.Mutex
	us int64
}

func newClock() *clock { return &clock{us: 1_700_000_000_123_457} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.UnixMicro(c.us)
}

func (c *clock) move(us int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.us += us
}

// one carries out a call of one op.
func one(t testing.TB, s ratelimit.Store, op ratelimit.Op) ratelimit.Outcome {
	t.Helper()
	return all(t, s, op)[0]
}

func all(t testing.TB, s ratelimit.Store, ops ...ratelimit.Op) []ratelimit.Outcome {
	t.Helper()
	replies := s.Decide(t.Context(), []ratelimit.Call{{Ops: ops}})
	if len(replies) != 1 {
		t.Fatalf("%d replies to one call", len(replies))
	}
	if replies[0].Err != nil {
		t.Fatalf("%+v: %v", ops, replies[0].Err)
	}
	if len(replies[0].Outcomes) != len(ops) {
		t.Fatalf("%d outcomes of %d ops", len(replies[0].Outcomes), len(ops))
	}
	return replies[0].Outcomes
}

func equal[T any](t testing.TB, want, got T, what string) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("%s: want %+v, got %+v", what, want, got)
	}
}

// limits is one of each algorithm, of n in a minute.
func limits(n int64) []ratelimit.Limit {
	l := ratelimit.PerMinute(n)
	return []ratelimit.Limit{
		l, l.As(ratelimit.GCRA).WithBurst(n), l.As(ratelimit.SlidingLog), l.As(ratelimit.SlidingCounter), l.As(ratelimit.FixedWindow),
	}
}

// pick returns one of a list.
func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }
