package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mennanov/limiters"
	sethvargo "github.com/sethvargo/go-limiter"
	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"
	ulule "github.com/ulule/limiter/v3"
	ululemem "github.com/ulule/limiter/v3/drivers/store/memory"
	"golang.org/x/time/rate"

	"github.com/safetill/safetill/ratelimit"
)

const (
	manyKeys = 1_000_000
	ample    = 900_000_000 // an hour: everybody is admitted
)

// lasting admits everybody too, and gives a unit back so late that a key still counts when its turn comes again: a counter that is idle is forgotten.
var lasting = ratelimit.Limit{Rate: 1000, Per: time.Hour, Burst: 50_000_000}

// gate is a limiter in memory.
type gate struct {
	name   string
	open   func() (func(key string) (bool, error), error)
	rows   [2]gateRow // one key, many keys
	perKey float64    // bytes
}

type gateRow struct{ wall, cpu, allocs, failed []float64 }

// benchGates compares limiters in memory, each as its users call it: with a key, and admitted.
func benchGates(ctx context.Context, s *settings, w io.Writer) error {
	gates := []*gate{
		{name: "ratelimit.Memory, token bucket", open: ours(lasting)},
		{name: "ratelimit.Memory, sliding counter", open: ours(ratelimit.PerHour(ample).As(ratelimit.SlidingCounter))},
		{name: "sethvargo/go-limiter", open: openSethvargo},
		{name: "x/time/rate in a map", open: openXTime},
		{name: "throttled, MemStore", open: openThrottled},
		{name: "mennanov/limiters, Registry", open: openMennanov},
		{name: "ulule/limiter, memory", open: openUlule},
	}
	keys := make([]string, manyKeys)
	for i := range keys {
		keys[i] = "customer-" + strconv.Itoa(i)
	}
	for many, n := range []int{1, manyKeys} {
		if err := s.gates(ctx, gates, many, keys[:n]); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\n## Rate limits in memory\n\n%d callers, all admitted. Medians of %d interleaved rounds of %v, after one to warm up; keys in an order "+
		"that no cache foresees. CPU is that of the process, for a decision. A bare `time.Since`, a mutex and nothing else took %.0f ns.\n\n",
		runtime.GOMAXPROCS(0), s.rounds, s.span/6, bareNanos())
	fmt.Fprintf(w, "| | one key: CPU | a million decisions of %d keys: CPU | allocations | errors, one key | bytes a key |\n|---|---|---|---|---|---|\n", manyKeys)
	for _, g := range gates {
		fmt.Fprintf(w, "| %s | %.0f ns | %.0f ns | %.1f | %.1f %% | %.0f |\n", g.name, median(g.rows[0].cpu), median(g.rows[1].cpu), median(g.rows[0].allocs),
			100*median(g.rows[0].failed), g.perKey)
	}
	return nil
}

// gates measures all on some keys. Each has the memory to itself while it is filled; then they take turns.
func (s *settings) gates(ctx context.Context, gates []*gate, row int, keys []string) error {
	allows := make([]func(string) (bool, error), len(gates))
	for i, g := range gates {
		_ = heap() // what was measured before goes
		before := heap()
		allow, err := g.open()
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		for _, k := range keys {
			if ok, err := allow(k); !ok || err != nil {
				return errors.Join(fmt.Errorf("%s: %s is refused", g.name, k), err)
			}
		}
		allows[i] = allow
		g.perKey = float64(heap()-before) / float64(len(keys))
	}
	for n := range s.rounds + 1 {
		for i, g := range gates {
			r, err := askGate(ctx, allows[i], keys, s.span/6)
			if err != nil {
				return fmt.Errorf("%s: %w", g.name, err)
			}
			if n > 0 {
				g.rows[row].wall, g.rows[row].cpu = append(g.rows[row].wall, r[0]), append(g.rows[row].cpu, r[1])
				g.rows[row].allocs, g.rows[row].failed = append(g.rows[row].allocs, r[2]), append(g.rows[row].failed, r[3])
			}
		}
	}
	return nil
}

