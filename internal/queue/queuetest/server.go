package queuetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/safetill/safetill/internal/queue"
)

// KillServer pushes and consumes until pushes messages are acknowledged, while restart, which kills the store and starts it
// again, is called twice in between. It fails if an acknowledged push is never handled. The lease of q should be short.
func KillServer(t *testing.T, q queue.Queue, pushes int, restart func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	s := &survivors{handled: map[string]bool{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		o := &queue.ConsumeOptions{Workers: 3, Batch: 20, ErrorMax: time.Second}
		if err := queue.Consume(ctx, q, o, s.handle); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() { s.push(ctx, q, pushes) })
	for kill := range 2 {
		s.wait(ctx, t, "pushes", func() bool { return len(s.pushed) >= pushes*(kill+1)/3 })
		if err := restart(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s.wait(ctx, t, "pushes", func() bool { return len(s.pushed) >= pushes })
	s.wait(ctx, t, "handled messages", func() bool {
		for _, body := range s.pushed {
			if !s.handled[body] {
				return false
			}
		}
		return true
	})
}

type survivors struct {
	mu      sync.Mutex
	pushed  []string // acknowledged; a push that failed does not count, whether it happened or not
	handled map[string]bool
}

func (s *survivors) handle(_ context.Context, msgs []queue.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range msgs {
		s.handled[string(m.Body)] = true
	}
	return nil
}

func (s *survivors) push(ctx context.Context, q queue.Queue, n int) {
	for i, got := 0, 0; got < n && ctx.Err() == nil; i++ {
		a, b := fmt.Sprint(i, "a"), fmt.Sprint(i, "b")
		if err := q.Push(ctx, []byte(a), []byte(b)); err != nil {
			time.Sleep(5 * time.Millisecond) // the store is down just now; ctx bounds the tries
			continue
		}
		s.mu.Lock()
		s.pushed = append(s.pushed, a, b)
		got = len(s.pushed)
		s.mu.Unlock()
	}
}

func (s *survivors) wait(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	for {
		s.mu.Lock()
		ok, pushed, handled := done(), len(s.pushed), len(s.handled)
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %d pushed, %d handled when time was up", what, pushed, handled)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
