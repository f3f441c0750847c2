package saga_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

var errDown = errors.New("provider is down")

// once is a policy without a second attempt.
var once = saga.Retry{Attempts: 1}

// orders is a saga whose last steps fail as long as they are told to.
func orders(confirmFails, notifyFails, releaseFails *atomic.Bool) *saga.Definition[order] {
	fails := func(name string, fails *atomic.Bool, err error) saga.Func[order] {
		return func(ctx context.Context, o *order) error {
			if fails.Load() {
				return err
			}
			return note(name)(ctx, o)
		}
	}
	return saga.MustDefine("order", 1,
		saga.Step("reserve", note("reserve")).Undo(fails("release", releaseFails, errDown)).RetryUndo(once),
		saga.Pivot("confirm", fails("confirm", confirmFails, saga.InDoubt(errDown))),
		saga.Retriable("notify", fails("notify", notifyFails, errDown)).Retry(once))
}

// shop is an engine with one order in it.
type shop struct {
	confirmFails, notifyFails, releaseFails atomic.Bool

	engine *saga.Engine
	order  *saga.Handle[order]
	admin  *saga.Admin
}

func newShop(t *testing.T, s *shop) *shop {
	t.Helper()
	def := orders(&s.confirmFails, &s.notifyFails, &s.releaseFails)
	s.engine = engine(t, saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{def}})
	s.admin = s.engine.Admin()
	var err error
	s.order, err = def.Start(within(t), s.engine, "o1", order{Customer: "c"}, nil)
	require.NoError(t, err)
	return s
}

func (s *shop) wait(t *testing.T, want saga.Status) saga.Result[order] {
	t.Helper()
	got, err := s.order.Wait(within(t))
	require.NoError(t, err)
	require.Equal(t, want, got.Status, got.Reason)
	return got
}

func (s *shop) resolve(t *testing.T, do saga.Action) {
	t.Helper()
	rec, err := s.admin.Inspect(within(t), "o1")
	require.NoError(t, err)
	_, err = s.admin.Resolve(within(t), "o1", do, saga.Audit{Actor: "ada", Reason: "looked it up", ExpectRevision: rec.Revision})
	require.NoError(t, err)
}

func set(t *testing.T, b *atomic.Bool) {
	t.Helper()
	b.Store(true)
}

func TestAPersonRetriesAStepBehindThePivot(t *testing.T) {
	t.Parallel()
	s := &shop{}
	set(t, &s.notifyFails)
	newShop(t, s).wait(t, saga.Stuck)
	s.resolve(t, saga.ActionRetry)
	s.wait(t, saga.Stuck)
	s.notifyFails.Store(false)
	s.resolve(t, saga.ActionRetry)
	got := s.wait(t, saga.Completed)
	require.Equal(t, []string{"reserve", "confirm", "notify"}, got.Data.Seen)
	require.Empty(t, got.Failed)

	rec, err := s.admin.Inspect(within(t), "o1")
	require.NoError(t, err)
	var told []string
	for _, ev := range rec.Events {
		told = append(told, strings.Join([]string{string(ev.Kind), ev.Step, ev.Actor, ev.Text}, "|"))
		require.False(t, ev.At.IsZero())
	}
	require.Equal(t, []string{
		"failed|notify||provider is down", "stuck|notify||provider is down", "resolved|notify|ada|retry: looked it up",
		"failed|notify||provider is down", "stuck|notify||provider is down", "resolved|notify|ada|retry: looked it up",
	}, told)
}

func TestAPersonSkipsAStep(t *testing.T) {
	t.Parallel()
	s := &shop{}
	set(t, &s.notifyFails)
	newShop(t, s).wait(t, saga.Stuck)
	s.resolve(t, saga.ActionSkip)
	require.Equal(t, []string{"reserve", "confirm"}, s.wait(t, saga.Completed).Data.Seen)
}

