package saga_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// deafParent loses the answer to the first create of a child.
type deafParent struct {
	*saga.Memory

	lost atomic.Bool
}

func (d *deafParent) Create(ctx context.Context, c []*saga.Create) error {
	err := d.Memory.Create(ctx, c)
	if strings.Contains(c[0].Record.ID, "/") && d.lost.CompareAndSwap(false, true) {
		return errors.New("connection reset")
	}
	return err
}

// A child was started, and its parent did not hear of it. What the parent would give it
// now is something else: it is its child all the same, and not to be undone while it is
// under way.
func TestAChildIsKnownByItsParentWhateverItWasGiven(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		given, paid, undone := 0, 0, 0
		inner := saga.MustDefine("inner", 1,
			saga.Sleep("pause", func(*order) time.Duration { return time.Hour }),
			saga.Pivot("pay", func(context.Context, *order) error { paid++; return nil }))
		def := saga.MustDefine("order", 1,
			saga.Child("inner", inner, func(*order) (order, error) {
				given++
				return order{Charge: time.Now().String()}, nil
			}, func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).
				Undo(func(context.Context, *order) error { undone++; return nil }),
			saga.Pivot("confirm", noop))
		deaf := &deafParent{Memory: store}
		e, err := saga.New(deaf, &saga.Options{Definitions: []saga.Registered{def, inner}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		defer stop()
		h, err := def.Start(ctx, e, "o1", order{}, nil)
		require.NoError(t, err)
		got := wait(t, h)
		time.Sleep(2 * time.Hour)
		require.True(t, deaf.lost.Load())
		require.Equal(t, 1, paid)
		require.Zero(t, undone, "undone, and paid an hour later")
		require.Equal(t, saga.Completed, got.Status)
		require.Equal(t, 1, given)
	})
}

// A child was started and is done, and the owner of its parent has died before it was
// written. What the next one half fills into the data, before that fails, is not kept.
func TestAChildThatCannotBeStartedAgainLeavesTheData(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		given := 0
		inner := saga.MustDefine("inner", 1, saga.Pure("price", noop))
		def := saga.MustDefine("order", 1,
			saga.Step("reserve", note("reserve")).Undo(noop),
			saga.Child("inner", inner, func(o *order) (order, error) {
				if given++; given > 1 {
					o.Seen = nil
					return order{}, errPlain
				}
				return order{}, nil
			}, func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).Undo(noop))
		_, h, stop := start(t, &dyingParent{Memory: store}, def, saga.Options{Definitions: []saga.Registered{inner}})
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Completed, got.Status)
		require.Equal(t, 2, given)
		require.Equal(t, []string{"reserve"}, got.Data.Seen)
	})
}

// The parent was stuck over the weekend; its child was over long before, and old sagas
// are swept. To find no child is not to have had none.
func TestAChildIsKeptAsLongAsItsParentMayAskForIt(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		paid := 0
		inner := saga.MustDefine("inner", 1, saga.Sleep("pause", func(*order) time.Duration { return time.Hour }),
			saga.Pivot("pay", func(context.Context, *order) error { paid++; return nil }))
		def := saga.MustDefine("order", 1,
			saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
				func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).Undo(noop),
			saga.Pivot("confirm", noop))
		serve := func(defs ...saga.Registered) (*saga.Engine, func()) {
			e, err := saga.New(store, &saga.Options{Definitions: defs, Keep: time.Hour})
			require.NoError(t, err)
			_, stop := runs(t, e)
			return e, stop
		}
		ctx := context.Background()
		e, stop := serve(def, inner)
		_, err := def.Start(ctx, e, "o1", order{}, nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		stop()
		e, stop = serve(inner) // its parent's code is not here: nobody looks at it
		require.Equal(t, saga.Completed, wait(t, inner.Handle(e, "o1/inner")).Status)
		time.Sleep(3 * time.Hour)
		stop()
		e, stop = serve(def, inner)
		require.Equal(t, saga.Completed, wait(t, def.Handle(e, "o1")).Status)
		require.Equal(t, 1, paid, "the child was started a second time")
		time.Sleep(3 * time.Hour)
		for _, id := range []string{"o1", "o1/inner"} {
			_, err = e.Admin().Inspect(ctx, id)
			require.ErrorIs(t, err, saga.ErrNotFound, "%s: it is swept when its parent is over", id)
		}
		stop()
	})
}

