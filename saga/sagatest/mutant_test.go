package sagatest_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/sagatest"
)

// recorder is a test that may fail without failing the test.
type recorder struct {
	testing.TB

	mu   sync.Mutex
	said []string
}

func (r *recorder) Error(args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprint(args...))
}

func (r *recorder) Errorf(format string, args ...any) { r.Error(fmt.Sprintf(format, args...)) }
func (r *recorder) Logf(string, ...any)               {}

// parts of a saga, each of which a mutant has one wrong of.
type parts struct {
	charge saga.Part[order]
	pivot  saga.Part[order]
}

// charge and refund are the order's step, and what undoes it.
func charge(w *sagatest.World) saga.Func[order] {
	return func(ctx context.Context, o *order) error {
		_, err := w.Provider("bank").Do(ctx, key(ctx), o.Amount)
		return err
	}
}

func refund(w *sagatest.World) saga.Func[order] {
	return func(ctx context.Context, _ *order) error { return w.Provider("bank").Undo(ctx, key(ctx)) }
}

// beside has its effect at once, whatever becomes of the transaction.
func beside(w *sagatest.World, sign int64) saga.TxFunc[order, *saga.MemoryTx] {
	return func(ctx context.Context, _ *saga.MemoryTx, o *order) error {
		w.Record("books", saga.CallFrom(ctx).Key(), sign*o.Amount)
		return nil
	}
}

func nothing(context.Context, *order) error { return nil }

// mutants are sagas that are wrong, and what the kit says of them.
var mutants = map[string]struct {
	change func(w *sagatest.World, p *parts)
	faults func(w *sagatest.World)
	want   string
}{
	"a provider that forgets is no Idempotent one": {
		change: func(w *sagatest.World, p *parts) {
			w.Provider("bank").Forgets = true
			p.charge = saga.Step("charge", charge(w)).Idempotent().Undo(refund(w))
		},
		want: "took effect twice",
	},
	"an Undo without effect": {
		change: func(w *sagatest.World, p *parts) {
			p.charge = saga.Step("charge", charge(w)).Idempotent().Undo(nothing)
		},
		want: "it is Compensated, and the effects that are left are map[bank:100]",
	},
	"an Undo of its own key": {
		change: func(w *sagatest.World, p *parts) {
			p.charge = saga.Step("charge", charge(w)).Idempotent().Undo(func(ctx context.Context, _ *order) error {
				return w.Provider("bank").Undo(ctx, saga.CallFrom(ctx).Key())
			})
		},
		want: "effects that are left are map[bank:100]",
	},
	"a refund of what may not have been paid": {
		change: func(w *sagatest.World, p *parts) {
			p.charge = saga.Step("charge", charge(w)).Idempotent().Undo(func(ctx context.Context, o *order) error {
				_, err := w.Provider("bank").Do(ctx, saga.CallFrom(ctx).Key(), -o.Amount)
				return err
			})
		},
		want: "effects that are left are map[bank:-100]",
	},
	"a look-up that does not look": {
		change: func(w *sagatest.World, p *parts) {
			w.Provider("bank").Forgets = true
			p.charge = saga.Step("charge", charge(w)).Undo(refund(w)).Verify(func(context.Context, *order) (saga.Outcome, error) {
				return saga.NeverApplied, nil
			})
		},
		want: "took effect twice",
	},
	"a look-up that always finds": {
		change: func(w *sagatest.World, p *parts) {
			p.charge = saga.Step("charge", charge(w)).Undo(refund(w)).RetryUndo(saga.Retry{Attempts: 2}).
				Verify(func(context.Context, *order) (saga.Outcome, error) { return saga.Applied, nil })
		},
		want: "it is Completed with the effects",
	},
	"an effect that is called Pure": {
		change: func(w *sagatest.World, p *parts) { p.charge = saga.Pure("charge", charge(w)) },
		want:   "it is Compensated, and the effects that are left are map[bank:100]",
	},
	"an effect beside its transaction": {
		change: func(w *sagatest.World, p *parts) { p.charge = saga.StepTx("charge", beside(w, 1)).Undo(beside(w, -1)) },
		want:   "took effect twice",
	},
	"a pivot beside its transaction": {
		change: func(w *sagatest.World, p *parts) { p.pivot = saga.PivotTx("confirm", beside(w, 1)) },
		want:   "took effect twice",
	},
	"a pivot that can be left in doubt": {
		change: func(_ *sagatest.World, p *parts) { p.pivot = saga.Pivot("confirm", nothing) },
		want:   "it is STUCK: a person is needed",
	},
	"a late charge that nobody looks for": {
		change: func(w *sagatest.World, p *parts) {
			w.Provider("bank").Unfenced = true
			p.charge = saga.Step("charge", charge(w)).Undo(refund(w))
		},
		faults: func(w *sagatest.World) { w.Provider("bank").Next(sagatest.Delays) },
		want:   "effects that are left are map[bank:100]",
	},
}

