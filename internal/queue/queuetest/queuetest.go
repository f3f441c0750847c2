// Package queuetest is the conformance suite of queue.Queue: a backend that passes Run keeps the promises of package queue.
package queuetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/safetill/safetill/internal/queue"
)

// Open returns a new, empty queue with the given lease, which lives at least as long as t.
type Open func(t testing.TB, lease time.Duration) queue.Queue

// A lease that no test outlives, and one that a test can wait for.
const (
	long  = 10 * time.Minute
	short = 300 * time.Millisecond
)

// Run runs the whole suite against the backend behind open.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Open)
	}{
		{"Order", testOrder},
		{"ClaimAtMostN", testClaimAtMostN},
		{"NothingToDo", testNothingToDo},
		{"TwoWorkersShareNothing", testTwoWorkers},
		{"AttemptsCountClaims", testAttempts},
		{"ReturnKeepsOrder", testReturn},
		{"ReturnByTwoWorkersKeepsOrder", testReturnTwoWorkers},
		{"ForeignAckIsHarmless", testForeignAck},
		{"AckOfAnEarlierClaimIsHarmless", testEarlierClaim},
		{"ReapAfterLease", testReap},
		{"ReapSparesTheLiving", testReapSparesTheLiving},
		{"StaleAckIsHarmless", testStaleAck},
		{"StaleReturnIsHarmless", testStaleReturn},
		{"OddBodies", testOddBodies},
		{"OddWorkerNames", testOddWorkers},
		{"BodiesAreCopied", testBodiesAreCopied},
		{"TenThousandAtOnce", testBigBatch},
		{"Stats", testStats},
		{"CancelledContext", testCancelled},
		{"SixtyFourGoroutines", testConcurrent},
		{"RandomOperationsAgreeWithModel", testModel},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open)
		})
	}
}

// harness turns every error of the queue into the end of the test.
type harness struct {
	t   testing.TB
	ctx context.Context
	q   queue.Queue
}

func start(t testing.TB, open Open, lease time.Duration) harness {
	t.Helper()
	return harness{t: t, ctx: t.Context(), q: open(t, lease)}
}

func (h harness) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h harness) push(bodies ...string) {
	h.t.Helper()
	bs := make([][]byte, len(bodies))
	for i, b := range bodies {
		bs[i] = []byte(b)
	}
	h.must(h.q.Push(h.ctx, bs...))
}

func (h harness) claim(worker string, n int) []queue.Message {
	h.t.Helper()
	msgs, err := h.q.Claim(h.ctx, worker, n)
	h.must(err)
	return msgs
}

// expect claims n messages and wants exactly these bodies, written with a space between them.
func (h harness) expect(worker string, n int, want string) []queue.Message {
	h.t.Helper()
	msgs := h.claim(worker, n)
	if got := join(msgs); got != want {
		h.t.Fatalf("%s claimed up to %d: got [%s], want [%s]", worker, n, got, want)
	}
	return msgs
}

func (h harness) ack(worker string, msgs ...queue.Message) {
	h.t.Helper()
	h.must(h.q.Ack(h.ctx, worker, msgs...))
}

func (h harness) giveBack(worker string, msgs ...queue.Message) {
	h.t.Helper()
	h.must(h.q.Return(h.ctx, worker, msgs...))
}

func (h harness) stats(ready, claimed int) {
	h.t.Helper()
	got, err := h.q.Stats(h.ctx)
	h.must(err)
	if want := (queue.Stats{Ready: ready, Claimed: claimed}); got != want {
		h.t.Fatalf("stats: got %+v, want %+v", got, want)
	}
}

// reap reaps until n messages have come back, for at most 30 s; meanwhile runs between two tries.
func (h harness) reap(n int, meanwhile func()) {
	h.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for got := 0; got < n; {
		k, err := h.q.Reap(h.ctx)
		h.must(err)
		if got += k; got > n {
			h.t.Fatalf("reaped %d messages, want %d", got, n)
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("reaped %d of %d messages in 30 s", got, n)
		}
		if meanwhile != nil {
			meanwhile()
		}
		select {
		case <-h.ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func join(msgs []queue.Message) string {
	var b strings.Builder
	for i, m := range msgs {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.Write(m.Body)
	}
	return b.String()
}

func numbers(from, to int) []string {
	var out []string
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

func span(from, to int) string { return strings.Join(numbers(from, to), " ") }
