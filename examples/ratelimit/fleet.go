package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

// way is how a fleet shares a limit.
type way struct {
	name string
	// start returns what a node decides with, and what it runs meanwhile.
	start func(s *setting, store ratelimit.Store) (ratelimit.Decider, func(context.Context) error, error)
}

var ways = []way{
	{"each check", func(s *setting, store ratelimit.Store) (ratelimit.Decider, func(context.Context) error, error) {
		d, err := ratelimit.New(store, s.limit, &ratelimit.Options{OnError: ratelimit.FailClosed, DenyCache: -1})
		return d, func(context.Context) error { return nil }, err
	}},
	{"naive", func(s *setting, store ratelimit.Store) (ratelimit.Decider, func(context.Context) error, error) {
		n := &naive{store: store, limit: s.limit, every: s.period, left: s.limit.Capacity()}
		return n, n.Run, nil
	}},
	{"hybrid", func(s *setting, store ratelimit.Store) (ratelimit.Decider, func(context.Context) error, error) {
		h, err := ratelimit.NewHybrid(store, s.limit, &ratelimit.HybridOptions{
			Options: ratelimit.Options{OnError: ratelimit.FailClosed}, Nodes: s.nodes, MaxOver: s.over, Period: s.period,
		})
		if err != nil {
			return nil, nil, err
		}
		return h, h.Run, nil
	}},
	{"leased", func(s *setting, store ratelimit.Store) (ratelimit.Decider, func(context.Context) error, error) {
		l, err := ratelimit.NewLeased(store, s.limit, &ratelimit.LeasedOptions{
			Options: ratelimit.Options{OnError: ratelimit.FailClosed}, Nodes: s.nodes,
		})
		if err != nil {
			return nil, nil, err
		}
		return l, l.Run, nil
	}},
}

// trace is what a way has done.
type trace struct {
	name              string
	admitted          []time.Duration // when, in order
	checks, questions int64
	peak              int64   // the most in any span of Per
	over              float64 // what a counter would be overdrawn by at worst, in parts of the limit
}

// shared is the store in the middle: a round trip away, and at times out of order.
type shared struct {
	ratelimit.Store
	begin     time.Time
	from, to  time.Duration // when it hangs
	questions atomic.Int64
}

func (s *shared) Decide(ctx context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	s.questions.Add(1)
	if at := time.Since(s.begin); at >= s.from && at < s.to {
		select {
		case <-time.After(s.to - at):
		case <-ctx.Done():
			replies := make([]ratelimit.Reply, len(calls))
			for i := range replies {
				replies[i].Err = ctx.Err()
			}
			return replies
		}
	}
	return s.Store.Decide(ctx, calls)
}

// run has a fleet asked for span.
func (s *setting) run(ctx context.Context, w way) (t trace, err error) {
	store := &shared{Store: ratelimit.NewMemory(nil), begin: time.Now(), from: s.span / 2, to: s.span/2 + s.stall}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var running, asking sync.WaitGroup
	var mu sync.Mutex
	t.name = w.name
	for i := range s.nodes {
		d, run, err := w.start(s, store)
		if err != nil {
			return t, err
		}
		running.Go(func() { _ = run(ctx) }) // what the last report does not reach is of no interest here
		asking.Go(func() {
			admitted, checks := s.ask(ctx, d, store.begin, rand.New(rand.NewPCG(1, uint64(i))))
			mu.Lock()
			defer mu.Unlock()
			t.admitted, t.checks = append(t.admitted, admitted...), t.checks+checks
		})
	}
	asking.Wait()
	if err := ctx.Err(); err != nil {
		return t, err
	}
	stop()
	running.Wait()
	slices.Sort(t.admitted)
	t.questions, t.peak, t.over = store.questions.Load(), peak(t.admitted, s.limit.Per), s.overdrawn(t.admitted, store.begin)
	return t, nil
}

// ask asks at random times, on average demand / nodes.
func (s *setting) ask(ctx context.Context, d ratelimit.Decider, begin time.Time, r *rand.Rand) (admitted []time.Duration, checks int64) {
	mean := float64(s.limit.Per) * float64(s.nodes) / (s.demand * float64(s.limit.Rate))
	for due := time.Duration(0); ctx.Err() == nil; {
		if due += time.Duration(r.ExpFloat64() * mean); due >= s.span {
			break
		}
		if early := due - time.Since(begin); early > 0 {
			time.Sleep(early)
		}
		checks++
		if result, err := d.Allow(ctx, "customer-7"); err == nil && result.Allowed {
			admitted = append(admitted, time.Since(begin))
		}
	}
	return admitted, checks
}

// peak is the most that any span of that length holds.
func peak(times []time.Duration, span time.Duration) (most int64) {
	from := 0
	for i, at := range times {
		for times[from] <= at-span {
			from++
		}
		most = max(most, int64(i-from+1))
	}
	return most
}

// overdrawn plays what was admitted to a counter, each unit when it was admitted.
func (s *setting) overdrawn(times []time.Duration, begin time.Time) float64 {
	var now time.Time
	counter := ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: func() time.Time { return now }})
	call := []ratelimit.Call{{Ops: []ratelimit.Op{{Kind: ratelimit.Charge, Limit: s.limit, Key: "k", N: 1}}}}
	least := int64(0)
	for _, at := range times {
		now = begin.Add(at)
		least = min(least, counter.Decide(context.Background(), call)[0].Outcomes[0].Remaining)
	}
	return float64(-least) / float64(s.limit.Rate)
}