func TestAPersonKnowsWhatBecameOfThePivot(t *testing.T) {
	t.Parallel()
	for do, want := range map[saga.Action]saga.Status{saga.ActionForceApplied: saga.Completed, saga.ActionForceNotApplied: saga.Compensated, saga.ActionRetry: saga.Stuck} {
		s := &shop{}
		set(t, &s.confirmFails)
		newShop(t, s).wait(t, saga.Stuck)
		s.resolve(t, do)
		got := s.wait(t, want)
		switch want {
		case saga.Completed:
			require.Equal(t, []string{"reserve", "notify"}, got.Data.Seen)
		case saga.Compensated:
			require.Equal(t, []string{"reserve", "release"}, got.Data.Seen)
			require.ErrorContains(t, got.Err(), "step confirm: provider is down")
		default: // it has no Verify, and may not be repeated blindly
			require.ErrorContains(t, got.Err(), "nobody knows")
		}
	}
}

func TestAPersonHelpsACompensation(t *testing.T) {
	t.Parallel()
	for _, do := range []saga.Action{saga.ActionRetry, saga.ActionForceApplied, saga.ActionSkip} {
		s := &shop{}
		set(t, &s.confirmFails)
		set(t, &s.releaseFails)
		newShop(t, s).wait(t, saga.Stuck)
		s.resolve(t, saga.ActionForceNotApplied)
		got := s.wait(t, saga.Stuck)
		require.ErrorContains(t, got.Err(), "step confirm: its compensation was given up")
		s.releaseFails.Store(false)
		s.resolve(t, do)
		got = s.wait(t, saga.Compensated)
		require.Equal(t, do == saga.ActionRetry, len(got.Data.Seen) == 2, got.Data.Seen)
		require.NotContains(t, got.Reason, "given up")
	}
}

// Two compensations were given up, and a person has one done again: the saga is not over
// before the other is helped, too.
func TestAPersonHelpsOneOfTwoCompensations(t *testing.T) {
	t.Parallel()
	var fails atomic.Bool
	fails.Store(true)
	undo := func(context.Context, *order) error {
		if fails.Load() {
			return errDown
		}
		return nil
	}
	def := saga.MustDefine("order", 1,
		saga.Step("a", noop).Undo(undo).RetryUndo(once),
		saga.Step("b", noop).Undo(undo).RetryUndo(once),
		saga.Pivot("confirm", func(context.Context, *order) error { return saga.Reject(errDown) }))
	e := engine(t, saga.NewMemory(nil), quick(def))
	require.Equal(t, saga.Stuck, result(t, def, e).Status)
	fails.Store(false)
	for _, c := range []struct {
		step string
		want saga.Status
	}{{"b", saga.Stuck}, {"a", saga.Compensated}} {
		rec, err := e.Admin().Inspect(within(t), "o1")
		require.NoError(t, err)
		require.Contains(t, rec.Blocked(), c.step)
		_, err = e.Admin().Resolve(within(t), "o1", saga.ActionRetry, saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: rec.Revision, Step: c.step})
		require.NoError(t, err)
		require.Equal(t, c.want, result(t, def, e).Status)
	}
}

// A payment in doubt is passed over by a person, and left as it is. The customer has
// cancelled meanwhile: what was charged for the payment is not given back.
func TestASagaDoesNotTurnBackFromWhatAPersonHasPassedOver(t *testing.T) {
	t.Parallel()
	var undone atomic.Int64
	def := saga.MustDefine("order", 1,
		saga.Step("charge", noop).Undo(func(context.Context, *order) error { undone.Add(1); return nil }),
		saga.Parallel("both",
			saga.Retriable("pay", func(context.Context, *order) error { return errPlain }).Retry(saga.Retry{Attempts: 1}),
			saga.Retriable("notify", func(context.Context, *order) error { return saga.Reject(errPlain) })))
	e := engine(t, saga.NewMemory(nil), quick(def))
	require.Equal(t, saga.Stuck, result(t, def, e).Status)
	require.NoError(t, e.Cancel(within(t), "o1"))
	for _, step := range []string{"pay", "notify"} {
		rec, err := e.Admin().Inspect(within(t), "o1")
		require.NoError(t, err)
		do := saga.ActionSkip
		if step == "notify" {
			do = saga.ActionRetry
		}
		_, err = e.Admin().Resolve(within(t), "o1", do, saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: rec.Revision, Step: step})
		require.NoError(t, err)
	}
	require.Equal(t, saga.Stuck, result(t, def, e).Status)
	require.Zero(t, undone.Load())
}

