package proof

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

// hotLimit has so few units, and they come back so late, that time plays no part.
var hotLimit = ratelimit.Limit{Rate: 40, Per: ratelimit.MaxPer}

const hotClients = 16

// taken is what a client was told of one op on the hot counter.
type taken struct {
	allowed            bool
	charged, remaining int64
}

// hotModel is a counter of which each op is done at one moment between its call and its answer.
var hotModel = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		used, op, told := state.(int64), input.(ratelimit.Op), output.(taken)
		want := taken{allowed: true}
		switch op.Kind {
		case ratelimit.Take, ratelimit.Peek:
			n := op.N
			if free := hotLimit.Capacity() - used; op.Min > 0 {
				n = max(op.Min, min(n, free))
			}
			want.allowed = used+n <= hotLimit.Capacity()
			if want.allowed && op.Kind == ratelimit.Take {
				want.charged = n
				used += n
			}
		case ratelimit.Return:
			used = max(0, used-op.N)
		default:
			used = 0
		}
		want.remaining = hotLimit.Capacity() - used
		return told == want, used
	},
	Equal:             func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
}

func hotOp(r *rand.Rand, algorithm ratelimit.Algorithm) ratelimit.Op {
	op := ratelimit.Op{Limit: hotLimit.As(algorithm), Key: "hot", N: 1 + r.Int64N(5)}
	switch k := r.IntN(20); {
	case k < 9:
	case k < 11:
		op.Min = 1
	case k < 14:
		op.Kind = ratelimit.Peek
	case k < 19:
		op.Kind, op.At = ratelimit.Return, time.Now().UnixMicro() // of this year's window
	default:
		op.Kind = ratelimit.Reset
	}
	return op
}

// hotHistory has clients do random things to one counter, each through one of the stores.
func hotHistory(t *testing.T, algorithm ratelimit.Algorithm, count int, stores ...ratelimit.Store) porcupine.CheckResult {
	t.Helper()
	seed, start := oneSeed(t), time.Now()
	ops := make([][]porcupine.Operation, hotClients)
	var wg sync.WaitGroup
	for who := range ops {
		wg.Go(func() {
			r := dice(seed, uint64(who))
			for range count / hotClients {
				op := hotOp(r, algorithm)
				begun := time.Since(start)
				reply := stores[who%len(stores)].Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{op}}})[0]
				ended := time.Since(start)
				if reply.Err != nil {
					t.Errorf("%+v: %v", op, reply.Err)
					return
				}
				o := reply.Outcomes[0]
				ops[who] = append(ops[who], porcupine.Operation{
					ClientId: who, Input: op, Call: int64(begun), Output: taken{o.Allowed, o.Charged, o.Remaining}, Return: int64(ended),
				})
			}
		})
	}
	wg.Wait()
	var all []porcupine.Operation
	for _, of := range ops {
		all = append(all, of...)
	}
	return porcupine.CheckOperationsTimeout(hotModel, all, checkLimit)
}

// Two processes' stores, each of which joins its callers into batches, on one counter in Redis; and the store in memory.
func TestHotLimitIsLinearizable(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.TokenBucket, ratelimit.FixedWindow} {
		t.Run(algorithm.String(), func(t *testing.T) {
			t.Parallel()
			operations := size(2_000, 8_000)
			o, err := redis.ParseURL(testdb.RedisURL(t))
			require.NoError(t, err)
			var stores []ratelimit.Store
			for range 2 {
				own := *o
				rdb := redis.NewClient(&own)
				store, err := redislimit.NewStore(rdb, nil)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, store.Close()); _ = rdb.Close() })
				stores = append(stores, store)
			}
			require.Equal(t, porcupine.Ok, hotHistory(t, algorithm, operations, stores...), "Redis")
			require.Equal(t, porcupine.Ok, hotHistory(t, algorithm, operations, ratelimit.NewMemory(nil)), "memory")
		})
	}
}

// forgetful is a store with a flaw.
type forgetful struct {
	ratelimit.Store
	flaw func(context.Context, ratelimit.Store, []ratelimit.Call) []ratelimit.Reply
}

func (f *forgetful) Decide(ctx context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	return f.flaw(ctx, f.Store, calls)
}

// A history that no one can find fault with proves nothing unless flaws are found.
func TestFlawsOfALimitAreFound(t *testing.T) {
	t.Parallel()
	var chance sync.Mutex
	r := dice(1, 1)
	seldom := func() bool {
		chance.Lock()
		defer chance.Unlock()
		return r.IntN(10) == 0 // one time alone may pass for another order of two callers
	}
	for name, flaw := range map[string]func(context.Context, ratelimit.Store, []ratelimit.Call) []ratelimit.Reply{
		"reads, then writes": func(ctx context.Context, s ratelimit.Store, calls []ratelimit.Call) []ratelimit.Reply {
			op := calls[0].Ops[0]
			if op.Kind != ratelimit.Take || op.Min > 0 {
				return s.Decide(ctx, calls)
			}
			op.Kind = ratelimit.Peek
			if replies := s.Decide(ctx, []ratelimit.Call{{Ops: []ratelimit.Op{op}}}); !replies[0].Outcomes[0].Allowed {
				return replies
			}
			time.Sleep(50 * time.Microsecond) // the flaw is the time between the two
			op.Kind = ratelimit.Charge
			return s.Decide(ctx, []ratelimit.Call{{Ops: []ratelimit.Op{op}}})
		},
		"charges twice": func(ctx context.Context, s ratelimit.Store, calls []ratelimit.Call) []ratelimit.Reply {
			replies := s.Decide(ctx, calls)
			if calls[0].Ops[0].Kind == ratelimit.Take && seldom() {
				s.Decide(ctx, calls)
			}
			return replies
		},
		"charges what it refuses": func(ctx context.Context, s ratelimit.Store, calls []ratelimit.Call) []ratelimit.Reply {
			replies := s.Decide(ctx, calls)
			if op := calls[0].Ops[0]; op.Kind == ratelimit.Take && !replies[0].Outcomes[0].Allowed && seldom() {
				s.Decide(ctx, []ratelimit.Call{{Ops: []ratelimit.Op{{Kind: ratelimit.Charge, Limit: op.Limit, Key: op.Key, N: 1}}}})
			}
			return replies
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &forgetful{ratelimit.NewMemory(nil), flaw}
			require.Equal(t, porcupine.Illegal, hotHistory(t, ratelimit.TokenBucket, size(2_000, 8_000), store))
		})
	}
}
