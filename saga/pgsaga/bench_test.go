package pgsaga_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// BenchmarkSagas runs sagas of five steps, six writes each, from so many goroutines.
func BenchmarkSagas(b *testing.B) {
	for _, callers := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			f := open(b)
			batches := &counting{DB: f.pool}
			f.Store = pgsaga.NewStore(batches, nil)
			var n atomic.Int64
			one := func() {
				id := fmt.Sprint("order-", n.Add(1))
				c := &saga.Create{Record: begun(id, "me"), Lease: time.Minute}
				c.Record.BusinessID, c.Record.Parent = "", ""
				if err := f.Create(b.Context(), []*saga.Create{c}); err != nil || c.Err != nil {
					b.Error(err, c.Err)
				}
				r := c.Record
				for i := range plan {
					w := next(r)
					if i == len(plan)-1 {
						w.Record.Status = saga.Completed
					}
					if err := f.Save(b.Context(), []*saga.Write{w}); err != nil || w.Err != nil {
						b.Error(err, w.Err)
					}
					r = w.Record
				}
			}
			for range 50 {
				one()
			}
			server, client, sent := cpu(b, f), self(b), batches.n.Load()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						one()
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			writes := float64(6 * b.N)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sagas/s")
			b.ReportMetric(float64((cpu(b, f)-server).Microseconds())/writes, "server-µs/write")
			b.ReportMetric(float64((self(b)-client).Microseconds())/writes, "client-µs/write")
			b.ReportMetric(writes/float64(batches.n.Load()-sent), "writes/batch")
			f.exec(b, "SELECT pg_stat_force_next_flush()")
			time.Sleep(1100 * time.Millisecond)
			b.ReportMetric(float64(f.count(b, "SELECT 100 * n_tup_hot_upd / greatest(n_tup_upd, 1) FROM pg_stat_user_tables WHERE relid = 'sagas'::regclass")), "%hot")
		})
	}
}

// counting counts round trips.
type counting struct {
	pgsaga.DB
	n atomic.Int64
}

func (c *counting) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	c.n.Add(1)
	return c.DB.SendBatch(ctx, b)
}

// cpu is what the server's processes on this pool have used.
func cpu(tb testing.TB, f fixture) (d time.Duration) {
	tb.Helper()
	rows, err := f.pool.Query(tb.Context(), "SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
	require.NoError(tb, err)
	defer rows.Close()
	for rows.Next() {
		var pid int
		require.NoError(tb, rows.Scan(&pid))
		d += ticks(pid)
	}
	return d
}

func self(tb testing.TB) time.Duration { tb.Helper(); return ticks(os.Getpid()) }

// ticks reads the time of a process, 10 ms each.
func ticks(pid int) time.Duration {
	if runtime.GOOS != "linux" {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
