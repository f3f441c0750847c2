package pgqueue_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkPushClaimAck takes 500-byte messages through the whole queue, 100 per call, with fsync on.
func BenchmarkPushClaimAck(b *testing.B) {
	const batch = 100
	bodies := make([][]byte, batch)
	for i := range bodies {
		bodies[i] = bytes.Repeat([]byte("x"), 500)
	}
	db := migrated(b)
	for _, callers := range []int{1, 4} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			q := open(b, db, time.Minute)
			n := 0
			for b.Loop() {
				var wg sync.WaitGroup
				for c := range callers {
					wg.Go(func() {
						w := fmt.Sprint(c)
						require.NoError(b, q.Push(b.Context(), bodies...))
						msgs, err := q.Claim(b.Context(), w, batch)
						require.NoError(b, err)
						require.NoError(b, q.Ack(b.Context(), w, msgs...))
					})
				}
				wg.Wait()
				n += callers * batch
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}
