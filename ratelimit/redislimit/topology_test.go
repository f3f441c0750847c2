package redislimit_test

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

// The ways to lose a server.
func killed(t *testing.T, server *localdb.Redis) {
	t.Helper()
	require.NoError(t, server.Kill())
}

func hung(t *testing.T, server *localdb.Redis) {
	t.Helper()
	pid := server.Pid()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	t.Cleanup(func() { require.NoError(t, syscall.Kill(pid, syscall.SIGCONT)) })
}

// The master is killed, or hangs, and the sentinel promotes its replica, which has never seen the script: meanwhile callers return within their timeout
// by the policy, afterwards they are answered by the store again; of what the replica had, nothing is lost: of N, N are admitted. So it is, too, for the
// client that takes the two for a cluster.
func TestSentinelFailsOver(t *testing.T) {
	t.Parallel()
	plain := func(o *redis.FailoverOptions) redis.UniversalClient { return redis.NewFailoverClient(o) }
	cluster := func(o *redis.FailoverOptions) redis.UniversalClient { return redis.NewFailoverClusterClient(o) }
	for how, test := range map[string]struct {
		lost   func(*testing.T, *localdb.Redis)
		client func(*redis.FailoverOptions) redis.UniversalClient
	}{
		"killed": {killed, plain}, "hung": {hung, plain}, "killed, by a cluster client": {killed, cluster},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			watched := testdb.NewRedisSentinel(t)
			rdb := test.client(&redis.FailoverOptions{
				MasterName: localdb.SentinelMaster, SentinelAddrs: watched.Addrs(), ReadTimeout: 500 * time.Millisecond,
			})
			t.Cleanup(func() { require.NoError(t, rdb.Close()) })
			s := openStore(t, rdb, redislimit.Options{Prefix: "p:"})
			limit := forever(100)[0]
			limiter, err := ratelimit.New(s, limit, &ratelimit.Options{OnError: ratelimit.FailClosed, Timeout: patience, DenyCache: -1})
			require.NoError(t, err)
			heir := redis.NewClient(&redis.Options{Addr: watched.Nodes()[1].Addr()})
			t.Cleanup(func() { require.NoError(t, heir.Close()) })
			byStore := func() bool {
				begun := time.Now()
				r, err := limiter.Peek(t.Context(), "k")
				require.NoError(t, err)
				require.Less(t, time.Since(begun), patience+soon)
				require.Equal(t, r.Source == ratelimit.FromStore, r.Allowed, "the policy refuses")
				return r.Source == ratelimit.FromStore
			}

			decide(t, s, take(limit, "k", 40))
			state := rdb.Get(t.Context(), "p:{k}b:bucket").Val()
			require.NotEmpty(t, state)
			require.Eventually(t, func() bool { return heir.Get(t.Context(), "p:{k}b:bucket").Val() == state }, long, 10*time.Millisecond)
			require.Equal(t, []bool{false}, heir.ScriptExists(t.Context(), redislimit.Digest).Val(), "scripts are not replicated")
			require.Eventually(t, byStore, long, 10*time.Millisecond, "a busy machine takes longer at times")

			for _, want := range []bool{true, false} { // of several keys, too
				outcomes := decide(t, s, take(limit, "a", 60), take(limit, "b", 60))
				require.Equal(t, []bool{want, want}, []bool{outcomes[0].Allowed, outcomes[1].Allowed})
			}

			test.lost(t, watched.Nodes()[0])
			require.False(t, byStore())
			for deadline := time.Now().Add(long); ask(t, s, 1) < 8; { // of another key
				byStore()
				require.True(t, time.Now().Before(deadline), "nobody was promoted")
			}
			require.Eventually(t, byStore, long, 10*time.Millisecond, "the breaker closes")
			require.Equal(t, []bool{true}, heir.ScriptExists(t.Context(), redislimit.Digest).Val())
			require.EqualValues(t, 60, left(t, s, limit, "k"))
			var admitted atomic.Int64
			var callers sync.WaitGroup
			for range 8 {
				callers.Go(func() {
					for range 20 {
						if reply := s.Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{take(limit, "k", 1)}}})[0]; reply.Err != nil {
							t.Errorf("%v", reply.Err)
						} else if reply.Outcomes[0].Allowed {
							admitted.Add(1)
						}
					}
				})
			}
			callers.Wait()
			require.EqualValues(t, 60, admitted.Load())
		})
	}
}

