package saga_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// overtaken is a store whose first commit of a step is slower than its caller, who comes
// again: the second is rolled back, and told what the first has written.
type overtaken struct {
	*saga.Memory
	calls int
	first saga.Record
	steps saga.Progress
}

func (s *overtaken) SaveTx(ctx context.Context, w *saga.Write, work func(context.Context, any) error) error {
	s.calls++
	if s.calls == 1 {
		err := s.Memory.SaveTx(ctx, w, work)
		s.first, s.steps = *w.Record, append(saga.Progress{}, w.Record.Steps...)
		return errors.Join(err, &saga.StoreError{Cause: errors.New("it takes too long")})
	}
	err := work(ctx, &saga.MemoryTx{})
	*w.Record = s.first
	copy(w.Record.Steps, s.steps)
	w.Err = nil
	return err
}

func TestASagaGoesOnWithTheDataThatWasCommitted(t *testing.T) {
	t.Parallel()
	type counted struct{ Booked, Seen int }
	n := 0
	book := saga.PivotTx("book", func(_ context.Context, _ *saga.MemoryTx, c *counted) error {
		n++
		c.Booked = n
		return nil
	})
	look := saga.Retriable("look", func(_ context.Context, c *counted) error {
		c.Seen = c.Booked
		return nil
	})
	for want, def := range map[counted]*saga.Definition[counted]{
		{Booked: 1}:          saga.MustDefine("last", 1, book),
		{Booked: 1, Seen: 1}: saga.MustDefine("another", 1, book, look),
	} {
		n = 0
		e := engine(t, &overtaken{Memory: saga.NewMemory(nil)}, &saga.Options{Definitions: []saga.Registered{def}})
		h, err := def.Start(within(t), e, "1", counted{}, nil)
		require.NoError(t, err)
		got, err := h.Wait(within(t))
		require.NoError(t, err)
		require.NoError(t, got.Err())
		require.Equal(t, 2, n)
		require.Equal(t, want, got.Data)
	}
}

// The work of a step decides about another saga, of which somebody else was first, and
// returns that error. It is the step's, and not that of its own saga.
func TestAStepMayFailAsAStoreDoes(t *testing.T) {
	for _, fault := range []error{saga.ErrFenced, &saga.StoreError{Cause: saga.ErrFenced}} {
		t.Run(fault.Error(), func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				calls := 0
				def := saga.MustDefine("order", 1, saga.StepTx("book", func(context.Context, *saga.MemoryTx, *order) error {
					calls++
					return fmt.Errorf("the other saga: %w", fault)
				}).Undo(func(context.Context, *saga.MemoryTx, *order) error { return nil }))
				_, h, stop := start(t, store, def, saga.Options{})
				got := wait(t, h)
				stop()
				require.Equal(t, saga.Compensated, got.Status, got.Reason)
				require.Equal(t, 5, calls)
			})
		})
	}
}
