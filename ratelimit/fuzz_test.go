package ratelimit_test

import (
	"testing"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

// FuzzDecide throws any limits, numbers and times at a store. What is valid must not panic, admit more than there is, or contradict itself.
func FuzzDecide(f *testing.F) {
	f.Add(uint8(0), int64(10), int64(time.Second), int64(10), uint8(0), int64(1), int64(0), int64(0), int64(1000))
	f.Add(uint8(3), int64(200_000), int64(24*time.Hour), int64(0), uint8(1), int64(200_000), int64(1), int64(0), int64(-1000))
	f.Add(uint8(1), int64(1_000_000_000), int64(366*24*time.Hour), int64(1), uint8(2), int64(1), int64(0), int64(time.Hour), int64(1)<<50)
	f.Add(uint8(4), int64(1), int64(time.Microsecond), int64(0), uint8(3), int64(1), int64(0), int64(0), int64(1))
	f.Add(uint8(1), int64(1_000_000_000), int64(366*24*time.Hour), int64(157), uint8(4), int64(-12), int64(0), int64(time.Hour), int64(0)) // a Reset of less than nothing
	f.Fuzz(func(t *testing.T, algorithm uint8, rate, per, burst int64, kind uint8, n, least, ahead, step int64) {
		now := int64(1_700_000_000_000_000)
		store := ratelimit.NewMemory(&ratelimit.MemoryOptions{MaxKeys: 256, Now: func() time.Time { return time.UnixMicro(now) }})
		limit := ratelimit.Limit{Algorithm: ratelimit.Algorithm(algorithm), Rate: rate, Per: time.Duration(per), Burst: burst}
		other := ratelimit.Limit{Algorithm: limit.Algorithm, Rate: rate/3 + 1, Per: limit.Per, Burst: min(burst, 1)}
		for i, op := range []ratelimit.Op{
			{Kind: ratelimit.Kind(kind), Limit: limit, Key: "k", N: n, Min: least, Ahead: time.Duration(ahead), Holder: "a", At: now},
			{Limit: limit, Key: "k", N: n, Holder: "b"},
			{Kind: ratelimit.Charge, Limit: limit, Key: "k", N: n},
			{Limit: other, Key: "k", N: 1, Holder: "c"},
			{Kind: ratelimit.Kind(kind), Limit: limit, Key: "k", N: n, Min: least, Ahead: time.Duration(ahead), Holder: "a", At: now - step},
			{Kind: ratelimit.Peek, Limit: limit, Key: "k", N: 1},
		} {
			r := store.Decide(t.Context(), []ratelimit.Call{{Ops: []ratelimit.Op{op}}})[0]
			if r.Err != nil {
				if op.Validate() == nil {
					t.Fatalf("op %d %+v is valid: %v", i, op, r.Err)
				}
				continue
			}
			o := r.Outcomes[0]
			capacity := op.Limit.Capacity()
			switch {
			case o.Remaining > capacity, o.Remaining < -capacity && limit.Algorithm <= ratelimit.GCRA, o.Charged < 0, o.Charged > op.N, o.Reset < 0, o.Wait < 0:
				t.Fatalf("op %d %+v: %+v", i, op, o)
			case !o.Allowed && (o.Wait == 0 || o.Charged != 0):
				t.Fatalf("op %d %+v is refused without a wait: %+v", i, op, o)
			case op.Kind == ratelimit.Take && o.Allowed && op.Ahead == 0 && o.Remaining < 0:
				t.Fatalf("op %d %+v takes more than there is: %+v", i, op, o)
			}
			if now += step; now < 0 {
				now = 0
			}
		}
	})
}
