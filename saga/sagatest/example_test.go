package sagatest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/sagatest"
)

// A test of one's own saga: its steps work on the providers of a world.
func ExampleCrashEverywhere() {
	type ticket struct{ Receipt string }

	_ = func(t *testing.T) { // func TestTicketSurvivesEverything(t *testing.T)
		sagatest.CrashEverywhere(t, sagatest.Scenario[ticket]{
			Store: func(testing.TB) saga.Store { return saga.NewMemory(nil) },
			Saga: func(w *sagatest.World) (*saga.Definition[ticket], []saga.Registered) {
				bank := w.Provider("bank")
				return saga.MustDefine("ticket", 1,
					saga.Step("charge", func(ctx context.Context, data *ticket) (err error) {
						data.Receipt, err = bank.Do(ctx, saga.CallFrom(ctx).DoKey(), 20)
						return err
					}).Idempotent().Undo(func(ctx context.Context, _ *ticket) error {
						return bank.Undo(ctx, saga.CallFrom(ctx).DoKey())
					}),
					saga.Pivot("issue", func(context.Context, *ticket) error { return nil }).Idempotent()), nil
			},
			Faults: func(w *sagatest.World) { w.Provider("bank").Next(sagatest.TimesOut) },
		})
	}
	// Output:
}

func ExampleNewWorld() {
	w, ctx := sagatest.NewWorld(), context.Background()
	bank := w.Provider("bank").Next(sagatest.TimesOut)
	_, err := bank.Do(ctx, "order-1/charge", 100)
	fmt.Println(err)
	receipt, outcome, _ := bank.Verify(ctx, "order-1/charge")
	fmt.Println(receipt, outcome == saga.Applied, w.Sum("bank"))
	_ = bank.Undo(ctx, "order-1/charge")
	_, err = bank.Do(ctx, "order-1/charge", 100) // overtaken by its Undo
	fmt.Println(err, w.Sum("bank"))
	// Output:
	// sagatest: no answer: context deadline exceeded
	// bank-1 true 100
	// sagatest: the key was cancelled 0
}
