package redisqueue_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
)

// BenchmarkPushClaimAck takes 500-byte messages through the whole queue, 100 per call. The baseline is what it cannot beat:
// RPUSH and LPOP with a count, which lose what a dead worker holds.
func BenchmarkPushClaimAck(b *testing.B) {
	const batch = 100
	bodies := make([][]byte, batch)
	args := make([]any, batch)
	for i := range bodies {
		bodies[i] = bytes.Repeat([]byte("x"), 500)
		args[i] = bodies[i]
	}
	rdb := testdb.Redis(b)
	for _, callers := range []int{1, 4} {
		q := open(b, rdb, time.Minute)
		b.Run(fmt.Sprintf("queue/callers=%d", callers), func(b *testing.B) {
			run(b, callers, batch, func(caller int) {
				w := fmt.Sprint(caller)
				require.NoError(b, q.Push(b.Context(), bodies...))
				msgs, err := q.Claim(b.Context(), w, batch)
				require.NoError(b, err)
				require.NoError(b, q.Ack(b.Context(), w, msgs...))
			})
		})
		b.Run(fmt.Sprintf("rpush+lpop/callers=%d", callers), func(b *testing.B) {
			key := b.Name()
			run(b, callers, batch, func(int) {
				require.NoError(b, rdb.RPush(b.Context(), key, args...).Err())
				require.NoError(b, rdb.LPopCount(b.Context(), key, batch).Err())
			})
		})
	}
}

// run calls once from several goroutines in every round and reports messages a second.
func run(b *testing.B, callers, batch int, once func(caller int)) {
	n := 0
	for b.Loop() {
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() { once(c) })
		}
		wg.Wait()
		n += callers * batch
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msgs/s")
}
