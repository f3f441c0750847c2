package redislimit_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/ratelimittest"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

// openStore returns a store whose keys nobody else has.
func openStore(tb testing.TB, rdb redis.UniversalClient, o redislimit.Options) *redislimit.Store {
	tb.Helper()
	if o.Prefix == "" {
		o.Prefix = rand.Text() + ":"
	}
	s, err := redislimit.NewStore(rdb, &o)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, s.Close()) })
	return s
}

// openRing returns a ring of two servers.
func openRing(tb testing.TB) *redis.Ring {
	tb.Helper()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": testdb.NewRedis(tb).Addr(), "b": testdb.NewRedis(tb).Addr()}})
	tb.Cleanup(func() { require.NoError(tb, ring.Close()) })
	return ring
}

func TestConformanceOnCluster(t *testing.T) {
	t.Parallel()
	ratelimittest.Run(t, thorough(200, 20_000), func(tb testing.TB, now func() time.Time) ratelimit.Store {
		s := openStore(tb, testdb.RedisCluster(tb), redislimit.Options{})
		s.SetClock(func() int64 { return now().UnixMicro() })
		return s
	})
}

func TestConformanceOnRing(t *testing.T) {
	t.Parallel()
	ring := openRing(t)
	ratelimittest.Run(t, thorough(200, 20_000), func(tb testing.TB, now func() time.Time) ratelimit.Store {
		s := openStore(tb, ring, redislimit.Options{})
		s.SetClock(func() int64 { return now().UnixMicro() })
		return s
	})
}

// forever are limits of all kinds of counters, of which nothing comes back while a test runs: n of each.
func forever(n int64) []ratelimit.Limit {
	l := ratelimit.Limit{Rate: n, Per: ratelimit.MaxPer}
	return []ratelimit.Limit{
		l.Named("bucket"), l.Named("fixed").As(ratelimit.FixedWindow), l.Named("log").As(ratelimit.SlidingLog),
		l.Named("counter").As(ratelimit.SlidingCounter), l.Named("places").As(ratelimit.Concurrency),
	}
}

func take(l ratelimit.Limit, key string, n int64) ratelimit.Op {
	op := ratelimit.Op{Limit: l, Key: key, N: n}
	if l.Algorithm == ratelimit.Concurrency {
		op.Holder = rand.Text()
	}
	return op
}

func decide(tb testing.TB, s ratelimit.Store, ops ...ratelimit.Op) []ratelimit.Outcome {
	tb.Helper()
	reply := s.Decide(tb.Context(), []ratelimit.Call{{Ops: ops}})[0]
	require.NoError(tb, reply.Err)
	return reply.Outcomes
}

// left is what a counter has.
func left(tb testing.TB, s ratelimit.Store, l ratelimit.Limit, key string) int64 {
	tb.Helper()
	return decide(tb, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: l, Key: key, N: 1})[0].Remaining
}

// spread is a take of 2 for each of three keys, which are in three slots.
func spread(l ratelimit.Limit) []ratelimit.Op {
	return []ratelimit.Op{take(l, "user", 2), take(l, "ip", 2), take(l, "everybody", 2)}
}

func pass(d time.Duration) { <-time.After(d) }

// Trap 16: a call over several slots is neither a CROSSSLOT error nor admitted without being counted.
func TestTrapCrossSlotIsReservedOrRefused(t *testing.T) {
	t.Parallel()
	rdb := testdb.RedisCluster(t)
	for _, l := range forever(3) {
		s := openStore(t, rdb, redislimit.Options{})
		first := decide(t, s, spread(l)...)
		second := decide(t, s, append(spread(l), ratelimit.Op{Kind: ratelimit.Peek, Limit: l, Key: "other", N: 1})...)
		for i := range first {
			require.Equal(t, []bool{true, false}, []bool{first[i].Allowed, second[i].Allowed}, l.Name)
			require.Equal(t, []int64{1, 1}, []int64{first[i].Remaining, second[i].Remaining}, l.Name)
		}
		tight := spread(l)
		tight[1].Key = "another ip"
		third := decide(t, s, tight...)
		require.True(t, third[1].Allowed)
		require.EqualValues(t, 3, third[1].Remaining, "what it would have had before")
		require.Eventually(t, func() bool { return left(t, s, l, "another ip") == 3 }, long, time.Millisecond, "it is given back: %s", l.Name)
	}
	strict := openStore(t, rdb, redislimit.Options{CrossSlot: redislimit.Refuse})
	reply := strict.Decide(t.Context(), []ratelimit.Call{{Ops: spread(forever(3)[0])}})[0]
	var crossed *redislimit.CrossSlotError
	require.ErrorAs(t, reply.Err, &crossed)
	require.Len(t, crossed.Keys, 3)
	require.ErrorIs(t, reply.Err, ratelimit.ErrInvalid)
	require.EqualValues(t, 3, left(t, strict, forever(3)[0], "user"))
	tagged := spread(forever(3)[0])
	for i := range tagged {
		tagged[i].Key = "{tenant}" + tagged[i].Key
	}
	require.True(t, decide(t, strict, tagged...)[0].Allowed, "keys with one tag are in one slot")
}

