package ratelimit

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Two keys of one call share a counter, since the store is full: there is room for either of them, and not for both. Neither is charged then.
func TestCrowdIsChargedAllOrNone(t *testing.T) {
	t.Parallel()
	for _, a := range every {
		m := NewMemory(&MemoryOptions{MaxKeys: shards, Now: func() time.Time { return time.UnixMicro(1_700_000_000_000_000) }})
		l := PerHour(3).As(a)
		if a == GCRA {
			l.Burst = 3
		}
		p, err := planOf(l)
		require.NoError(t, err)
		decide := func(ops ...Op) []Outcome {
			reply := m.Decide(t.Context(), []Call{{Ops: ops}})[0]
			require.NoError(t, reply.Err)
			return reply.Outcomes
		}
		take := func(key string, n int64) Op { return Op{Limit: l, Key: key, N: n} }
		var same []string // of one part, which has room for one
		for i := 0; len(same) < 4; i++ {
			if key := strconv.Itoa(i); p.digest(key)%shards == 7 {
				same = append(same, key)
			}
		}
		decide(take(same[0], 3))
		decide(take(same[1], 1)) // the crowd's
		both := decide(take(same[2], 2), take(same[3], 2), Op{Kind: Peek, Limit: l, Key: same[1], N: 1})
		require.Equal(t, []bool{true, false}, []bool{both[0].Allowed, both[1].Allowed}, "%v", a)
		require.Zero(t, both[0].Charged)
		for i, o := range both {
			require.Equal(t, []int64{2, 0, 2}[i], o.Remaining, "%v: what is left for %d", a, i)
		}
		require.True(t, decide(take(same[2], 1), take(same[3], 1))[1].Allowed)
	}
}

// A call that is refused in the end, since keys share a counter, takes no place from a holder who has it from another call.
func TestCrowdLetsAPlaceBe(t *testing.T) {
	t.Parallel()
	m := NewMemory(&MemoryOptions{MaxKeys: shards, Now: func() time.Time { return time.UnixMicro(1_700_000_000_000_000) }})
	l, places := PerHour(3), Limit{Algorithm: Concurrency, Rate: 2, Per: time.Hour}
	p, err := planOf(l)
	require.NoError(t, err)
	place := Op{Limit: places, Key: "work", N: 1, Holder: "h"}
	ops := []Op{place}
	for i := 0; len(ops) < 4; i++ {
		if key := strconv.Itoa(i); p.digest(key)%shards == 7 {
			ops = append(ops, Op{Limit: l, Key: key, N: 3})
		}
	}
	decide := func(ops ...Op) []Outcome {
		reply := m.Decide(t.Context(), []Call{{Ops: ops}})[0]
		require.NoError(t, reply.Err)
		return reply.Outcomes
	}
	decide(place)
	decide(ops[1]) // all the room that there is
	refused := decide(ops[0], ops[2], ops[3])
	require.Equal(t, []bool{true, true, false}, []bool{refused[0].Allowed, refused[1].Allowed, refused[2].Allowed})
	require.EqualValues(t, 1, decide(Op{Kind: Peek, Limit: places, Key: "work", N: 1})[0].Remaining)
}

// What was taken ahead for a call that is refused in the end is given back whole, though it stands behind itself.
func TestCrowdGivesBackWhatWasTakenAhead(t *testing.T) {
	t.Parallel()
	m := NewMemory(&MemoryOptions{MaxKeys: shards, Now: func() time.Time { return time.UnixMicro(1_700_000_000_000_000) }})
	l := PerSecond(10)
	p, err := planOf(l)
	require.NoError(t, err)
	ops := make([]Op, 0, 4) // of one part, which has room for one
	for i := 0; len(ops) < cap(ops); i++ {
		if key := strconv.Itoa(i); p.digest(key)%shards == 7 {
			ops = append(ops, Op{Limit: l, Key: key, N: 10, Ahead: time.Second})
		}
	}
	decide := func(ops ...Op) []Outcome { return m.Decide(t.Context(), []Call{{Ops: ops}})[0].Outcomes }
	decide(ops[0])
	all := decide(ops[1:]...)
	require.False(t, all[2].Allowed, "more than two bursts")
	ops[1].Kind = Peek
	require.EqualValues(t, 10, decide(ops[1])[0].Remaining)
}

// Counters whose places are taken by others are found again, however many of those are deleted in front of them.
func TestTableFindsWhatIsDisplaced(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	var table table[bucket]
	table.limit = 24
	want := map[uint64]int64{}
	for range 2_000 {
		digest := 1 + r.Uint64N(32)<<59 + r.Uint64N(2) // few places, at the end and the beginning too
		if r.IntN(2) == 0 {
			table.delete(digest)
			delete(want, digest)
		} else if _, there := want[digest]; there || len(want) < table.limit {
			want[digest] = 1 + r.Int64N(1000)
			table.put(digest, 0, bucket{us: want[digest]}, 0)
		}
		require.Equal(t, len(want), table.used, "seed %d", seed)
		for digest, us := range want {
			i := table.find(digest)
			require.GreaterOrEqual(t, i, 0, "seed %d", seed)
			require.Equal(t, us, table.slots[i].state.us, "seed %d", seed)
		}
	}
}