func TestAPersonCancelsASagaThatWaits(t *testing.T) {
	t.Parallel()
	def := saga.MustDefine("order", 1,
		saga.Step("reserve", note("reserve")).Undo(note("release")),
		saga.Await("approval", time.Hour, func(*order, string) error { return nil }),
		saga.Pivot("confirm", noop))
	e := engine(t, saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{def}})
	h, err := def.Start(within(t), e, "o1", order{}, nil)
	require.NoError(t, err)
	var waiting *saga.Record
	require.Eventually(t, func() bool {
		waiting, err = e.Admin().Inspect(within(t), "o1")
		return err == nil && waiting.Status == saga.Suspended
	}, 10*time.Second, time.Millisecond)
	_, err = e.Admin().Resolve(within(t), "o1", saga.ActionCancel, saga.Audit{Actor: "ada", Reason: "the customer called", ExpectRevision: waiting.Revision})
	require.NoError(t, err)
	got, err := h.Wait(within(t))
	require.NoError(t, err)
	require.Equal(t, saga.Compensated, got.Status)
	require.Equal(t, []string{"reserve", "release"}, got.Data.Seen)
	require.Equal(t, "it was cancelled: the customer called", got.Reason)
}

func TestAPersonCancelsASagaThatWaitsForItsChild(t *testing.T) {
	t.Parallel()
	inner := saga.MustDefine("inner", 1,
		saga.Step("pay", note("pay")).Undo(note("-pay")),
		saga.Await("approval", time.Hour, func(*order, string) error { return nil }))
	def := saga.MustDefine("order", 1,
		saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil }, func(_ *order, r saga.Result[order]) error {
			return saga.Reject(r.Err())
		}).Undo(note("-inner")))
	e := engine(t, saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{def, inner}})
	h, err := def.Start(within(t), e, "o1", order{}, nil)
	require.NoError(t, err)
	suspended := func(id string) (rec *saga.Record) {
		require.Eventually(t, func() bool {
			rec, err = e.Admin().Inspect(within(t), id)
			return err == nil && rec.Status == saga.Suspended
		}, 10*time.Second, time.Millisecond)
		return rec
	}
	suspended("o1/inner")
	rec := suspended("o1")
	_, err = e.Admin().Resolve(within(t), "o1", saga.ActionCancel, saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: rec.Revision})
	require.NoError(t, err)
	got, err := h.Wait(within(t))
	require.NoError(t, err)
	require.Equal(t, saga.Compensated, got.Status)
	child, err := inner.Handle(e, "o1/inner").Wait(within(t))
	require.NoError(t, err)
	require.Equal(t, []string{"pay", "-pay"}, child.Data.Seen)
}

// A person says of a child that it has not taken effect, and will not, while it is under way,
// and about to pay.
func TestAChildThatIsUnderWayMayStillTakeEffect(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		child  *saga.Record
		reason string // why it is refused; empty: it is not
	}{
		"there is none":    {nil, ""},
		"it runs":          {&saga.Record{Parent: "o1", Status: saga.Running}, "is RUNNING"},
		"it waits":         {&saga.Record{Parent: "o1", Status: saga.Suspended}, "is SUSPENDED"},
		"it is stuck":      {&saga.Record{Parent: "o1", Status: saga.Stuck}, "is STUCK"},
		"it is done":       {&saga.Record{Parent: "o1", Status: saga.Completed}, ""}, // and was undone by hand, say
		"it has gone back": {&saga.Record{Parent: "o1", Status: saga.Compensated}, ""},
		"it is another's":  {&saga.Record{Parent: "o2", Status: saga.Running}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := saga.NewMemory(nil)
			parent := &saga.Record{ID: "o1", Status: saga.Stuck, Failed: "inner"}
			require.NoError(t, parent.Plan.UnmarshalText([]byte("inner:cu confirm:v")))
			require.NoError(t, parent.Steps.UnmarshalText([]byte("M*5 O")))
			records := []*saga.Record{parent}
			if c.child != nil {
				c.child.ID = "o1/inner"
				records = append(records, c.child)
			}
			for _, r := range records {
				require.NoError(t, store.Create(within(t), []*saga.Create{{Record: r}}))
				next := *r
				next.Revision = 1
				require.NoError(t, store.Save(within(t), []*saga.Write{{Record: &next, Release: true}}))
			}
			a := saga.NewAdmin(store)
			rec, err := a.Resolve(within(t), "o1", saga.ActionForceNotApplied, saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: 1})
			if c.reason == "" {
				require.NoError(t, err)
				require.Equal(t, saga.Compensating, rec.Status)
				return
			}
			refused, ok := errors.AsType[*saga.ActionError](err)
			require.True(t, ok, err)
			require.Equal(t, "inner", refused.Step)
			require.ErrorContains(t, err, c.reason)
			_, err = a.Resolve(within(t), "o1", saga.ActionCancel, saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: 1})
			require.NoError(t, err)
		})
	}
}

