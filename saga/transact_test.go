package saga_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

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

// faulty is a store whose first commits of a compensation fail behind their work.
type faulty struct {
	*saga.Memory
	fail int
}

func (s *faulty) SaveTx(ctx context.Context, w *saga.Write, work func(context.Context, any) error) error {
	if !w.Record.Undoing {
		return s.Memory.SaveTx(ctx, w, work)
	}
	if s.fail--; s.fail >= 0 {
		return &saga.StoreError{Cause: errors.Join(work(ctx, &saga.MemoryTx{}), errors.New("the server is gone"))}
	}
	return s.Memory.SaveTx(ctx, w, work)
}

// The compensation works, and its commit fails; it is called again, and fails itself. It
// has been rolled back twice, and is not done.
func TestACompensationThatWasRolledBackIsNotDone(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		held, back := 0, &script{errs: []error{nil, errPlain, nil}}
		def := saga.MustDefine("order", 1,
			saga.StepTx("hold", func(_ context.Context, tx *saga.MemoryTx, _ *order) error {
				tx.OnCommit(func() { held++ })
				return nil
			}).Undo(func(ctx context.Context, tx *saga.MemoryTx, o *order) error {
				tx.OnCommit(func() { held-- })
				return back.tx(ctx, tx, o)
			}),
			saga.Pivot("confirm", func(context.Context, *order) error { return errNo }))
		_, h, stop := start(t, &faulty{store, 1}, def, saga.Options{})
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		stop()
		require.Zero(t, held)
		require.Equal(t, 3, back.calls)
	})
}

// Two transactions start a saga by the same id, for different orders, before either is
// committed. The second is told, and its order is not there either: what is acknowledged
// with a saga has one.
func TestTwoTransactionsDoNotBothStartASaga(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := five()
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		var written []string
		begin := func(customer string) *saga.MemoryTx {
			tx := store.Begin()
			_, err := def.StartTx(t.Context(), e, tx, "o1", order{Customer: customer}, nil)
			require.NoError(t, err)
			tx.OnCommit(func() { written = append(written, customer) })
			return tx
		}
		ada, obi, again := begin("ada"), begin("obi"), begin("ada")
		_, err = def.StartTx(t.Context(), e, obi, "o1", order{Customer: "eve"}, nil)
		require.ErrorIs(t, err, saga.ErrConflict, "nor in one transaction")
		require.NoError(t, store.Commit(ada))
		require.NoError(t, store.Commit(ada), "there is nothing left to commit")
		require.ErrorIs(t, store.Commit(obi), saga.ErrConflict)
		require.NoError(t, store.Commit(again), "the same saga is no other")
		require.Equal(t, []string{"ada", "ada"}, written)
	})
}

// The same where it is a step that starts the saga: its work is done again, and hears that
// the id is taken.
func TestAStepDoesNotStartASagaThatIsAnothers(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		other := five()
		var heard []error
		starts, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{other}}) // in the transactions of others
		require.NoError(t, err)
		def := saga.MustDefine("order", 1, saga.PivotTx("ship", func(ctx context.Context, tx *saga.MemoryTx, _ *order) error {
			_, err := other.StartTx(ctx, starts, tx, "parcel", order{Customer: "ada"}, nil)
			heard = append(heard, err)
			time.Sleep(time.Second) // meanwhile somebody else starts it
			return err
		}).Retry(once))
		e, h, stop := start(t, store, def, saga.Options{Definitions: []saga.Registered{other}})
		synctest.Wait()
		_, err = other.Start(t.Context(), e, "parcel", order{Customer: "obi"}, nil)
		require.NoError(t, err)
		got := wait(t, h)
		stop()
		require.Len(t, heard, 2)
		require.NoError(t, heard[0])
		require.ErrorIs(t, heard[1], saga.ErrConflict)
		require.Equal(t, saga.Compensated, got.Status)
	})
}
