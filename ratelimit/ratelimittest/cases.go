package ratelimittest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

func testBadCalls(t *testing.T, open Open) {
	s := open(t, newClock().now)
	good := ratelimit.Op{Limit: ratelimit.PerMinute(5), Key: "k", N: 1}
	with := func(change func(*ratelimit.Op)) []ratelimit.Op {
		op := good
		change(&op)
		return []ratelimit.Op{{Limit: good.Limit, Key: "other", N: 1}, op}
	}
	bad := map[string][]ratelimit.Op{
		"no op":        {},
		"too many ops": make([]ratelimit.Op, ratelimit.MaxOps+1),
		"twice":        {good, good},
		"no key":       with(func(o *ratelimit.Op) { o.Key = "" }),
		"long key":     with(func(o *ratelimit.Op) { o.Key = strings.Repeat("k", ratelimit.MaxKey+1) }),
		"no n":         with(func(o *ratelimit.Op) { o.N = 0 }),
		"negative n":   with(func(o *ratelimit.Op) { o.N = -1 }),
		"kind":         with(func(o *ratelimit.Op) { o.Kind = 99 }),
		"rate":         with(func(o *ratelimit.Op) { o.Limit.Rate = 0 }),
		"per":          with(func(o *ratelimit.Op) { o.Limit.Per = -time.Second }),
		"burst":        with(func(o *ratelimit.Op) { o.Limit.Burst = -1 }),
		"name":         with(func(o *ratelimit.Op) { o.Limit.Name = "a{b" }),
		"algorithm":    with(func(o *ratelimit.Op) { o.Limit.Algorithm = 99 }),
		"min":          with(func(o *ratelimit.Op) { o.Min = 2 }),
		"ahead": with(func(o *ratelimit.Op) {
			o.Limit = o.Limit.As(ratelimit.FixedWindow)
			o.Ahead = 1
		}),
		"holder": with(func(o *ratelimit.Op) { o.Limit = o.Limit.As(ratelimit.Concurrency) }),
	}
	for name, ops := range bad {
		replies := s.Decide(t.Context(), []ratelimit.Call{{Ops: ops}, {Ops: []ratelimit.Op{{Kind: ratelimit.Peek, Limit: good.Limit, Key: "k", N: 1}}}})
		if err := replies[0].Err; !errors.Is(err, ratelimit.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if replies[1].Err != nil || replies[1].Outcomes[0].Remaining != 5 {
			t.Errorf("%s: its neighbour was told %+v", name, replies[1])
		}
		if len(ops) == 2 && ops[0] != ops[1] {
			replies = s.Decide(t.Context(), []ratelimit.Call{{Ops: ops[1:]}})
			if len(replies) != 1 || !errors.Is(replies[0].Err, ratelimit.ErrInvalid) {
				t.Errorf("%s, by itself: %+v", name, replies)
			}
		}
	}
	equal(t, int64(5), one(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: good.Limit, Key: "other", N: 1}).Remaining, "what a bad call has left")
	longest := one(t, s, ratelimit.Op{Limit: good.Limit, Key: strings.Repeat("k", ratelimit.MaxKey), N: 1})
	equal(t, true, longest.Allowed, "the longest key")
	odd := one(t, s, ratelimit.Op{Limit: good.Limit, Key: "a}b{\x00c\n{", N: 1})
	equal(t, true, odd.Allowed, "a key of any bytes")
}

func testAllOrNothing(t *testing.T, open Open) {
	s := open(t, newClock().now)
	for _, l := range limits(3) {
		key := l.Algorithm.String()
		wide := l.Named("wide")
		wide.Rate, wide.Burst = 100, 0
		if l.Algorithm <= ratelimit.GCRA {
			wide.Burst = 100
		}
		ops := []ratelimit.Op{{Limit: wide, Key: key, N: 2}, {Limit: l.Named("tight"), Key: key, N: 2}}
		got := all(t, s, ops...)
		equal(t, true, got[0].Allowed && got[1].Allowed, "the first call")
		equal(t, [2]int64{98, 1}, [2]int64{got[0].Remaining, got[1].Remaining}, key)
		got = all(t, s, ops...)
		equal(t, [2]bool{true, false}, [2]bool{got[0].Allowed, got[1].Allowed}, "the second call")
		equal(t, int64(98), one(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: wide, Key: key, N: 1}).Remaining, "what is refused is not charged")
		beside := ratelimit.Op{Kind: ratelimit.Peek, Limit: l.Named("tight"), Key: key, N: 2}
		got = all(t, s, ratelimit.Op{Limit: wide, Key: key, N: 1}, ratelimit.Op{Limit: l.Named("other"), Key: key, N: 1}, beside)
		equal(t, [3]bool{true, true, false}, [3]bool{got[0].Allowed, got[1].Allowed, got[2].Allowed}, "takes beside a peek that would be refused")
		equal(t, int64(97), one(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: wide, Key: key, N: 1}).Remaining, "what is admitted is charged")
	}
}

