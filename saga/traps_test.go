package saga_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// world counts what steps have done.
type world struct{ charged, refunded, asked atomic.Int64 }

func start(t *testing.T, store saga.Store, def *saga.Definition[order], o saga.Options) (*saga.Engine, *saga.Handle[order], func()) {
	t.Helper()
	o.Definitions = append(o.Definitions, def)
	e, err := saga.New(store, &o)
	require.NoError(t, err)
	ctx, stop := runs(t, e)
	synctest.Wait()
	h, err := def.Start(ctx, e, "o1", order{}, nil)
	require.NoError(t, err)
	return e, h, stop
}

// runs runs an engine until stop.
func runs(t *testing.T, e *saga.Engine) (ctx context.Context, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	return ctx, func() {
		t.Helper()
		cancel()
		require.NoError(t, <-done)
	}
}

func wait(t *testing.T, h *saga.Handle[order]) saga.Result[order] {
	t.Helper()
	got, err := h.Wait(context.Background())
	require.NoError(t, err)
	return got
}

func alone(t *testing.T, f func(t *testing.T, store *saga.Memory)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { f(t, saga.NewMemory(nil)) })
}

// The charge is taken and its answer lost: to undo only what is known to be done
// would leave the customer charged.
func TestTheFailedStepMayHaveHappened(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := saga.MustDefine("order", 1, saga.Step("charge", func(ctx context.Context, _ *order) error {
			w.charged.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}).Timeout(time.Second).Undo(func(context.Context, *order) error { w.refunded.Add(1); return nil }))
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		got := wait(t, h)
		require.Equal(t, saga.Compensated, got.Status)
		require.EqualValues(t, 1, w.charged.Load(), "it is not repeated: nobody has said that this is harmless")
		require.EqualValues(t, 1, w.refunded.Load())
	})
}

// A timeout is followed by a question, not by another charge.
func TestAStepInDoubtIsVerifiedBeforeItIsRepeated(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error {
			w.charged.Add(1)
			return saga.InDoubt(errors.New("connection lost"))
		}).Undo(noop).Verify(func(_ context.Context, o *order) (saga.Outcome, error) {
			if w.asked.Add(1) < 3 {
				return saga.Unknown, nil
			}
			o.Charge = "ch_1"
			return saga.Applied, nil
		}))
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		got := wait(t, h)
		require.Equal(t, saga.Completed, got.Status)
		require.Equal(t, "ch_1", got.Data.Charge)
		require.EqualValues(t, 1, w.charged.Load())
		require.EqualValues(t, 3, w.asked.Load())
	})
}

// The charge is slow, its time is up, the refund finds nothing, the charge arrives.
func TestALateActionOvertakenByItsCompensation(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var standing atomic.Bool
		var refunds atomic.Int64
		def := saga.MustDefine("order", 1, saga.Step("charge", func(ctx context.Context, _ *order) error {
			time.AfterFunc(3*time.Second, func() { standing.Store(true) }) // it arrives late
			<-ctx.Done()
			return ctx.Err()
		}).Timeout(time.Second).Retry(saga.Retry{Attempts: 1}).Undo(func(context.Context, *order) error {
			refunds.Add(1)
			standing.Store(false)
			return nil
		}).RetryUndo(saga.Retry{First: 4 * time.Second}).Verify(func(context.Context, *order) (saga.Outcome, error) {
			if standing.Load() || refunds.Load() == 1 { // at first it says what it will come to
				return saga.Applied, nil
			}
			return saga.Unknown, nil
		}))
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		require.False(t, standing.Load())
		require.EqualValues(t, 2, refunds.Load())
	})
}

// Cancelled or late, a saga knows of its charge, and gives it back.
func TestADeadlineDoesNotEraseASuccessfulCharge(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := saga.MustDefine("order", 1,
			saga.Step("charge", func(context.Context, *order) error {
				time.Sleep(2 * time.Second)
				w.charged.Add(1)
				return nil
			}).Undo(func(context.Context, *order) error { w.refunded.Add(1); return nil }),
			saga.Pivot("confirm", noop))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		h, err := def.Start(ctx, e, "o1", order{}, &saga.StartOptions{Deadline: time.Second})
		require.NoError(t, err)
		got := wait(t, h)
		require.Equal(t, saga.Compensated, got.Status)
		require.Empty(t, got.Failed)
		require.EqualValues(t, 1, w.charged.Load())
		require.EqualValues(t, 1, w.refunded.Load())
		rec, err := e.Admin().Inspect(ctx, "o1")
		require.NoError(t, err)
		require.Len(t, rec.Events, 1)
		require.Equal(t, saga.EventDeadline, rec.Events[0].Kind)
		stop()
	})
}

// A step that takes longer than any lease keeps its saga, as long as its engine lives.
func TestALiveSagaIsNotRecoveredByItsAge(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error {
			w.charged.Add(1)
			time.Sleep(9 * time.Minute)
			return nil
		}).Timeout(10*time.Minute).Undo(noop).Idempotent())
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		other, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		_, stop := runs(t, other)
		require.Equal(t, saga.Completed, wait(t, h).Status)
		require.EqualValues(t, 1, w.charged.Load())
		stop()
	})
}

