package saga_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

var (
	errPlain = errors.New("500")
	errNo    = saga.Reject(errors.New("declined"))
	errLost  = saga.InDoubt(errors.New("the answer was lost"))
)

// script gives its errors one after the other, and the last one for ever.
type script struct {
	errs  []error
	calls int
}

func (s *script) next() error {
	s.calls++
	return s.errs[min(s.calls, len(s.errs))-1]
}

func (s *script) do(context.Context, *order) error                 { return s.next() }
func (s *script) tx(context.Context, *saga.MemoryTx, *order) error { return s.next() }

// looks is a look-up that gives its outcomes one after the other.
type looks struct {
	outcomes []saga.Outcome
	err      error
	calls    int
}

func (l *looks) verify(context.Context, *order) (saga.Outcome, error) {
	l.calls++
	return l.outcomes[min(l.calls, len(l.outcomes))-1], l.err
}

// TestWhatIsKnownOfAStep is what a saga of one step, and a pivot that is refused, comes
// to by the answers of the provider.
func TestWhatIsKnownOfAStep(t *testing.T) {
	two := saga.Retry{Attempts: 2}
	for _, c := range []struct {
		name                 string
		does                 []error
		looks                []saga.Outcome
		odd                  error // of the look-ups
		idempotent           bool
		charged, asked, back int // how often it was called, looked up, undone
	}{
		{name: "it is done, and undone", does: []error{nil}, looks: []saga.Outcome{saga.Unknown}, charged: 1, back: 1},
		{name: "it is refused", does: []error{errNo}, charged: 1},
		{name: "it fails, which does not say that it has not happened", does: []error{errPlain}, charged: 2, back: 1},
		{name: "it fails, and is done", does: []error{errPlain, nil}, charged: 2, back: 1},
		{name: "it is lost, and may not be repeated", does: []error{errLost}, charged: 1, back: 1},
		{name: "it has never happened", does: []error{errLost, nil}, looks: []saga.Outcome{saga.NeverApplied}, charged: 2, asked: 1, back: 1},
		{name: "it has never happened, and is refused", does: []error{errLost, errNo}, looks: []saga.Outcome{saga.NeverApplied}, charged: 2, asked: 1},
		{name: "it has happened", does: []error{errLost}, looks: []saga.Outcome{saga.Applied}, charged: 1, asked: 1, back: 1},
		{name: "a look-up that fails says nothing", does: []error{errLost}, looks: []saga.Outcome{saga.Applied}, odd: errPlain, charged: 1, asked: 21, back: 20},
		{
			name: "a repeat that fails does not end the doubt of the first", does: []error{errLost, errPlain}, looks: []saga.Outcome{saga.Unknown},
			idempotent: true, charged: 2, asked: 2, back: 1,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				does, look, back := &script{errs: c.does}, &looks{outcomes: c.looks, err: c.odd}, &script{errs: []error{nil}}
				charge := saga.Step("charge", does.do).Retry(two).Undo(back.do)
				if c.looks != nil {
					charge.Verify(look.verify)
				}
				if c.idempotent {
					charge.Idempotent()
				}
				def := saga.MustDefine("order", 1, charge, saga.Pivot("confirm", func(context.Context, *order) error { return errNo }))
				_, h, stop := start(t, store, def, saga.Options{})
				wait(t, h)
				stop()
				require.Equal(t, []int{c.charged, c.asked, c.back}, []int{does.calls, look.calls, back.calls}, "charged, asked, undone")
			})
		})
	}
}

// TestWhatIsKnownOfAPivot is the same of what decides a saga, or stands behind that.
func TestWhatIsKnownOfAPivot(t *testing.T) {
	for _, c := range []struct {
		name   string
		last   func(s *script) saga.Part[order]
		does   []error
		status saga.Status
		mark   saga.Mark
		calls  int
	}{
		{
			"an idempotent pivot is refused after a doubt", func(s *script) saga.Part[order] { return saga.Pivot("last", s.do).Idempotent() },
			[]error{errLost, errNo},
			saga.Compensated, saga.NotApplied, 2,
		},
		{
			"a retriable step is refused after a doubt", func(s *script) saga.Part[order] { return saga.Retriable("last", s.do) },
			[]error{errLost, errNo},
			saga.Stuck, saga.Maybe, 2,
		},
		{
			"a pivot in a transaction is refused", func(s *script) saga.Part[order] { return saga.PivotTx("last", s.tx) },
			[]error{errNo},
			saga.Compensated, saga.NotApplied, 1,
		},
		{
			"a pivot in a transaction fails", func(s *script) saga.Part[order] { return saga.PivotTx("last", s.tx) },
			[]error{errPlain},
			saga.Compensated, saga.NotApplied, 5,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				does := &script{errs: c.does}
				def := saga.MustDefine("order", 1, c.last(does))
				e, h, stop := start(t, store, def, saga.Options{})
				require.Equal(t, c.status, wait(t, h).Status)
				rec, err := e.Admin().Inspect(context.Background(), "o1")
				stop()
				require.NoError(t, err)
				require.Equal(t, c.mark, rec.Steps[0].Mark)
				require.Equal(t, c.calls, does.calls)
			})
		})
	}
}