func testNothingWritten(t *testing.T, open Open) {
	c := newClock()
	s := open(t, c.now)
	for _, l := range limits(3) {
		op := ratelimit.Op{Limit: l, Key: l.Algorithm.String(), N: 2}
		one(t, s, op)
		c.move(1_000_000)
		before := one(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: l, Key: op.Key, N: 3})
		for range 5 {
			refused := one(t, s, ratelimit.Op{Limit: l, Key: op.Key, N: 3})
			equal(t, false, refused.Allowed, op.Key)
			equal(t, before, refused, op.Key+": a peek says what a take would be told")
			never := one(t, s, ratelimit.Op{Limit: l, Key: op.Key, N: 4})
			equal(t, ratelimit.Never, never.Wait, op.Key)
			equal(t, false, never.Allowed, op.Key)
		}
		equal(t, before, one(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: l, Key: op.Key, N: 3}), op.Key)
	}
}

// testSetBackForSeveral has nobody ask by himself for what is exhausted, as where all calls are to several limits: a refusal of those is the first that sees
// the clock, and there may be no other until that is where it was.
func testSetBackForSeveral(t *testing.T, open Open) {
	for _, l := range limits(3) {
		c := newClock()
		s := open(t, c.now)
		key := l.Algorithm.String()
		ops := []ratelimit.Op{{Limit: l, Key: key, N: 3}, {Limit: l.Named("other"), Key: key, N: 1}}
		equal(t, true, all(t, s, ops...)[0].Allowed, key)
		c.move(-3600_000_000)
		equal(t, false, all(t, s, ops...)[0].Allowed, key+": nothing comes back when the clock is set back")
		c.move(2 * 60_000_000)
		got := all(t, s, ops...)
		equal(t, [2]bool{true, true}, [2]bool{got[0].Allowed, got[1].Allowed}, key+" two minutes after the clock was set back an hour")
	}
}

// testGivenBackBehind gives back what others stand behind, who have taken ahead.
func testGivenBackBehind(t *testing.T, open Open) {
	s := open(t, newClock().now)
	l := ratelimit.PerSecond(10)
	take := ratelimit.Op{Limit: l, Key: "k", N: 10, Ahead: time.Minute}
	first, second := one(t, s, take), one(t, s, take)
	equal(t, time.Second, second.Wait, "who takes ahead")
	back := func(n int64, o ratelimit.Outcome) int64 {
		return one(t, s, ratelimit.Op{Kind: ratelimit.Return, Limit: l, Key: "k", N: n, At: o.At, Ahead: o.Reset}).Remaining
	}
	equal(t, int64(-10), back(10, first), "what is left while another waits for a whole bucket")
	equal(t, int64(-4), back(6, second), "what is left, when he needs less himself")
	equal(t, int64(2), back(6, first), "what is left, when what is before him is given back")
	equal(t, int64(6), back(4, second), "what is left, when all of his is given back")

	line := take
	line.Key, line.N = "line", 5
	first = one(t, s, line)
	for _, line.N = range []int64{10, 5} {
		equal(t, true, one(t, s, line).Allowed, "those behind")
	}
	o := one(t, s, ratelimit.Op{Kind: ratelimit.Return, Limit: l, Key: "line", N: 5, At: first.At, Ahead: first.Reset})
	equal(t, int64(-10), o.Remaining, "what is left while more than a whole bucket is waited for")
}

