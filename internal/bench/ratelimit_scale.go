package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

// scaleNodes is how many processes the limits are made for. One of them is measured.
const scaleNodes = 10

// crowd is a limiter of one process of many, in front of Redis.
type crowd struct {
	name  string
	keys  int
	limit ratelimit.Limit
	open  func(ratelimit.Store, ratelimit.Limit) (ratelimit.Decider, func(context.Context) error, error)

	perSecond, cpu, questions, counters, p99, refused []float64
}

// counted counts what a store is asked.
type counted struct {
	ratelimit.Store
	questions, counters atomic.Int64
}

func (c *counted) Decide(ctx context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	c.questions.Add(1)
	c.counters.Add(int64(len(calls)))
	return c.Store.Decide(ctx, calls)
}

func openEach(s ratelimit.Store, l ratelimit.Limit) (ratelimit.Decider, func(context.Context) error, error) {
	d, err := ratelimit.New(s, l, nil)
	return d, func(ctx context.Context) error { <-ctx.Done(); return nil }, err
}

func openHybrid(s ratelimit.Store, l ratelimit.Limit) (ratelimit.Decider, func(context.Context) error, error) {
	h, err := ratelimit.NewHybrid(s, l, &ratelimit.HybridOptions{Nodes: scaleNodes})
	if err != nil {
		return nil, nil, err
	}
	return h, h.Run, nil
}

func openLeased(s ratelimit.Store, l ratelimit.Limit) (ratelimit.Decider, func(context.Context) error, error) {
	d, err := ratelimit.NewLeased(s, l, &ratelimit.LeasedOptions{Nodes: scaleNodes})
	if err != nil {
		return nil, nil, err
	}
	return d, d.Run, nil
}

// benchScale measures what a check costs where most are decided in the process.
func benchScale(ctx context.Context, s *settings, w io.Writer) error {
	server, err := localdb.StartRedis(ctx, localdb.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	config, err := redis.ParseURL(server.URL())
	if err != nil {
		return err
	}
	rdb := redis.NewClient(config)
	defer func() { _ = rdb.Close() }()
	var field []*crowd
	for _, way := range []struct {
		name string
		open func(ratelimit.Store, ratelimit.Limit) (ratelimit.Decider, func(context.Context) error, error)
	}{{"Limiter", openEach}, {"Hybrid", openHybrid}, {"Leased", openLeased}} {
		field = append(field,
			&crowd{name: way.name, open: way.open, keys: 1, limit: ratelimit.PerSecond(100_000_000)},
			&crowd{name: way.name, open: way.open, keys: 1000, limit: ratelimit.PerSecond(1_000_000)},
			&crowd{name: way.name, open: way.open, keys: 1, limit: ratelimit.PerSecond(10_000)},
		)
	}
	for range s.rounds {
		for i, c := range field {
			if err := c.round(ctx, rdb, i, s.span/3); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	printScale(w, s, field)
	return nil
}

func (c *crowd) round(ctx context.Context, rdb redis.UniversalClient, i int, span time.Duration) error {
	store, err := redislimit.NewStore(rdb, &redislimit.Options{Prefix: fmt.Sprintf("bench%d:", i)})
	if err != nil {
		return err
	}
	counter := &counted{Store: store}
	d, run, err := c.open(counter, c.limit)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = run(ctx) }) // what the last pass cannot tell is of no interest here
	defer running.Wait()
	defer stop()
	keys := make([]string, c.keys)
	for k := range keys {
		keys[k] = "customer-" + strconv.Itoa(k)
		if _, err := d.Allow(ctx, keys[k]); err != nil {
			return err
		}
	}
	runtime.GC()
	questions, counters := counter.questions.Load(), counter.counters.Load()
	cpu := cpuOf(os.Getpid())
	checks, refused, waits, took := hammer(ctx, d, keys, span)
	n := float64(checks)
	c.perSecond = append(c.perSecond, n/took.Seconds())
	c.cpu = append(c.cpu, float64(cpuOf(os.Getpid())-cpu)/n)
	c.questions = append(c.questions, 1e6/n*float64(counter.questions.Load()-questions))
	c.counters = append(c.counters, 1e6/n*float64(counter.counters.Load()-counters))
	c.refused = append(c.refused, float64(refused)/n)
	slices.Sort(waits)
	c.p99 = append(c.p99, float64(waits[len(waits)*99/100]))
	return nil
}

// hammer asks as fast as it goes, from as many goroutines as there are processors. One of 16 checks is timed.
func hammer(ctx context.Context, d ratelimit.Decider, keys []string, span time.Duration) (checks, refused int64, waits []time.Duration, took time.Duration) {
	var mu sync.Mutex
	var all sync.WaitGroup
	start := time.Now()
	for p := range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			var mine []time.Duration
			var n, no int64
			i := p * len(keys) / 2
			for ; n&255 != 0 || time.Since(start) < span; n++ {
				if i += 389; i >= len(keys) {
					i %= len(keys)
				}
				var begin time.Time
				if n&15 == 0 {
					begin = time.Now()
				}
				if r, err := d.Allow(ctx, keys[i]); err != nil || !r.Allowed {
					no++
				}
				if n&15 == 0 {
					mine = append(mine, time.Since(begin))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			checks, refused, waits = checks+n, refused+no, append(waits, mine...)
		})
	}
	all.Wait()
	return checks, refused, waits, time.Since(start)
}

func printScale(w io.Writer, s *settings, field []*crowd) {
	fmt.Fprintf(w, "\n## Rate limits of many processes\n\nOne of %d processes that share a limit in Redis, %d callers that ask as fast as they can. Medians of %d interleaved rounds "+
		"of %v. CPU is that of the process, the Redis client's with it; Redis has a share of the same cores. A question is one call of the store, which may be about many counters. "+
		"A bare `time.Since`, a mutex and nothing else took %.0f ns.\n\n", scaleNodes, runtime.GOMAXPROCS(0), s.rounds, s.span/3, bareNanos())
	fmt.Fprintf(w, "| | limit | keys | admitted | checks/s | CPU a check | questions of 10^6 checks | counters in them | p99 |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range field {
		fmt.Fprintf(w, "| %s | %d/s | %d | %.0f %% | %.0f | %.0f ns | %.0f | %.0f | %v |\n", c.name, c.limit.Rate, c.keys, 100*(1-median(c.refused)), median(c.perSecond),
			median(c.cpu), median(c.questions), median(c.counters), time.Duration(median(c.p99)).Round(10*time.Nanosecond))
	}
}