// dyingParent ends the owner of a parent behind the start of its child.
type dyingParent struct {
	*saga.Memory
	late time.Duration // the child is there only after that, and its parent hears of an error
	died bool
}

func (d *dyingParent) Create(ctx context.Context, c []*saga.Create) error {
	if d.died || !strings.Contains(c[0].Record.ID, "/") {
		return d.Memory.Create(ctx, c)
	}
	d.died = true
	if d.late > 0 {
		go func() {
			time.Sleep(d.late)
			r := *c[0].Record
			r.Owner, r.Token = "", 0
			_ = d.Memory.Create(context.WithoutCancel(ctx), []*saga.Create{{Record: &r}})
		}()
		return context.DeadlineExceeded
	}
	err := d.Memory.Create(ctx, c)
	c[0].Mine = false // it belongs to who is dead
	defer runtime.Goexit()
	return err
}

// blind is a store that cannot be read where it is asked for a child, some times.
type blind struct {
	*dyingParent
	times int
}

func (b *blind) Find(ctx context.Context, f saga.Filter) iter.Seq2[*saga.Record, error] {
	if len(f.IDs) == 1 && strings.Contains(f.IDs[0], "/") {
		if b.times--; b.times >= 0 {
			return func(yield func(*saga.Record, error) bool) { yield(nil, lostAnswer{}) }
		}
	}
	return b.dyingParent.Find(ctx, f)
}

// The same while the store cannot be asked whether there is a child: that is not to say
// that there is none.
func TestAChildOfWhichTheStoreCannotTellIsAskedForAgain(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		paid, undone := 0, 0
		inner := saga.MustDefine("inner", 1,
			saga.Sleep("pause", func(*order) time.Duration { return time.Hour }),
			saga.Pivot("pay", func(context.Context, *order) error { paid++; return nil }))
		def := saga.MustDefine("order", 1,
			saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
				func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).
				Undo(func(context.Context, *order) error { undone++; return nil }),
			saga.Pivot("confirm", noop))
		e, err := saga.New(&blind{dyingParent: &dyingParent{Memory: store}, times: 3}, &saga.Options{Definitions: []saga.Registered{def, inner}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		synctest.Wait()
		h, err := def.Start(ctx, e, "o1", order{}, nil)
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.NoError(t, e.Cancel(ctx, "o1"))
		got := wait(t, h)
		require.Equal(t, saga.Compensated, got.Status)
		time.Sleep(2 * time.Hour)
		stop()
		require.Zero(t, paid, "the parent is compensated, and the child has paid")
		require.Zero(t, undone, "there was nothing to undo")
	})
}

// startedOnce is an order that starts its child, which pays, once at most.
func startedOnce(paid *int) (def, inner *saga.Definition[order]) {
	inner = saga.MustDefine("inner", 1, saga.Pivot("pay", func(context.Context, *order) error { *paid++; return nil }))
	def = saga.MustDefine("order", 1,
		saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
			func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).Retry(saga.Retry{Attempts: 1}).Undo(noop))
	return def, inner
}

// A child is started, without an answer, and the store cannot be asked whether it is
// there: that is no attempt that has failed.
func TestAChildOfWhichNothingIsKnownIsNotGivenUp(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		paid := 0
		def, inner := startedOnce(&paid)
		deaf := &blind{dyingParent: &dyingParent{Memory: store, late: time.Millisecond}, times: 3}
		_, h, stop := start(t, deaf, def, saga.Options{Definitions: []saga.Registered{inner}})
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Completed, got.Status, got.Reason)
		require.Equal(t, 1, paid)
	})
}

// down is a store that creates no child, and cannot be asked for one, so many times.
type down struct {
	*saga.Memory
	creates, finds int
}

func (d *down) Create(ctx context.Context, c []*saga.Create) error {
	if strings.Contains(c[0].Record.ID, "/") {
		if d.creates--; d.creates >= 0 {
			return context.DeadlineExceeded
		}
	}
	return d.Memory.Create(ctx, c)
}

