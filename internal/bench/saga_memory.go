package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/saga"
)

// benchSagaMemory measures the engine itself, on a store in memory.
func benchSagaMemory(ctx context.Context, s *settings, w io.Writer) error {
	type row struct {
		callers            int
		rates, cpu, allocs []float64
	}
	field := []*row{{callers: 1}, {callers: 64}}
	for range s.rounds {
		for _, r := range field {
			var n atomic.Int64
			run, stop, err := runEngine(saga.NewMemory(nil), fiveSteps(func() {}))
			if err != nil {
				return err
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			loaded, cancel := context.WithTimeout(ctx, s.span)
			used, begun := ownCPU(), time.Now()
			err = callers(loaded, r.callers, func(context.Context) error { return run(context.WithoutCancel(ctx), fmt.Sprint(n.Add(1))) })
			cancel()
			took := time.Since(begun)
			used = ownCPU() - used
			runtime.ReadMemStats(&after)
			if err := stop(); err != nil {
				return err
			}
			if err != nil {
				return err
			}
			sagas := float64(n.Load())
			r.rates = append(r.rates, sagas/took.Seconds())
			r.cpu = append(r.cpu, float64(used.Nanoseconds())/sagas/1e3)
			r.allocs = append(r.allocs, float64(after.Mallocs-before.Mallocs)/sagas)
		}
	}
	fmt.Fprintf(w, "\n## Sagas of %d steps that do nothing, in memory\n\nMedians of %d rounds of %v. Of the allocations three are the benchmark's own, for the id and a context.\n\n", sagaSteps, s.rounds, s.span)
	fmt.Fprintln(w, "| callers | sagas/s | CPU a saga | allocations a saga |\n|---|---|---|---|")
	for _, r := range field {
		fmt.Fprintf(w, "| %d | %.0f | %.1f µs | %.1f |\n", r.callers, median(r.rates), median(r.cpu), median(r.allocs))
	}
	return nil
}