// A kit that cannot fail is worth nothing.
func TestBrokenSagasAreCaught(t *testing.T) {
	t.Parallel()
	for name, mutant := range mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{TB: t}
			sagatest.CrashEverywhere(r, sagatest.Scenario[order]{
				Store: memory, Input: order{Amount: 100}, Faults: mutant.faults,
				Saga: func(w *sagatest.World) (*saga.Definition[order], []saga.Registered) {
					p := parts{
						charge: saga.Step("charge", charge(w)).Idempotent().Undo(refund(w)),
						pivot:  saga.Pivot("confirm", nothing).Idempotent(),
					}
					mutant.change(w, &p)
					return saga.MustDefine("mutant", 1, p.charge, p.pivot), nil
				},
			})
			require.Contains(t, strings.Join(r.said, "\n"), mutant.want)
		})
	}
}

// chargeSaga is the order's step that can go wrong, and what decides it.
func chargeSaga(w *sagatest.World) (*saga.Definition[order], []saga.Registered) {
	bank := w.Provider("bank")
	return saga.MustDefine("charge", 1,
		saga.Step("charge", func(ctx context.Context, o *order) (err error) {
			o.Charged, err = bank.Do(ctx, key(ctx), o.Amount)
			return err
		}).Undo(func(ctx context.Context, _ *order) error { return bank.Undo(ctx, key(ctx)) }).
			Verify(func(ctx context.Context, o *order) (outcome saga.Outcome, err error) {
				o.Charged, outcome, err = bank.Verify(ctx, key(ctx))
				return outcome, err
			}),
		saga.Pivot("confirm", func(context.Context, *order) error { return nil }).Idempotent()), nil
}

// The kit is content with a saga that is right, whatever its provider does.
func TestProvidersMayMisbehave(t *testing.T) {
	t.Parallel()
	for name, faults := range map[string]func(bank *sagatest.Provider){
		"charges and times out": func(bank *sagatest.Provider) { bank.Next(sagatest.TimesOut, sagatest.TimesOut) },
		"answers late":          func(bank *sagatest.Provider) { bank.Next(sagatest.Delays, sagatest.Delays) },
		"answers late, and has no fence": func(bank *sagatest.Provider) {
			bank.Unfenced = true
			bank.Next(sagatest.Delays)
		},
		"has it twice": func(bank *sagatest.Provider) { bank.Next(sagatest.Doubles) },
		"is down, and recovers": func(bank *sagatest.Provider) {
			bank.Next(sagatest.Fails, sagatest.Drops).NextUndo(sagatest.Fails, sagatest.TimesOut)
		},
		"says no": func(bank *sagatest.Provider) { bank.Next(sagatest.Refuses) },
		"cannot be asked": func(bank *sagatest.Provider) {
			bank.Next(sagatest.TimesOut).NextVerify(sagatest.Fails, sagatest.Refuses)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sc := sagatest.Scenario[order]{
				Store: memory, Saga: chargeSaga, Input: order{Amount: 100}, Pairs: 20,
				Faults: func(w *sagatest.World) { faults(w.Provider("bank")) },
			}
			if strings.Contains(name, "no fence") {
				// Where the machine holds a process up for longer than its lease, its request
				// comes after the compensation, and without a fence nobody can help that. In
				// a bubble nothing is held up.
				sc.Lease, sc.Pairs = time.Second, 5
				synctest.Test(t, func(t *testing.T) { sagatest.CrashEverywhere(t, sc) })
				return
			}
			sagatest.CrashEverywhere(t, sc)
		})
	}
}
