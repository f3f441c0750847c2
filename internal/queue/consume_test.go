package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/queue"
)

// faulty is a memory queue with a hook in front of and behind every operation.
type faulty struct {
	*queue.Memory
	before func(op string, call int) error // an error here: nothing happened
	after  func(op string, call int) error // an error here: it happened, but the caller hears of a failure

	mu    sync.Mutex
	calls map[string]int
}

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	m, err := queue.NewMemory(nil)
	require.NoError(t, err)
	fine := func(string, int) error { return nil }
	return &faulty{Memory: m, before: fine, after: fine, calls: map[string]int{}}
}

func (f *faulty) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	return f.calls[op]
}

func (f *faulty) Claim(ctx context.Context, worker string, n int) ([]queue.Message, error) {
	op := "claim"
	if n <= 0 {
		op = "renew"
	}
	call := f.count(op)
	if err := f.before(op, call); err != nil {
		return nil, err
	}
	msgs, err := f.Memory.Claim(ctx, worker, n)
	return msgs, errors.Join(err, f.after(op, call))
}

func (f *faulty) Ack(ctx context.Context, worker string, msgs ...queue.Message) error {
	call := f.count("ack")
	if err := f.before("ack", call); err != nil {
		return err
	}
	return errors.Join(f.Memory.Ack(ctx, worker, msgs...), f.after("ack", call))
}

// consume runs Consume in the bubble and returns what ends it and waits for it.
func consume(t *testing.T, q queue.Queue, o *queue.ConsumeOptions, handle queue.Handler) (drain func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- queue.Consume(ctx, q, o, handle) }()
	return func() {
		cancel()
		require.NoError(t, <-done)
	}
}

// handledOnce consumes what is in q, of which the only message takes five minutes.
func handledOnce(t *testing.T, q queue.Queue) {
	t.Helper()
	var calls atomic.Int32
	drain := consume(t, q, nil, func(context.Context, []queue.Message) error {
		calls.Add(1)
		time.Sleep(5 * time.Minute)
		return nil
	})
	time.Sleep(6 * time.Minute)
	drain()
	require.EqualValues(t, 1, calls.Load())
}

func push(t *testing.T, q queue.Queue, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		require.NoError(t, q.Push(t.Context(), fmt.Append(nil, i)))
	}
}

func wantStats(t *testing.T, q queue.Queue, ready, claimed int) {
	t.Helper()
	got, err := q.Stats(context.WithoutCancel(t.Context()))
	require.NoError(t, err)
	require.Equal(t, queue.Stats{Ready: ready, Claimed: claimed}, got)
}

func TestConsumeHandlesAllInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 250)
		var seen []string
		drain := consume(t, q, &queue.ConsumeOptions{Workers: 1}, func(_ context.Context, msgs []queue.Message) error {
			require.LessOrEqual(t, len(msgs), 100)
			for _, m := range msgs {
				seen = append(seen, string(m.Body))
			}
			return nil
		})
		time.Sleep(time.Second)
		drain()
		require.Len(t, seen, 250)
		for i, s := range seen {
			require.Equal(t, fmt.Sprint(i+1), s)
		}
		wantStats(t, q, 0, 0)
	})
}

func TestConsumeRunsWorkersAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 40)
		start := time.Now()
		var handled atomic.Int32
		drain := consume(t, q, &queue.ConsumeOptions{Workers: 4, Batch: 5}, func(context.Context, []queue.Message) error {
			time.Sleep(time.Minute)
			handled.Add(1)
			return nil
		})
		time.Sleep(2*time.Minute + time.Second) // 8 batches, 4 at a time
		require.EqualValues(t, 8, handled.Load())
		drain()
		require.Less(t, time.Since(start), 3*time.Minute)
		wantStats(t, q, 0, 0)
	})
}

func TestConsumeDrainsOnCancel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 5)
		start := time.Now()
		drain := consume(t, q, &queue.ConsumeOptions{Workers: 2, Batch: 1}, func(ctx context.Context, _ []queue.Message) error {
			time.Sleep(3 * time.Second)
			return ctx.Err() // it must still be alive
		})
		time.Sleep(time.Second)
		wantStats(t, q, 3, 2)
		drain()
		require.Equal(t, 3*time.Second, time.Since(start).Round(time.Second))
		wantStats(t, q, 3, 0)
	})
}

func TestConsumeReturnsMessagesWhenGraceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 5)
		start := time.Now()
		o := &queue.ConsumeOptions{Workers: 1, Batch: 2, Grace: 4 * time.Second}
		drain := consume(t, q, o, func(ctx context.Context, _ []queue.Message) error {
			<-ctx.Done()
			return ctx.Err()
		})
		time.Sleep(time.Second)
		drain()
		require.Equal(t, 5*time.Second, time.Since(start).Round(time.Second))
		wantStats(t, q, 5, 0)
	})
}

// The end comes while a claim is under way: what it brings is given back at once, not left to its lease.
func TestConsumeReturnsWhatAClaimBringsAfterTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 5)
		q.after = func(string, int) error { time.Sleep(time.Second); return nil }
		var handled atomic.Int32
		drain := consume(t, q, &queue.ConsumeOptions{Workers: 2, Batch: 2}, func(context.Context, []queue.Message) error {
			handled.Add(1)
			return errors.New("must not be called")
		})
		time.Sleep(500 * time.Millisecond)
		drain()
		require.Zero(t, handled.Load())
		require.Equal(t, 2, q.count("claim")-1)
		wantStats(t, q, 5, 0)
	})
}

func TestConsumeSurvivesPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 3)
		var attempts []int
		drain := consume(t, q, &queue.ConsumeOptions{Workers: 1}, func(_ context.Context, msgs []queue.Message) error {
			attempts = append(attempts, msgs[0].Attempts)
			msgs[0] = queue.Message{} // the slice is the handler's own
			if len(attempts) < 3 {
				panic("boom")
			}
			return nil
		})
		time.Sleep(time.Second)
		drain()
		require.Equal(t, []int{1, 2, 3}, attempts)
		wantStats(t, q, 0, 0)
	})
}

func TestConsumeBacksOffAfterErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 1)
		var at []time.Time
		o := &queue.ConsumeOptions{Workers: 1, ErrorMin: time.Second, ErrorMax: 8 * time.Second}
		drain := consume(t, q, o, func(context.Context, []queue.Message) error {
			at = append(at, time.Now())
			return errors.New("no")
		})
		time.Sleep(time.Minute)
		start := time.Now()
		drain()
		require.Zero(t, time.Since(start), "a pause does not hold up the end")
		require.GreaterOrEqual(t, len(at), 7)
		for i := 1; i < len(at); i++ {
			most := min(time.Second<<(i-1), 8*time.Second)
			require.GreaterOrEqual(t, at[i].Sub(at[i-1]), most/2, "pause %d", i)
			require.LessOrEqual(t, at[i].Sub(at[i-1]), most, "pause %d", i)
		}
		wantStats(t, q, 1, 0)
	})
}

func TestConsumeRenewsWhileAHandlerRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 1)
		handledOnce(t, q)
		wantStats(t, q, 0, 0)
	})
}

// A handler that does not heed its context keeps its messages: who reaped them would have
// them handled twice.
func TestConsumeRenewsAfterTheGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 1)
		drain := consume(t, q, &queue.ConsumeOptions{Grace: time.Second}, func(context.Context, []queue.Message) error {
			time.Sleep(5 * time.Minute)
			return nil
		})
		time.Sleep(time.Second)
		var ending sync.WaitGroup
		ending.Go(drain)
		time.Sleep(3 * time.Minute)
		n, err := q.Reap(t.Context())
		require.NoError(t, err)
		require.Zero(t, n)
		ending.Wait()
		wantStats(t, q, 0, 0)
	})
}

func TestConsumeWakesForWhatItTakesFromTheDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 3)
		_, err := q.Claim(t.Context(), "dead", 3)
		require.NoError(t, err)
		var handled atomic.Int32
		o := &queue.ConsumeOptions{PollMin: 10 * time.Hour, PollMax: 10 * time.Hour, Wake: new(queue.Waker)}
		drain := consume(t, q, o, func(_ context.Context, msgs []queue.Message) error {
			handled.Add(int32(len(msgs)))
			return nil
		})
		time.Sleep(time.Minute)
		require.EqualValues(t, 3, handled.Load())
		drain()
	})
}

func TestConsumeTakesOverFromTheDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 3)
		_, err := q.Claim(t.Context(), "dead", 3)
		require.NoError(t, err)
		start := time.Now()
		var after time.Duration
		drain := consume(t, q, nil, func(_ context.Context, msgs []queue.Message) error {
			require.Len(t, msgs, 3)
			after = time.Since(start)
			return nil
		})
		time.Sleep(time.Minute)
		drain()
		require.GreaterOrEqual(t, after, 30*time.Second)
		require.LessOrEqual(t, after, 41*time.Second)
		wantStats(t, q, 0, 0)
	})
}

// A claim is committed and its reply is lost: nobody works on its messages. If the worker kept its name and renewed it, they
// would be held for ever.
func TestConsumeLostClaimReplyDoesNotStrandMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 3)
		q.after = func(op string, call int) error {
			if op == "claim" && call == 1 {
				return errors.New("connection reset")
			}
			return nil
		}
		var handled int
		drain := consume(t, q, &queue.ConsumeOptions{Workers: 1}, func(_ context.Context, msgs []queue.Message) error {
			handled += len(msgs)
			time.Sleep(time.Minute) // renews meanwhile
			return nil
		})
		time.Sleep(time.Second)
		push(t, q, 4, 4)
		time.Sleep(3 * time.Minute)
		drain()
		require.Equal(t, 4, handled)
		wantStats(t, q, 0, 0)
	})
}

func TestConsumeRepeatsALostAck(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]struct{ failures, calls int }{
		"twice":           {2, 1},
		"beyond patience": {1000, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := newFaulty(t)
				push(t, q, 1, 1)
				var calls atomic.Int32
				q.before = func(op string, call int) error {
					if op == "ack" && call <= lost.failures && calls.Load() == 1 {
						return errors.New("connection reset")
					}
					return nil
				}
				drain := consume(t, q, nil, func(context.Context, []queue.Message) error {
					calls.Add(1)
					return nil
				})
				time.Sleep(2 * time.Minute)
				drain()
				require.EqualValues(t, lost.calls, calls.Load())
				wantStats(t, q, 0, 0)
			})
		})
	}
}

func TestConsumeWakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		var wake queue.Waker
		var handled atomic.Int32
		o := &queue.ConsumeOptions{Workers: 3, Batch: 10, PollMin: time.Hour, PollMax: time.Hour, Wake: &wake}
		drain := consume(t, q, o, func(_ context.Context, msgs []queue.Message) error {
			time.Sleep(time.Second)
			handled.Add(int32(len(msgs)))
			return nil
		})
		time.Sleep(time.Second) // all are idle
		push(t, q, 1, 25)
		wake.Wake()
		wake.Wake()
		time.Sleep(1500 * time.Millisecond)
		require.EqualValues(t, 25, handled.Load(), "a full batch wakes the next worker")
		drain()
	})
}

func TestConsumePollsLessWhenIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		drain := consume(t, q, &queue.ConsumeOptions{Workers: 1}, func(context.Context, []queue.Message) error { return nil })
		time.Sleep(time.Minute)
		drain()
		polls := q.count("claim") - 1
		require.GreaterOrEqual(t, polls, 1200) // a pause of at most 50 ms
		require.LessOrEqual(t, polls, 2410)    // and at least half of it, but for the first few
	})
}

func TestConsumeRefusesBadOptions(t *testing.T) {
	t.Parallel()
	m, err := queue.NewMemory(nil)
	require.NoError(t, err)
	handle := func(context.Context, []queue.Message) error { return nil }
	require.Error(t, queue.Consume(t.Context(), nil, nil, handle))
	require.Error(t, queue.Consume(t.Context(), m, nil, nil))
	err = queue.Consume(t.Context(), m, &queue.ConsumeOptions{
		Workers: -1, Batch: -1, PollMin: 2, PollMax: 1, ErrorMin: 2, ErrorMax: 1, Timeout: -1, Grace: -1, Renew: time.Minute,
	}, handle)
	for _, field := range []string{"Workers", "Batch", "PollMax", "ErrorMax", "Timeout", "Grace", "Renew"} {
		require.ErrorContains(t, err, "ConsumeOptions."+field)
	}
}

