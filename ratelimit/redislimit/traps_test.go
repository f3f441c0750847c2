package redislimit_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

// The traps are those that other libraries fall into.

// manual is a store that goes by a clock set by hand.
func manual(t *testing.T) (*redislimit.Store, *int64) {
	t.Helper()
	now := int64(1_800_000_000_123_457)
	return testStore(t, &now, &redislimit.Options{Flights: 1}), &now
}

func allAlgorithms(rate int64, per time.Duration) (limits []ratelimit.Limit) {
	for a := ratelimit.TokenBucket; a <= ratelimit.Concurrency; a++ {
		l := ratelimit.Limit{Name: a.String(), Algorithm: a, Rate: rate, Per: per}
		if a == ratelimit.GCRA {
			l.Burst = rate
		}
		limits = append(limits, l)
	}
	return limits
}

// keyOf returns the one key that there is.
func keyOf(t *testing.T, rdb *redis.Client) string {
	t.Helper()
	keys, err := rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 1)
	return keys[0]
}

// Traps 1 and 10: a counter expires in whole seconds, or before it has refilled. And 9: it loses its TTL, and nobody repairs that.
func TestTrapTTLIsNeverEarlyAndNeverLost(t *testing.T) {
	t.Parallel()
	rdb := testdb.Redis(t)
	s := openStore(t, rdb, redislimit.Options{})
	for _, l := range allAlgorithms(4, 1900*time.Millisecond) {
		var asked time.Time
		outcome := func(change func(*ratelimit.Op)) time.Duration {
			op := take(l, "k", 1)
			change(&op)
			asked = time.Now()
			return decide(t, s, op)[0].Reset
		}
		lives := func(reset, longer time.Duration, what string) {
			t.Helper()
			ttl := time.Duration(0) // where it has expired
			for _, key := range rdb.Keys(t.Context(), "*").Val() {
				ttl = rdb.PTTL(t.Context(), key).Val()
			}
			require.GreaterOrEqual(t, ttl, reset-time.Since(asked)-time.Millisecond, "%s: %s", l.Name, what) // which Redis rounds
			require.Less(t, ttl, reset+longer+200*time.Millisecond, "%s: %s", l.Name, what)
		}
		lives(outcome(func(*ratelimit.Op) {}), time.Second, "take")
		if l.Algorithm <= ratelimit.GCRA {
			lives(outcome(func(op *ratelimit.Op) { op.N, op.Ahead = 4, time.Hour }), time.Second, "ahead")
		}
		if l.Algorithm != ratelimit.Concurrency {
			lives(outcome(func(op *ratelimit.Op) { op.Kind, op.N = ratelimit.Charge, 20 }), time.Second, "charge")
		}
		decide(t, s, ratelimit.Op{Kind: ratelimit.Reset, Limit: l, Key: "k"})
		outcome(func(*ratelimit.Op) {})
		require.NoError(t, rdb.Persist(t.Context(), keyOf(t, rdb)).Err())
		var reset time.Duration
		require.Eventually(t, func() bool { // a bucket's TTL is looked after once in 15 s
			reset = outcome(func(*ratelimit.Op) {})
			return rdb.PTTL(t.Context(), keyOf(t, rdb)).Val() > 0
		}, time.Minute, 100*time.Millisecond)
		lives(reset, 16*time.Second, "repaired")
		decide(t, s, ratelimit.Op{Kind: ratelimit.Reset, Limit: l, Key: "k"})
		require.Zero(t, rdb.DBSize(t.Context()).Val())
	}
}

// Trap 2: check-and-set gives up where 64 want one key.
func TestTrapHotKeyHasNoErrors(t *testing.T) {
	t.Parallel()
	s := openStore(t, testdb.Redis(t), redislimit.Options{})
	for _, l := range forever(500)[:4] {
		var allowed, failed atomic.Int64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 20 {
					reply := s.Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{take(l, "hot", 1)}}})[0]
					if reply.Err != nil {
						failed.Add(1)
					} else if reply.Outcomes[0].Allowed {
						allowed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, []int64{500, 0}, []int64{allowed.Load(), failed.Load()}, l.Name)
	}
}

// Trap 3: fractions are lost: on a clock that stands still a bucket of any size gives all that it has, and a client that is paced exactly is
// never refused.
func TestTrapNoTokenIsLost(t *testing.T) {
	t.Parallel()
	s, now := manual(t)
	for burst := int64(1); burst <= 10_000; burst += int64(thorough(37, 1)) {
		l := ratelimit.Limit{Rate: 7, Per: time.Second, Burst: burst}
		key := fmt.Sprint(burst)
		replies := s.Decide(t.Context(), []ratelimit.Call{
			{Ops: []ratelimit.Op{take(l, key, 1)}}, {Ops: []ratelimit.Op{take(l, key, max(1, burst-1))}}, {Ops: []ratelimit.Op{take(l, key, 1)}},
		})
		require.True(t, replies[0].Outcomes[0].Allowed)
		require.Equal(t, burst > 1, replies[1].Outcomes[0].Allowed, burst)
		require.False(t, replies[2].Outcomes[0].Allowed, burst)
		require.Zero(t, replies[2].Outcomes[0].Remaining)
	}
	l := ratelimit.Limit{Rate: 10, Per: time.Second, Burst: 1}
	for i := range 2_000 {
		*now += 100_000
		require.True(t, decide(t, s, take(l, "paced", 1))[0].Allowed, i)
	}
}

