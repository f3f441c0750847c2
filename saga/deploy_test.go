package saga_test

import (
	"context"
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
		charges := 0
		reserve := func() *saga.StepPart[order] {
			return saga.Step("reserve", func(context.Context, *order) error {
				time.Sleep(time.Second)
				return nil
			}).Undo(noop).Idempotent()
		}
		charge := func() *saga.StepPart[order] {
			return saga.Step("charge", func(_ context.Context, o *order) error { charges++; o.Reserved = true; return nil }).Undo(noop)
		}
		v1 := saga.MustDefine("order", 1, reserve(), charge())
		v2 := saga.MustDefine("order", 2, saga.Parallel("both", reserve(), charge()))
		idle, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{v1}})
		require.NoError(t, err)
		h, err := v1.Start(context.Background(), idle, "o1", order{}, nil)
		require.NoError(t, err)
		_, stop := second(t, store, v2)
		time.Sleep(500 * time.Millisecond)
		require.Zero(t, charges, "charged before the reservation was done")
		require.Equal(t, saga.Completed, wait(t, h).Status)
		stop()
	})
}

func TestDefinitionsMayHaveTheSameSteps(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		charges := 0
		reserve := saga.Step("reserve", func(context.Context, *order) error { time.Sleep(time.Second); return nil }).Undo(noop)
		charge := saga.Step("charge", func(context.Context, *order) error { charges++; return nil }).Undo(noop)
		v1 := saga.MustDefine("order", 1, reserve, charge)
		v2 := saga.MustDefine("order", 2, saga.Parallel("both", reserve, charge))
		v3, err := saga.Define("order", 3, saga.Parallel("both", reserve, charge))
		require.NoError(t, err)
		v4 := saga.MustDefine("order", 4, reserve, charge)
		require.Equal(t, v2.Plan(), v3.Plan())
		require.Equal(t, v1.Plan(), v4.Plan())
		_, h, stop := start(t, store, v1, saga.Options{})
		time.Sleep(500 * time.Millisecond)
		require.Zero(t, charges, "charged before the reservation was done")
		require.Equal(t, saga.Completed, wait(t, h).Status)
		stop()
	})
}
