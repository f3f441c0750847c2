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

// punctual is a store that commits nothing when the context of the call is over.
type punctual struct{ *saga.Memory }

func (p punctual) SaveTx(ctx context.Context, w *saga.Write, work func(context.Context, any) error) error {
	var late error
	err := p.Memory.SaveTx(ctx, w, func(ctx context.Context, tx any) error {
		if err := work(ctx, tx); err != nil {
			return err
		}
		late = ctx.Err()
		return late
	})
	if late != nil {
		return &saga.StoreError{Cause: late}
	}
	return err
}

// A transaction may take as long as its step: the call of the store is not over before.
func TestATransactionMayTakeAsLongAsItsStep(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var tries atomic.Int64
		def := saga.MustDefine("order", 1,
			saga.StepTx("book", func(_ context.Context, _ *saga.MemoryTx, _ *order) error {
				if tries.Add(1) > 3 {
					return saga.Reject(errors.New("enough"))
				}
				time.Sleep(time.Minute)
				return nil
			}).Timeout(2*time.Minute).Undo(func(context.Context, *saga.MemoryTx, *order) error { return nil }),
			saga.Pivot("confirm", noop))
		_, h, end := start(t, punctual{store}, def, saga.Options{})
		defer end()
		require.Equal(t, saga.Completed, wait(t, h).Status)
		require.EqualValues(t, 1, tries.Load())
	})
}
