package saga_test

import (
	"context"
	"encoding/json"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// untouched fails a test whose bad input comes as far as the store.
type untouched struct{ t testing.TB }

func (u untouched) Create(context.Context, []*saga.Create) error {
	u.t.Error("Create was called")
	return nil
}

func (u untouched) Save(context.Context, []*saga.Write) error {
	u.t.Error("Save was called")
	return nil
}
func (u untouched) Claim(context.Context, saga.Claim) ([]saga.Claimed, error) { return nil, nil }
func (u untouched) Renew(context.Context, []*saga.Lease, time.Duration) error { return nil }

func (u untouched) Deliver(context.Context, string, string, []byte) error {
	u.t.Error("Deliver was called")
	return nil
}

func (u untouched) Find(context.Context, saga.Filter) iter.Seq2[*saga.Record, error] {
	return func(func(*saga.Record, error) bool) { u.t.Error("Find was called") }
}

func TestBadInputIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	def, other := five(), saga.MustDefine("other", 1, saga.Pivot("a", noop))
	e, err := saga.New(untouched{t}, &saga.Options{Definitions: []saga.Registered{def}})
	require.NoError(t, err)
	ctx := t.Context()
	begin := func(id string, o order, options *saga.StartOptions) error {
		_, err := def.Start(ctx, e, id, o, options)
		return err
	}
	refused := func(err error, field string) {
		t.Helper()
		var in *saga.InputError
		require.ErrorAs(t, err, &in)
		require.Equal(t, field, in.Field)
	}
	refused(begin("", order{}, nil), "id")
	refused(begin(strings.Repeat("x", 256), order{}, nil), "id")
	refused(begin("a\x00b", order{}, nil), "id")
	refused(begin("a\xff", order{}, nil), "id")
	refused(begin("o1", order{Customer: strings.Repeat("x", 1<<20)}, nil), "data")
	refused(begin("o1", order{}, &saga.StartOptions{BusinessID: strings.Repeat("x", 256)}), "StartOptions.BusinessID")
	refused(begin("o1", order{}, &saga.StartOptions{Deadline: -1}), "StartOptions.Deadline")
	_, err = other.Start(ctx, e, "o1", order{}, nil)
	require.ErrorIs(t, err, saga.ErrUnknownDefinition)
	_, err = def.Start(ctx, nil, "o1", order{}, nil)
	refused(err, "engine")
	_, err = def.StartTx(ctx, nil, nil, "o1", order{}, nil)
	refused(err, "engine")
	_, err = saga.New(untouched{t}, &saga.Options{Definitions: []saga.Registered{new(saga.Definition[order])}})
	require.ErrorContains(t, err, "Options.Definitions[0] was not made by Define")
	chans := saga.MustDefine("chan", 1, saga.Pivot("a", func(context.Context, *struct{ C chan int }) error { return nil }))
	e, err = saga.New(untouched{t}, &saga.Options{Definitions: []saga.Registered{chans}})
	require.NoError(t, err)
	_, err = chans.Start(ctx, e, "o1", struct{ C chan int }{make(chan int)}, nil)
	refused(err, "data")
	leaf := saga.MustDefine("leaf", 1, saga.Pivot("a", noop))
	end := func(*order, saga.Result[order]) error { return nil }
	same := func(o *order) (order, error) { return *o, nil }
	twig := saga.MustDefine("twig", 1, saga.Child("leaf", leaf, same, end).Undo(noop))
	tree := saga.MustDefine("tree", 1, saga.Child("twig", twig, same, end).Undo(noop))
	grown, err := saga.New(untouched{t}, &saga.Options{Definitions: []saga.Registered{tree, twig, leaf}})
	require.NoError(t, err)
	_, err = tree.Start(ctx, grown, strings.Repeat("x", 256-len("/twig/leaf")), order{}, nil)
	refused(err, "id")
	refused(e.Signal(ctx, "", "a", nil), "id")
	refused(e.Signal(ctx, "o1", "", nil), "name")
	refused(e.Signal(ctx, "o1", "$cancel", nil), "name")
	refused(e.Signal(ctx, "o1", "a", make(chan int)), "msg")
	refused(e.Signal(ctx, "o1", "a", strings.Repeat("x", 1<<20)), "msg")
	refused(e.Cancel(ctx, ""), "id")
	_, err = five().StartTx(ctx, e, nil, "o1", order{}, nil)
	require.ErrorContains(t, err, "has no transactions")
}