// TestTwoPeopleResolveTheSameRevision is for a trap: the write of the second is one of
// the revision that the store has by then, which it takes for a repeat.
func TestTwoPeopleResolveTheSameRevision(t *testing.T) {
	t.Parallel()
	store := &gate{Memory: saga.NewMemory(nil), people: 2, open: make(chan struct{})}
	var notifyFails, no atomic.Bool
	notifyFails.Store(true)
	def := orders(&no, &notifyFails, &no)
	e := engine(t, store, &saga.Options{Definitions: []saga.Registered{def}})
	h, err := def.Start(within(t), e, "o1", order{}, nil)
	require.NoError(t, err)
	_, err = h.Wait(within(t))
	require.NoError(t, err)
	rec, err := e.Admin().Inspect(within(t), "o1")
	require.NoError(t, err)

	errs := map[saga.Action]error{}
	var mu sync.Mutex
	var people sync.WaitGroup
	for _, do := range []saga.Action{saga.ActionSkip, saga.ActionForceApplied} {
		people.Go(func() {
			_, err := saga.NewAdmin(store).Resolve(within(t), "o1", do, saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: rec.Revision})
			mu.Lock()
			defer mu.Unlock()
			errs[do] = err
		})
	}
	people.Wait()
	after, err := e.Admin().Inspect(within(t), "o1")
	require.NoError(t, err)
	winner, loser := saga.ActionSkip, saga.ActionForceApplied
	if errs[winner] != nil {
		winner, loser = loser, winner
	}
	require.NoError(t, errs[winner])
	require.ErrorIs(t, errs[loser], saga.ErrFenced)
	require.Equal(t, string(winner)+": r", after.Events[len(rec.Events)].Text)
}

// gate lets the writes of people through when there are so many of them.
type gate struct {
	*saga.Memory
	mu     sync.Mutex
	people int
	open   chan struct{}
}

func (g *gate) Save(ctx context.Context, writes []*saga.Write) error {
	if len(writes[0].Events) == 1 && writes[0].Events[0].Kind == saga.EventResolved {
		g.mu.Lock()
		if g.people--; g.people == 0 {
			close(g.open)
		}
		g.mu.Unlock()
		<-g.open
	}
	return g.Memory.Save(ctx, writes)
}

func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	s := &shop{}
	set(t, &s.notifyFails)
	newShop(t, s).wait(t, saga.Stuck)
	rec, err := s.admin.Inspect(within(t), "o1")
	require.NoError(t, err)
	good := saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: rec.Revision}

	for field, change := range map[string]func(*saga.Audit){
		"Audit.Actor":          func(a *saga.Audit) { a.Actor = " " },
		"Audit.Reason":         func(a *saga.Audit) { a.Reason = strings.Repeat("x", 1001) },
		"Audit.ExpectRevision": func(a *saga.Audit) { a.ExpectRevision = 0 },
	} {
		bad := good
		change(&bad)
		_, err := s.admin.Resolve(within(t), "o1", saga.ActionSkip, bad)
		refused, ok := errors.AsType[*saga.InputError](err)
		require.True(t, ok, field)
		require.Equal(t, field, refused.Field)
	}
	_, err = s.admin.Resolve(within(t), "o1", "explode", good)
	require.ErrorContains(t, err, `action "explode" is none of [retry skip`)
	_, err = s.admin.Resolve(within(t), "", saga.ActionSkip, good)
	require.ErrorContains(t, err, "id has 0 bytes")
	_, err = s.admin.Resolve(within(t), "o2", saga.ActionSkip, good)
	require.ErrorIs(t, err, saga.ErrNotFound)
	old := good
	old.ExpectRevision--
	_, err = s.admin.Resolve(within(t), "o1", saga.ActionSkip, old)
	require.ErrorIs(t, err, saga.ErrFenced)
	_, err = s.admin.Resolve(within(t), "o1", saga.ActionCancel, good)
	refused, ok := errors.AsType[*saga.ActionError](err)
	require.True(t, ok)
	require.Equal(t, "notify", refused.Step)

	after, err := s.admin.Inspect(within(t), "o1")
	require.NoError(t, err)
	require.Equal(t, rec, after)
}

