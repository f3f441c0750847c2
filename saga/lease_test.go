package saga_test

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// heldUp is the store of a process that the machine holds up behind some of its calls.
type heldUp struct {
	*saga.Memory

	claim, create atomic.Int64 // for how long, the first time that a claim gets something, and that a saga is created
	save          atomic.Int64 // and that a checkpoint is written, behind which the store is away
	away          atomic.Bool  // nothing can be claimed, and no lease renewed
	renewals      atomic.Int64 // how often leases were
}

func (h *heldUp) Claim(ctx context.Context, c saga.Claim) ([]saga.Claimed, error) {
	if h.away.Load() {
		return nil, lostAnswer{}
	}
	claimed, err := h.Memory.Claim(ctx, c)
	if len(claimed) > 0 {
		time.Sleep(time.Duration(h.claim.Swap(0)))
	}
	return claimed, err
}

func (h *heldUp) Create(ctx context.Context, c []*saga.Create) error {
	err := h.Memory.Create(ctx, c)
	if d := time.Duration(h.create.Swap(0)); d > 0 {
		time.Sleep(d)
		return lostAnswer{}
	}
	return err
}

func (h *heldUp) Save(ctx context.Context, writes []*saga.Write) error {
	err := h.Memory.Save(ctx, writes)
	if d := time.Duration(h.save.Swap(0)); d > 0 {
		h.away.Store(true)
		time.Sleep(d)
	}
	return err
}

func (h *heldUp) Renew(ctx context.Context, leases []*saga.Lease, d time.Duration) error {
	if h.away.Load() {
		return lostAnswer{}
	}
	h.renewals.Add(1)
	return h.Memory.Renew(ctx, leases, d)
}

type lostAnswer struct{}

func (lostAnswer) Error() string   { return "the answer was lost" }
func (lostAnswer) Retryable() bool { return true }

// second is another process on the same store.
func second(t *testing.T, store saga.Store, def saga.Registered) (e *saga.Engine, stop func()) {
	t.Helper()
	e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
	require.NoError(t, err)
	_, stop = runs(t, e)
	return e, stop
}

// A process is held up between its claim and the charge; the next owner goes back, and
// refunds what may have been charged; the process is let go on. It knows by its own
// clock that its lease is over.
func TestNothingBeginsOnALeaseThatIsOver(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error { w.charged.Add(1); return nil }).
			Undo(func(context.Context, *order) error { w.refunded.Add(1); return nil }))
		idle, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		h, err := def.Start(context.Background(), idle, "o1", order{}, nil)
		require.NoError(t, err)
		slow := &heldUp{Memory: store}
		slow.claim.Store(int64(20 * time.Second))
		_, stop1 := second(t, slow, def)
		time.Sleep(time.Second)
		_, stop2 := second(t, store, def)
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		require.EqualValues(t, 1, w.refunded.Load())
		time.Sleep(time.Minute)
		stop1()
		stop2()
		require.Zero(t, w.charged.Load(), "charged after the refund")
	})
}

// The same while it asks the provider what became of an attempt.
func TestNothingBeginsBehindALookUpThatOutlivesTheLease(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		asked := 0
		slow := &heldUp{Memory: store}
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error {
			if w.charged.Add(1) == 1 {
				return context.DeadlineExceeded // it has not arrived
			}
			return nil
		}).Retry(saga.Retry{Attempts: 2}).Undo(func(context.Context, *order) error { w.refunded.Add(1); return nil }).
			Verify(func(context.Context, *order) (saga.Outcome, error) {
				if asked++; asked == 1 {
					slow.away.Store(true)
					time.Sleep(20 * time.Second)
					return saga.NeverApplied, nil
				}
				return saga.Unknown, nil
			}))
		_, _, stop1 := start(t, slow, def, saga.Options{})
		e2, stop2 := second(t, store, def)
		require.Equal(t, saga.Compensated, wait(t, def.Handle(e2, "o1")).Status)
		require.EqualValues(t, 1, w.refunded.Load())
		time.Sleep(10 * time.Second)
		slow.away.Store(false)
		time.Sleep(time.Minute)
		stop1()
		stop2()
		require.EqualValues(t, 1, w.charged.Load(), "charged after the refund")
	})
}

// The same while it writes the Pure steps in front of the pivot.
func TestNothingBeginsBehindACheckpointThatOutlivesTheLease(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		slow := &heldUp{Memory: store}
		slow.save.Store(int64(20 * time.Second))
		def := saga.MustDefine("order", 1,
			saga.Pure("price", func(context.Context, *order) error { return nil }),
			saga.Pivot("charge", func(context.Context, *order) error { w.charged.Add(1); return nil }).
				Verify(func(context.Context, *order) (saga.Outcome, error) { return saga.NeverApplied, nil }))
		_, _, stop1 := start(t, slow, def, saga.Options{})
		e2, stop2 := second(t, store, def)
		require.Equal(t, saga.Completed, wait(t, def.Handle(e2, "o1")).Status)
		require.EqualValues(t, 1, w.charged.Load())
		time.Sleep(10 * time.Second)
		slow.away.Store(false)
		time.Sleep(time.Minute)
		stop1()
		stop2()
		require.EqualValues(t, 1, w.charged.Load(), "charged by the last owner, too")
	})
}