func (d *down) Find(ctx context.Context, f saga.Filter) iter.Seq2[*saga.Record, error] {
	if strings.Contains(f.IDs[0], "/") {
		if d.finds--; d.finds >= 0 {
			return func(yield func(*saga.Record, error) bool) { yield(nil, lostAnswer{}) }
		}
	}
	return d.Memory.Find(ctx, f)
}

// Nor does it count as one, where another follows that has failed.
func TestAStartOfWhichNothingIsKnownIsNotCounted(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		inner := saga.MustDefine("inner", 1, saga.Pivot("pay", noop))
		def := saga.MustDefine("order", 1,
			saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
				func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).Retry(saga.Retry{Attempts: 2}).Undo(noop))
		_, h, stop := start(t, &down{Memory: store, creates: 2, finds: 1}, def, saga.Options{Definitions: []saga.Registered{inner}})
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Completed, got.Status, got.Reason)
	})
}

// The same child may still come when its parent is cancelled meanwhile.
func TestAChildOfWhichNothingIsKnownIsCancelledWithItsParent(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		paid, undone := 0, 0
		inner := saga.MustDefine("inner", 1, saga.Pivot("pay", func(context.Context, *order) error { paid++; return nil }))
		def := saga.MustDefine("order", 1,
			saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
				func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).
				Retry(saga.Retry{First: 20 * time.Second, Max: 20 * time.Second}).
				Undo(func(context.Context, *order) error { undone++; return nil }))
		deaf := &blind{dyingParent: &dyingParent{Memory: store, late: 5 * time.Second}, times: 1}
		e, h, stop := start(t, deaf, def, saga.Options{Definitions: []saga.Registered{inner}})
		time.Sleep(time.Second)
		require.NoError(t, e.Cancel(context.Background(), "o1"))
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		time.Sleep(time.Hour)
		stop()
		require.Equal(t, []int{0, 0}, []int{paid, undone}, "the parent is compensated, and the child has paid")
	})
}

// failsOnce is a store that creates no child at first, and does not say so.
type failsOnce struct {
	*saga.Memory
	failed bool
}

func (f *failsOnce) Create(ctx context.Context, c []*saga.Create) error {
	if !f.failed && strings.Contains(c[0].Record.ID, "/") {
		f.failed = true
		return context.DeadlineExceeded
	}
	return f.Memory.Create(ctx, c)
}

// A child of which nobody knows whether it will come is not started by the cancellation of
// its parent. What has its id then is no child, whatever becomes of its parent's owner.
func TestACancellationStartsNoChild(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		paid, undone, ended := 0, 0, 0
		inner := saga.MustDefine("inner", 1, saga.Pivot("pay", func(context.Context, *order) error { paid++; return nil }))
		def := saga.MustDefine("order", 1,
			saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil }, func(*order, saga.Result[order]) error { ended++; return nil }).
				Retry(saga.Retry{First: 20 * time.Second, Max: 20 * time.Second}).
				Undo(func(context.Context, *order) error { undone++; return nil }))
		e, h, stop := start(t, &failsOnce{Memory: store}, def, saga.Options{Definitions: []saga.Registered{inner}})
		time.Sleep(time.Second)
		require.NoError(t, e.Cancel(context.Background(), "o1"))
		got := wait(t, h)
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, "it was cancelled", got.Reason)
		time.Sleep(time.Hour)
		rec, err := e.Admin().Inspect(context.Background(), "o1/inner")
		require.NoError(t, err)
		require.Equal(t, saga.Compensated, rec.Status)
		require.Equal(t, saga.Open, rec.Steps[0].Mark, "as a store can keep it")
		stop()
		require.Equal(t, []int{0, 0, 0}, []int{paid, undone, ended})
	})
}

// contested is a store in which something happens just when the id of a child is taken.
type contested struct {
	*dyingParent
	meanwhile func() error
}

func (c *contested) Create(ctx context.Context, all []*saga.Create) error {
	if all[0].Record.Undoing && c.meanwhile != nil {
		meanwhile := c.meanwhile
		c.meanwhile = nil
		if err := meanwhile(); err != nil {
			return err
		}
	}
	return c.dyingParent.Create(ctx, all)
}

