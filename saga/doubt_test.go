package saga_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// quick options make a crash cheap: a step that ends its goroutine is one.
func quick(defs ...saga.Registered) *saga.Options {
	return &saga.Options{Definitions: defs, Lease: 30 * time.Millisecond, Poll: 5 * time.Millisecond}
}

// crash ends the owner the first time that it is called.
func crash(once *atomic.Bool) {
	if once.CompareAndSwap(false, true) {
		runtime.Goexit()
	}
}

func result(t *testing.T, def *saga.Definition[order], e *saga.Engine) saga.Result[order] {
	t.Helper()
	h, err := def.Start(within(t), e, "o1", order{}, nil)
	require.NoError(t, err)
	got, err := h.Wait(within(t))
	require.NoError(t, err)
	return got
}

// forgetful loses the answer of its first SaveTx.
type forgetful struct {
	*saga.Memory

	lost atomic.Bool
}

func (f *forgetful) SaveTx(ctx context.Context, w *saga.Write, work func(context.Context, any) error) error {
	err := f.Memory.SaveTx(ctx, w, work)
	if err == nil && f.lost.CompareAndSwap(false, true) {
		return &saga.StoreError{Cause: errors.New("connection reset")}
	}
	return err
}

func TestATransactionWhoseAnswerIsLostIsNotRepeated(t *testing.T) {
	t.Parallel()
	var rows atomic.Int64
	def := saga.MustDefine("order", 1,
		saga.StepTx("a", func(_ context.Context, tx *saga.MemoryTx, o *order) error {
			tx.OnCommit(func() { rows.Add(1) })
			o.Seen = append(o.Seen, "a")
			return nil
		}).Undo(func(context.Context, *saga.MemoryTx, *order) error { return nil }),
		saga.Pivot("b", note("b")))
	store := &forgetful{Memory: saga.NewMemory(nil)}
	got := result(t, def, engine(t, store, quick(def)))
	require.True(t, store.lost.Load())
	require.NoError(t, got.Err())
	require.Equal(t, int64(1), rows.Load())
	require.Equal(t, []string{"a", "b"}, got.Data.Seen)
}

func TestAStepBehindAPureOneIsInDoubtAfterACrash(t *testing.T) {
	t.Parallel()
	var died atomic.Bool
	var charges, looks atomic.Int64
	def := saga.MustDefine("order", 1,
		saga.Pure("validate", note("validate")),
		saga.Pure("price", note("price")),
		saga.Step("charge", func(context.Context, *order) error {
			charges.Add(1)
			crash(&died)
			return nil
		}).Undo(noop).Verify(func(context.Context, *order) (saga.Outcome, error) {
			looks.Add(1)
			return saga.Applied, nil
		}))
	got := result(t, def, engine(t, saga.NewMemory(nil), quick(def)))
	require.NoError(t, got.Err())
	require.Equal(t, int64(1), charges.Load(), "charged again without a look-up")
	require.Equal(t, int64(1), looks.Load())
	require.Equal(t, []string{"validate", "price"}, got.Data.Seen)
}

// Behind a Pure step, which has no checkpoint of its own, a pivot may have happened
// already when that step is done again.
func TestAPivotThatMayHaveHappenedIsNotTurnedBack(t *testing.T) {
	t.Parallel()
	var died atomic.Bool
	var undone atomic.Int64
	var e *saga.Engine
	def := saga.MustDefine("order", 1,
		saga.Step("reserve", noop).Undo(func(context.Context, *order) error { undone.Add(1); return nil }),
		saga.Pure("price", noop),
		saga.Pivot("pay", func(ctx context.Context, _ *order) error {
			if !died.Load() {
				_ = e.Cancel(ctx, "o1")
			}
			crash(&died)
			return nil
		}).Verify(func(context.Context, *order) (saga.Outcome, error) { return saga.Applied, nil }))
	e = engine(t, saga.NewMemory(nil), quick(def))
	got := result(t, def, e)
	require.NoError(t, got.Err())
	require.Zero(t, undone.Load())
}

func TestAPureStepCannotRefuseWhatMayBeDecided(t *testing.T) {
	t.Parallel()
	var died atomic.Bool
	var undone atomic.Int64
	def := saga.MustDefine("order", 1,
		saga.Step("reserve", noop).Undo(func(context.Context, *order) error { undone.Add(1); return nil }),
		saga.Pure("price", func(context.Context, *order) error {
			if died.Load() {
				return saga.Reject(errors.New("the offer has expired"))
			}
			return nil
		}),
		saga.Pivot("pay", func(context.Context, *order) error { crash(&died); return nil }).Idempotent())
	got := result(t, def, engine(t, saga.NewMemory(nil), quick(def)))
	require.Equal(t, saga.Stuck, got.Status, "it went back from a payment that was made")
	require.Zero(t, undone.Load())
}

func TestALookUpAsksForTheStepAlsoOnTheWayBack(t *testing.T) {
	t.Parallel()
	var keys []string
	def := saga.MustDefine("order", 1,
		saga.Step("charge", func(context.Context, *order) error { return context.DeadlineExceeded }).Undo(noop).
			Retry(saga.Retry{Attempts: 2, First: time.Millisecond}).
			Verify(func(ctx context.Context, _ *order) (saga.Outcome, error) {
				c := saga.CallFrom(ctx)
				require.True(t, c.Verify)
				keys = append(keys, c.Key())
				return saga.Unknown, nil
			}))
	got := result(t, def, engine(t, saga.NewMemory(nil), quick(def)))
	require.Equal(t, saga.Compensated, got.Status)
	require.Equal(t, []string{"o1/charge", "o1/charge"}, keys) // once forward, and once after the Undo
}

