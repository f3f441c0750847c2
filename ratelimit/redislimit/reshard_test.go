package redislimit_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

// long is what a caller has who is not to be stopped by a slow machine.
const long = time.Minute

// migration is that of a slot from one master of a cluster to another.
type migration struct {
	slot     int
	nodes    []*redis.Client
	from, to *redis.Client
	id       map[*redis.Client]string
}

// newMigration returns a client, and the migration of the slot of {tenant}, which has not begun.
func newMigration(t *testing.T, cluster *localdb.RedisCluster) (*redis.ClusterClient, *migration) {
	t.Helper()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	m := &migration{slot: redislimit.Slot("{tenant}"), id: map[*redis.Client]string{}}
	for _, addr := range cluster.Addrs() {
		node := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { require.NoError(t, node.Close()) })
		id, err := node.Do(t.Context(), "CLUSTER", "MYID").Text()
		require.NoError(t, err)
		m.nodes, m.id[node] = append(m.nodes, node), id
	}
	parts, err := m.nodes[0].ClusterSlots(t.Context()).Result() //nolint:staticcheck // what follows it is of Redis 7
	require.NoError(t, err)
	for _, part := range parts {
		owns := part.Start <= m.slot && m.slot <= part.End
		for i, node := range m.nodes {
			if owns && part.Nodes[0].ID == m.id[node] {
				m.from, m.to = node, m.nodes[(i+1)%len(m.nodes)]
			}
		}
	}
	require.NotNil(t, m.from)
	return rdb, m
}

func (m *migration) set(t *testing.T, node *redis.Client, what string, about *redis.Client) {
	t.Helper()
	require.NoError(t, node.Do(t.Context(), "CLUSTER", "SETSLOT", m.slot, what, m.id[about]).Err())
}

// open begins the migration, in the order that Redis asks for.
func (m *migration) open(t *testing.T) {
	t.Helper()
	m.set(t, m.to, "IMPORTING", m.from)
	m.set(t, m.from, "MIGRATING", m.to)
}

// move moves all keys, one at a time with a pause behind each. It returns how many there were.
func (m *migration) move(t *testing.T, pause time.Duration) (moved int) {
	t.Helper()
	host, port, err := net.SplitHostPort(m.to.Options().Addr)
	require.NoError(t, err)
	for {
		keys, err := m.from.ClusterGetKeysInSlot(t.Context(), m.slot, 1).Result()
		require.NoError(t, err)
		if len(keys) == 0 {
			return moved
		}
		// NOKEY where it has expired.
		require.NoError(t, m.from.Do(t.Context(), "MIGRATE", host, port, "", 0, strconv.Itoa(int(long.Milliseconds())), "KEYS", keys[0]).Err())
		moved++
		pass(pause)
	}
}

// done gives the slot to its new owner. The old one first, which is the wrong order: for a while both say that it is the other's.
func (m *migration) done(t *testing.T, pause time.Duration) {
	t.Helper()
	m.set(t, m.from, "NODE", m.to)
	pass(pause)
	m.set(t, m.to, "NODE", m.to)
	for _, node := range m.nodes {
		m.set(t, node, "NODE", m.to)
	}
}

// A slot of a cluster of its own moves again and again. No key is on two masters in the end, which could not be moved.
func TestASlotThatMoves(t *testing.T) {
	t.Parallel()
	cluster := testdb.NewRedisCluster(t)
	for name, test := range map[string]func(*testing.T, *redis.ClusterClient, *migration){
		"while callers take":           underLoad,
		"where keys vanish":            keysVanish,
		"a decision that is forgotten": forgottenDecision,
		"a migration left open":        leftOpen,
	} {
		t.Run(name, func(t *testing.T) {
			rdb, m := newMigration(t, cluster)
			test(t, rdb, m)
			m.move(t, 0)
			m.done(t, 0)
		})
	}
}