// withChild is an order that waits for its child, which pays behind what is before that. It counts payments, and those that are undone.
func withChild(paid, undone *int, before ...saga.Part[order]) (def, inner *saga.Definition[order]) {
	inner = saga.MustDefine("inner", 1, append(before, saga.Pivot("pay", func(context.Context, *order) error { *paid++; return nil }))...)
	def = saga.MustDefine("order", 1,
		saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
			func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).
			Retry(saga.Retry{First: 20 * time.Second, Max: 20 * time.Second}).
			Undo(func(context.Context, *order) error { *undone++; return nil }),
		saga.Pivot("confirm", noop))
	return def, inner
}

// A child may be on its way when its parent is cancelled. As long as its id is not taken for
// certain it is not taken to be.
func TestAChildThatMayBeOnItsWayIsNotGivenUpByHalf(t *testing.T) {
	for name, meanwhile := range map[string]func() error{
		"the store is away":  func() error { return lostAnswer{} },
		"the child is first": func() error { time.Sleep(5 * time.Second); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				paid, undone := 0, 0
				def, inner := withChild(&paid, &undone, saga.Sleep("pause", func(*order) time.Duration { return time.Hour }))
				e, h, stop := start(t, &contested{&dyingParent{Memory: store, late: 4 * time.Second}, meanwhile}, def, saga.Options{Definitions: []saga.Registered{inner}})
				time.Sleep(time.Second)
				require.NoError(t, e.Cancel(context.Background(), "o1"))
				require.Equal(t, saga.Compensated, wait(t, h).Status)
				time.Sleep(2 * time.Hour)
				stop()
				require.Equal(t, []int{0, 0}, []int{paid, undone}, "the parent is compensated, and the child has paid")
			})
		})
	}
}

// Nor is it where its parent has started it as often as it may.
func TestAChildThatMayBeOnItsWayIsNotGivenUpByItsStarts(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		paid := 0
		def, inner := startedOnce(&paid)
		first := &contested{&dyingParent{Memory: store, late: time.Second}, func() error { time.Sleep(2 * time.Second); return nil }}
		_, h, stop := start(t, first, def, saga.Options{Definitions: []saga.Registered{inner}})
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Completed, got.Status, got.Reason)
		require.Equal(t, 1, paid)
	})
}

// away is a store that cannot be asked for a child when it is told so.
type away struct {
	*dyingParent
	next atomic.Bool
}

func (a *away) Find(ctx context.Context, f saga.Filter) iter.Seq2[*saga.Record, error] {
	if strings.Contains(f.IDs[0], "/") && a.next.CompareAndSwap(true, false) {
		return func(yield func(*saga.Record, error) bool) { yield(nil, lostAnswer{}) }
	}
	return a.dyingParent.Find(ctx, f)
}

// The same where the store cannot be asked for the child just when it is to be cancelled.
func TestAChildThatCannotBeLookedForIsNotTakenToBeThere(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		paid, undone := 0, 0
		def, inner := withChild(&paid, &undone)
		deaf := &away{dyingParent: &dyingParent{Memory: store, late: 8 * time.Second}}
		e, h, stop := start(t, deaf, def, saga.Options{Definitions: []saga.Registered{inner}})
		time.Sleep(time.Second)
		deaf.next.Store(true)
		require.NoError(t, e.Cancel(context.Background(), "o1"))
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		time.Sleep(time.Hour)
		stop()
		require.Equal(t, []int{1, 1}, []int{paid, undone})
	})
}

// The child is started, and the owner of its parent dies before it has written that; the
// parent is cancelled. It is compensated, and the child goes on, and pays.
func TestAChildThatMayBeUnderWayIsCancelledWithItsParent(t *testing.T) {
	for name, late := range map[string]time.Duration{"died": 0, "a create that is late": 500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				paid, undone := 0, 0
				def, inner := withChild(&paid, &undone, saga.Sleep("pause", func(*order) time.Duration { return time.Hour }))
				e, err := saga.New(&dyingParent{Memory: store, late: late}, &saga.Options{Definitions: []saga.Registered{def, inner}})
				require.NoError(t, err)
				ctx, stop := runs(t, e)
				synctest.Wait()
				h, err := def.Start(ctx, e, "o1", order{}, nil)
				require.NoError(t, err)
				time.Sleep(time.Second)
				require.NoError(t, e.Cancel(ctx, "o1"))
				require.Equal(t, saga.Compensated, wait(t, h).Status)
				time.Sleep(2 * time.Hour)
				stop()
				require.Equal(t, paid, undone, "the parent is compensated, and the child has paid")
				require.Zero(t, paid)
			})
		})
	}
}