// Trap 7: 200,000 a day times the length of a day in microseconds overflows.
func TestTrapNoOverflow(t *testing.T) {
	t.Parallel()
	s, now := manual(t)
	day := ratelimit.Limit{Algorithm: ratelimit.SlidingCounter, Rate: 200_000, Per: 24 * time.Hour}
	require.True(t, decide(t, s, take(day, "k", 200_000))[0].Allowed)
	*now += day.Per.Microseconds()
	free := decide(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: day, Key: "k", N: 1})[0].Remaining
	share := *now % day.Per.Microseconds() // of this window is over
	require.Equal(t, 200_000*share/day.Per.Microseconds(), free)
	require.False(t, decide(t, s, take(day, "k", free+1))[0].Allowed)
	require.True(t, decide(t, s, take(day, "k", free))[0].Allowed)
}

// Trap 8: what is refused is charged, so that a client that is twice too fast gets nothing at all. Here it gets what there is, and a refusal leaves
// the counter as it was, to the byte.
func TestTrapRefusedCallsBurnNothing(t *testing.T) {
	t.Parallel()
	rdb := testdb.Redis(t)
	s := openStore(t, rdb, redislimit.Options{})
	now := int64(1_800_000_000_000_000)
	s.SetClock(func() int64 { return now })
	for _, l := range allAlgorithms(10, time.Second)[:5] {
		admitted := 0
		for range 1200 {
			if decide(t, s, take(l, "k", 1))[0].Allowed {
				admitted++
			}
			now += 50_000
		}
		require.Greater(t, admitted, 500, l.Name) // the sliding counter is the one that takes a call for spread over its window
		require.LessOrEqual(t, admitted, 610, l.Name)
		for decide(t, s, take(l, "k", 1))[0].Allowed { // until it is exhausted
			continue
		}
		key := keyOf(t, rdb)
		dump, ttl := rdb.Dump(t.Context(), key).Val(), rdb.PExpireTime(t.Context(), key).Val()
		for range 10 {
			require.False(t, decide(t, s, take(l, "k", 5))[0].Allowed)
			decide(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: l, Key: "k", N: 1})
		}
		require.Equal(t, dump, rdb.Dump(t.Context(), key).Val(), l.Name)
		require.Equal(t, ttl, rdb.PExpireTime(t.Context(), key).Val())
		decide(t, s, ratelimit.Op{Kind: ratelimit.Reset, Limit: l, Key: "k"})
	}
}

// Trap 11: a limit that is raised is still exhausted.
func TestTrapChangedLimitHoldsAtOnce(t *testing.T) {
	t.Parallel()
	s, _ := manual(t)
	for _, few := range allAlgorithms(2, time.Minute) {
		many := few
		many.Rate, many.Burst = 10, 0
		if few.Algorithm == ratelimit.GCRA {
			many.Burst = 10
		}
		require.True(t, decide(t, s, take(few, "k", 2))[0].Allowed)
		require.False(t, decide(t, s, take(few, "k", 1))[0].Allowed)
		o := decide(t, s, take(many, "k", 8))[0]
		require.True(t, o.Allowed, few.Name)
		require.Zero(t, o.Remaining, few.Name)
	}
}

// Trap 12: a wait that is rounded down, or that is told for what can never be.
func TestTrapWaitIsExact(t *testing.T) {
	t.Parallel()
	s, now := manual(t)
	for _, l := range allAlgorithms(7, 1900*time.Millisecond)[:5] {
		require.True(t, decide(t, s, take(l, "k", 3))[0].Allowed)
		*now += 333_333
		decide(t, s, take(l, "k", 4))
		for _, n := range []int64{1, 4, 7} {
			o := decide(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: l, Key: "k", N: n})[0]
			for !o.Allowed {
				before := *now
				*now += o.Wait.Microseconds() - 1
				require.False(t, decide(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: l, Key: "k", N: n})[0].Allowed, "%s %d", l.Name, n)
				*now++
				o = decide(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: l, Key: "k", N: n})[0]
				require.True(t, o.Allowed, "%s %d", l.Name, n)
				*now = before
			}
		}
		require.Equal(t, ratelimit.Never, decide(t, s, take(l, "k", 8))[0].Wait)
		decide(t, s, ratelimit.Op{Kind: ratelimit.Reset, Limit: l, Key: "k"})
	}
}

