package saga_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

type order struct {
	Customer string
	Reserved bool
	Charge   string
	Seen     []string
}

func note(name string) saga.Func[order] {
	return func(_ context.Context, o *order) error {
		o.Seen = append(o.Seen, name)
		return nil
	}
}

// engine runs an engine for the length of a test.
func engine(t testing.TB, store saga.Store, o *saga.Options) *saga.Engine {
	t.Helper()
	e, err := saga.New(store, o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return e
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestEveryStepOnceInOrder(t *testing.T) {
	t.Parallel()
	def := saga.MustDefine("order", 1,
		saga.Pure("validate", note("validate")),
		saga.Step("reserve", note("reserve")).Undo(note("release")),
		saga.StepTx("book", func(_ context.Context, _ *saga.MemoryTx, o *order) error {
			o.Seen = append(o.Seen, "book")
			return nil
		}).Undo(func(_ context.Context, _ *saga.MemoryTx, _ *order) error { return nil }),
		saga.Pivot("confirm", note("confirm")),
		saga.Retriable("notify", note("notify")))
	e := engine(t, saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{def}})
	h, err := def.Start(within(t), e, "o1", order{Customer: "c"}, nil)
	require.NoError(t, err)
	got, err := h.Wait(within(t))
	require.NoError(t, err)
	require.NoError(t, got.Err())
	require.Equal(t, []string{"validate", "reserve", "book", "confirm", "notify"}, got.Data.Seen)
}

func TestARejectedStepIsUndoneInReverse(t *testing.T) {
	t.Parallel()
	no := errors.New("declined")
	def := saga.MustDefine("order", 1,
		saga.Step("a", note("a")).Undo(note("-a")),
		saga.Step("b", note("b")).Undo(note("-b")),
		saga.Step("c", func(context.Context, *order) error { return saga.Reject(no) }).Undo(note("-c")))
	e := engine(t, saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{def}})
	h, err := def.Start(within(t), e, "o1", order{}, nil)
	require.NoError(t, err)
	got, err := h.Wait(within(t))
	require.NoError(t, err)
	require.Equal(t, saga.Compensated, got.Status)
	require.ErrorContains(t, got.Err(), "step c: declined")
	require.Equal(t, []string{"a", "b", "-b", "-a"}, got.Data.Seen)
}

func noop(context.Context, *order) error { return nil }

func five() *saga.Definition[order] {
	return saga.MustDefine("five", 1,
		saga.Step("a", noop).Undo(noop), saga.Step("b", noop).Undo(noop), saga.Step("c", noop).Undo(noop),
		saga.Pivot("d", noop), saga.Retriable("e", noop))
}

func BenchmarkFiveSteps(b *testing.B) {
	for _, c := range []int{1, 64} {
		b.Run(fmt.Sprint(c), func(b *testing.B) {
			def := five()
			e := engine(b, saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{def}})
			var n atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(c)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					h, err := def.Start(b.Context(), e, fmt.Sprint(n.Add(1)), order{}, nil)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := h.Wait(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