// paused holds back the writes of one engine, as SIGSTOP does.
type paused struct {
	*saga.Memory
	asleep chan struct{}
	frozen atomic.Bool
}

func (p *paused) Save(ctx context.Context, writes []*saga.Write) error {
	if p.frozen.Load() {
		<-p.asleep
	}
	return p.Memory.Save(ctx, writes)
}

func (p *paused) Renew(ctx context.Context, leases []*saga.Lease, d time.Duration) error {
	if p.frozen.Load() {
		return errors.New("asleep")
	}
	return p.Memory.Renew(ctx, leases, d)
}

func (p *paused) Claim(ctx context.Context, c saga.Claim) ([]saga.Claimed, error) {
	if p.frozen.Load() {
		return nil, errors.New("asleep")
	}
	return p.Memory.Claim(ctx, c)
}

// An owner that has slept past its lease is told no by the very write, not by a look
// before it.
func TestTheCheckOfTheOwnerIsTheWriteItself(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		sleepy := &paused{Memory: store, asleep: make(chan struct{})}
		def := saga.MustDefine("order", 1,
			saga.Step("a", func(_ context.Context, o *order) error { o.Charge += "a"; return nil }).Undo(noop).Idempotent(),
			saga.Pivot("b", noop).Idempotent())
		sleepy.frozen.Store(true)
		e1, h, end := start(t, sleepy, def, saga.Options{})
		defer end()
		time.Sleep(time.Second)
		e2, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, stop := runs(t, e2)
		got := wait(t, def.Handle(e2, h.ID()))
		require.Equal(t, saga.Completed, got.Status)
		require.Equal(t, "a", got.Data.Charge)
		before, err := e1.Admin().Inspect(ctx, "o1")
		require.NoError(t, err)
		sleepy.frozen.Store(false)
		close(sleepy.asleep)
		synctest.Wait()
		after, err := e1.Admin().Inspect(ctx, "o1")
		require.NoError(t, err)
		require.Equal(t, before.Revision, after.Revision)
		stop()
	})
}

// The step ran into its deadline; its compensation has a context of its own.
func TestACompensationDoesNotRunOnADeadContext(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var alive atomic.Bool
		def := saga.MustDefine("order", 1, saga.Step("charge", func(ctx context.Context, _ *order) error {
			<-ctx.Done()
			return ctx.Err()
		}).Timeout(time.Second).Undo(func(ctx context.Context, _ *order) error {
			deadline, ok := ctx.Deadline()
			alive.Store(ctx.Err() == nil && ok && time.Until(deadline) == time.Second)
			return nil
		}))
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		require.True(t, alive.Load())
	})
}

// Five attempts within a blink find the provider as it was; and a crash does not
// renew the budget.
func TestRetriesGiveTheProviderTime(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var at []time.Duration
		begun := time.Now()
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error {
			at = append(at, time.Since(begun))
			return errors.New("503")
		}).Undo(noop))
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		require.Len(t, at, 5)
		for i, least := range []time.Duration{100, 200, 400, 800} {
			gap := at[i+1] - at[i]
			require.GreaterOrEqual(t, gap, least*time.Millisecond)
			require.LessOrEqual(t, gap, 2*least*time.Millisecond+time.Second) // a long one ends with a poll
		}
	})
}

func TestABusinessRejectionIsNotRetriedAsAFault(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error {
			w.charged.Add(1)
			return saga.Reject(errors.New("card declined"))
		}).Undo(func(context.Context, *order) error { w.refunded.Add(1); return nil }))
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		require.EqualValues(t, 1, w.charged.Load())
		require.Zero(t, w.refunded.Load(), "it has not happened")
	})
}

// A saga goes on from its checkpoint: what is done stays done.
func TestAResumedSagaDoesNotBeginAgain(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		die := atomic.Bool{}
		die.Store(true)
		def := saga.MustDefine("order", 1,
			saga.Step("charge", func(context.Context, *order) error { w.charged.Add(1); return nil }).Undo(noop),
			saga.Pivot("confirm", func(context.Context, *order) error {
				if die.CompareAndSwap(true, false) {
					runtime.Goexit() // its owner is gone, and the next one takes it up from the store
				}
				return nil
			}).Idempotent())
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		require.Equal(t, saga.Completed, wait(t, h).Status)
		require.EqualValues(t, 1, w.charged.Load())
	})
}

// failing fails the writes at will, before or after they are done.
type failing struct {
	*saga.Memory
	before, after atomic.Int64 // how many are to fail
}

func (f *failing) Save(ctx context.Context, writes []*saga.Write) error {
	if f.before.Add(-1) >= 0 {
		return errors.New("connection refused")
	}
	err := f.Memory.Save(ctx, writes)
	if err == nil && f.after.Add(-1) >= 0 {
		return errors.New("connection lost")
	}
	return err
}

