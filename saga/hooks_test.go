package saga_test

import (
	"context"
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