func TestABranchThatEndsItsGoroutineIsInDoubt(t *testing.T) {
	t.Parallel()
	var died atomic.Bool
	var charges, looks atomic.Int64
	def := saga.MustDefine("order", 1,
		saga.Parallel("both",
			saga.Step("a", noop).Undo(noop),
			saga.Step("charge", func(context.Context, *order) error {
				charges.Add(1)
				crash(&died)
				return nil
			}).Undo(noop).Verify(func(context.Context, *order) (saga.Outcome, error) {
				looks.Add(1)
				return saga.Applied, nil
			})))
	got := result(t, def, engine(t, saga.NewMemory(nil), quick(def)))
	require.NoError(t, got.Err())
	require.Equal(t, int64(1), charges.Load(), "charged again without a look-up")
	require.Equal(t, int64(1), looks.Load())
}

// slow gives the engine time to renew leases while a saga begins.
type slow struct{ *saga.Memory }

func (s slow) Create(ctx context.Context, c []*saga.Create) error {
	time.Sleep(8 * time.Millisecond)
	return s.Memory.Create(ctx, c)
}

func TestLeasesAreRenewedWhileSagasBegin(t *testing.T) { // under -race
	t.Parallel()
	def := saga.MustDefine("order", 1,
		saga.StepTx("a", func(context.Context, *saga.MemoryTx, *order) error { time.Sleep(8 * time.Millisecond); return nil }).
			Undo(func(context.Context, *saga.MemoryTx, *order) error { return nil }))
	o := quick(def)
	o.Lease, o.MaxCrashes = 10*time.Millisecond, 100
	e := engine(t, slow{saga.NewMemory(nil)}, o)
	for i := range 20 {
		h, err := def.Start(within(t), e, string(rune('a'+i)), order{}, nil)
		require.NoError(t, err)
		_, err = h.Wait(within(t))
		require.NoError(t, err)
	}
}

func TestAParallelAcrossThePivotIsRefused(t *testing.T) {
	t.Parallel()
	_, err := saga.Define("order", 1, saga.Parallel("both", saga.Step("a", noop).Undo(noop), saga.Retriable("b", noop)))
	require.ErrorContains(t, err, "Parallel")
	_, err = saga.Define("order", 1, saga.Parallel("both", saga.Retriable("a", noop), saga.Pure("b", noop)))
	require.NoError(t, err)
}

func TestAStoppingEngineHoldsAParallelToItsEnd(t *testing.T) {
	t.Parallel()
	var slowly atomic.Int64
	entered, stopped, leave := make(chan struct{}), make(chan struct{}), make(chan struct{})
	def := saga.MustDefine("order", 1,
		saga.Parallel("both",
			saga.Step("fast", func(context.Context, *order) error { <-stopped; return nil }).Undo(noop),
			saga.Step("slow", func(context.Context, *order) error {
				if slowly.Add(1) == 1 {
					close(entered)
				}
				<-leave
				return nil
			}).Undo(noop)))
	store := saga.NewMemory(nil)
	first, err := saga.New(store, quick(def))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- first.Run(ctx) }()
	h, err := def.Start(within(t), first, "o1", order{}, nil)
	require.NoError(t, err)
	<-entered
	stop()
	time.AfterFunc(10*time.Millisecond, func() { close(stopped) })
	second := engine(t, store, quick(def))
	time.Sleep(40 * time.Millisecond)
	close(leave)
	require.NoError(t, <-ended)
	h = def.Handle(second, h.ID())
	got, err := h.Wait(within(t))
	require.NoError(t, err)
	require.NoError(t, got.Err())
	require.Equal(t, int64(1), slowly.Load(), "a branch was begun twice")
}

func TestBranchesThatClashStayStuck(t *testing.T) {
	t.Parallel()
	first, second := make(chan struct{}), make(chan struct{})
	def := saga.MustDefine("order", 1,
		saga.Parallel("three",
			saga.Step("a", func(_ context.Context, o *order) error { o.Charge = "a"; return nil }).Undo(noop),
			saga.Step("b", func(_ context.Context, o *order) error { <-first; o.Charge = "b"; return nil }).Undo(noop),
			saga.Step("c", func(_ context.Context, o *order) error { <-second; o.Reserved = true; return nil }).Undo(noop)))
	o := quick(def)
	o.Lease = time.Minute
	e := engine(t, saga.NewMemory(nil), o)
	time.AfterFunc(20*time.Millisecond, func() { close(first) })
	time.AfterFunc(60*time.Millisecond, func() { close(second) })
	got := result(t, def, e)
	require.Equal(t, saga.Stuck, got.Status)
	require.ErrorContains(t, got.Err(), `both change "Charge"`)
	require.Equal(t, "a", got.Data.Charge)
	require.True(t, got.Data.Reserved)
}

func TestWhatIsDoneBehindThePivotIsNotTurnedBack(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	def := saga.MustDefine("order", 1,
		saga.Step("reserve", noop).Undo(noop),
		saga.Parallel("both",
			saga.Retriable("a", func(context.Context, *order) error { <-done; return saga.Reject(errors.New("no")) }),
			saga.Retriable("b", func(context.Context, *order) error { close(done); return nil })))
	got := result(t, def, engine(t, saga.NewMemory(nil), quick(def)))
	require.Equal(t, saga.Stuck, got.Status, "it went back from what b has done")
}