// The answer to a create is lost, and asked for again when most of the lease is over.
func TestALeaseBeginsWithTheCreateWhoseAnswerWasLost(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := slowCharge(&w, 3*time.Second)
		slow := &heldUp{Memory: store}
		slow.create.Store(int64(14 * time.Second))
		_, stop2 := second(t, store, def)
		time.Sleep(1100 * time.Millisecond)
		_, h, stop1 := start(t, slow, def, saga.Options{})
		completesOnce(t, &w, h, stop1, stop2)
	})
}

// The same, and the one who starts it does not wait so long, and starts it again.
func TestALeaseBeginsWithTheStartWhoseAnswerWasLost(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := slowCharge(&w, 3*time.Second)
		slow := &heldUp{Memory: store}
		slow.create.Store(int64(14 * time.Second))
		_, stop2 := second(t, store, def)
		time.Sleep(1100 * time.Millisecond)
		e, stop1 := second(t, slow, def)
		synctest.Wait()
		hasty, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := def.Start(hasty, e, "o1", order{}, nil)
		require.ErrorIs(t, err, lostAnswer{})
		h, err := def.Start(context.Background(), e, "o1", order{}, nil)
		require.NoError(t, err)
		completesOnce(t, &w, h, stop1, stop2)
	})
}

// Who has lost an answer gives its name away when the leases of that time are over: what
// it starts from then on is not renewed before it begins.
func TestALostAnswerIsForgottenWhenItsLeaseIsOver(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := slowCharge(&w, 0)
		slow := &heldUp{Memory: store}
		e, stop := second(t, slow, def)
		synctest.Wait()
		slow.create.Store(int64(time.Second))
		hasty, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := def.Start(hasty, e, "o1", order{}, nil)
		require.ErrorIs(t, err, lostAnswer{})
		for _, c := range []struct {
			after    time.Duration
			renewals int64
		}{{0, 1}, {29 * time.Second, 2}, {time.Second, 2}, {time.Hour, 2}} {
			time.Sleep(c.after)
			h, err := def.Start(context.Background(), e, "after-"+c.after.String(), order{}, nil)
			require.NoError(t, err)
			require.Equal(t, saga.Completed, wait(t, h).Status)
			require.Equal(t, c.renewals, slow.renewals.Load(), c.after)
		}
		stop()
	})
}

// The answer to a create is lost, asked for again, and comes after nine seconds. The charge
// takes longer than what is left of the lease, which the beat, every five, is to see.
func TestALeaseIsRenewedByWhenItBegan(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := slowCharge(&w, 20*time.Second)
		slow := &heldUp{Memory: store}
		slow.create.Store(int64(9 * time.Second))
		_, stop2 := second(t, store, def)
		e, stop1 := second(t, slow, def)
		time.Sleep(3100 * time.Millisecond)
		h, err := def.Start(context.Background(), e, "o1", order{}, nil)
		require.NoError(t, err)
		completesOnce(t, &w, h, stop1, stop2)
	})
}

// completesOnce waits for a saga, and stops its engines.
func completesOnce(t *testing.T, w *world, h *saga.Handle[order], stops ...func()) {
	t.Helper()
	require.Equal(t, saga.Completed, wait(t, h).Status)
	for _, stop := range stops {
		stop()
	}
	require.EqualValues(t, 1, w.charged.Load())
	require.Zero(t, w.refunded.Load(), "refunded while it was charged")
}

// slowCharge is a saga of a charge that takes a while.
func slowCharge(w *world, takes time.Duration) *saga.Definition[order] {
	return saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error {
		w.charged.Add(1)
		time.Sleep(takes)
		return nil
	}).Undo(func(context.Context, *order) error { w.refunded.Add(1); return nil }))
}