// deliveries counts what is delivered.
type deliveries struct {
	*saga.Memory
	to []string
}

func (d *deliveries) Deliver(ctx context.Context, id, name string, payload []byte) error {
	d.to = append(d.to, id+" "+name)
	return d.Memory.Deliver(ctx, id, name, payload)
}

// A parent is told of its child's end, and does not only find it when it looks. It is told
// once: a child that is stuck has not ended, and must not have used its word up.
func TestAParentIsToldOfItsChildsEnd(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		heard := &deliveries{Memory: store}
		var over []string
		inner := saga.MustDefine("inner", 1, saga.Pivot("pay", func(context.Context, *order) error { return saga.InDoubt(errPlain) }))
		def := saga.MustDefine("order", 1, saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
			func(*order, saga.Result[order]) error { return nil }).Undo(noop))
		e, h, stop := start(t, heard, def, saga.Options{
			Definitions: []saga.Registered{inner},
			Hooks:       saga.Hooks{OnOver: func(rec *saga.Record, _ time.Duration) { over = append(over, rec.ID+" "+rec.Status.String()) }},
		})
		begun := time.Now()
		time.Sleep(time.Millisecond)
		rec, err := e.Admin().Inspect(context.Background(), "o1/inner")
		require.NoError(t, err)
		require.Equal(t, saga.Stuck, rec.Status)
		require.Empty(t, heard.to)
		time.Sleep(6*time.Second - time.Since(begun)) // it looks every 5 s
		_, err = e.Admin().Resolve(context.Background(), "o1/inner", saga.ActionForceApplied,
			saga.Audit{Actor: "ann", Reason: "the bank has it", ExpectRevision: rec.Revision})
		require.NoError(t, err)
		require.Equal(t, saga.Completed, wait(t, h).Status)
		require.Less(t, time.Since(begun), 9*time.Second)
		stop()
		require.Equal(t, []string{"o1 $child/inner"}, heard.to)
		require.Equal(t, []string{"o1/inner STUCK", "o1/inner COMPLETED", "o1 COMPLETED"}, over)
	})
}

// Somebody has started a saga of his own, by the id that a child would have, and with the
// same data. It is not the parent's: not to be waited for, nor taken for what the parent
// has bought, nor cancelled or undone with it.
func TestASagaOfSomebodyElsesIsNoChild(t *testing.T) {
	for name, c := range map[string]struct {
		given  order
		times  int // that the store cannot be asked for it
		reason string
	}{
		"the same data":                      {reason: "id is taken"},
		"other data":                         {given: order{Customer: "obi"}, reason: "id is taken"},
		"it is cancelled before it is known": {times: 1, reason: "it was cancelled"},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				paid, undone := 0, 0
				inner := saga.MustDefine("inner", 1,
					saga.Sleep("pause", func(*order) time.Duration { return time.Hour }),
					saga.Pivot("pay", func(context.Context, *order) error { paid++; return nil }))
				def := saga.MustDefine("order", 1,
					saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
						func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).
						Undo(func(context.Context, *order) error { undone++; return nil }),
					saga.Pivot("confirm", noop))
				e, err := saga.New(&blind{dyingParent: &dyingParent{Memory: store, died: true}, times: c.times}, &saga.Options{Definitions: []saga.Registered{def, inner}})
				require.NoError(t, err)
				ctx, stop := runs(t, e)
				own, err := inner.Start(ctx, e, "o1/inner", c.given, nil)
				require.NoError(t, err)
				h, err := def.Start(ctx, e, "o1", order{}, nil)
				require.NoError(t, err)
				time.Sleep(time.Second)
				if err := e.Cancel(ctx, "o1"); err != nil {
					require.ErrorIs(t, err, saga.ErrOver)
				}
				got := wait(t, h)
				require.Equal(t, saga.Compensated, got.Status)
				require.ErrorContains(t, got.Err(), c.reason)
				require.Zero(t, undone, "what somebody else has paid")
				require.Equal(t, saga.Completed, wait(t, own).Status)
				stop()
				require.Equal(t, 1, paid)
			})
		})
	}
}