// Keys are on both servers of a ring, each counted on one; where one server is gone its keys begin anew on the other, and no other does.
func TestRing(t *testing.T) {
	t.Parallel()
	servers := map[string]*localdb.Redis{"a": testdb.NewRedis(t), "b": testdb.NewRedis(t)}
	addrs, nodes := map[string]string{}, map[string]*redis.Client{}
	for name, server := range servers {
		addrs[name] = server.Addr()
		nodes[name] = redis.NewClient(&redis.Options{Addr: server.Addr()})
		t.Cleanup(func() { require.NoError(t, nodes[name].Close()) })
	}
	ring := redis.NewRing(&redis.RingOptions{Addrs: addrs})
	t.Cleanup(func() { require.NoError(t, ring.Close()) })
	s := openStore(t, ring, redislimit.Options{Prefix: "p:"})
	strict := openStore(t, ring, redislimit.Options{Prefix: "p:", CrossSlot: redislimit.Refuse})
	const keys = 64
	l := forever(3)[0]
	var calls []ratelimit.Call
	for i := range 5 * keys {
		calls = append(calls, ratelimit.Call{Ops: []ratelimit.Op{take(l, fmt.Sprint("k", i%keys), 1)}})
	}
	count := func() (admitted [keys]int) {
		for i, reply := range s.Decide(t.Context(), calls) {
			require.NoError(t, reply.Err)
			if reply.Outcomes[0].Allowed {
				admitted[i%keys]++
			}
		}
		return admitted
	}
	for i, n := range count() {
		require.Equal(t, 3, n, "k%d", i)
	}
	at := func(i int) (names []string) {
		for _, name := range []string{"a", "b"} {
			if nodes[name].Exists(t.Context(), fmt.Sprintf("p:{k%d}b:bucket", i)).Val() == 1 {
				names = append(names, name)
			}
		}
		return names
	}
	var homes [keys]string
	on := map[string][]string{}
	for i := range keys {
		names := at(i)
		require.Len(t, names, 1, "k%d", i)
		homes[i] = names[0]
		on[names[0]] = append(on[names[0]], fmt.Sprint("k", i))
	}
	require.Len(t, on, 2)

	other := l.Named("other")
	for _, pair := range [][2]string{{on["a"][0], on["b"][0]}, {on["a"][1], on["a"][2]}} { // on one server too: the next ring may part them
		ops := []ratelimit.Op{take(other, pair[0], 2), take(other, pair[1], 2)}
		var crossed *redislimit.CrossSlotError
		require.ErrorAs(t, strict.Decide(t.Context(), []ratelimit.Call{{Ops: ops}})[0].Err, &crossed)
		for _, want := range []bool{true, false} {
			outcomes := decide(t, s, ops...)
			require.Equal(t, []bool{want, want}, []bool{outcomes[0].Allowed, outcomes[1].Allowed})
			require.Equal(t, []int64{1, 1}, []int64{outcomes[0].Remaining, outcomes[1].Remaining})
		}
	}
	tagged := []ratelimit.Op{take(other, "{tenant}x", 2), take(other, "{tenant}y", 2)}
	require.True(t, decide(t, strict, tagged...)[1].Allowed)
	require.False(t, decide(t, strict, tagged...)[1].Allowed)

	require.NoError(t, servers["a"].Kill())
	for i, home := range homes {
		left := -1
		require.Eventually(t, func() bool {
			reply := s.Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{{Kind: ratelimit.Peek, Limit: l, Key: fmt.Sprint("k", i), N: 1}}}})[0]
			if reply.Err == nil {
				left = int(reply.Outcomes[0].Remaining)
			}
			return reply.Err == nil
		}, long, 10*time.Millisecond)
		require.Equal(t, map[string]int{"a": 3, "b": 0}[home], left, "k%d", i)
	}
}