// A slot moves from one master to another while callers take from it: of a limit of N exactly N are admitted, by single takes and those that are
// joined, by calls for several keys, in this slot and beyond, of counters that were there before and of those that come meanwhile; and nobody has an error.
func underLoad(t *testing.T, rdb *redis.ClusterClient, m *migration) {
	s := openStore(t, rdb, redislimit.Options{ReserveLease: long})
	s.Insist(long)
	ctx, cancel := context.WithTimeout(t.Context(), 2*long)
	defer cancel()
	const n = 2000
	limits := forever(n)
	for _, l := range limits {
		decide(t, s, ratelimit.Op{Kind: ratelimit.Peek, Limit: l, Key: "{tenant}hot", N: 1})
	}
	var moving atomic.Bool
	moving.Store(true)
	var callers sync.WaitGroup
	ask := func(ops ...ratelimit.Op) (allowed bool) {
		reply := s.Decide(ctx, []ratelimit.Call{{Ops: ops}})[0]
		if reply.Err != nil {
			t.Errorf("%v", reply.Err)
			return false
		}
		for _, o := range reply.Outcomes {
			if !o.Allowed {
				return false
			}
		}
		return true
	}
	// Of one key, by 4 callers for each limit, until there is nothing left.
	hot := make([]atomic.Int64, len(limits))
	for i, l := range limits {
		for range 4 {
			callers.Go(func() {
				for ask(take(l, "{tenant}hot", 1)) {
					hot[i].Add(1)
					if moving.Load() {
						pass(time.Millisecond)
					}
				}
			})
		}
	}
	// Of keys that nobody has seen yet, by 4 callers each: one of them is admitted.
	once := ratelimit.Limit{Rate: 1, Per: ratelimit.MaxPer}.Named("once")
	var admitted atomic.Int64
	var seen [4]int64
	for caller := range seen {
		callers.Go(func() {
			for ; moving.Load(); seen[caller]++ {
				if ask(take(once, fmt.Sprint("{tenant}new", seen[caller]), 1)) {
					admitted.Add(1)
				}
			}
		})
	}
	// Of several keys at once: what is charged to users is charged to everybody.
	all := forever(1_000_000)
	for i := range all {
		all[i] = all[i].Named("all-" + all[i].Name)
	}
	var together, apart atomic.Int64
	for caller := range 4 {
		callers.Go(func() {
			for i := 0; moving.Load(); i++ {
				if ask(mixed(all, "{tenant}", caller, i)...) {
					together.Add(1)
				}
			}
		})
	}
	// And where one of them is in another slot.
	wide := forever(1_000_000)[0].Named("wide")
	for range 2 {
		callers.Go(func() {
			for moving.Load() {
				if ask(take(wide, "{tenant}", 1), take(wide, "elsewhere", 1)) {
					apart.Add(1)
				}
			}
		})
	}
	pass(100 * time.Millisecond)
	m.open(t)
	pass(50 * time.Millisecond)
	moved := m.move(t, 5*time.Millisecond)
	m.done(t, 50*time.Millisecond)
	pass(100 * time.Millisecond)
	moving.Store(false)
	callers.Wait()
	require.Greater(t, moved, len(limits), "it was worth the name")
	for i, l := range limits {
		require.EqualValues(t, n, hot[i].Load(), l.Name)
	}
	require.Equal(t, slices.Max(seen[:]), admitted.Load())
	require.Positive(t, together.Load())
	require.Equal(t, together.Load(), balanced(t, s, "{tenant}", all))
	require.Positive(t, apart.Load())
	for _, key := range []string{"{tenant}", "elsewhere"} {
		require.Equal(t, apart.Load(), wide.Rate-left(t, s, wide, key), key)
	}
}