// A child is on its way to the store when its parent goes back, which finds none: it comes
// later, and must not pay for what is undone.
func TestAChildDoesNotComeBehindTheEndOfItsParent(t *testing.T) {
	for name, c := range map[string]struct {
		inputs []error // of the first starts
		retry  saga.Retry
		cancel bool
	}{
		"cancelled":                    {retry: saga.Retry{First: 20 * time.Second, Max: 20 * time.Second}, cancel: true},
		"given up":                     {retry: saga.Retry{Attempts: 1}},
		"given up by its next input":   {inputs: []error{nil, saga.Reject(errPlain)}, retry: saga.Retry{First: time.Second, Max: time.Second}},
		"given up, as that has failed": {inputs: []error{nil, errPlain}, retry: saga.Retry{Attempts: 2, First: time.Second, Max: time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				paid, undone := 0, 0
				inner := saga.MustDefine("inner", 1, saga.Pivot("pay", func(context.Context, *order) error { paid++; return nil }))
				def := saga.MustDefine("order", 1,
					saga.Child("inner", inner, func(*order) (order, error) {
						if len(c.inputs) == 0 {
							return order{}, nil
						}
						err := c.inputs[0]
						c.inputs = c.inputs[1:]
						return order{}, err
					}, func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).
						Retry(c.retry).Undo(func(context.Context, *order) error { undone++; return nil }),
					saga.Pivot("confirm", noop))
				e, h, stop := start(t, &dyingParent{Memory: store, late: 5 * time.Second}, def, saga.Options{Definitions: []saga.Registered{inner}})
				time.Sleep(time.Second)
				if c.cancel {
					require.NoError(t, e.Cancel(context.Background(), "o1"))
				}
				got := wait(t, h)
				require.Equal(t, saga.Compensated, got.Status)
				time.Sleep(time.Hour)
				stop()
				require.Zero(t, paid, "the parent is compensated, and the child has paid")
				require.Zero(t, undone, "there was nothing to undo")
			})
		})
	}
}

// The same behind Pure steps, which the owner that has died had done and not written. They
// are done again first, and are not to turn the saga back while the child goes on, and pays.
func TestAChildThatMayBeUnderWayBehindPureStepsIsCancelledWithItsParent(t *testing.T) {
	for name, refused := range map[string]error{"it is cancelled": nil, "the price does not hold any more": saga.Reject(errPlain)} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				paid, undone, priced := 0, 0, 0
				inner := saga.MustDefine("inner", 1,
					saga.Sleep("pause", func(*order) time.Duration { return time.Hour }),
					saga.Pivot("pay", func(context.Context, *order) error { paid++; return nil }))
				def := saga.MustDefine("order", 1,
					saga.Pure("price", func(context.Context, *order) error {
						if priced++; priced > 1 {
							return refused
						}
						return nil
					}),
					saga.Pure("check", noop),
					saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
						func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).
						Undo(func(context.Context, *order) error { undone++; return nil }),
					saga.Pivot("confirm", noop))
				e, h, stop := start(t, &dyingParent{Memory: store}, def, saga.Options{Definitions: []saga.Registered{inner}})
				time.Sleep(time.Second)
				if refused == nil {
					require.NoError(t, e.Cancel(context.Background(), "o1"))
				}
				require.Equal(t, saga.Compensated, wait(t, h).Status)
				time.Sleep(2 * time.Hour)
				stop()
				require.Zero(t, paid, "the parent is compensated, and the child has paid")
				require.Zero(t, undone)
			})
		})
	}
}

// Where the child is done all the same, the price that does not hold is asked for again: it
// is not passed over, and the child is undone with the rest.
func TestAPureStepThatWasRefusedIsNotPassedOverForAChild(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		undone, priced, confirmed := 0, 0, 0
		inner := saga.MustDefine("inner", 1,
			saga.Sleep("pause", func(*order) time.Duration { return time.Second }),
			saga.Pivot("pay", noop),
			saga.Sleep("settle", func(*order) time.Duration { return time.Hour }))
		def := saga.MustDefine("order", 1,
			saga.Pure("price", func(context.Context, *order) error {
				if priced++; priced > 1 {
					return errNo
				}
				return nil
			}),
			saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil }, func(*order, saga.Result[order]) error { return nil }).
				Undo(func(context.Context, *order) error { undone++; return nil }),
			saga.Pivot("confirm", func(context.Context, *order) error { confirmed++; return nil }))
		_, h, stop := start(t, &dyingParent{Memory: store}, def, saga.Options{Definitions: []saga.Registered{inner}})
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, "price", got.Failed)
		require.Equal(t, []int{0, 1}, []int{confirmed, undone})
	})
}

