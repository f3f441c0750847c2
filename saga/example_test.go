package saga_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/safetill/safetill/saga"
)

// Order is what the examples' sagas are about.
type Order struct {
	Item   string
	Amount int
	Charge string
}

func reserve(context.Context, *Order) error { fmt.Println("reserved"); return nil }
func release(context.Context, *Order) error { fmt.Println("released"); return nil }
func confirm(context.Context, *Order) error { fmt.Println("confirmed"); return nil }

func charge(ctx context.Context, o *Order) error {
	if o.Amount > 100 {
		return saga.Reject(errors.New("card declined"))
	}
	o.Charge = saga.CallFrom(ctx).Key() // the provider charges once for a key
	fmt.Println("charged", o.Charge)
	return nil
}

func refund(context.Context, *Order) error { fmt.Println("refunded"); return nil }

// running returns an engine on a store in memory, and what ends it.
func running(defs ...saga.Registered) (e *saga.Engine, stop func()) {
	e, err := saga.New(saga.NewMemory(nil), &saga.Options{Definitions: defs})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	return e, func() {
		cancel()
		if err := <-done; err != nil {
			fmt.Println(err)
		}
	}
}

func Example() {
	order := saga.MustDefine("order", 1,
		saga.Step("reserve", reserve).Undo(release),
		saga.Step("charge", charge).Undo(refund),
		saga.Pivot("confirm", confirm))
	e, stop := running(order)
	defer stop()

	ctx := context.Background()
	h, err := order.Start(ctx, e, "order-1", Order{Item: "lamp", Amount: 30}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := h.Wait(ctx)
	fmt.Println(r.Status, r.Data.Charge, err)
	// Output:
	// reserved
	// charged order-1/charge
	// confirmed
	// COMPLETED order-1/charge <nil>
}

// A step that is refused makes the saga go back.
func ExampleReject() {
	order := saga.MustDefine("order", 1,
		saga.Step("reserve", reserve).Undo(release),
		saga.Step("charge", charge).Undo(refund),
		saga.Pivot("confirm", confirm))
	e, stop := running(order)
	defer stop()

	ctx := context.Background()
	h, err := order.Start(ctx, e, "order-2", Order{Item: "piano", Amount: 3000}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := h.Wait(ctx)
	fmt.Println(err)
	fmt.Println(r.Err())
	// Output:
	// reserved
	// released
	// <nil>
	// saga order-2: COMPENSATED: step charge: card declined
}

// What could neither be undone nor finished is refused.
func ExampleDefine() {
	_, err := saga.Define("order", 1,
		saga.Step("reserve", reserve),
		saga.Pivot("confirm", confirm),
		saga.Step("charge", charge).Undo(refund))
	fmt.Println(err)
	// Output:
	// saga: definition "order": saga: step "reserve" cannot be undone: give it an Undo, or make it Pure, or the Pivot
	// saga: step "charge" is behind the pivot: make it Retriable, or move it
	// saga: step "charge" is never undone, as the saga cannot go back from there: take its Undo away
}

// unreachable is a saga whose last step fails until it is skipped.
func unreachable() *saga.Definition[Order] {
	return saga.MustDefine("order", 1,
		saga.Pivot("confirm", func(context.Context, *Order) error { return nil }),
		saga.Retriable("notify", func(context.Context, *Order) error { return errors.New("no such address") }).
			Retry(saga.Retry{Attempts: 1}))
}

// What is stuck is found, looked at, and brought back.
func ExampleAdmin_Resolve() {
	order := unreachable()
	e, stop := running(order)
	defer stop()

	ctx := context.Background()
	h, err := order.Start(ctx, e, "order-3", Order{}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = h.Wait(ctx)
	for rec, err := range e.Admin().List(ctx, saga.Filter{Status: []saga.Status{saga.Stuck}}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(rec.ID, "is stuck at", rec.Blocked(), "as", rec.Error)
		_, err = e.Admin().Resolve(ctx, rec.ID, saga.ActionSkip, saga.Audit{
			Actor: "ada@example.com", Reason: "told her by phone", ExpectRevision: rec.Revision,
		})
		fmt.Println(err)
	}
	r, waitErr := h.Wait(ctx)
	fmt.Println(r.Status, errors.Join(err, waitErr))
	// Output:
	// order-3 is stuck at [notify] as no such address
	// <nil>
	// COMPLETED <nil>
}

func ExampleHandler() {
	order := unreachable()
	e, stop := running(order)
	defer stop()
	handler := saga.Handler(e.Admin(), nil) // behind something that knows who asks

	ctx := context.Background()
	h, err := order.Start(ctx, e, "order-4", Order{}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := h.Wait(ctx); err != nil {
		fmt.Println(err)
		return
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/sagas/order-4/resolve", nil))
	fmt.Println(w.Code, w.Body)
	// Output:
	// 415 {"type":"about:blank","title":"Unsupported Media Type","status":415,"detail":"the body must be application/json"}
}

func ExampleDiagram() {
	order := saga.MustDefine("order", 1,
		saga.Step("reserve", reserve).Undo(release),
		saga.Step("charge", charge).Undo(refund),
		saga.Pivot("confirm", confirm))
	fmt.Print(saga.Diagram(order))
	// Output:
	// flowchart TD
	//     started(["order 1"])
	//     s0["reserve"]
	//     s1["charge"]
	//     s2{{"confirm"}}
	//     completed([completed])
	//     started --> s0
	//     s0 --> s1
	//     s1 --> s2
	//     s2 -->|no way back| completed
	//     s0 -. undo .-> compensated
	//     s1 -. undo .-> s0
	//     compensated([compensated])
}

func ExampleWriteTimeline() {
	rec := &saga.Record{
		ID: "order-5", Definition: "order", Version: 1, Status: saga.Compensated, Failed: "charge", Error: "card declined", Revision: 3,
		Plan:  saga.Plan{{Name: "reserve", Kind: saga.KindStep, Undo: true}, {Name: "charge", Kind: saga.KindStep, Undo: true}},
		Steps: saga.Progress{{Mark: saga.Undone, At: 4_000_000}, {Mark: saga.NotApplied}},
	}
	if err := saga.WriteTimeline(os.Stdout, rec); err != nil {
		fmt.Println(err)
	}
	// Output:
	// order-5 (order 1): COMPENSATED after 0s, revision 3
	//   charge: card declined
	//       +4ms  reserve  undone
	//          -  charge   not applied
}
