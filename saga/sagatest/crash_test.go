package sagatest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/sagatest"
)

type order struct {
	Amount    int64
	Reserved  string
	Charged   string
	Confirmed bool
	Notified  bool
}

func memory(testing.TB) saga.Store { return saga.NewMemory(nil) }

// key is that of the step, also in its Undo and its Verify.
func key(ctx context.Context) string { return saga.CallFrom(ctx).DoKey() }

func validate(_ context.Context, o *order) error {
	if o.Amount <= 0 {
		return saga.Reject(errors.New("nothing to pay"))
	}
	return nil
}

func orderSaga(w *sagatest.World) (*saga.Definition[order], []saga.Registered) {
	stock, bank, mail := w.Provider("stock"), w.Provider("bank"), w.Provider("mail")
	return saga.MustDefine("order", 1,
		saga.Pure("validate", validate),
		saga.Step("reserve", func(ctx context.Context, o *order) (err error) {
			o.Reserved, err = stock.Do(ctx, key(ctx), 1)
			return err
		}).Idempotent().Undo(func(ctx context.Context, _ *order) error { return stock.Undo(ctx, key(ctx)) }),
		saga.Step("charge", func(ctx context.Context, o *order) (err error) {
			o.Charged, err = bank.Do(ctx, key(ctx), o.Amount)
			return err
		}).Undo(func(ctx context.Context, _ *order) error { return bank.Undo(ctx, key(ctx)) }).
			Verify(func(ctx context.Context, o *order) (outcome saga.Outcome, err error) {
				o.Charged, outcome, err = bank.Verify(ctx, key(ctx))
				return outcome, err
			}),
		saga.Pivot("confirm", func(ctx context.Context, o *order) error {
			o.Confirmed = true
			_, err := stock.Do(ctx, key(ctx), 1)
			return err
		}).Idempotent(),
		saga.Retriable("notify", func(ctx context.Context, o *order) error {
			o.Notified = true
			_, err := mail.Do(ctx, key(ctx), 1)
			return err
		})), nil
}

func TestCrashAnOrderEverywhere(t *testing.T) {
	t.Parallel()
	got := sagatest.CrashEverywhere(t, sagatest.Scenario[order]{
		Store: memory, Saga: orderSaga, Input: order{Amount: 100},
		Check: func(_ *sagatest.World, r saga.Result[order]) error {
			if o := r.Data; r.Status == saga.Completed && (o.Reserved == "" || o.Charged == "" || !o.Confirmed || !o.Notified) {
				return errors.New("the data lacks what a step has found out")
			}
			return nil
		},
	})
	require.Greater(t, got.Runs, 300)
}

// transfer is a payment through a bank whose funds are held in our own books.
type transfer struct {
	Amount int64
	Bank   string
}

// book writes a row in the transaction of a step.
func book(w *sagatest.World, sign int64) saga.TxFunc[transfer, *saga.MemoryTx] {
	return func(ctx context.Context, tx *saga.MemoryTx, p *transfer) error {
		k, amount := saga.CallFrom(ctx).Key(), sign*p.Amount
		tx.OnCommit(func() { w.Record("books", k, amount) })
		return nil
	}
}

// paymentSaga holds the money, tells the bank, and captures the money or releases it.
// Its bank has no memory of keys.
func paymentSaga(w *sagatest.World) (*saga.Definition[transfer], []saga.Registered) {
	bank := w.Provider("bank")
	bank.Forgets = true
	return saga.MustDefine("payment", 1,
		saga.Pure("check", func(_ context.Context, p *transfer) error {
			if p.Amount <= 0 {
				return saga.Reject(errors.New("nothing to pay"))
			}
			return nil
		}),
		saga.StepTx("hold", book(w, 1)).Undo(book(w, -1)),
		saga.Pure("address", func(context.Context, *transfer) error { return nil }),
		saga.Step("bank", func(ctx context.Context, p *transfer) (err error) {
			p.Bank, err = bank.Do(ctx, key(ctx), p.Amount)
			return err
		}).Undo(func(ctx context.Context, _ *transfer) error { return bank.Undo(ctx, key(ctx)) }).
			Verify(func(ctx context.Context, p *transfer) (o saga.Outcome, err error) {
				p.Bank, o, err = bank.Verify(ctx, key(ctx))
				return o, err
			}),
		saga.PivotTx("capture", book(w, 1)),
		saga.RetriableTx("statement", book(w, 1))), nil
}

func TestCrashAPaymentEverywhere(t *testing.T) {
	t.Parallel()
	got := sagatest.CrashEverywhere(t, sagatest.Scenario[transfer]{Store: memory, Saga: paymentSaga, Input: transfer{Amount: 100}})
	require.Greater(t, got.Runs, 300)
}

// effect is a step with an effect at a provider, once per key.
func effect(w *sagatest.World, provider, name string) *saga.StepPart[order] {
	p := w.Provider(provider)
	return saga.Step(name, func(ctx context.Context, _ *order) error {
		_, err := p.Do(ctx, key(ctx), 1)
		return err
	}).Idempotent().Undo(func(ctx context.Context, _ *order) error { return p.Undo(ctx, key(ctx)) })
}

// waitingSaga does two steps at once, has a child, and waits for a signal.
func waitingSaga(w *sagatest.World) (*saga.Definition[order], []saga.Registered) {
	child := saga.MustDefine("child", 1, effect(w, "courier", "book"), effect(w, "courier", "label"))
	return saga.MustDefine("waiting", 1,
		saga.Parallel("both", effect(w, "stock", "reserve"), effect(w, "bank", "charge")),
		saga.Child("ship", child,
			func(o *order) (order, error) { return *o, nil },
			func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).
			Undo(func(ctx context.Context, _ *order) error { // the courier takes both back
				courier := w.Provider("courier")
				return errors.Join(courier.Undo(ctx, key(ctx)+"/book"), courier.Undo(ctx, key(ctx)+"/label"))
			}),
		saga.Await("approve", time.Minute, func(o *order, by string) error {
			o.Charged = by
			return nil
		}),
		saga.Pivot("confirm", func(context.Context, *order) error { return nil }).Idempotent()), []saga.Registered{child}
}

func TestCrashASagaThatWaitsEverywhere(t *testing.T) {
	t.Parallel()
	got := sagatest.CrashEverywhere(t, sagatest.Scenario[order]{
		Store: memory, Saga: waitingSaga, Input: order{Amount: 100}, Pairs: 30,
		Drive: func(ctx context.Context, e *saga.Engine, id string) error { return e.Signal(ctx, id, "approve", "ann") },
	})
	require.Greater(t, got.Runs, 200)
}
