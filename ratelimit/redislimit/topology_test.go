package redislimit_test

import (
	"fmt"
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

// The master is killed, or hangs, and the sentinel promotes its replica, which has never seen the script: meanwhile callers return within their timeout
// by the policy, afterwards they are answered by the store again; of what the replica had, nothing is lost: of N, N are admitted.
func TestSentinelFailsOver(t *testing.T) {
	t.Parallel()
	lose := map[string]func(*testing.T, *localdb.Redis){
		"killed": func(t *testing.T, master *localdb.Redis) { require.NoError(t, master.Kill()) },
		"hung": func(t *testing.T, master *localdb.Redis) {
			pid := master.Pid()
			require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
			t.Cleanup(func() { require.NoError(t, syscall.Kill(pid, syscall.SIGCONT)) })
		},
	}
	for how, lost := range lose {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			watched := testdb.NewRedisSentinel(t)
			rdb := redis.NewFailoverClient(&redis.FailoverOptions{
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
			require.True(t, byStore())

			lost(t, watched.Nodes()[0])
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
