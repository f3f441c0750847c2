package queuetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/safetill/safetill/internal/queue"
)

// 16 goroutines push, 48 claim, acknowledge and sometimes return, all at once: with leases that never run out, every message
// is acknowledged exactly once.
func testConcurrent(t *testing.T, open Open) {
	const pushers, claimers, each = 16, 48, 150
	h := start(t, open, long)
	ctx, cancel := context.WithTimeout(h.ctx, 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for p := range pushers {
		wg.Go(func() {
			for i := 0; i < each; i += 3 {
				err := h.q.Push(ctx, fmt.Appendf(nil, "%d/%d", p, i), fmt.Appendf(nil, "%d/%d", p, i+1), fmt.Appendf(nil, "%d/%d", p, i+2))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	tally := &tally{left: pushers * each, acked: map[string]int{}, done: make(chan struct{})}
	for c := range claimers {
		wg.Go(func() {
			if err := tally.work(ctx, h.q, fmt.Sprintf("worker-%d", c), c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(tally.acked) != pushers*each {
		t.Errorf("%d different messages acknowledged, want %d", len(tally.acked), pushers*each)
	}
	for body, n := range tally.acked {
		if n != 1 {
			t.Errorf("message %s acknowledged %d times", body, n)
		}
	}
	h.stats(0, 0)
}

type tally struct {
	mu    sync.Mutex
	left  int
	acked map[string]int
	done  chan struct{}
}

func (y *tally) work(ctx context.Context, q queue.Queue, name string, seed int) error {
	rnd := rand.New(rand.NewPCG(1, uint64(seed)))
	for {
		select {
		case <-y.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		msgs, err := q.Claim(ctx, name, 1+rnd.IntN(20))
		if err != nil {
			return err
		}
		if len(msgs) == 0 {
			time.Sleep(time.Millisecond) // the queue is polled; done or ctx ends the loop
			continue
		}
		cut := len(msgs)
		if rnd.IntN(4) == 0 {
			cut = rnd.IntN(len(msgs) + 1)
		}
		if err := q.Ack(ctx, name, msgs[:cut]...); err != nil {
			return err
		}
		if err := q.Return(ctx, name, msgs[cut:]...); err != nil {
			return err
		}
		y.count(msgs[:cut])
	}
}

func (y *tally) count(msgs []queue.Message) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, m := range msgs {
		y.acked[string(m.Body)]++
	}
	if y.left -= len(msgs); y.left == 0 {
		close(y.done)
	}
}
