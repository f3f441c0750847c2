package saga_test

import (
	"context"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// slowFind takes a second to read.
type slowFind struct{ *saga.Memory }

func (s *slowFind) Find(ctx context.Context, f saga.Filter) iter.Seq2[*saga.Record, error] {
	time.Sleep(time.Second)
	return s.Memory.Find(ctx, f)
}

// The caller fills the same slice with the next order.
func TestASagaHasItsDataForItself(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var seen []string
		def := saga.MustDefine("order", 1, saga.Pivot("charge", func(_ context.Context, o *order) error {
			time.Sleep(time.Second)
			seen = append(seen, o.Seen...)
			return nil
		}))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		synctest.Wait()
		lines := []string{"lamp"}
		h, err := def.Start(ctx, e, "o1", order{Seen: lines}, nil)
		require.NoError(t, err)
		lines[0] = "car"
		require.Equal(t, saga.Completed, wait(t, h).Status)
		stop()
		require.Equal(t, []string{"lamp"}, seen)
	})
}

// A child changes what it was given: not its parent's.
func TestAChildHasItsDataForItself(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		inner := saga.MustDefine("inner", 1, saga.Pivot("pay", func(_ context.Context, o *order) error { o.Seen[0] = "paid"; return nil }))
		def := saga.MustDefine("order", 1, saga.Child("inner", inner, func(o *order) (order, error) { return *o, nil },
			func(*order, saga.Result[order]) error { return nil }).Undo(noop))
		e, err := saga.New(&slowFind{store}, &saga.Options{Definitions: []saga.Registered{def, inner}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		synctest.Wait()
		h, err := def.Start(ctx, e, "o1", order{Seen: []string{"lamp"}}, nil)
		require.NoError(t, err)
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Completed, got.Status)
		require.Equal(t, []string{"lamp"}, got.Data.Seen)
	})
}

// Who shows a plan in another order, or without its last step, does not change what the
// next saga does.
func TestAPlanIsTheCallersOwn(t *testing.T) {
	t.Parallel()
	def := five()
	plan := def.Plan()
	plan[0].Name, plan[1].Undo = "z", false
	require.Equal(t, "a", def.Plan()[0].Name)
	require.True(t, def.Plan()[1].Undo)
}
