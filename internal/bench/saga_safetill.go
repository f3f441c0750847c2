package main

import (
	"context"
	"fmt"

	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// nothing is the data of sagas whose steps do nothing.
type nothing struct{ ID string }

// fiveSteps is a saga with a step of each kind that writes; step is what they do.
func fiveSteps(step func()) *saga.Definition[nothing] {
	f := func(context.Context, *nothing) error {
		step()
		return nil
	}
	undo := func(context.Context, *nothing) error { return nil }
	return saga.MustDefine("five", 1,
		saga.Step("a", f).Undo(undo), saga.Step("b", f).Undo(undo), saga.Step("c", f).Undo(undo), saga.Pivot("d", f), saga.Retriable("e", f))
}

// runEngine starts an engine on store and returns what runs a saga, and what stops it.
func runEngine(store saga.Store, def *saga.Definition[nothing]) (run func(context.Context, string) error, stop func() error, err error) {
	e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }() // stop waits for it
	stop = func() error {
		cancel()
		return <-done
	}
	run = func(ctx context.Context, id string) error {
		h, err := def.Start(ctx, e, id, nothing{id}, nil)
		if err != nil {
			return err
		}
		r, err := h.Wait(ctx)
		if err == nil && r.Status != saga.Completed {
			err = fmt.Errorf("%s: %w", id, r.Err())
		}
		return err
	}
	return run, stop, nil
}

func openSafetill(ctx context.Context, db *sagaDB) (run func(context.Context, string) error, stop func() error, err error) {
	pool, err := db.pool(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := pgsaga.Migrate(ctx, pool, nil); err != nil {
		pool.Close()
		return nil, nil, err
	}
	run, end, err := runEngine(pgsaga.NewStore(pool, nil), fiveSteps(db.step))
	return run, func() error {
		defer pool.Close()
		return end()
	}, err
}