func TestOtherInputUnderTheSameIDIsAConflict(t *testing.T) {
	t.Parallel()
	def := five()
	e := engine(t, saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{def}})
	for range 3 {
		_, err := def.Start(within(t), e, "o1", order{Customer: "a"}, nil)
		require.NoError(t, err)
	}
	_, err := def.Start(within(t), e, "o1", order{Customer: "b"}, nil)
	require.ErrorIs(t, err, saga.ErrConflict)
}

// A store keeps a deadline in microseconds, and 0 is none.
func TestADeadlineThatIsShorterThanAStoreKeepsIsNotNone(t *testing.T) {
	t.Parallel()
	def, store := five(), saga.NewMemory(nil)
	e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
	require.NoError(t, err)
	_, err = def.Start(within(t), e, "o1", order{}, &saga.StartOptions{Deadline: 1})
	require.NoError(t, err)
	rec, err := e.Admin().Inspect(within(t), "o1")
	require.NoError(t, err)
	require.Positive(t, rec.DeadlineAfter.Microseconds())
}

func TestWhatIsToldOfASagaNamesIt(t *testing.T) {
	t.Parallel()
	e := engine(t, saga.NewMemory(nil), nil)
	err := e.Signal(within(t), "o7", "approval", "yes")
	require.ErrorIs(t, err, saga.ErrNotFound)
	require.EqualError(t, err, "saga: signal approval for o7: saga: not found")
	require.EqualError(t, e.Cancel(within(t), "o7"), "saga: cancel o7: saga: not found")
}

// As it is left by who does not look at the error of New.
func TestAHandleWithoutAnEngineSaysSo(t *testing.T) {
	t.Parallel()
	_, err := five().Handle(nil, "o1").Wait(within(t))
	var in *saga.InputError
	require.ErrorAs(t, err, &in)
	require.Equal(t, "engine", in.Field)
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	def := five()
	_, err := saga.New(nil, &saga.Options{
		Lease: time.Millisecond, Poll: -1, MaxConcurrent: -1, MaxCrashes: -1, Drain: -1, Keep: -1, Definitions: []saga.Registered{def, def, nil},
	})
	for _, field := range []string{"store", "Options.Lease", "Options.Poll", "Options.MaxConcurrent", "Options.MaxCrashes", "Options.Drain", "Options.Keep", "Definitions[1]", "Definitions[2]"} {
		require.ErrorContains(t, err, field)
	}
	_, err = saga.New((*saga.Memory)(nil), nil)
	require.ErrorContains(t, err, "store is nil")
	other := saga.MustDefine("x", 1, saga.PivotTx("a", func(context.Context, string, *order) error { return nil }))
	_, err = saga.New(saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{other}})
	require.ErrorContains(t, err, `step "a" in a string, and the transactions of the store are *saga.MemoryTx`)
	parent := saga.MustDefine("parent", 1, saga.Child("c", def, func(o *order) (order, error) { return *o, nil }, func(*order, saga.Result[order]) error { return nil }).Undo(noop))
	_, err = saga.New(saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{parent}})
	require.ErrorContains(t, err, `Options.Definitions[0] has the child step "c", and its definition, `+def.Name()+" version 1, is not there")
	_, err = saga.New(saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{parent, def}})
	require.NoError(t, err)
	_, err = saga.New(untouched{t}, &saga.Options{Definitions: []saga.Registered{other}, Keep: time.Hour})
	require.ErrorContains(t, err, "the store saga_test.untouched has none")
	require.ErrorContains(t, err, "Options.Keep")
}