// onEach is a key on each master of a cluster of three.
func onEach() (keys []string) {
	for i := 0; len(keys) < 3; i++ {
		if key := fmt.Sprint("k", i); redislimit.Slot(key)*3/16384 == len(keys) {
			keys = append(keys, key)
		}
	}
	return keys
}

// heirOf starts a replica of a cluster's first master, and returns when it is in step and all know of it.
func heirOf(t *testing.T, cluster *localdb.RedisCluster) *redis.Client {
	t.Helper()
	const timeout = "2000" // ms until a silent master is taken for dead
	server := testdb.NewRedis(t, localdb.Options{Settings: map[string]string{
		"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-node-timeout": timeout, "databases": "1",
	}})
	client := func(addr string) *redis.Client {
		c := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		return c
	}
	heir, masters := client(server.Addr()), []*redis.Client{}
	for _, addr := range cluster.Addrs() {
		masters = append(masters, client(addr))
		require.NoError(t, masters[len(masters)-1].ConfigSet(t.Context(), "cluster-node-timeout", timeout).Err())
	}
	host, port, err := net.SplitHostPort(cluster.Addrs()[0])
	require.NoError(t, err)
	require.NoError(t, heir.ClusterMeet(t.Context(), host, port).Err())
	first, err := masters[0].Do(t.Context(), "CLUSTER", "MYID").Text()
	require.NoError(t, err)
	require.Eventually(t, func() bool { return heir.ClusterReplicate(t.Context(), first).Err() == nil }, long, 50*time.Millisecond)
	name, err := heir.Do(t.Context(), "CLUSTER", "MYID").Text()
	require.NoError(t, err)
	for _, m := range masters {
		require.Eventually(t, func() bool {
			nodes := m.ClusterNodes(t.Context()).Val()
			return regexp.MustCompile(`(?m)^` + name + ` \S+ slave ` + first + ` `).MatchString(nodes)
		}, long, 50*time.Millisecond)
	}
	require.Eventually(t, func() bool {
		return strings.Contains(heir.Info(t.Context(), "replication").Val(), "master_link_status:up")
	}, long, 50*time.Millisecond)
	return heir
}

// A master of a cluster is killed, or hangs, and its replica is promoted while calls are made for keys on all three: meanwhile they are back within their timeout, by
// the policy; none is charged to the masters that are there and not to the one that is gone; afterwards all is as before.
func TestClusterFailsOver(t *testing.T) {
	t.Parallel()
	for how, lost := range map[string]func(*testing.T, *localdb.Redis){"killed": killed, "hung": hung} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			clusterFailsOver(t, lost)
		})
	}
}

