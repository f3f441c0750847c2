package main

import (
	"context"
	"errors"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/saga"
)

// delivery reserves the money, finds a courier, and then takes the money.
func (s *shop) delivery() *saga.Definition[string] {
	post := func(ctx context.Context, tx ledger.Transaction) error {
		tx.ID = ledger.TransactionID(saga.CallFrom(ctx).Key()) // a step that is repeated moves nothing
		_, err := s.ledger.PostOne(ctx, tx)
		if _, refused := errors.AsType[*ledger.VerdictError](err); refused {
			return saga.Reject(err)
		}
		return err
	}
	hold := func(ctx context.Context) ledger.TransactionID {
		return ledger.TransactionID(saga.CallFrom(ctx).SagaID + "/reserve")
	}
	return saga.MustDefine("delivery", 1,
		saga.Step("reserve", func(ctx context.Context, amount *string) error {
			tx := transfer("", "ada", "shop", *amount)
			tx.Kind = ledger.KindHold
			return post(ctx, tx)
		}).Idempotent().Undo(func(ctx context.Context, _ *string) error {
			return post(ctx, ledger.Transaction{Kind: ledger.KindRelease, Of: hold(ctx)})
		}),
		saga.Pivot("courier", func(context.Context, *string) error {
			return saga.Reject(errors.New("no courier goes there"))
		}),
		saga.Retriable("take", func(ctx context.Context, _ *string) error {
			return post(ctx, ledger.Transaction{Kind: ledger.KindCapture, Of: hold(ctx)})
		}))
}

// deliver follows the saga of an order to its end.
func (s *shop) deliver(ctx context.Context, order, amount string) (answer string, err error) {
	delivery := s.delivery()
	engine, err := saga.New(s.sagas, &saga.Options{Definitions: []saga.Registered{delivery}})
	if err != nil {
		return "", err
	}
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(working) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	handle, err := delivery.Start(ctx, engine, order, amount, nil)
	if err != nil {
		return "", err
	}
	result, err := handle.Wait(ctx)
	if failure := result.Err(); failure != nil {
		return failure.Error(), err
	}
	return "on its way", err
}
