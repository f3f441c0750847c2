package ratelimit

import (
	"math/rand/v2"
	"strconv"
	"testing"
)

// BenchmarkMemory measures a decision on one key, and on any of a million.
func BenchmarkMemory(b *testing.B) {
	for _, n := range []int{1, 1_000_000} {
		keys := make([]string, n)
		for i := range keys {
			keys[i] = "user-" + strconv.Itoa(i)
		}
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			l, err := New(NewMemory(&MemoryOptions{MaxKeys: 2_000_000}), PerHour(900_000_000), nil)
			if err != nil {
				b.Fatal(err)
			}
			for _, k := range keys {
				_, _ = l.Allow(b.Context(), k)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				i := rand.IntN(n)
				for pb.Next() {
					if i += 7919; i >= n {
						i %= n
					}
					_, _ = l.Allow(b.Context(), keys[i])
				}
			})
		})
	}
}