// While a slot migrates, a key that is deleted is the other master's from then on, in the middle of a script too: what a script forgets of a counter
// must not be all that there is while it has more to write, nor may it look at the counter again.
func keysVanish(t *testing.T, rdb *redis.ClusterClient, m *migration) {
	var now atomic.Int64
	now.Store(1_800_000_000_000_000)
	open := func(prefix string) *redislimit.Store {
		s := openStore(t, rdb, redislimit.Options{Prefix: prefix, Flights: 1, ReserveLease: long})
		s.SetClock(now.Load)
		return s
	}
	const key, beside = "{tenant}k", "{tenant}beside"
	many := func(t *testing.T, s *redislimit.Store, ops ...ratelimit.Op) {
		t.Helper()
		calls := []ratelimit.Call{{Ops: []ratelimit.Op{take(forever(1000)[0], beside, 1)}}} // flies ahead; the others are joined
		for _, op := range ops {
			calls = append(calls, ratelimit.Call{Ops: []ratelimit.Op{op}})
		}
		for i, reply := range s.Decide(t.Context(), calls) {
			require.NoError(t, reply.Err, "call %d", i)
		}
	}
	var acts []func(*testing.T)
	add := func(l ratelimit.Limit, name string, seed func(*redislimit.Store) ratelimit.Outcome, act func(*testing.T, *redislimit.Store, ratelimit.Outcome)) {
		s := open(l.Name + name)
		decide(t, s, take(forever(1000)[0], beside, 1))
		was := seed(s)
		acts = append(acts, func(t *testing.T) {
			t.Run(l.Name+" "+name, func(t *testing.T) {
				defer now.Store(now.Load())
				act(t, s, was)
			})
		})
	}
	for _, l := range allAlgorithms(10, time.Second) {
		op := take(l, key, 3)
		if l.Algorithm == ratelimit.Concurrency {
			op.Holder = "seed"
		}
		seed := func(s *redislimit.Store) ratelimit.Outcome { return decide(t, s, op)[0] }
		add(l, "over", seed, func(t *testing.T, s *redislimit.Store, _ ratelimit.Outcome) {
			now.Add(2*l.Per.Microseconds() + 1)
			require.EqualValues(t, 9, decide(t, s, take(l, key, 1))[0].Remaining)
		})
		add(l, "mine is over", seed, func(t *testing.T, s *redislimit.Store, _ ratelimit.Outcome) {
			now.Add(2*l.Per.Microseconds() + 1)
			require.EqualValues(t, 7, decide(t, s, op)[0].Remaining)
			require.EqualValues(t, 7, left(t, s, l, key))
		})
		add(l, "joined when it is over", seed, func(t *testing.T, s *redislimit.Store, _ ratelimit.Outcome) {
			now.Add(2*l.Per.Microseconds() + 1)
			many(t, s, take(l, key, 1), take(l, key, 2), take(l, key, 1))
			require.EqualValues(t, 6, left(t, s, l, key))
		})
		add(l, "returned and taken", seed, func(t *testing.T, s *redislimit.Store, was ratelimit.Outcome) {
			back := op
			back.Kind, back.At = ratelimit.Return, was.At
			many(t, s, back, take(l, key, 1), take(l, key, 1))
			require.EqualValues(t, 8, left(t, s, l, key))
		})
		add(l, "reset and taken", seed, func(t *testing.T, s *redislimit.Store, _ ratelimit.Outcome) {
			reset := ratelimit.Op{Kind: ratelimit.Reset, Limit: l, Key: key}
			many(t, s, reset, take(l, key, 1), reset, take(l, key, 1))
			require.GreaterOrEqual(t, left(t, s, l, key), int64(8))
		})
		add(l, "clock set back", seed, func(t *testing.T, s *redislimit.Store, _ ratelimit.Outcome) {
			now.Add(-5 * l.Per.Microseconds())
			decide(t, s, take(l, key, 1))
		})
		add(l, "reservation given back", seed, func(t *testing.T, s *redislimit.Store, _ ratelimit.Outcome) {
			now.Add(2*l.Per.Microseconds() + 1)
			decide(t, s, take(l, "elsewhere", 10))
			outcomes := decide(t, s, take(l, key, 1), take(l, "elsewhere", 1))
			require.Equal(t, []bool{true, false}, []bool{outcomes[0].Allowed, outcomes[1].Allowed})
			require.Eventually(t, func() bool { return left(t, s, l, key) == 10 }, long, 10*time.Millisecond)
		})
		add(l, "reservation confirmed", seed, func(t *testing.T, s *redislimit.Store, _ ratelimit.Outcome) {
			now.Add(2*l.Per.Microseconds() + 1)
			require.True(t, decide(t, s, take(l, key, 1), take(l, "elsewhere", 1))[0].Allowed)
			require.EqualValues(t, 9, left(t, s, l, key))
		})
	}
	m.open(t)
	for _, act := range acts {
		act(t)
	}
}

// The same of a decision on reservations, which is forgotten when it has been carried out.
func forgottenDecision(t *testing.T, rdb *redis.ClusterClient, m *migration) {
	const key = "{tenant}decision"
	require.NoError(t, rdb.Set(t.Context(), key, "c", 0).Err())
	m.open(t)
	forget, abort := redislimit.Decision('f'), redislimit.Decision('a')
	answer, err := m.from.Eval(t.Context(), redislimit.Source, []string{key, key}, slices.Concat([]byte{0}, forget, abort)).Text()
	require.NoError(t, err)
	require.Regexp(t, `^\d+ \d+ fp\x00\x00$`, answer)
}

// A slot that stays half migrated: single counters are decided; calls for several, of which one is new, cannot be, and have an error when their time is
// over, the caller's or the store's, without having been charged.
func leftOpen(t *testing.T, rdb *redis.ClusterClient, m *migration) {
	o := redislimit.Options{Prefix: "p:"}
	s, hasty := openStore(t, rdb, o), openStore(t, rdb, o)
	s.Insist(long)
	hasty.Insist(100 * time.Millisecond)
	for _, l := range forever(3) {
		decide(t, s, take(l, "{tenant}here", 1))
	}
	m.open(t)
	for _, l := range forever(3) {
		require.True(t, decide(t, s, take(l, "{tenant}here", 1))[0].Allowed)
		require.True(t, decide(t, s, take(l, "{tenant}new", 1))[0].Allowed)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		reply := s.Decide(ctx, []ratelimit.Call{{Ops: []ratelimit.Op{take(l, "{tenant}here", 1), take(l, "{tenant}new", 1)}}})[0]
		cancel()
		require.ErrorIs(t, reply.Err, context.DeadlineExceeded)
		reply = hasty.Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{take(l, "{tenant}here", 1), take(l, "{tenant}new", 1)}}})[0]
		require.ErrorContains(t, reply.Err, "TRYAGAIN")
		require.EqualValues(t, 1, left(t, s, l, "{tenant}here"))
		require.EqualValues(t, 2, left(t, s, l, "{tenant}new"))
	}
}