// askGate returns wall and CPU nanoseconds and allocations of a decision, and the share of errors and refusals.
func askGate(ctx context.Context, allow func(string) (bool, error), keys []string, span time.Duration) (r [4]float64, err error) {
	var before, after runtime.MemStats
	var calls, refused atomic.Int64
	runtime.GC()
	runtime.ReadMemStats(&before)
	cpu, start := cpuOf(os.Getpid()), time.Now()
	var wg sync.WaitGroup
	for p := range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			i, done := p*len(keys)/2, int64(0)
			for ; done&1023 != 0 || time.Since(start) < span && ctx.Err() == nil; done++ {
				if i += 7_919; i >= len(keys) {
					i %= len(keys)
				}
				if ok, err := allow(keys[i]); !ok || err != nil {
					refused.Add(1)
				}
			}
			calls.Add(done)
		})
	}
	wg.Wait()
	n := float64(calls.Load())
	r[0], r[1] = float64(time.Since(start))/n, float64(cpuOf(os.Getpid())-cpu)/n
	runtime.ReadMemStats(&after)
	r[2] = float64(after.Mallocs-before.Mallocs) / n
	r[3] = float64(refused.Load()) / n
	return r, ctx.Err()
}

// bareNanos is what can't be saved: to read the clock, under a lock.
func bareNanos() float64 {
	var mu sync.Mutex
	var sum time.Duration
	best := math.Inf(1)
	for range 5 {
		start := time.Now()
		for range 1_000_000 {
			mu.Lock()
			sum += time.Since(start)
			mu.Unlock()
		}
		best = min(best, float64(time.Since(start))/1_000_000)
	}
	return best
}

func ours(l ratelimit.Limit) func() (func(string) (bool, error), error) {
	return func() (func(string) (bool, error), error) {
		limiter, err := ratelimit.New(ratelimit.NewMemory(&ratelimit.MemoryOptions{MaxKeys: 2 * manyKeys}), l, nil)
		if err != nil {
			return nil, err
		}
		ctx := context.Background()
		return func(key string) (bool, error) {
			r, err := limiter.Allow(ctx, key)
			return r.Allowed, err
		}, nil
	}
}

func openSethvargo() (func(string) (bool, error), error) {
	var store sethvargo.Store
	store, err := memorystore.New(&memorystore.Config{Tokens: ample, Interval: time.Hour})
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	return func(key string) (bool, error) {
		_, _, _, ok, err := store.Take(ctx, key)
		return ok, err
	}, nil
}

func openXTime() (func(string) (bool, error), error) {
	var mu sync.RWMutex
	byKey := map[string]*rate.Limiter{}
	return func(key string) (bool, error) {
		mu.RLock()
		l := byKey[key]
		mu.RUnlock()
		if l == nil {
			mu.Lock()
			if l = byKey[key]; l == nil {
				l = rate.NewLimiter(ample/3600, ample)
				byKey[key] = l
			}
			mu.Unlock()
		}
		return l.Allow(), nil
	}, nil
}

func openThrottled() (func(string) (bool, error), error) {
	store, err := memstore.NewCtx(0)
	if err != nil {
		return nil, err
	}
	l, err := throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{MaxRate: throttled.PerHour(ample), MaxBurst: ample / 10})
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	return func(key string) (bool, error) {
		limited, _, err := l.RateLimitCtx(ctx, key, 1)
		return !limited, err
	}, nil
}

func openMennanov() (func(string) (bool, error), error) {
	registry, clock, logger := limiters.NewRegistry(), limiters.NewSystemClock(), limiters.NewStdLogger()
	ctx := context.Background()
	return func(key string) (bool, error) {
		bucket := registry.GetOrCreate(key, func() any {
			return limiters.NewTokenBucket(ample, time.Microsecond, limiters.NewLockNoop(), limiters.NewTokenBucketInMemory(), clock, logger)
		}, time.Hour, clock.Now())
		_, err := bucket.(*limiters.TokenBucket).Limit(ctx)
		return err == nil, err
	}, nil
}

func openUlule() (func(string) (bool, error), error) {
	l := ulule.New(ululemem.NewStore(), ulule.Rate{Period: time.Hour, Limit: ample})
	ctx := context.Background()
	return func(key string) (bool, error) {
		c, err := l.Get(ctx, key)
		return !c.Reached, err
	}, nil
}
