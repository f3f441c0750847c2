package saga

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// A saga of another version runs only what is still what its plan says: not a step that
// came to be in a transaction, or that can no longer be undone.
func TestAPlanIsBoundToStepsThatAreStillTheSame(t *testing.T) {
	t.Parallel()
	nothing := func(context.Context, *string) error { return nil }
	def := MustDefine("order", 1,
		Step("reserve", nothing).Undo(nothing), Pure[string]("count", nothing), Pivot("confirm", nothing), Retriable("tell", nothing))
	p := def.registered()

	parts := p.bind(p.plan[1:]) // as if the first had been added since
	require.Len(t, parts, 3)
	together := slices.Clone(p.plan)
	together[0].Group, together[1].Group = 1, 1
	parts = p.bind(together)
	require.Equal(t, []int{1, 1, 0, 0}, []int{parts[0].group, parts[1].group, parts[2].group, parts[3].group}, "as the plan says")
	require.Zero(t, p.parts[0].group)

	for what, edit := range map[string]func(*Planned){
		"name":        func(s *Planned) { s.Name = "book" },
		"kind":        func(s *Planned) { s.Kind = KindPure },
		"transaction": func(s *Planned) { s.Tx = true },
		"undo":        func(s *Planned) { s.Undo = false },
	} {
		plan := slices.Clone(p.plan)
		edit(&plan[0])
		require.Nil(t, p.bind(plan), what)
	}
}

// The newest version that has the steps runs a saga whose own is gone, and none that is older.
func TestTheNewestVersionTakesOver(t *testing.T) {
	t.Parallel()
	nothing := func(context.Context, *string) error { return nil }
	version := func(n int) *Definition[string] { return MustDefine("order", n, Pivot("confirm", nothing)) }
	e, err := New(NewMemory(nil), &Options{Definitions: []Registered{version(2), version(5), version(4)}})
	require.NoError(t, err)
	plan := version(1).registered().plan
	for of, want := range map[int]int{1: 5, 2: 2, 3: 5, 4: 4, 5: 5} {
		p, parts := e.steps(&Record{Definition: "order", Version: of, Plan: plan})
		require.Equal(t, want, p.version, of)
		require.Len(t, parts, 1)
	}
	p, _ := e.steps(&Record{Definition: "order", Version: 6, Plan: plan})
	require.Nil(t, p)
}
