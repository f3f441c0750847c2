package saga_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

func TestAHookThatPanicsAtTheStartDoesNotKeepTheSaga(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var charges atomic.Int64
		def := saga.MustDefine("order", 1, saga.Pivot("charge", func(context.Context, *order) error { charges.Add(1); return nil }))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}, Hooks: saga.Hooks{OnStarted: func(*saga.Record) { panic("hook") }}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		synctest.Wait()
		require.Panics(t, func() { _, _ = def.Start(ctx, e, "o1", order{}, nil) })
		late, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		got, err := def.Handle(e, "o1").Wait(late)
		stop()
		require.NoError(t, err)
		require.Equal(t, saga.Completed, got.Status)
		require.EqualValues(t, 1, charges.Load())
	})
}

// Around is called for each call of the provider, and OnEvent for each line of the history.
func TestHooksAreToldOfEverything(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var around, events []string
		hooks := saga.Hooks{
			Around: func(ctx context.Context, c saga.Call, next func(context.Context) error) error {
				around = append(around, fmt.Sprintf("%s %d %t %t", c.Key(), c.Attempt, c.Undo, c.Verify))
				return next(ctx)
			},
			OnEvent: func(_ *saga.Record, ev saga.Event) {
				events = append(events, fmt.Sprint(ev.Kind, " ", ev.Step, " ", ev.Attempt))
			},
		}
		n := 0
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error {
			if n++; n == 1 {
				return context.DeadlineExceeded
			}
			return saga.Reject(errors.New("declined"))
		}).Undo(noop).Verify(func(context.Context, *order) (saga.Outcome, error) { return saga.Unknown, nil }).Idempotent())
		e, h, stop := start(t, store, def, saga.Options{Hooks: hooks})
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		rec, err := e.Admin().Inspect(context.Background(), "o1")
		stop()
		require.NoError(t, err)
		require.Equal(t, []string{
			"o1/charge 1 false false", "o1/charge 2 false true", "o1/charge 2 false false", "o1/charge/undo 1 true false", "o1/charge 1 false true",
		}, around)
		require.Equal(t, []string{"retry charge 1", "verified charge 2", "failed charge 2", "verified charge 1"}, events)
		require.Len(t, rec.Events, len(events))
	})
}