func TestADefinitionThatCanGetStuckIsRefused(t *testing.T) {
	t.Parallel()
	undoable := saga.Step("u", noop).Undo(noop)
	late := func(*order, approval) error { return nil }
	leaf := saga.MustDefine("leaf", 1, saga.Pivot("a", noop))
	input := func(o *order) (order, error) { return *o, nil }
	ended := func(*order, saga.Result[order]) error { return nil }
	for name, c := range map[string]struct {
		steps []saga.Part[order]
		want  string
	}{
		"no steps":              {nil, "steps are none"},
		"nil":                   {[]saga.Part[order]{nil}, "steps[0] is nil"},
		"no undo":               {[]saga.Part[order]{saga.Step("a", noop)}, `step "a" cannot be undone`},
		"step behind the pivot": {[]saga.Part[order]{saga.Pivot("p", noop), undoable}, `step "u" is behind the pivot`},
		"undo of the pivot":     {[]saga.Part[order]{saga.Pivot("p", noop).Undo(noop)}, `step "p" is never undone`},
		"undo behind it":        {[]saga.Part[order]{saga.Retriable("r", noop).Undo(noop)}, `step "r" is never undone`},
		"two pivots":            {[]saga.Part[order]{saga.Pivot("p", noop), saga.Pivot("q", noop)}, `step "q" is a second pivot`},
		"pivot behind":          {[]saga.Part[order]{saga.Retriable("r", noop), saga.Pivot("q", noop)}, `step "q" is a second pivot`},
		"a name twice":          {[]saga.Part[order]{saga.Pure("a", noop), saga.Pure("a", noop)}, `step "a" is there twice`},
		"a bad name":            {[]saga.Part[order]{saga.Pure("a b", noop)}, "has a name that is not"},
		"no function":           {[]saga.Part[order]{saga.Pivot[order]("a", nil)}, `step "a" has no function`},
		"sleep of no function":  {[]saga.Part[order]{saga.Sleep[order]("z", nil)}, `step "z" has no function`},
		"await of no function":  {[]saga.Part[order]{saga.Await[order, approval]("a", time.Hour, nil)}, `step "a" has no function`},
		"otherwise of none":     {[]saga.Part[order]{saga.Await("a", time.Hour, late).Otherwise(nil)}, `step "a" has no function for its Otherwise`},
		"child of no input":     {[]saga.Part[order]{saga.Child("c", leaf, nil, ended).Undo(noop)}, `step "c" has no function for its child's input`},
		"child of no end":       {[]saga.Part[order]{saga.Child("c", leaf, input, nil).Undo(noop)}, `step "c" has no function for its child's end`},
		"child behind":          {[]saga.Part[order]{saga.Pivot("p", noop), saga.Child("c", leaf, input, ended)}, `step "c" is a Child behind the pivot`},
		"nil in a group":        {[]saga.Part[order]{saga.Parallel("g", saga.Pure("a", noop), nil, saga.Pure("b", noop))}, `step "g" is a Parallel whose step 1 is nil`},
		"verify of none":        {[]saga.Part[order]{saga.Pivot("p", noop).Verify(nil)}, `step "p" has no function for its Verify`},
		"pure with undo":        {[]saga.Part[order]{saga.Pure("a", noop).Undo(noop)}, `step "a" is Pure`},
		"await behind":          {[]saga.Part[order]{saga.Pivot("p", noop), saga.Await("a", time.Hour, late)}, "give it an Otherwise"},
		"await for no time":     {[]saga.Part[order]{saga.Await("a", 0, late)}, "waits for no time"},
		"group of one":          {[]saga.Part[order]{saga.Parallel("g", saga.Pure("a", noop))}, `step "g" is a Parallel of less than two`},
		"pivot in a group":      {[]saga.Part[order]{saga.Parallel("g", saga.Pure("a", noop), saga.Pivot("b", noop))}, `step "b" cannot be in a Parallel`},
		"a group in a group":    {[]saga.Part[order]{saga.Parallel("g", saga.Pure("a", noop), saga.Parallel("h", saga.Pure("b", noop), saga.Pure("c", noop)))}, "is in two groups"},
		"negative timeout":      {[]saga.Part[order]{saga.Pivot("p", noop).Timeout(-1)}, "has a timeout"},
		"negative retry":        {[]saga.Part[order]{saga.Pivot("p", noop).Retry(saga.Retry{Attempts: -1})}, "negative number"},
		"child without undo": {[]saga.Part[order]{saga.Child("c", five(), func(*order) (order, error) { return order{}, nil },
			func(*order, saga.Result[order]) error { return nil })}, `step "c" cannot be undone`},
		"no child": {[]saga.Part[order]{saga.Child[order, order]("c", nil, nil, nil).Undo(noop)}, "has no definition of its child"},
	} {
		_, err := saga.Define("order", 1, c.steps...)
		require.ErrorContains(t, err, c.want, name)
		var in *saga.InputError
		require.ErrorAs(t, err, &in, name)
	}
	_, err := saga.Define("", 0, undoable)
	require.ErrorContains(t, err, "name is not")
	require.ErrorContains(t, err, "version is less than 1")
	require.Panics(t, func() { saga.MustDefine[order]("x", 1) })
}