// A step overruns its lease, and its engine, held up, has claimed its saga twice when it
// ends: by tokens 2 and 3. The run of the older claim is not to tell that of the newer
// one that it has lost the saga, and end the context of its step.
func TestAnOlderClaimDoesNotEndANewerOne(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		var dead atomic.Bool
		def := saga.MustDefine("order", 1, saga.Step("charge", func(ctx context.Context, _ *order) error {
			if w.charged.Add(1) == 1 {
				time.Sleep(50 * time.Second)
				return nil
			}
			time.Sleep(500 * time.Millisecond)
			dead.Store(ctx.Err() != nil)
			return nil
		}).Timeout(time.Second).Undo(noop).Idempotent())
		slow := &heldUp{Memory: store}
		slow.claim.Store(int64(16 * time.Second))
		_, h, stop := start(t, slow, def, saga.Options{})
		require.Equal(t, saga.Completed, wait(t, h).Status)
		stop()
		require.EqualValues(t, 2, w.charged.Load())
		require.False(t, dead.Load(), "the owner's step runs on a dead context")
	})
}

// After an Undo of what is in doubt the look-up fails: it is asked again, as the charge
// may have arrived behind the refund.
func TestALookUpBehindTheUndoThatFailsIsRepeated(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var standing atomic.Bool
		asked := 0
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error {
			time.AfterFunc(time.Second, func() { standing.Store(true) }) // it arrives late
			return context.DeadlineExceeded
		}).Retry(saga.Retry{Attempts: 1}).RetryUndo(saga.Retry{First: 4 * time.Second}).
			Undo(func(context.Context, *order) error { standing.Store(false); return nil }).
			Verify(func(context.Context, *order) (saga.Outcome, error) {
				if asked++; asked == 1 {
					return saga.Unknown, errors.New("503")
				}
				if standing.Load() {
					return saga.Applied, nil
				}
				return saga.NeverApplied, nil
			}))
		_, h, stop := start(t, store, def, saga.Options{})
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		time.Sleep(time.Minute)
		stop()
		require.False(t, standing.Load(), "the saga is compensated, and the charge stands")
	})
}

// An Undo that fails is repeated, whatever the provider says of the attempt: it is not asked.
func TestAnUndoThatFailsIsNotMadeGoodByALookUp(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		undo, asked := &script{errs: []error{errPlain, nil}}, 0
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error { return errLost }).Retry(saga.Retry{Attempts: 1}).
			Undo(undo.do).
			Verify(func(context.Context, *order) (saga.Outcome, error) { asked++; return saga.Unknown, nil }))
		e, h, stop := start(t, store, def, saga.Options{})
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		rec, err := e.Admin().Inspect(context.Background(), "o1")
		require.NoError(t, err)
		stop()
		require.Equal(t, []int{2, 1}, []int{undo.calls, asked})
		var kinds []saga.EventKind
		for _, ev := range rec.Events {
			kinds = append(kinds, ev.Kind)
		}
		require.Equal(t, []saga.EventKind{saga.EventFailed, saga.EventRetry, saga.EventVerified}, kinds)
	})
}

// Another signal wakes the saga before its time is over; the machine holds its owner up;
// meanwhile the approval comes in time.
func TestASignalThatCameInTimeIsTakenByASlowOwner(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := saga.MustDefine("order", 1, saga.Await("approve", time.Hour, func(o *order, msg string) error { o.Charge = msg; return nil }))
		slow := &heldUp{Memory: store}
		e, h, stop := start(t, slow, def, saga.Options{})
		ctx := context.Background()
		time.Sleep(time.Hour - 5*time.Second)
		slow.claim.Store(int64(6 * time.Second))
		require.NoError(t, e.Signal(ctx, "o1", "another", 1))
		time.Sleep(3 * time.Second)
		require.NoError(t, e.Signal(ctx, "o1", "approve", "yes"))
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Completed, got.Status, got.Reason)
		require.Equal(t, "yes", got.Data.Charge)
	})
}

// An engine that is told to end has let go of its sagas with the last step, and not when
// it would have renewed their leases.
func TestAnEngineEndsWithItsLastStep(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := saga.MustDefine("order", 1, saga.Pivot("charge", func(context.Context, *order) error {
			time.Sleep(time.Second)
			return nil
		}))
		begun := time.Now()
		_, _, stop := start(t, store, def, saga.Options{Lease: time.Hour, Drain: time.Minute})
		stop()
		require.Equal(t, time.Second, time.Since(begun))
	})
}

// leaseOfAges is a store that takes a saga from who renews its lease too often.
type leaseOfAges struct {
	*saga.Memory
	renewed int
}

func (l *leaseOfAges) Renew(ctx context.Context, leases []*saga.Lease, d time.Duration) error {
	l.renewed++
	err := l.Memory.Renew(ctx, leases, d)
	if l.renewed > 10 {
		leases[0].Err = saga.ErrFenced
	}
	return err
}

// Who wants no lease to run out says so by the longest that there is.
func TestALeaseMayBeAsLongAsTimeIs(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		asked := &leaseOfAges{Memory: store}
		_, _, stop := start(t, asked, five(), saga.Options{Lease: math.MaxInt64})
		time.Sleep(time.Minute)
		stop()
		require.Zero(t, asked.renewed)
	})
}