// A client dies between any two steps: afterwards all is charged or nothing, whoever looks first, at whichever counter.
func TestClientDiesAtAnyStage(t *testing.T) {
	t.Parallel()
	rdb := testdb.RedisCluster(t)
	keys := []string{"user", "ip", "everybody"}
	die := func(t *testing.T, l ratelimit.Limit, stage string, charged int64, first string) {
		o := redislimit.Options{Prefix: rand.Text() + ":", ReserveLease: 500 * time.Millisecond}
		victim, heir := openStore(t, rdb, o), openStore(t, rdb, o)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		victim.Die(stage, cancel)
		_ = victim.Decide(ctx, []ratelimit.Call{{Ops: spread(l)}})
		require.NoError(t, victim.Close())
		pass(o.ReserveLease)
		for _, key := range append([]string{first}, keys...) {
			require.Equal(t, 10-charged, left(t, heir, l, key), "%s, looked at first: %s", key, first)
		}
	}
	for stage, charged := range map[string]int64{"reserved": 0, "decided": 2, "half settled": 2} {
		for _, l := range forever(10) {
			t.Run(stage+" "+l.Name, func(t *testing.T) {
				t.Parallel()
				for _, first := range keys {
					die(t, l, stage, charged, first)
				}
			})
		}
	}
}

// Until it is decided a reservation counts; when the lease is over, the decision is the heir's, and the client that comes too late finds it made.
func TestLapsedReservationCannotBeCommitted(t *testing.T) {
	t.Parallel()
	rdb := testdb.RedisCluster(t)
	l := forever(10)[0]
	o := redislimit.Options{Prefix: rand.Text() + ":", ReserveLease: time.Second}
	slow, heir := openStore(t, rdb, o), openStore(t, rdb, o)
	begun := time.Now()
	slow.Pause(func() {
		if free := left(t, heir, l, "ip"); time.Since(begun) < o.ReserveLease { // a machine may be held up for as long
			require.EqualValues(t, 8, free)
		}
		pass(o.ReserveLease)
		require.EqualValues(t, 10, left(t, heir, l, "ip"))
	})
	reply := slow.Decide(t.Context(), []ratelimit.Call{{Ops: spread(l)}})[0]
	require.Error(t, reply.Err)
	require.NoError(t, slow.Close())
	for _, key := range []string{"user", "ip", "everybody"} {
		require.EqualValues(t, 10, left(t, heir, l, key), key)
	}
}

// The servers' time runs faster than the client's: another has aborted the call before its client finds that the lease is over. It is not told as admitted.
func TestCallThatAnotherHasAbortedIsAnError(t *testing.T) {
	t.Parallel()
	l := forever(10)[0]
	now := int64(1_800_000_000_000_000)
	ring, o := openRing(t), redislimit.Options{Prefix: rand.Text() + ":", ReserveLease: time.Hour}
	slow, heir := openStore(t, ring, o), openStore(t, ring, o)
	slow.SetClock(func() int64 { return now })
	heir.SetClock(func() int64 { return now })
	slow.Pause(func() {
		now += 2 * time.Hour.Microseconds()
		require.EqualValues(t, 10, left(t, heir, l, "ip"))
	})
	reply := slow.Decide(t.Context(), []ratelimit.Call{{Ops: spread(l)}})[0]
	require.ErrorContains(t, reply.Err, "longer than Options.ReserveLease")
	require.Empty(t, reply.Outcomes)
	require.NoError(t, slow.Close())
	for _, key := range []string{"user", "ip", "everybody"} {
		require.EqualValues(t, 10, left(t, heir, l, key), key)
	}
}

// A caller who has left may use his ops for something else. What he had asked goes on as he had asked it. Under -race.
func TestOpsAreTheCallersAgainWhenHeLeaves(t *testing.T) {
	t.Parallel()
	s := openStore(t, testdb.RedisCluster(t), redislimit.Options{})
	l := forever(1_000_000)[0]
	for i := range 200 {
		ops := spread(l)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*10*time.Microsecond)
		_ = s.Decide(ctx, []ratelimit.Call{{Ops: ops}})
		cancel()
		for k := range ops {
			ops[k] = take(l, "nobody", int64(k))
		}
	}
	require.Eventually(t, func() bool {
		user := left(t, s, l, "user")
		return left(t, s, l, "ip") == user && left(t, s, l, "everybody") == user
	}, long, 10*time.Millisecond)
}