// A fault is that of the option that was given, and not of one that it is the default of.
func TestConsumeNamesTheOptionThatIsBad(t *testing.T) {
	t.Parallel()
	m, err := queue.NewMemory(nil)
	require.NoError(t, err)
	for field, o := range map[string]queue.ConsumeOptions{
		"PollMin -1ns": {PollMin: -1}, "PollMax -1ns": {PollMax: -1}, "ErrorMin -1ns": {ErrorMin: -1}, "ErrorMax -1ns": {ErrorMax: -1},
	} {
		err := queue.Consume(t.Context(), m, &o, func(context.Context, []queue.Message) error { return nil })
		require.ErrorContains(t, err, "ConsumeOptions."+field)
	}
}

// One bound of a pause may be given without the other.
func TestConsumeTakesOneBoundOfAPause(t *testing.T) {
	t.Parallel()
	ended, end := context.WithCancel(t.Context())
	end()
	m, err := queue.NewMemory(nil)
	require.NoError(t, err)
	for _, o := range []queue.ConsumeOptions{
		{PollMin: time.Minute}, {PollMax: 1}, {ErrorMin: time.Minute}, {ErrorMax: 1}, {PollMin: 1, PollMax: 1, ErrorMin: 1, ErrorMax: 1},
	} {
		require.NoError(t, queue.Consume(ended, m, &o, func(context.Context, []queue.Message) error { return nil }), "%+v", o)
	}
}

func TestConsumeRefusesARenewalThatIsTooRare(t *testing.T) {
	t.Parallel()
	ended, end := context.WithCancel(t.Context())
	end()
	m, err := queue.NewMemory(&queue.MemoryOptions{Lease: 10 * time.Second})
	require.NoError(t, err)
	handle := func(context.Context, []queue.Message) error { return nil }
	for renew, refused := range map[time.Duration]bool{
		-1: true, 0: false, time.Second: false, 10*time.Second - 1: false, 10 * time.Second: true, 12 * time.Second: true,
	} {
		err := queue.Consume(ended, m, &queue.ConsumeOptions{Renew: renew}, handle)
		require.Equal(t, refused, err != nil, renew)
	}
}

func TestConsumeBackoffEndsWithSuccess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		push(t, q, 1, 1)
		var at []time.Time
		var logs bytes.Buffer
		o := &queue.ConsumeOptions{
			Workers: 1, ErrorMin: time.Second, ErrorMax: time.Hour, Logger: slog.New(slog.NewTextHandler(&logs, nil)),
		}
		drain := consume(t, q, o, func(context.Context, []queue.Message) error {
			at = append(at, time.Now())
			if len(at) == 6 {
				return nil
			}
			return errors.New("the ledger is away")
		})
		time.Sleep(time.Minute) // 1 + 2 + 4 + 8 + 16 s of pauses at most
		push(t, q, 2, 2)
		time.Sleep(1100 * time.Millisecond)
		drain()
		require.GreaterOrEqual(t, len(at), 8, "after a success the pauses begin anew")
		require.Contains(t, logs.String(), "the ledger is away")
		wantStats(t, q, 1, 0)
	})
}

// While the queue is away a worker asks ever less often, and says so once, as it does when the queue is back.
func TestConsumeBacksOffWhileTheQueueIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		var away atomic.Bool
		q.before = func(op string, _ int) error {
			if away.Load() && op == "claim" {
				return errors.New("connection refused")
			}
			return nil
		}
		var logs bytes.Buffer
		o := &queue.ConsumeOptions{
			Workers: 1, ErrorMin: time.Second, ErrorMax: 8 * time.Second, Logger: slog.New(slog.NewTextHandler(&logs, nil)),
		}
		drain := consume(t, q, o, func(context.Context, []queue.Message) error { return nil })
		for range 2 {
			time.Sleep(time.Minute)
			away.Store(true)
			before := q.count("claim")
			time.Sleep(time.Minute)
			asked := q.count("claim") - before - 1
			require.GreaterOrEqual(t, asked, 3+45/8)
			require.LessOrEqual(t, asked, 2*(3+60/8))
			away.Store(false)
		}
		time.Sleep(time.Minute)
		drain()
		require.Equal(t, 2, strings.Count(logs.String(), "level=ERROR"), logs.String())
		require.Equal(t, 2, strings.Count(logs.String(), "claims again"))
		require.NotContains(t, logs.String(), "level=WARN", "nothing was taken from the dead")
	})
}