func TestResolveTellsThatTheStoreFailed(t *testing.T) {
	t.Parallel()
	s := &shop{}
	set(t, &s.notifyFails)
	newShop(t, s).wait(t, saga.Stuck)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.admin.Resolve(ctx, "o1", saga.ActionSkip, saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: 1})
	require.ErrorIs(t, err, context.Canceled)
}

// As it is left by who does not look at the error of what makes the store.
func TestAnAdminWithoutAStoreSaysSo(t *testing.T) {
	t.Parallel()
	_, err := saga.NewAdmin((*saga.Memory)(nil)).Inspect(within(t), "o1")
	require.ErrorContains(t, err, "store is nil")
	admin := saga.NewAdmin(nil)
	_, err = admin.Inspect(within(t), "o1")
	require.ErrorContains(t, err, "store is nil")
	_, err = admin.Resolve(within(t), "o1", saga.ActionSkip, saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: 1})
	require.ErrorContains(t, err, "store is nil")
	for rec, err := range admin.List(within(t), saga.Filter{}) {
		require.Nil(t, rec)
		require.ErrorContains(t, err, "store is nil")
	}
	require.Contains(t, problem(t, ask(t, saga.Handler(admin, nil), "GET", "/sagas/o1", ""), 500).Detail, "an error of the server")
}

func TestListIsByStatus(t *testing.T) {
	t.Parallel()
	s := &shop{}
	set(t, &s.notifyFails)
	newShop(t, s).wait(t, saga.Stuck)
	for status, want := range map[saga.Status]int{saga.Stuck: 1, saga.Running: 0} {
		n := 0
		for rec, err := range s.admin.List(within(t), saga.Filter{Status: []saga.Status{status}}) {
			require.NoError(t, err)
			require.Equal(t, "o1", rec.ID)
			n++
		}
		require.Equal(t, want, n, fmt.Sprint(status))
	}
}

// A deploy: a process of the old version has let go of the saga, and one of the new is at
// its charge. Until that is done the saga is still SUSPENDED, at the revision that the
// person has seen.
func TestAPersonDoesNotTakeASagaFromItsOwner(t *testing.T) {
	for _, do := range []saga.Action{saga.ActionRetry, saga.ActionCancel} {
		t.Run(string(do), func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				var w world
				def := saga.MustDefine("order", 2, saga.Step("charge", func(context.Context, *order) error {
					w.charged.Add(1)
					time.Sleep(5 * time.Second)
					return nil
				}).Undo(func(context.Context, *order) error { w.refunded.Add(1); return nil }))
				starter, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
				require.NoError(t, err)
				h, err := def.Start(context.Background(), starter, "o1", order{}, nil)
				require.NoError(t, err)
				_, stop := second(t, store, saga.MustDefine("order", 1, saga.Pivot("other", noop)))
				time.Sleep(time.Second)
				stop()
				seen, err := starter.Admin().Inspect(context.Background(), "o1")
				require.NoError(t, err)
				require.Equal(t, saga.Suspended, seen.Status)
				e, stop := second(t, store, def)
				defer stop()
				time.Sleep(18 * time.Second)
				require.EqualValues(t, 1, w.charged.Load())
				_, err = e.Admin().Resolve(context.Background(), "o1", do, saga.Audit{Actor: "ada", Reason: "it waits", ExpectRevision: seen.Revision})
				_, refused := errors.AsType[*saga.ActionError](err)
				require.True(t, refused, "%v", err)
				got := wait(t, h)
				require.Equal(t, saga.Completed, got.Status)
				require.EqualValues(t, 1, w.charged.Load())
			})
		})
	}
}