func testCounters(t *testing.T, open Open) {
	s := open(t, newClock().now)
	for _, l := range limits(2) {
		a := l.Algorithm.String()
		for _, op := range []ratelimit.Op{{Limit: l, Key: a + "1", N: 2}, {Limit: l, Key: a + "2", N: 2}, {Limit: l.Named("other"), Key: a + "1", N: 2}} {
			equal(t, true, one(t, s, op).Allowed, a)
			equal(t, false, one(t, s, op).Allowed, a)
		}
		one(t, s, ratelimit.Op{Kind: ratelimit.Reset, Limit: l, Key: a + "1"})
		equal(t, true, one(t, s, ratelimit.Op{Limit: l, Key: a + "1", N: 2}).Allowed, a+" after a reset")
		equal(t, false, one(t, s, ratelimit.Op{Limit: l, Key: a + "2", N: 2}).Allowed, a+": others are not reset")
		equal(t, false, one(t, s, ratelimit.Op{Limit: l.Named("other"), Key: a + "1", N: 2}).Allowed, a+": others are not reset")
	}
}

func testChangedLimit(t *testing.T, open Open) {
	c := newClock()
	s := open(t, c.now)
	for i, few := range limits(2) {
		many := limits(10)[i]
		key := few.Algorithm.String()
		one(t, s, ratelimit.Op{Limit: few, Key: key, N: 2})
		equal(t, false, one(t, s, ratelimit.Op{Limit: few, Key: key, N: 1}).Allowed, key)
		raised := one(t, s, ratelimit.Op{Limit: many, Key: key, N: 1})
		equal(t, true, raised.Allowed, key+" raised from 2 to 10, of which 2 are used")
		equal(t, int64(7), raised.Remaining, key)
		one(t, s, ratelimit.Op{Limit: many, Key: key, N: 7})
		lowered := one(t, s, ratelimit.Op{Limit: few, Key: key, N: 1})
		equal(t, false, lowered.Allowed, key+" lowered")
		one(t, s, ratelimit.Op{Limit: few, Key: key + " fresh", N: 2})
		fresh := one(t, s, ratelimit.Op{Limit: few, Key: key + " fresh", N: 1})
		if lowered.Wait > fresh.Wait {
			t.Errorf("%s lowered from 10 to 2 in a minute waits for %v, an exhausted one for %v", key, lowered.Wait, fresh.Wait)
		}
		c.move(2 * 60_000_000)
	}
}

// testChangedAlgorithm goes on from one kind of window to the other.
func testChangedAlgorithm(t *testing.T, open Open) {
	c := newClock()
	s := open(t, c.now)
	sliding, fixed := ratelimit.PerMinute(10).As(ratelimit.SlidingCounter), ratelimit.PerMinute(10).As(ratelimit.FixedWindow)
	for _, change := range [][2]ratelimit.Limit{{sliding, fixed}, {fixed, sliding}} {
		key := change[0].Algorithm.String()
		one(t, s, ratelimit.Op{Limit: change[0], Key: key, N: 10})
		c.move(60_000_000)
		one(t, s, ratelimit.Op{Limit: change[0], Key: key, N: 1})
		o := one(t, s, ratelimit.Op{Limit: change[1], Key: key, N: 10})
		if !o.Allowed && (o.Wait <= 0 || o.Wait > 2*time.Minute) {
			t.Errorf("from %v to %v: %+v", change[0].Algorithm, change[1].Algorithm, o)
		}
		c.move(o.Wait.Microseconds())
		equal(t, true, one(t, s, ratelimit.Op{Limit: change[1], Key: key, N: 10}).Allowed, key+" after the wait")
	}
}