// Trap 15: a pipeline does not load a script that the server has lost. Here it is lost all the time, on one server and on the nodes of a cluster.
func TestTrapScriptIsLoadedAgain(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, rdb redis.UniversalClient, flush func(ctx context.Context) error) {
		t.Parallel()
		s := openStore(t, rdb, redislimit.Options{})
		l := forever(300)[0]
		ctx, cancel := context.WithCancel(t.Context())
		var wg, flushing sync.WaitGroup
		flushing.Go(func() {
			for ctx.Err() == nil {
				_ = flush(ctx)
			}
		})
		var admitted, failed atomic.Int64
		for caller := range 16 {
			wg.Go(func() {
				for i := range 50 {
					for _, reply := range s.Decide(t.Context(), []ratelimit.Call{
						{Ops: []ratelimit.Op{take(l, fmt.Sprint(caller, i), 1)}}, {Ops: []ratelimit.Op{take(l, "everybody", 1)}},
					}) {
						if reply.Err != nil {
							failed.Add(1)
						} else if reply.Outcomes[0].Allowed {
							admitted.Add(1)
						}
					}
				}
			})
		}
		wg.Wait()
		cancel()
		flushing.Wait()
		require.Equal(t, []int64{16*50 + 300, 0}, []int64{admitted.Load(), failed.Load()})
	}
	t.Run("one server", func(t *testing.T) {
		rdb := redis.NewClient(&redis.Options{Addr: testdb.NewRedis(t).Addr()})
		t.Cleanup(func() { require.NoError(t, rdb.Close()) })
		run(t, rdb, func(ctx context.Context) error { return rdb.ScriptFlush(ctx).Err() })
	})
	t.Run("cluster", func(t *testing.T) {
		rdb := testdb.RedisCluster(t)
		run(t, rdb, func(ctx context.Context) error {
			return rdb.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return c.ScriptFlush(ctx).Err() })
		})
	})
}

// A decision is one script, which reads once and writes once for each counter; callers who come together share one.
func TestOneRoundTrip(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: testdb.NewRedis(t).Addr()})
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	s := openStore(t, rdb, redislimit.Options{Flights: 1})
	l := forever(5000)[0]
	decide(t, s, take(l, "k", 1)) // loads the script
	stats := func() string { return rdb.Info(t.Context(), "commandstats").Val() }
	require.NoError(t, rdb.ConfigResetStat(t.Context()).Err())
	for range 10 {
		decide(t, s, take(l, "k", 1), take(l, "another", 1))
	}
	for _, count := range []string{"evalsha:calls=10,", "time:calls=10,", "mget:calls=10,", "psetex:calls=20,"} {
		require.Contains(t, stats(), count)
	}
	calls := make([]ratelimit.Call, 1000)
	for i := range calls {
		calls[i].Ops = []ratelimit.Op{take(l, "k", 1)}
	}
	for _, reply := range s.Decide(t.Context(), calls) {
		require.NoError(t, reply.Err)
	}
	require.Regexp(t, `evalsha:calls=\d\d?\d?,`, stats())
	require.NotRegexp(t, `evalsha:calls=[5-9]\d\d,`, stats())
}

// What is no state of ours does not count and is in nobody's way.
func TestForeignKeysAreReplaced(t *testing.T) {
	t.Parallel()
	rdb := testdb.Redis(t)
	s := openStore(t, rdb, redislimit.Options{})
	for _, l := range allAlgorithms(5, time.Minute) {
		decide(t, s, take(l, "k", 1))
		key := keyOf(t, rdb)
		for _, foreign := range []func() error{
			func() error { return rdb.Set(t.Context(), key, "x", 0).Err() },
			func() error { return rdb.LPush(t.Context(), key, "x").Err() },
		} {
			require.NoError(t, rdb.Del(t.Context(), key).Err())
			require.NoError(t, foreign())
			require.EqualValues(t, 4, decide(t, s, take(l, "k", 1))[0].Remaining, l.Name)
			require.EqualValues(t, 3, decide(t, s, take(l, "k", 1))[0].Remaining, l.Name)
		}
		require.NoError(t, rdb.Del(t.Context(), key).Err())
	}
}

// Keys of any bytes have counters of their own, and the limits of one key share a slot, which is where Redis has it.
func TestKeysAreApartAndTogether(t *testing.T) {
	t.Parallel()
	rdb := testdb.RedisCluster(t)
	s := openStore(t, rdb, redislimit.Options{CrossSlot: redislimit.Refuse})
	l := forever(9)[0]
	keys := []string{
		"u", "{u}", "u}", "{u", "{{u}}", "{}u", "u{}", "{u}{", "}{u}", "u}b:bucket", "{u}b:bucket", "a{u}b", "a{u}b{b", " ", "\x00", "}", "{", "{}",
	}
	for i, key := range keys {
		require.EqualValues(t, 9, left(t, s, l, key), "%q is another's: one of %q", key, keys[:i])
		decide(t, s, take(l, key, 1))
		if key != "{}u" && !strings.HasPrefix(key, "}") && key != "{}" {
			require.True(t, decide(t, s, take(l.Named("a"), key, 1), take(l.Named("b:c"), key, 1))[0].Allowed, "%q", key)
		}
	}
	for _, key := range append(keys, "123456789", "user:7") {
		slot, err := rdb.ClusterKeySlot(t.Context(), key).Result()
		require.NoError(t, err)
		require.EqualValues(t, slot, redislimit.Slot(key), "%q", key)
	}
}