// mixed is one of the calls of a herd: a user, an ip and everybody.
func mixed(limits []ratelimit.Limit, tag string, caller, i int) []ratelimit.Op {
	l := limits[i%4]
	return []ratelimit.Op{
		{Limit: l, Key: fmt.Sprint(tag, "user", caller%7), N: 1}, {Limit: l, Key: fmt.Sprint(tag, "ip", i%5), N: 1}, {Limit: l, Key: tag + "everybody", N: 1},
	}
}

// balanced compares what is charged to users, ips and everybody, once reservations of callers who have left are given back.
func balanced(tb testing.TB, s ratelimit.Store, tag string, limits []ratelimit.Limit) (charged int64) {
	tb.Helper()
	for _, l := range limits[:4] {
		var users, ips, everybody int64
		for deadline := time.Now().Add(long); ; pass(10 * time.Millisecond) {
			users, ips, everybody = 0, 0, l.Rate-left(tb, s, l, tag+"everybody")
			for i := range 7 {
				users += l.Rate - left(tb, s, l, fmt.Sprint(tag, "user", i))
			}
			for i := range 5 {
				ips += l.Rate - left(tb, s, l, fmt.Sprint(tag, "ip", i))
			}
			if users == everybody && ips == everybody || time.Now().After(deadline) {
				break
			}
		}
		require.Equal(tb, []int64{everybody, everybody}, []int64{users, ips}, l.Name)
		charged += everybody
	}
	return charged
}

// herd makes calls by 64 at once, of which every third gives up early.
func herd(ctx context.Context, s ratelimit.Store, tag string, limits []ratelimit.Limit, calls int) (allowed, failed int64) {
	var yes, no atomic.Int64
	var wg sync.WaitGroup
	for caller := range 64 {
		wg.Go(func() {
			for i := caller; i < calls && ctx.Err() == nil; i += 64 {
				ctx, cancel := context.WithCancel(ctx)
				if i%3 == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(i%4000)*time.Microsecond)
				}
				reply := s.Decide(ctx, []ratelimit.Call{{Ops: mixed(limits, tag, caller, i)}})[0]
				patient := ctx.Err() == nil
				cancel()
				switch {
				case reply.Err != nil && patient:
					no.Add(1)
				case reply.Err == nil && reply.Outcomes[0].Allowed && reply.Outcomes[1].Allowed && reply.Outcomes[2].Allowed:
					yes.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return yes.Load(), no.Load()
}

// Calls for a user, an ip and everybody, from callers that give up: nothing is charged to one and not to the others.
func TestNoPartialCharges(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, rdb redis.UniversalClient) {
		t.Parallel()
		s := openStore(t, rdb, redislimit.Options{ReserveLease: 5 * time.Second})
		limits := forever(700)
		calls := thorough(5_000, 100_000)
		allowed, failed := herd(t.Context(), s, "", limits, calls)
		require.Zero(t, failed)
		charged := balanced(t, s, "", limits)
		require.GreaterOrEqual(t, charged, allowed)
		require.Greater(t, allowed, int64(100))
	}
	t.Run("one server", func(t *testing.T) { run(t, testdb.Redis(t)) })
	t.Run("cluster", func(t *testing.T) { run(t, testdb.RedisCluster(t)) })
	t.Run("ring", func(t *testing.T) { run(t, openRing(t)) })
}

// A client dies, and nobody comes to its counters until nothing of what it has reserved can count any more: then nobody looks up its decision, which may be
// on a server that is down, or gives back what others have taken since.
func TestReservationOfWhichNothingCountsIsForgotten(t *testing.T) {
	t.Parallel()
	rdb := testdb.RedisCluster(t)
	for _, l := range allAlgorithms(10, time.Minute) {
		t.Run(l.Name, func(t *testing.T) {
			t.Parallel()
			now := int64(1_800_000_000_000_000)
			o := redislimit.Options{Prefix: rand.Text() + ":"}
			victim, heir := openStore(t, rdb, o), openStore(t, rdb, o)
			victim.SetClock(func() int64 { return now })
			heir.SetClock(func() int64 { return now })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			victim.Die("reserved", cancel)
			_ = victim.Decide(ctx, []ratelimit.Call{{Ops: spread(l)}})
			require.NoError(t, victim.Close())
			require.EqualValues(t, 8, left(t, heir, l, "ip"), "it counts")
			now += 4 * l.Per.Microseconds()
			for _, key := range []string{"user", "ip", "everybody"} {
				require.EqualValues(t, 8, decide(t, heir, take(l, key, 2))[0].Remaining)
			}
			require.NoError(t, rdb.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
				require.Empty(t, node.Keys(ctx, o.Prefix+"*d:*").Val(), "no decision was looked up")
				return nil
			}))
		})
	}
}