func testHolders(t *testing.T, open Open) {
	c := newClock()
	s := open(t, c.now)
	l := ratelimit.Limit{Algorithm: ratelimit.Concurrency, Rate: 2, Per: 10 * time.Second}
	op := func(kind ratelimit.Kind, holder string) ratelimit.Op {
		return ratelimit.Op{Kind: kind, Limit: l, Key: "k", N: 1, Holder: holder}
	}
	equal(t, true, one(t, s, op(ratelimit.Take, "a")).Allowed, "a")
	c.move(4_000_000)
	b := one(t, s, op(ratelimit.Take, "b"))
	equal(t, int64(0), b.Remaining, "after b")
	full := one(t, s, op(ratelimit.Take, "c"))
	equal(t, ratelimit.Outcome{Wait: 6 * time.Second, Reset: 10 * time.Second, At: b.At}, full, "c, when a and b hold")
	equal(t, full, one(t, s, op(ratelimit.Peek, "")), "a peek")
	again := one(t, s, op(ratelimit.Take, "a")) // extends
	equal(t, true, again.Allowed, "a again")
	equal(t, int64(0), again.Charged, "a again")
	c.move(7_000_000)
	equal(t, false, one(t, s, op(ratelimit.Take, "c")).Allowed, "c, when a has extended")
	one(t, s, op(ratelimit.Return, "b"))
	one(t, s, op(ratelimit.Return, "b")) // twice frees nothing more
	equal(t, true, one(t, s, op(ratelimit.Take, "c")).Allowed, "c, when b has let go")
	equal(t, false, one(t, s, op(ratelimit.Take, "d")).Allowed, "d")
	c.move(3_000_000) // a's lease is over to the microsecond
	equal(t, true, one(t, s, op(ratelimit.Take, "d")).Allowed, "d, when a's lease is over")
	equal(t, false, one(t, s, op(ratelimit.Take, "a")).Allowed, "a, whose place is d's")

	l.Rate = 5
	wide := op(ratelimit.Take, "e")
	wide.Key, wide.N = "wide", 3
	equal(t, int64(2), one(t, s, wide).Remaining, "three places of five")
	c.move(10_000_000)
	wide.N = 1
	equal(t, int64(4), one(t, s, wide).Remaining, "one place, of who had three whose lease is over")
	wide.Kind = ratelimit.Peek
	equal(t, int64(4), one(t, s, wide).Remaining, "his one place, looked at")
	wide.Kind = ratelimit.Return
	equal(t, int64(5), one(t, s, wide).Remaining, "when he has let go")
}

func testBatch(t *testing.T, open Open) {
	s := open(t, newClock().now)
	calls := make([]ratelimit.Call, 200)
	for i := range calls {
		calls[i] = ratelimit.Call{Ops: []ratelimit.Op{{Limit: ratelimit.PerMinute(3), Key: fmt.Sprint("k", i%50), N: 1}}}
	}
	calls[7].Ops[0].N = 0
	allowed := map[string]int{}
	for i, r := range s.Decide(t.Context(), calls) {
		switch {
		case i == 7:
			if r.Err == nil {
				t.Error("a bad call in a batch has no error")
			}
		case r.Err != nil:
			t.Fatal(r.Err)
		case r.Outcomes[0].Allowed:
			allowed[calls[i].Ops[0].Key]++
		}
	}
	for i := range 50 {
		equal(t, 3, allowed[fmt.Sprint("k", i)], "admitted of one key in a batch")
	}
}

// herd runs f by 64 at once, n times each.
func herd(n int, f func(caller, i int)) {
	var wg sync.WaitGroup
	for caller := range 64 {
		wg.Go(func() {
			for i := range n {
				f(caller, i)
			}
		})
	}
	wg.Wait()
}

func testHerd(t *testing.T, open Open) {
	s := open(t, newClock().now)
	for _, l := range limits(500) {
		var allowed, failed atomic.Int64
		herd(20, func(int, int) {
			switch r := s.Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{{Limit: l, Key: l.Algorithm.String(), N: 1}}}})[0]; {
			case r.Err != nil:
				failed.Add(1)
			case r.Outcomes[0].Allowed:
				allowed.Add(1)
			}
		})
		equal(t, [2]int64{500, 0}, [2]int64{allowed.Load(), failed.Load()}, l.Algorithm.String()+": admitted and failed of 1,280")
	}
}

// testHerdOfAll counts what was admitted, and asks the counters whether they have the same.
func testHerdOfAll(t *testing.T, open Open) {
	s := open(t, newClock().now)
	user := ratelimit.PerMinute(20).Named("user").As(ratelimit.SlidingCounter)
	everybody := ratelimit.PerMinute(300).Named("everybody")
	var charged [8]atomic.Int64
	var failed atomic.Int64
	herd(20, func(caller, i int) {
		who := (caller + i) % 8
		r := s.Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{
			{Limit: user, Key: fmt.Sprint("{t}", who), N: 3}, {Limit: everybody, Key: "{t}", N: 3},
		}}})[0]
		if r.Err != nil {
			failed.Add(1)
		} else if r.Outcomes[0].Allowed && r.Outcomes[1].Allowed {
			charged[who].Add(3)
		}
	})
	equal(t, int64(0), failed.Load(), "failed calls")
	total := int64(0)
	for who := range charged {
		left := one(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: user, Key: fmt.Sprint("{t}", who), N: 1}).Remaining
		equal(t, 20-charged[who].Load(), left, "what a user has left")
		total += charged[who].Load()
	}
	equal(t, 300-total, one(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: everybody, Key: "{t}", N: 1}).Remaining, "what is left for everybody")
}
