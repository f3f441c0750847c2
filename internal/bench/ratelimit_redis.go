package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	throttled "github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/goredisstore.v9"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

const (
	limitKeys = 65536
	limitRate = 1_000_000 // a second and key: everything is admitted, which is what costs most
)

// throttle is a way to decide by a counter on Redis, under one load.
type throttle struct {
	name    string
	callers int
	keys    int
	decide  func(ctx context.Context, key string) error

	rates, server, client, allocs, joined, p50, p99 []float64
	failed                                          int64
}

// benchRateLimitRedis compares limiters whose counters are on Redis.
func benchRateLimitRedis(ctx context.Context, s *settings, w io.Writer) error {
	server, err := localdb.StartRedis(ctx, localdb.Options{Settings: map[string]string{"appendonly": "no"}}) // as Redis comes, and as counters need it
	if err != nil {
		return err
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), PoolSize: grouped, ContextTimeoutEnabled: true})
	defer func() { _ = rdb.Close() }()
	store, err := redislimit.NewStore(rdb, nil)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	count, stop := openBareCounts(rdb)
	defer stop()
	field, err := throttles(rdb, store, count)
	if err != nil {
		return err
	}
	for n := range s.rounds + 1 { // one round warms up
		for _, t := range field {
			if err := t.round(ctx, rdb, server.Pid(), s.span, n > 0); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	printThrottles(w, s, field)
	return nil
}

func throttles(rdb *redis.Client, store *redislimit.Store, count func(context.Context, string) error) (field []*throttle, err error) {
	limiter, err := ratelimit.New(store, ratelimit.PerSecond(limitRate), &ratelimit.Options{Timeout: time.Second, DenyCache: -1, Failures: -1})
	if err != nil {
		return nil, err
	}
	rate := redis_rate.NewLimiter(rdb)
	gcra, err := goredisstore.NewCtx(rdb, "throttled:")
	if err != nil {
		return nil, err
	}
	throttler, err := throttled.NewGCRARateLimiterCtx(gcra, throttled.RateQuota{MaxRate: throttled.PerSec(limitRate), MaxBurst: limitRate - 1})
	if err != nil {
		return nil, err
	}
	refused := errors.New("refused")
	ways := []throttle{
		{name: "redis_rate", decide: func(ctx context.Context, key string) error {
			r, err := rate.Allow(ctx, key, redis_rate.PerSecond(limitRate))
			if err == nil && r.Allowed != 1 {
				err = refused
			}
			return err
		}},
		{name: "throttled", decide: func(ctx context.Context, key string) error {
			limited, _, err := throttler.RateLimitCtx(ctx, key, 1)
			if err == nil && limited {
				err = refused
			}
			return err
		}},
		{name: "safetill", decide: func(ctx context.Context, key string) error {
			r, err := limiter.Allow(ctx, key)
			if err == nil && (!r.Allowed || r.Source != ratelimit.FromStore) {
				err = refused
			}
			return err
		}},
		{name: "a GET and a SET in joint scripts, no limiter", decide: count},
	}
	for _, load := range []struct{ callers, keys int }{{grouped, limitKeys}, {grouped, 1}, {1, limitKeys}} {
		for _, way := range ways {
			way.callers, way.keys = load.callers, load.keys
			field = append(field, &way)
		}
	}
	return field, nil
}

func (t *throttle) round(ctx context.Context, rdb *redis.Client, pid int, span time.Duration, counts bool) error {
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	scripts, err := scriptCalls(rdb)
	if err != nil {
		return err
	}
	var done, failed atomic.Int64
	waits := make([][]time.Duration, t.callers)
	var before, afterwards runtime.MemStats
	runtime.ReadMemStats(&before)
	serverBefore, clientBefore, begin := cpuOf(pid), ownCPU(), time.Now()
	var caller atomic.Int64
	err = callers(context.WithoutCancel(ctx), 1, func(context.Context) error {
		_ = callers(ctx, t.callers, func(ctx context.Context) error {
			mine := &waits[caller.Add(1)-1]
			for ctx.Err() == nil {
				start := time.Now()
				if err := t.decide(context.WithoutCancel(ctx), "user:"+strconv.Itoa(rand.IntN(t.keys))); err != nil {
					failed.Add(1)
				}
				done.Add(1)
				if t.callers == 1 {
					*mine = append(*mine, time.Since(start))
				}
			}
			return nil
		})
		return io.EOF
	})
	if !errors.Is(err, io.EOF) {
		return err
	}
	took := time.Since(begin)
	serverAfter, clientAfter := cpuOf(pid), ownCPU()
	runtime.ReadMemStats(&afterwards)
	scriptsAfter, err := scriptCalls(rdb)
	if err != nil || !counts {
		return err
	}
	n := float64(done.Load())
	t.failed += failed.Load()
	t.rates = append(t.rates, n/took.Seconds())
	t.server = append(t.server, float64((serverAfter-serverBefore).Microseconds())/n)
	t.client = append(t.client, float64((clientAfter-clientBefore).Microseconds())/n)
	t.allocs = append(t.allocs, float64(afterwards.Mallocs-before.Mallocs)/n)
	t.joined = append(t.joined, n/float64(scriptsAfter-scripts))
	if all := waits[0]; len(all) > 0 {
		slices.Sort(all)
		t.p50 = append(t.p50, float64(all[len(all)/2].Microseconds()))
		t.p99 = append(t.p99, float64(all[len(all)*99/100].Microseconds()))
	}
	return nil
}

var evalsha = regexp.MustCompile(`cmdstat_evalsha:calls=(\d+)`)

// scriptCalls is how many scripts Redis has run.
func scriptCalls(rdb *redis.Client) (int64, error) {
	info, err := rdb.Info(context.Background(), "commandstats").Result()
	if err != nil {
		return 0, err
	}
	if m := evalsha.FindStringSubmatch(info); m != nil {
		return strconv.ParseInt(m[1], 10, 64)
	}
	return 0, nil
}

// ownCPU is the CPU time that this process has used.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func printThrottles(w io.Writer, s *settings, field []*throttle) {
	fmt.Fprintf(w, "\n## Rate limits, Redis\n\nMedians of %d interleaved rounds of %v, after one to warm up. One Redis without an append-only file, the same client of %d "+
		"connections for all; every call is admitted. A decision of one unit at a time, through each library's limiter.\n\n", s.rounds, s.span, grouped)
	fmt.Fprintln(w, "| load | | decisions/s | × redis_rate | Redis CPU a decision | × | own CPU | allocations | decisions a script | errors | p50 | p99 |\n|---|---|---|---|---|---|---|---|---|---|---|---|")
	for i, t := range field {
		base := field[i/4*4]
		load := fmt.Sprintf("%d callers, %d keys", t.callers, t.keys)
		joined, p50, p99 := "–", "", ""
		if j := median(t.joined); j < 1e6 {
			joined = fmt.Sprintf("%.1f", j)
		}
		if t.callers == 1 {
			p50, p99 = fmt.Sprintf("%.0f µs", median(t.p50)), fmt.Sprintf("%.0f µs", median(t.p99))
		}
		fmt.Fprintf(w, "| %s | %s | %.0f | %.1f | %.1f µs | %.2f | %.1f µs | %.1f | %s | %d | %s | %s |\n", load, t.name, median(t.rates), median(t.rates)/median(base.rates),
			median(t.server), median(t.server)/median(base.server), median(t.client), median(t.allocs), joined, t.failed, p50, p99)
	}
}