// A compensation is given up by a no, and by an error that another attempt would not mend.
func TestACompensationIsGivenUpAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		retry saga.Retry
	}{
		"a no":      {errNo, saga.Retry{}},
		"permanent": {errPlain, saga.Retry{Permanent: func(err error) bool { return errors.Is(err, errPlain) }}},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				back := &script{errs: []error{c.err}}
				def := saga.MustDefine("order", 1, saga.Step("charge", noop).Undo(back.do).RetryUndo(c.retry),
					saga.Pivot("confirm", func(context.Context, *order) error { return errNo }))
				e, h, stop := start(t, store, def, saga.Options{})
				require.Equal(t, saga.Stuck, wait(t, h).Status)
				rec, err := e.Admin().Inspect(context.Background(), "o1")
				stop()
				require.NoError(t, err)
				require.Equal(t, saga.UndoFailed, rec.Steps[0].Mark)
				require.Equal(t, saga.EventUndoFailed, rec.Events[1].Kind)
				require.Equal(t, 1, back.calls)
			})
		})
	}
}

// Three panics are too many of one compensation, and not of several.
func TestEachCompensationHasPanicsOfItsOwn(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		moody := func() saga.Func[order] {
			n := 0
			return func(context.Context, *order) error {
				if n++; n < 3 {
					panic("nil map")
				}
				return nil
			}
		}
		def := saga.MustDefine("order", 1, saga.Step("a", noop).Undo(moody()), saga.Step("b", noop).Undo(moody()),
			saga.Pivot("confirm", func(context.Context, *order) error { return errNo }))
		_, h, stop := start(t, store, def, saga.Options{})
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Compensated, got.Status, got.Reason)
	})
}

// What is known of a child: whether it has ended well is for its parent to say, and one
// that may have done something is undone.
func TestWhatIsKnownOfAChild(t *testing.T) {
	for _, c := range []struct {
		name        string
		ended       []error
		calls, back int
	}{
		{"its end is refused", []error{errNo}, 1, 0},
		{"its end cannot be read", []error{errPlain}, 5, 1},
		{"its end cannot be read at first", []error{errPlain, nil}, 2, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				ended, back := &script{errs: c.ended}, &script{errs: []error{nil}}
				inner := saga.MustDefine("inner", 1, saga.Pivot("pay", noop))
				def := saga.MustDefine("order", 1,
					saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
						func(*order, saga.Result[order]) error { return ended.next() }).Undo(back.do),
					saga.Pivot("confirm", func(context.Context, *order) error { return errNo }))
				_, h, stop := start(t, store, def, saga.Options{Definitions: []saga.Registered{inner}})
				require.Equal(t, saga.Compensated, wait(t, h).Status)
				stop()
				require.Equal(t, []int{c.calls, c.back}, []int{ended.calls, back.calls}, "looked at, undone")
			})
		})
	}
}

// Each step has panics of its own.
func TestEachStepHasPanicsOfItsOwn(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		calls := map[string]int{}
		twice := func(ctx context.Context, _ *order) error {
			name := saga.CallFrom(ctx).Step
			if calls[name]++; calls[name] < 3 {
				panic("!")
			}
			return nil
		}
		def := saga.MustDefine("order", 1, saga.Step("a", twice).Undo(noop).Idempotent(), saga.Step("b", twice).Undo(noop).Idempotent())
		_, h, stop := start(t, store, def, saga.Options{})
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Completed, got.Status, got.Reason)
		require.Equal(t, map[string]int{"a": 3, "b": 3}, calls)
	})
}

// So has its compensation.
func TestACompensationHasPanicsOfItsOwn(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		calls, undone := 0, 0
		def := saga.MustDefine("order", 1, saga.Step("a", func(context.Context, *order) error {
			if calls++; calls < 3 {
				panic("!")
			}
			return errNo
		}).Idempotent().Undo(func(context.Context, *order) error {
			if undone++; undone < 3 {
				panic("!")
			}
			return nil
		}))
		_, h, stop := start(t, store, def, saga.Options{})
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Compensated, got.Status, got.Reason)
		require.Equal(t, []int{3, 3}, []int{calls, undone})
	})
}