func clusterFailsOver(t *testing.T, lost func(*testing.T, *localdb.Redis)) {
	t.Helper()
	cluster := testdb.NewRedisCluster(t)
	heir := heirOf(t, cluster)
	rdb := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: cluster.Addrs(), ReadTimeout: 500 * time.Millisecond, ClusterStateReloadInterval: time.Hour, // it does not find out by itself
	})
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	s := openStore(t, rdb, redislimit.Options{Prefix: "p:"})
	limiter, err := ratelimit.New(s, ratelimit.PerHour(1), &ratelimit.Options{OnError: ratelimit.FailClosed, Timeout: patience, DenyCache: -1})
	require.NoError(t, err)

	limits := forever(1_000_000)[:4]
	keys := onEach()
	few := forever(100)[0].Named("few")
	decide(t, s, take(few, keys[0], 40))
	state := rdb.Get(t.Context(), "p:{"+keys[0]+"}b:few").Val()
	require.NotEmpty(t, state)
	inStep := redis.NewClient(&redis.Options{Addr: heir.Options().Addr, OnConnect: func(ctx context.Context, c *redis.Conn) error { return c.ReadOnly(ctx).Err() }})
	t.Cleanup(func() { require.NoError(t, inStep.Close()) })
	require.Eventually(t, func() bool { return inStep.Get(t.Context(), "p:{"+keys[0]+"}b:few").Val() == state }, long, 10*time.Millisecond)

	lost(t, cluster.Nodes()[0])
	var stop atomic.Bool
	var answered, refused atomic.Int64
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop.Store(true)
	for caller := range 8 {
		callers.Go(func() {
			for i := caller; !stop.Load(); i++ {
				var checks []ratelimit.Check
				for k := range keys { // each is at times the first, where the decision is kept
					checks = append(checks, ratelimit.Check{Limit: limits[i%len(limits)], Key: keys[(i+k)%len(keys)]})
				}
				begun := time.Now()
				r, err := limiter.All(t.Context(), checks...)
				switch took := time.Since(begun); {
				case err != nil || took > patience+soon:
					t.Errorf("after %v: %v", took, err)
				case r.Allowed:
					answered.Add(1)
				case r.Each[0].Source == ratelimit.FromFailClosed:
					refused.Add(1)
				default:
					t.Errorf("%+v", r)
				}
				pass(5 * time.Millisecond)
			}
		})
	}
	require.Eventually(t, func() bool { return answered.Load() > 100 }, long, 10*time.Millisecond, "nobody was promoted, or the client does not know")
	stop.Store(true)
	callers.Wait()
	require.Positive(t, refused.Load())
	require.EqualValues(t, 60, left(t, s, few, keys[0]), "nothing that the replica had is lost")
	for _, l := range limits {
		charged := func(key string) int64 { return l.Rate - left(t, s, l, key) }
		require.Eventually(t, func() bool { // reservations lapse meanwhile
			n := charged(keys[0])
			return charged(keys[1]) == n && charged(keys[2]) == n
		}, long, 100*time.Millisecond, l.Name)
		require.Positive(t, charged(keys[0]))
	}
}

// A client dies when it has reserved, and then the master dies that has the decision. What is reserved elsewhere counts as charged, and nobody waits for
// the one that is gone; when it is back, the decision is made.
func TestReservationWhoseDecisionCannotBeLookedUp(t *testing.T) {
	t.Parallel()
	cluster := testdb.NewRedisCluster(t)
	for _, addr := range cluster.Addrs() { // the others serve on
		node := redis.NewClient(&redis.Options{Addr: addr})
		require.NoError(t, node.ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err())
		require.NoError(t, node.Close())
	}
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), ReadTimeout: 500 * time.Millisecond})
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	o := redislimit.Options{Prefix: "p:", ReserveLease: 100 * time.Millisecond}
	victim, heir := openStore(t, rdb, o), openStore(t, rdb, o)
	keys := onEach()
	for _, l := range forever(10) {
		ctx, cancel := context.WithCancel(t.Context())
		victim.Die("reserved", cancel)
		_ = victim.Decide(ctx, []ratelimit.Call{{Ops: []ratelimit.Op{take(l, keys[0], 2), take(l, keys[1], 2)}}}) // the first has the decision
		cancel()
	}
	require.NoError(t, victim.Close())
	pass(o.ReserveLease)
	killed(t, cluster.Nodes()[0])
	for _, l := range forever(10) {
		begun := time.Now()
		require.EqualValues(t, 8, left(t, heir, l, keys[1]), l.Name)
		require.True(t, decide(t, heir, take(l, keys[1], 1))[0].Allowed, l.Name)
		require.Less(t, time.Since(begun), long)
	}
	require.NoError(t, cluster.Nodes()[0].Start(t.Context()))
	for _, l := range forever(10) {
		require.Eventually(t, func() bool {
			reply := heir.Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{{Kind: ratelimit.Peek, Limit: l, Key: keys[1], N: 1}}}})[0]
			return reply.Err == nil && reply.Outcomes[0].Remaining == 9
		}, long, 10*time.Millisecond, l.Name)
	}
}
