package saga_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

type flat struct{ Customer string }

// The budget is that of a saga of five steps on a store in memory.
func TestAllocations(t *testing.T) {
	f := func(context.Context, *flat) error { return nil }
	def := saga.MustDefine("flat", 1,
		saga.Step("a", f).Undo(f), saga.Step("b", f).Undo(f), saga.Step("c", f).Undo(f), saga.Pivot("d", f), saga.Retriable("e", f))
	e := engine(t, saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{def}})
	n := 0
	ids := make([]string, 2000)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	got := testing.AllocsPerRun(1000, func() {
		h, err := def.Start(t.Context(), e, ids[n], flat{}, nil)
		if err == nil {
			_, err = h.Wait(t.Context())
		}
		require.NoError(t, err)
		n++
	})
	require.LessOrEqual(t, got, 14.0)
}
