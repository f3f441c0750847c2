package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/saga"
)

// benchSagaMemory measures the engine itself, on a store in memory, beside what sagas cost where there is none.
func benchSagaMemory(ctx context.Context, s *settings, w io.Writer) error {
	type row struct {
		name               string
		open               func() (run func(context.Context, string) error, stop func() error, err error)
		callers            int
		rates, cpu, allocs []float64
	}
	engine := func() (func(context.Context, string) error, func() error, error) {
		return runEngine(saga.NewMemory(nil), fiveSteps(func() {}))
	}
	var field []*row
	for _, n := range []int{1, 64} {
		field = append(field, &row{name: "safetill", open: engine, callers: n}, &row{name: "a map of states, no engine", open: openMap, callers: n})
	}
	for range s.rounds {
		for _, r := range field {
			var n atomic.Int64
			run, stop, err := r.open()
			if err != nil {
				return err
			}
			runtime.GC() // what the last one has left
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			loaded, cancel := context.WithTimeout(ctx, s.span)
			used, begun := ownCPU(), time.Now()
			err = callers(loaded, r.callers, func(context.Context) error { return run(context.WithoutCancel(ctx), fmt.Sprint(n.Add(1))) })
			cancel()
			took := time.Since(begun)
			used = ownCPU() - used
			runtime.ReadMemStats(&after)
			if err := errors.Join(err, stop()); err != nil {
				return err
			}
			sagas := float64(n.Load())
			r.rates = append(r.rates, sagas/took.Seconds())
			r.cpu = append(r.cpu, float64(used.Nanoseconds())/sagas/1e3)
			r.allocs = append(r.allocs, float64(after.Mallocs-before.Mallocs)/sagas)
		}
	}
	fmt.Fprintf(w, "\n## Sagas of %d steps that do nothing, in memory\n\nMedians of %d interleaved rounds of %v. Of the allocations three are the benchmark's own, for the id and a context.\n\n", sagaSteps, s.rounds, s.span)
	fmt.Fprintln(w, "| callers | | sagas/s | CPU a saga | allocations a saga |\n|---|---|---|---|---|")
	for _, r := range field {
		fmt.Fprintf(w, "| %d | %s | %.0f | %.1f µs | %.1f |\n", r.callers, r.name, median(r.rates), median(r.cpu), median(r.allocs))
	}
	return nil
}

// mapped is the state of a saga.
type mapped struct {
	definition, status    string
	data                  []byte
	fingerprint           [sha256.Size]byte
	plan                  []string
	steps                 [sagaSteps]time.Duration
	token, revision       int64
	created, updated, due time.Time
}

// openMap is the least that a saga in memory can be: its input as JSON and a hash of that, a goroutine that goes on when the caller has left, and a
// fenced update of a map behind each step. There is no engine: no time limit, no lease, no retry, and nobody finds what has come to a halt.
func openMap() (run func(context.Context, string) error, stop func() error, err error) {
	var mu sync.Mutex
	sagas, plan := map[string]*mapped{}, make([]string, sagaSteps)
	save := func(id string, revision int64) error {
		mu.Lock()
		defer mu.Unlock()
		m := sagas[id]
		if m.token != 1 || m.revision != revision-1 {
			return errFencedOff
		}
		m.updated, m.revision = time.Now(), revision
		if revision == sagaSteps {
			m.status = "COMPLETED"
		}
		m.steps[revision-1] = m.updated.Sub(m.created)
		return nil
	}
	run = func(_ context.Context, id string) error {
		data, err := json.Marshal(nothing{id})
		if err != nil {
			return err
		}
		now := time.Now()
		m := &mapped{definition: "five", data: data, fingerprint: sha256.Sum256(data), plan: plan, token: 1, created: now, updated: now, due: now}
		mu.Lock()
		sagas[id] = m
		mu.Unlock()
		done := make(chan error, 1)
		go func() {
			var err error
			for n := range int64(sagaSteps) {
				err = errors.Join(err, save(id, n+1))
			}
			done <- err
		}()
		return <-done
	}
	return run, func() error { return nil }, nil
}
