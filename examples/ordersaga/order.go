package main

import (
	"context"
	"errors"
	"time"

	"github.com/safetill/safetill/saga"
)

// Order is the data of the saga. What a step learns is kept in the same write that says
// that the step is done.
type Order struct {
	Customer    string
	Item        string
	Amount      int64 // in kobo
	Reservation string
	Receipt     string
}

// shop does the work. Each of its providers has an effect once for a key, and the
// saga has a key for each step, which is the same however often the step is attempted.
type shop struct {
	providers providers
	faults    *faults
}

// define is the saga: what can be undone, what decides, what has to follow.
func (s *shop) define() *saga.Definition[Order] {
	quick := saga.Retry{Attempts: 3, First: 100 * time.Millisecond}
	do := s.faults.inject
	return saga.MustDefine("order", 1,
		saga.Pure("validate", do("validate", s.validate)),
		saga.Step("reserve", do("reserve", s.reserve)).Undo(do("release", s.undo)).Idempotent().
			Retry(quick).RetryUndo(quick),
		saga.Step("charge", do("charge", s.charge)).Undo(do("refund", s.undo)).Verify(s.findCharge).
			Retry(quick).RetryUndo(quick),
		saga.Pivot("confirm", do("confirm", s.confirm)).Idempotent().Retry(quick),
		saga.Retriable("notify", do("notify", s.notify)).Retry(quick))
}

func (s *shop) validate(_ context.Context, o *Order) error {
	if o.Amount <= 0 {
		return saga.Reject(errors.New("an order of nothing"))
	}
	return nil
}

func (s *shop) reserve(ctx context.Context, o *Order) error {
	key := saga.CallFrom(ctx).Key()
	o.Reservation = "stock:" + key
	return s.providers.apply(ctx, key, "reserve "+o.Item)
}

func (s *shop) charge(ctx context.Context, o *Order) error {
	key := saga.CallFrom(ctx).Key()
	o.Receipt = "bank:" + key
	return s.providers.apply(ctx, key, "charge "+o.Customer)
}

// findCharge asks the bank what became of a charge whose answer was lost.
func (s *shop) findCharge(ctx context.Context, o *Order) (saga.Outcome, error) {
	key := saga.CallFrom(ctx).DoKey()
	there, err := s.providers.find(ctx, key)
	switch {
	case err != nil:
		return saga.Unknown, err
	case !there:
		return saga.NeverApplied, nil // this bank decides at once: nothing is on its way
	}
	o.Receipt = "bank:" + key
	return saga.Applied, nil
}

// undo takes a step's effect back, and keeps the step's key from having one later.
func (s *shop) undo(ctx context.Context, _ *Order) error {
	return s.providers.undo(ctx, saga.CallFrom(ctx).DoKey())
}

func (s *shop) confirm(ctx context.Context, o *Order) error {
	return s.providers.apply(ctx, saga.CallFrom(ctx).Key(), "ship "+o.Item)
}

func (s *shop) notify(ctx context.Context, o *Order) error {
	return s.providers.apply(ctx, saga.CallFrom(ctx).Key(), "write to "+o.Customer)
}