// What the branches have changed is told apart by the fields of an object: others would be done, and stuck for ever.
func TestAParallelNeedsDataWithFields(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, together[int](), "data is of type int and no JSON object")
	require.ErrorContains(t, together[[]order](), "data is of type []saga_test.order")
	require.ErrorContains(t, together[*string](), "data is of type *string")
	require.NoError(t, together[order]())
	require.NoError(t, together[**order]())
	require.NoError(t, together[map[string]int]())
	require.NoError(t, together[any]())
	require.NoError(t, together[json.RawMessage]())
	_, err := saga.Define("x", 1, saga.Pure("a", func(context.Context, *int) error { return nil }))
	require.NoError(t, err)
}

// together defines a saga over T with a Parallel.
func together[T any]() error {
	nothing := func(context.Context, *T) error { return nil }
	_, err := saga.Define("x", 1, saga.Parallel("g", saga.Pure("a", nothing), saga.Pure("b", nothing)))
	return err
}

func FuzzProgress(f *testing.F) {
	f.Add("D812 D1650*3 O")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		var p, q saga.Progress
		if p.UnmarshalText([]byte(s)) != nil {
			return
		}
		text, err := p.AppendText(nil)
		require.NoError(t, err)
		require.NoError(t, q.UnmarshalText(text))
		require.Equal(t, p, q)
	})
}

func FuzzPlan(f *testing.F) {
	f.Add("validate:p reserve:su charge:stu2 confirm:v")
	f.Fuzz(func(t *testing.T, s string) {
		var p, q saga.Plan
		if p.UnmarshalText([]byte(s)) != nil {
			return
		}
		text, err := p.AppendText(nil)
		require.NoError(t, err)
		require.NoError(t, q.UnmarshalText(text))
		require.Equal(t, p, q)
	})
}

// A saga "a" with a step "b" may stand beside a saga "a/b", such as its child.
func TestAStepIsNotCalledAsTheKeysOfCompensationsEnd(t *testing.T) {
	t.Parallel()
	undo := saga.Call{SagaID: "a", Step: "b", Undo: true}
	require.Equal(t, undo.Key(), saga.Call{SagaID: "a/b", Step: "undo"}.Key())
	_, err := saga.Define("order", 1, saga.Pivot("undo", noop))
	require.ErrorContains(t, err, "keys of compensations")
}