// What an attempt that fails has changed in the data is dropped, for the next attempt and
// for the compensations.
func TestAnAttemptThatFailsLeavesTheData(t *testing.T) {
	for name, errs := range map[string][]error{"and is made again": {errPlain, nil}, "and is undone": {errNo}} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				do := &script{errs: errs}
				def := saga.MustDefine("order", 1,
					saga.Step("reserve", note("reserve")).Undo(note("release")),
					saga.Step("charge", func(_ context.Context, o *order) error { o.Seen = append(o.Seen, "charge"); return do.next() }).Undo(noop))
				_, h, stop := start(t, store, def, saga.Options{})
				got := wait(t, h)
				stop()
				want := []string{"reserve", "charge"}
				if got.Status == saga.Compensated {
					want[1] = "release"
				}
				require.Equal(t, want, got.Data.Seen)
			})
		})
	}
}

// What its parent has half made of a child's end when that is refused is not what is undone.
func TestTheEndOfAChildThatIsRefusedLeavesTheData(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		inner := saga.MustDefine("inner", 1, saga.Pivot("pay", noop))
		def := saga.MustDefine("order", 1,
			saga.Step("reserve", note("reserve")).Undo(note("release")),
			saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
				func(o *order, _ saga.Result[order]) error { o.Seen = nil; return errNo }).Undo(noop))
		_, h, stop := start(t, store, def, saga.Options{Definitions: []saga.Registered{inner}})
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, []string{"reserve", "release"}, got.Data.Seen)
	})
}

// A saga is cancelled before its child begins: there is none then, also not later.
func TestNoChildBeginsBehindACancellation(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		back := &script{errs: []error{nil}}
		inner := saga.MustDefine("inner", 1, saga.Pivot("pay", noop))
		def := saga.MustDefine("order", 1,
			saga.Step("reserve", func(context.Context, *order) error { time.Sleep(10 * time.Second); return nil }).Undo(noop),
			saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
				func(*order, saga.Result[order]) error { return nil }).Undo(back.do))
		e, h, stop := start(t, store, def, saga.Options{Definitions: []saga.Registered{inner}})
		require.NoError(t, e.Cancel(context.Background(), "o1"))
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		_, err := e.Admin().Inspect(context.Background(), "o1/inner")
		stop()
		require.ErrorIs(t, err, saga.ErrNotFound)
		require.Zero(t, back.calls)
	})
}

// What is done in a transaction is undone in one, as often as it takes, and once.
func TestATransactionIsUndoneInAnother(t *testing.T) {
	for name, c := range map[string]struct {
		pivot, back []error
		status      saga.Status
		calls       int
	}{
		"it goes on":                {pivot: []error{nil}, status: saga.Completed},
		"it goes back":              {pivot: []error{errNo}, back: []error{nil}, status: saga.Compensated, calls: 1},
		"it goes back after a fail": {pivot: []error{errNo}, back: []error{errPlain, errPlain, nil}, status: saga.Compensated, calls: 3},
		"it cannot go back":         {pivot: []error{errNo}, back: []error{errNo}, status: saga.Stuck, calls: 1},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				does, back, pivot := &script{errs: []error{nil}}, &script{errs: c.back}, &script{errs: c.pivot}
				def := saga.MustDefine("order", 1, saga.StepTx("book", does.tx).Undo(back.tx), saga.Pivot("confirm", pivot.do))
				e, h, stop := start(t, store, def, saga.Options{})
				require.Equal(t, c.status, wait(t, h).Status)
				rec, err := e.Admin().Inspect(context.Background(), "o1")
				require.NoError(t, err)
				stop()
				require.Equal(t, []int{1, c.calls}, []int{does.calls, back.calls}, "done, undone")
				retries := 0
				for _, ev := range rec.Events {
					if ev.Kind == saga.EventRetry {
						retries++
					}
				}
				require.Equal(t, max(0, c.calls-1), retries)
			})
		})
	}
}

// A compensation that is given up after three panics leaves the next its own three.
func TestACompensationThatPanicsIsNotAnothers(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		n := 0
		def := saga.MustDefine("order", 1,
			saga.Step("a", noop).Undo(func(context.Context, *order) error {
				if n++; n < 3 {
					panic("nil map")
				}
				return nil
			}),
			saga.Step("b", noop).Undo(func(context.Context, *order) error { panic("nil map") }),
			saga.Pivot("confirm", func(context.Context, *order) error { return errNo }))
		e, h, stop := start(t, store, def, saga.Options{})
		require.Equal(t, saga.Stuck, wait(t, h).Status)
		rec, err := e.Admin().Inspect(context.Background(), "o1")
		stop()
		require.NoError(t, err)
		require.Equal(t, saga.Undone, rec.Steps[0].Mark)
		require.Equal(t, saga.UndoFailed, rec.Steps[1].Mark)
	})
}