// What the saga waits for is what a person can do something about.
func TestAChildThatIsWaitedForBehindPureStepsIsInTheWay(t *testing.T) {
	t.Parallel()
	rec := &saga.Record{Status: saga.Suspended}
	require.NoError(t, rec.Plan.UnmarshalText([]byte("price:p inner:cu confirm:v")))
	require.NoError(t, rec.Steps.UnmarshalText([]byte("O W5000000 O")))
	require.Equal(t, []string{"inner"}, rec.Blocked())
}

// diesAtTheGrave creates no child at first, and ends the owner of its parent when that has
// been given up, before it is written.
type diesAtTheGrave struct {
	failsOnce
	buried, died atomic.Bool
}

func (d *diesAtTheGrave) Create(ctx context.Context, c []*saga.Create) error {
	if c[0].Record.Undoing {
		d.buried.Store(true)
	}
	return d.failsOnce.Create(ctx, c)
}

func (d *diesAtTheGrave) Save(ctx context.Context, w []*saga.Write) error {
	if d.buried.Load() && d.died.CompareAndSwap(false, true) {
		runtime.Goexit()
	}
	return d.Memory.Save(ctx, w)
}

// The owner that has given a child up dies before it has written so. The next one finds
// what was left in the child's place, and neither waits for it nor starts a child.
func TestAChildThatWasGivenUpStaysSo(t *testing.T) {
	for _, cancel := range []bool{false, true} {
		t.Run(fmt.Sprint("cancelled ", cancel), func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				paid, undone, ended := 0, 0, 0
				inner := saga.MustDefine("inner", 1, saga.Pivot("pay", func(context.Context, *order) error { paid++; return nil }))
				def := saga.MustDefine("order", 1,
					saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil }, func(*order, saga.Result[order]) error { ended++; return nil }).
						Retry(saga.Retry{Attempts: 1}).Undo(func(context.Context, *order) error { undone++; return nil }))
				dies := &diesAtTheGrave{failsOnce: failsOnce{Memory: store}}
				e, h, stop := start(t, dies, def, saga.Options{Definitions: []saga.Registered{inner}})
				time.Sleep(time.Second)
				require.True(t, dies.died.Load())
				if cancel {
					require.NoError(t, e.Cancel(context.Background(), "o1"))
				}
				require.Equal(t, saga.Compensated, wait(t, h).Status)
				stop()
				require.Equal(t, []int{0, 0, 0}, []int{paid, undone, ended})
			})
		})
	}
}

// awayOnce is a store that cannot be read once, where it is asked for a child.
type awayOnce struct {
	*saga.Memory
	away atomic.Bool
}

func (a *awayOnce) Find(ctx context.Context, f saga.Filter) iter.Seq2[*saga.Record, error] {
	if len(f.IDs) == 1 && strings.Contains(f.IDs[0], "/") && a.away.CompareAndSwap(true, false) {
		return func(yield func(*saga.Record, error) bool) { yield(nil, lostAnswer{}) }
	}
	return a.Memory.Find(ctx, f)
}

// The store is away when a parent looks at its child: it looks again, and loses no owner.
func TestAChildThatCannotBeLookedAtIsLookedAtAgain(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		inner := saga.MustDefine("inner", 1, saga.Sleep("pause", func(*order) time.Duration { return time.Hour }), saga.Pivot("pay", noop))
		def := saga.MustDefine("order", 1,
			saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
				func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).Undo(noop))
		once := &awayOnce{Memory: store}
		e, h, stop := start(t, once, def, saga.Options{Definitions: []saga.Registered{inner}})
		time.Sleep(time.Second)
		once.away.Store(true)
		require.Equal(t, saga.Completed, wait(t, h).Status)
		rec, err := e.Admin().Inspect(context.Background(), "o1")
		require.NoError(t, err)
		stop()
		require.False(t, once.away.Load())
		require.Empty(t, rec.Events)
	})
}