// What a client that died had reserved has come back by itself before it is aborted, and others have taken it: it does not come back a second time.
func TestReservationThatHasComeBackIsNotGivenBack(t *testing.T) {
	t.Parallel()
	rdb := testdb.RedisCluster(t)
	l := ratelimit.Limit{Rate: 10, Per: 100 * time.Millisecond}
	now := int64(1_800_000_000_000_000)
	o := redislimit.Options{Prefix: rand.Text() + ":"}
	victim, heir := openStore(t, rdb, o), openStore(t, rdb, o)
	victim.SetClock(func() int64 { return now })
	heir.SetClock(func() int64 { return now })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	victim.Die("reserved", cancel)
	_ = victim.Decide(ctx, []ratelimit.Call{{Ops: []ratelimit.Op{take(l, "user", 10), take(l, "ip", 10)}}})
	require.NoError(t, victim.Close())
	now += 50_000
	require.EqualValues(t, 5, left(t, heir, l, "ip"), "half of it has come back")
	now += 940_000
	require.EqualValues(t, 0, decide(t, heir, take(l, "ip", 10))[0].Remaining)
	now += 10_000 // the lease is over
	require.EqualValues(t, 1, left(t, heir, l, "ip"))
}

// What a client that died had reserved is aborted in the next window, in which others have taken something: it is given back to its own, also of a log that
// is ahead of the clock. Who finds it is charged once.
func TestReservationIsGivenBackToItsWindow(t *testing.T) {
	t.Parallel()
	ring := openRing(t)
	for a, free := range map[ratelimit.Algorithm]int64{ratelimit.FixedWindow: 7, ratelimit.SlidingCounter: 6, ratelimit.SlidingLog: 6} {
		l := ratelimit.Limit{Algorithm: a, Rate: 10, Per: 10 * time.Second}
		now := int64(1_800_000_009_600_000) // a window ends in 400 ms
		o := redislimit.Options{Prefix: rand.Text() + ":"}
		victim, heir := openStore(t, ring, o), openStore(t, ring, o)
		victim.SetClock(func() int64 { return now })
		heir.SetClock(func() int64 { return now })
		decide(t, heir, take(l, "ip", 1))
		now -= 100_000
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		victim.Die("reserved", cancel)
		_ = victim.Decide(ctx, []ratelimit.Call{{Ops: []ratelimit.Op{take(l, "user", 2), take(l, "ip", 2), take(l, "host", 2)}}})
		require.NoError(t, victim.Close())
		now += 600_000
		require.True(t, decide(t, heir, take(l, "ip", 3))[0].Allowed, "%v", a)
		now += 400_000 // the lease is over
		require.Equal(t, free, left(t, heir, l, "ip"), "%v", a)
		require.EqualValues(t, 9, decide(t, heir, take(l, "user", 1))[0].Remaining, "%v", a)
		require.EqualValues(t, 9, decide(t, heir, take(l, "host", 1), take(l.Named("other"), "host", 1))[0].Remaining, "%v", a)
	}
}

// A client that died has left a reservation at a counter, in front of another's, which is confirmed: only the first is given back when it has lapsed.
func TestReservationsOfACounterAreSettledOneByOne(t *testing.T) {
	t.Parallel()
	ring := openRing(t)
	for _, l := range forever(10) {
		now := int64(1_800_000_000_000_000)
		o := redislimit.Options{Prefix: rand.Text() + ":"}
		victim, other, heir := openStore(t, ring, o), openStore(t, ring, o), openStore(t, ring, o)
		for _, s := range []*redislimit.Store{victim, other, heir} {
			s.SetClock(func() int64 { return now })
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		victim.Die("reserved", cancel)
		_ = victim.Decide(ctx, []ratelimit.Call{{Ops: spread(l)}})
		require.NoError(t, victim.Close())
		require.True(t, decide(t, other, take(l, "ip", 3), take(l, "host", 3))[0].Allowed)
		require.NoError(t, other.Close())
		decide(t, heir, take(l, "user", 1)) // as most calls are
		now += 2_000_000                    // both leases are over, but one is settled
		for key, free := range map[string]int64{"ip": 7, "host": 7, "user": 9} {
			require.Equal(t, free, left(t, heir, l, key), "%s %s", l.Name, key)
		}
	}
}
