package saga_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

type flatV1 struct{ Amount int }

type flatV2 struct {
	Amount, Fee int
	Note        string
	Charged     bool
}

// Version 2 of the data has a field more, which no branch has changed.
func TestBranchesDoNotClashAtAFieldThatIsNew(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		f1, f2 := func(context.Context, *flatV1) error { return nil }, func(context.Context, *flatV2) error { return nil }
		v1 := saga.MustDefine("order", 1, saga.Parallel("both", saga.Step("a", f1).Undo(f1), saga.Step("b", f1).Undo(f1)))
		v2 := saga.MustDefine("order", 2, saga.Parallel("both", saga.Step("a", f2).Undo(f2), saga.Step("b", f2).Undo(f2)))
		idle, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{v1}})
		require.NoError(t, err)
		_, err = v1.Start(context.Background(), idle, "o1", flatV1{1}, nil)
		require.NoError(t, err)
		e, stop := second(t, store, v2)
		got, err := v2.Handle(e, "o1").Wait(context.Background())
		require.NoError(t, err)
		stop()
		require.NoError(t, got.Err())
	})
}

// One branch clears the field that the other fills in: whoever is last would win.
func TestBranchesClashAtAFieldThatOneClears(t *testing.T) {
	type omitting struct {
		Receipt string `json:",omitempty"`
	}
	for _, first := range []time.Duration{time.Second, 3 * time.Second} {
		t.Run(first.String(), func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				none := func(context.Context, *omitting) error { return nil }
				def := saga.MustDefine("order", 1, saga.Parallel("both",
					saga.Step("charge", func(_ context.Context, o *omitting) error { time.Sleep(first); o.Receipt = "r2"; return nil }).Undo(none),
					saga.Step("clear", func(_ context.Context, o *omitting) error { time.Sleep(2 * time.Second); o.Receipt = ""; return nil }).Undo(none)))
				e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
				require.NoError(t, err)
				ctx, stop := runs(t, e)
				h, err := def.Start(ctx, e, "o1", omitting{"r1"}, nil)
				require.NoError(t, err)
				got, err := h.Wait(ctx)
				require.NoError(t, err)
				stop()
				require.Equal(t, saga.Stuck, got.Status)
				require.Contains(t, got.Reason, `both change "Receipt"`)
			})
		})
	}
}

// null is a map too, until something is in it.
func TestBranchesOfNoDataYet(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		type data = map[string]string
		none := func(context.Context, *data) error { return nil }
		fill := func(name string) saga.Part[data] {
			return saga.Step(name, func(_ context.Context, d *data) error {
				*d = data{name: "done"}
				return nil
			}).Undo(none)
		}
		def := saga.MustDefine("order", 1, saga.Parallel("both", fill("a"), fill("b")))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		synctest.Wait()
		h, err := def.Start(ctx, e, "o1", nil, nil)
		require.NoError(t, err)
		got, err := h.Wait(ctx)
		require.NoError(t, err)
		stop()
		require.NoError(t, got.Err())
		require.Equal(t, data{"a": "done", "b": "done"}, got.Data)
	})
}

// A branch that is done is not begun again with one that is attempted again. What it has
// cleared stays so.
func TestABranchThatIsDoneIsNotBegunAgain(t *testing.T) {
	type lines struct {
		Cart    string `json:",omitempty"`
		Charged int
	}
	for _, first := range []bool{true, false} {
		t.Run(fmt.Sprint("in front ", first), func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				clears, charges := 0, &script{errs: []error{errPlain, errLost, nil}}
				both := []saga.Part[lines]{
					saga.Retriable("clear", func(_ context.Context, l *lines) error { clears++; l.Cart = ""; return nil }),
					saga.Retriable("charge", func(_ context.Context, l *lines) error { l.Charged = 1; return charges.next() }),
				}
				if !first {
					slices.Reverse(both)
				}
				def := saga.MustDefine("order", 1, saga.Parallel("both", both...))
				e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
				require.NoError(t, err)
				ctx, stop := runs(t, e)
				h, err := def.Start(ctx, e, "o1", lines{Cart: "shoes"}, nil)
				require.NoError(t, err)
				got, err := h.Wait(ctx)
				stop()
				require.NoError(t, err)
				require.NoError(t, got.Err())
				require.Equal(t, []int{1, 3}, []int{clears, charges.calls})
				require.Equal(t, lines{Charged: 1}, got.Data)
			})
		})
	}
}

// Two of them are refused: the history tells of both.
func TestEachBranchThatFailsIsInTheHistory(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := saga.MustDefine("order", 1, saga.Parallel("both",
			saga.Step("a", func(context.Context, *order) error { return errNo }).Undo(noop),
			saga.Step("b", func(context.Context, *order) error { time.Sleep(time.Second); return errNo }).Undo(noop)))
		e, h, stop := start(t, store, def, saga.Options{})
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, "a", got.Failed)
		rec, err := e.Admin().Inspect(context.Background(), "o1")
		require.NoError(t, err)
		var failed []string
		for _, ev := range rec.Events {
			require.Equal(t, saga.EventFailed, ev.Kind)
			require.Equal(t, "declined", ev.Text)
			failed = append(failed, ev.Step)
		}
		require.ElementsMatch(t, []string{"a", "b"}, failed)
	})
}
