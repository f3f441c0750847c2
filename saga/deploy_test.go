package saga_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// Version 2 runs two steps at the same time. A saga of version 1 finishes on its plan, in
// which one follows the other: only of the first would the next owner know that it may
// have happened.
func TestAnOldPlanKeepsItsOrder(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var charges atomic.Int64
		reserve := func() *saga.StepPart[order] {
			return saga.Step("reserve", func(context.Context, *order) error {
				time.Sleep(time.Second)
				return nil
			}).Undo(noop).Idempotent()
		}
		charge := func() *saga.StepPart[order] {
			return saga.Step("charge", func(_ context.Context, o *order) error { charges.Add(1); o.Reserved = true; return nil }).Undo(noop)
		}
		v1 := saga.MustDefine("order", 1, reserve(), charge())
		v2 := saga.MustDefine("order", 2, saga.Parallel("both", reserve(), charge()))
		idle, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{v1}})
		require.NoError(t, err)
		h, err := v1.Start(context.Background(), idle, "o1", order{}, nil)
		require.NoError(t, err)
		_, stop := second(t, store, v2)
		time.Sleep(500 * time.Millisecond)
		require.Zero(t, charges.Load(), "charged before the reservation was done")
		require.Equal(t, saga.Completed, wait(t, h).Status)
		stop()
	})
}

func TestDefinitionsMayHaveTheSameSteps(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var charges atomic.Int64
		reserve := saga.Step("reserve", func(context.Context, *order) error { time.Sleep(time.Second); return nil }).Undo(noop)
		charge := saga.Step("charge", func(context.Context, *order) error { charges.Add(1); return nil }).Undo(noop)
		v1 := saga.MustDefine("order", 1, reserve, charge)
		v2 := saga.MustDefine("order", 2, saga.Parallel("both", reserve, charge))
		v3, err := saga.Define("order", 3, saga.Parallel("both", reserve, charge))
		require.NoError(t, err)
		v4 := saga.MustDefine("order", 4, reserve, charge)
		require.Equal(t, v2.Plan(), v3.Plan())
		require.Equal(t, v1.Plan(), v4.Plan())
		_, h, stop := start(t, store, v1, saga.Options{})
		time.Sleep(500 * time.Millisecond)
		require.Zero(t, charges.Load(), "charged before the reservation was done")
		require.Equal(t, saga.Completed, wait(t, h).Status)
		stop()
	})
}

// The saga goes back for a reason; a process that does not know its steps lets go of it.
func TestTheReasonOutlivesAProcessThatDoesNotKnowTheSteps(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var fails atomic.Bool
		fails.Store(true)
		def := saga.MustDefine("order", 2,
			saga.Step("reserve", noop).Undo(func(context.Context, *order) error {
				if fails.Load() {
					return errDown
				}
				return nil
			}).RetryUndo(saga.Retry{First: time.Hour, Max: time.Hour}),
			saga.Step("charge", func(context.Context, *order) error { return saga.Reject(errors.New("declined")) }).Undo(noop))
		_, _, stop := start(t, store, def, saga.Options{})
		time.Sleep(time.Second)
		stop()
		fails.Store(false)
		_, stop = second(t, store, saga.MustDefine("order", 1, saga.Pivot("other", noop)))
		time.Sleep(2 * time.Hour)
		stop()
		e, stop := second(t, store, def)
		got := wait(t, def.Handle(e, "o1"))
		stop()
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, "declined", got.Reason)
	})
}