// The store is away when the charge is to be written down: it is written later, and
// nothing begins before that.
func TestASaveErrorIsNotSwallowed(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		f := &failing{Memory: store}
		f.before.Store(30)
		f.after.Store(30)
		var confirmed time.Duration
		begun := time.Now()
		def := saga.MustDefine("order", 1,
			saga.Step("charge", func(context.Context, *order) error { w.charged.Add(1); return nil }).Undo(noop),
			saga.Pivot("confirm", func(context.Context, *order) error { confirmed = time.Since(begun); return nil }))
		_, h, end := start(t, f, def, saga.Options{})
		defer end()
		require.Equal(t, saga.Completed, wait(t, h).Status)
		require.EqualValues(t, 1, w.charged.Load())
		require.Greater(t, confirmed, 50*time.Second)
	})
}

func TestThreeCrashesAreAPersonsBusiness(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := saga.MustDefine("order", 1,
			saga.Step("charge", func(context.Context, *order) error {
				w.charged.Add(1)
				panic("nil map")
			}).Undo(noop).Idempotent())
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		got := wait(t, h)
		require.Equal(t, saga.Stuck, got.Status)
		require.ErrorContains(t, got.Err(), "nil map")
		require.EqualValues(t, 3, w.charged.Load())
	})
}

// So are three deaths of its owners.
func TestThreeDeathsAreAPersonsBusiness(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error {
			w.charged.Add(1)
			runtime.Goexit()
			return nil
		}).Undo(noop).Idempotent())
		e, h, end := start(t, store, def, saga.Options{})
		defer end()
		got := wait(t, h)
		require.Equal(t, saga.Stuck, got.Status)
		require.Equal(t, "charge", got.Failed)
		require.EqualValues(t, 3, w.charged.Load())
		rec, err := e.Admin().Inspect(context.Background(), "o1")
		require.NoError(t, err)
		require.Equal(t, 3, rec.Crashes)
		require.Equal(t, saga.EventCrashed, rec.Events[0].Kind)
	})
}

// And a compensation that panics three times, of the twenty that it has.
func TestACompensationThatPanicsIsGivenUp(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		for name, undo := range map[string]func(*int) saga.Part[order]{
			"outside": func(n *int) saga.Part[order] {
				return saga.Step("charge", noop).Undo(func(context.Context, *order) error { *n++; panic("nil map") })
			},
			"in a transaction": func(n *int) saga.Part[order] {
				return saga.StepTx("charge", func(context.Context, *saga.MemoryTx, *order) error { return nil }).
					Undo(func(context.Context, *saga.MemoryTx, *order) error { *n++; panic("nil map") })
			},
		} {
			n := 0
			def := saga.MustDefine(name[:2], 1, undo(&n),
				saga.Pivot("confirm", func(context.Context, *order) error { return saga.Reject(errors.New("no")) }))
			e, end := second(t, store, def)
			h, err := def.Start(context.Background(), e, name, order{}, nil)
			require.NoError(t, err)
			got := wait(t, h)
			end()
			require.Equal(t, saga.Stuck, got.Status, name)
			require.Equal(t, 3, n, name)
		}
	})
}

// A step that does not heed its context loses its lease, not its saga: the engine
// takes that up again when the step has ended.
func TestAStepThatOverrunsIsInDoubt(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := saga.MustDefine("order", 1,
			saga.Step("charge", func(context.Context, *order) error {
				if w.charged.Add(1) == 1 {
					time.Sleep(10 * time.Minute)
				}
				return nil
			}).Timeout(time.Second).Undo(noop).Idempotent())
		e, h, end := start(t, store, def, saga.Options{})
		defer end()
		require.Equal(t, saga.Completed, wait(t, h).Status)
		require.EqualValues(t, 2, w.charged.Load())
		rec, err := e.Admin().Inspect(context.Background(), "o1")
		require.NoError(t, err)
		require.Zero(t, rec.Crashes)
	})
}

func TestAFailedCompensationLeavesNoneOfTheOthersOut(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var undone []string
		undo := func(name string, err error) saga.Func[order] {
			return func(context.Context, *order) error {
				undone = append(undone, name)
				return err
			}
		}
		def := saga.MustDefine("order", 1,
			saga.Step("a", noop).Undo(undo("a", nil)),
			saga.Step("b", noop).Undo(undo("b", errors.New("refund is closed"))).RetryUndo(saga.Retry{Attempts: 2}),
			saga.Step("c", noop).Undo(undo("c", nil)),
			saga.Pivot("d", func(context.Context, *order) error { return saga.Reject(errors.New("no")) }))
		e, h, end := start(t, store, def, saga.Options{})
		defer end()
		got := wait(t, h)
		require.Equal(t, saga.Stuck, got.Status)
		require.Equal(t, []string{"c", "b", "b", "a"}, undone)
		rec, err := e.Admin().Inspect(context.Background(), "o1")
		require.NoError(t, err)
		require.Equal(t, "d", rec.Failed)
		require.Equal(t, saga.UndoFailed, rec.Steps[1].Mark)
		require.Equal(t, saga.Undone, rec.Steps[0].Mark)
	})
}