// A worker polls as often as at first when it has found something, or was woken, and no pause holds up the end.
func TestConsumePollsSoonAfterWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newFaulty(t)
		handled := make(chan time.Time, 1)
		o := &queue.ConsumeOptions{Workers: 1, PollMin: time.Second, PollMax: 2 * time.Hour, Wake: new(queue.Waker)}
		drain := consume(t, q, o, func(context.Context, []queue.Message) error {
			handled <- time.Now()
			return nil
		})
		soon := func(what string) {
			time.Sleep(time.Second + time.Millisecond)
			begin := time.Now()
			push(t, q, 1, 1)
			require.LessOrEqual(t, (<-handled).Sub(begin), 4*time.Second, what)
		}
		time.Sleep(20 * time.Hour)
		push(t, q, 1, 1)
		<-handled
		soon("after work")
		time.Sleep(20 * time.Hour)
		o.Wake.Wake() // for nothing
		soon("after it was woken")
		time.Sleep(20 * time.Hour)
		begin := time.Now()
		drain()
		require.Zero(t, time.Since(begin))
	})
}

// hanging is a queue of which some calls do not return before their contexts end, and a while after.
type hanging struct {
	*faulty
	after time.Duration
}

func (h *hanging) Claim(ctx context.Context, worker string, n int) ([]queue.Message, error) {
	if n <= 0 && h.count("hung renewal") == 1 {
		<-ctx.Done()
		time.Sleep(h.after)
		return nil, ctx.Err()
	}
	return h.faulty.Claim(ctx, worker, n)
}

func (h *hanging) Reap(ctx context.Context) (int, error) {
	time.Sleep(h.after)
	return h.faulty.Reap(ctx)
}

// A renewal that hangs is given up in time for the next one.
func TestConsumeRenewsAfterARenewalThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &hanging{faulty: newFaulty(t)}
		push(t, q, 1, 1)
		handledOnce(t, q)
	})
}

// Consume owns its goroutines: it returns when the last of them has.
func TestConsumeLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]time.Duration{"a renewal": 10*time.Second + time.Millisecond, "a reaper": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := &hanging{faulty: newFaulty(t), after: time.Hour}
				push(t, q, 1, 1)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					done <- queue.Consume(ctx, q, &queue.ConsumeOptions{Workers: 1, Timeout: 2 * time.Hour}, func(context.Context, []queue.Message) error {
						time.Sleep(wait)
						return nil
					})
				}()
				time.Sleep(2 * wait)
				cancel()
				begin := time.Now()
				require.NoError(t, <-done)
				require.Greater(t, time.Since(begin), time.Hour/2)
			})
		})
	}
}

func TestConsumeNamesItsWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &named{faulty: newFaulty(t), names: map[string]bool{}}
		drain := consume(t, q, &queue.ConsumeOptions{Name: "sweeper", Workers: 3}, func(context.Context, []queue.Message) error { return nil })
		time.Sleep(time.Minute)
		drain()
		require.Len(t, q.names, 3)
		for name := range q.names {
			require.Regexp(t, `^sweeper-[0-2]-\w{20,}$`, name)
		}
	})
}

// named is a queue that remembers who has claimed.
type named struct {
	*faulty
	names map[string]bool
}

func (n *named) Claim(ctx context.Context, worker string, most int) ([]queue.Message, error) {
	n.mu.Lock()
	n.names[worker] = true
	n.mu.Unlock()
	return n.faulty.Claim(ctx, worker, most)
}
