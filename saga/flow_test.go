package saga_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

type approval struct{ By string }

func awaiting() *saga.Definition[order] {
	return saga.MustDefine("order", 1,
		saga.Step("reserve", note("reserve")).Undo(note("release")),
		saga.Await("approved", 24*time.Hour, func(o *order, m approval) error {
			if m.By == "" {
				return saga.Reject(errors.New("nobody"))
			}
			o.Customer = m.By
			return nil
		}),
		saga.Pivot("confirm", note("confirm")))
}

func TestASignalIsAwaited(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		e, h, end := start(t, store, awaiting(), saga.Options{})
		defer end()
		time.Sleep(time.Hour)
		rec, err := e.Admin().Inspect(t.Context(), "o1")
		require.NoError(t, err)
		require.Equal(t, saga.Suspended, rec.Status)
		require.Empty(t, rec.Owner, "no process has it meanwhile")
		require.NoError(t, e.Signal(t.Context(), "o1", "approved", approval{"ann"}))
		require.NoError(t, e.Signal(t.Context(), "o1", "approved", approval{"ann"}), "it may be repeated")
		require.ErrorIs(t, e.Signal(t.Context(), "o1", "approved", approval{"bob"}), saga.ErrConflict)
		got := wait(t, h)
		require.Equal(t, saga.Completed, got.Status)
		require.Equal(t, "ann", got.Data.Customer)
		require.ErrorIs(t, e.Signal(t.Context(), "o1", "late", approval{"bob"}), saga.ErrOver)
		require.ErrorIs(t, e.Signal(t.Context(), "o2", "approved", approval{}), saga.ErrNotFound)
	})
}

func TestASignalThatComesFirstIsKept(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := saga.MustDefine("order", 1,
			saga.Sleep("cool-off", func(*order) time.Duration { return time.Hour }),
			saga.Await("approved", time.Minute, func(o *order, m approval) error { o.Customer = m.By; return nil }))
		e, h, end := start(t, store, def, saga.Options{})
		defer end()
		begun := time.Now()
		require.NoError(t, e.Signal(t.Context(), "o1", "approved", approval{"ann"}))
		require.NoError(t, e.Signal(t.Context(), "o1", "cool-off", 1), "of the name of what is no Await")
		got := wait(t, h)
		require.Equal(t, "ann", got.Data.Customer)
		require.GreaterOrEqual(t, time.Since(begun), time.Hour, "a signal for somebody else does not end a sleep")
	})
}

// A deadline ends what a saga waits for in front of its pivot, and behind that nothing.
func TestADeadlineEndsAWait(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []saga.Part[order]
		want  saga.Status
		took  time.Duration
	}{
		{"in front of the pivot", []saga.Part[order]{pause(24 * time.Hour), saga.Pivot("confirm", noop)}, saga.Compensated, time.Hour},
		{"in front of the pivot, and shorter", []saga.Part[order]{pause(time.Minute), saga.Pivot("confirm", noop)}, saga.Completed, time.Minute},
		{"behind the pivot", []saga.Part[order]{saga.Pivot("confirm", noop), pause(24 * time.Hour)}, saga.Completed, 24 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				def := saga.MustDefine("order", 1, c.steps...)
				e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
				require.NoError(t, err)
				ctx, stop := runs(t, e)
				begun := time.Now()
				h, err := def.Start(ctx, e, "o1", order{}, &saga.StartOptions{Deadline: time.Hour})
				require.NoError(t, err)
				got := wait(t, h)
				require.Equal(t, c.want, got.Status)
				require.InDelta(t, c.took, time.Since(begun), float64(5*time.Second))
				rec, err := e.Admin().Inspect(ctx, "o1")
				require.NoError(t, err)
				require.Less(t, rec.Revision, int64(10), "it is not looked at all the time")
				stop()
			})
		})
	}
}

func pause(d time.Duration) saga.Part[order] {
	return saga.Sleep("pause", func(*order) time.Duration { return d })
}

// What a Sleep has half done to the data when it fails is not what is undone.
func TestASleepThatFailsLeavesTheData(t *testing.T) {
	for name, pause := range map[string]func(*order) time.Duration{
		"it panics":                 func(o *order) time.Duration { o.Seen = nil; panic("no such day") },
		"its data cannot be stored": func(o *order) time.Duration { o.Seen = []string{strings.Repeat("x", 1<<20)}; return time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				def := saga.MustDefine("order", 1, saga.Step("reserve", note("reserve")).Undo(note("release")), saga.Sleep("pause", pause))
				_, h, stop := start(t, store, def, saga.Options{})
				got := wait(t, h)
				stop()
				require.Equal(t, saga.Compensated, got.Status)
				require.Equal(t, "pause", got.Failed)
				require.Equal(t, []string{"reserve", "release"}, got.Data.Seen)
			})
		})
	}
}

func TestASignalThatDoesNotComeIsANo(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		_, h, end := start(t, store, awaiting(), saga.Options{})
		defer end()
		got := wait(t, h)
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, "approved", got.Failed)
		require.Equal(t, "no signal came in time", got.Reason)
		require.Equal(t, []string{"reserve", "release"}, got.Data.Seen)
	})
}

func TestOtherwiseIsDoneWithoutTheSignal(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := saga.MustDefine("order", 1,
			saga.Pivot("confirm", noop),
			saga.Await("received", time.Hour, func(*order, approval) error { return nil }).
				Otherwise(func(o *order) error { o.Customer = "nobody"; return nil }))
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		got := wait(t, h)
		require.Equal(t, saga.Completed, got.Status)
		require.Equal(t, "nobody", got.Data.Customer)
	})
}

func TestCancelGoesBackUntilThePivot(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		e, h, end := start(t, store, awaiting(), saga.Options{})
		defer end()
		time.Sleep(time.Hour)
		require.NoError(t, e.Cancel(t.Context(), "o1"))
		require.NoError(t, e.Cancel(t.Context(), "o1"))
		got := wait(t, h)
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, []string{"reserve", "release"}, got.Data.Seen)
		require.ErrorContains(t, got.Err(), "cancelled")
		rec, err := e.Admin().Inspect(t.Context(), "o1")
		require.NoError(t, err)
		require.Equal(t, saga.EventCancelled, rec.Events[len(rec.Events)-1].Kind)
	})
	t.Run("not after it", func(t *testing.T) {
		alone(t, func(t *testing.T, store *saga.Memory) {
			def := saga.MustDefine("order", 1, saga.Pivot("confirm", noop),
				saga.Sleep("wait", func(*order) time.Duration { return time.Hour }), saga.Retriable("notify", note("notify")))
			e, h, end := start(t, store, def, saga.Options{})
			defer end()
			time.Sleep(time.Minute)
			require.NoError(t, e.Cancel(t.Context(), "o1"))
			require.Equal(t, saga.Completed, wait(t, h).Status)
		})
	})
}

// Nobody knows whether the card was charged when the saga is cancelled: the charge is undone.
func TestCancelUndoesAStepInDoubt(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := saga.MustDefine("order", 1,
			saga.Step("charge", func(context.Context, *order) error { return context.DeadlineExceeded }).Undo(note("refund")).Idempotent().
				Retry(saga.Retry{First: time.Minute}))
		e, h, end := start(t, store, def, saga.Options{})
		defer end()
		time.Sleep(time.Second)
		require.NoError(t, e.Cancel(t.Context(), "o1"))
		got := wait(t, h)
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, "it was cancelled", got.Reason)
		require.Equal(t, []string{"refund"}, got.Data.Seen)
	})
}

// parting is a store whose next write is the last that its caller hears of.
type parting struct {
	*saga.Memory
	hangUp atomic.Pointer[context.CancelFunc] // nil: not yet
}

func (p *parting) Save(ctx context.Context, writes []*saga.Write) error {
	err := p.Memory.Save(ctx, writes)
	if hangUp := p.hangUp.Load(); hangUp != nil {
		(*hangUp)()
	}
	return err
}

// The history says that a person has cancelled the saga. His browser was closed before the
// answer came: it is cancelled all the same.
func TestACancellationThatIsInTheHistoryIsDone(t *testing.T) {
	alone(t, func(t *testing.T, memory *saga.Memory) {
		paid := 0
		store := &parting{Memory: memory}
		inner := saga.MustDefine("inner", 1, saga.Sleep("pause", func(*order) time.Duration { return time.Hour }), saga.Pivot("pay", noop))
		def := saga.MustDefine("order", 1,
			saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil },
				func(_ *order, r saga.Result[order]) error { return saga.Reject(r.Err()) }).Undo(noop),
			saga.Pivot("confirm", func(context.Context, *order) error { paid++; return nil }))
		e, h, stop := start(t, store, def, saga.Options{Definitions: []saga.Registered{inner}})
		time.Sleep(time.Second)
		rec, err := e.Admin().Inspect(context.Background(), "o1")
		require.NoError(t, err)
		require.Equal(t, saga.Suspended, rec.Status)
		ctx, hangUp := context.WithCancel(context.Background())
		store.hangUp.Store(&hangUp)
		_, err = saga.NewAdmin(store).Resolve(ctx, "o1", saga.ActionCancel, saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: rec.Revision})
		require.NoError(t, err)
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		stop()
		require.Zero(t, paid)
	})
}

// untold is a store that keeps a cancellation after a while only, if at all.
type untold struct {
	*saga.Memory
	after time.Duration // 0: never
}

func (u untold) Deliver(ctx context.Context, id, name string, payload []byte) error {
	if u.after == 0 {
		return errGone
	}
	time.Sleep(u.after)
	return u.Memory.Deliver(ctx, id, name, payload)
}

// The same for a process that dies behind the write of the history, or is held up there
// until the child is over: the saga does not go on, and pay.
func TestACancellationThatIsInTheHistoryNeedsNoSignal(t *testing.T) {
	for name, c := range map[string]struct {
		after  time.Duration
		steps  []saga.Part[order] // behind the child
		want   saga.Status
		reason string
		undone int
	}{
		"its process dies":       {0, []saga.Part[order]{saga.Pivot("confirm", noop)}, saga.Compensated, "it was cancelled: r", 1},
		"it is held up":          {20 * time.Second, []saga.Part[order]{saga.Pivot("confirm", noop)}, saga.Compensated, "it was cancelled: r", 1},
		"nothing else was to do": {0, nil, saga.Completed, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				undone := 0
				inner := saga.MustDefine("inner", 1, saga.Pivot("pay", noop), saga.Sleep("pause", func(*order) time.Duration { return 10 * time.Second }))
				def := saga.MustDefine("order", 1, append([]saga.Part[order]{
					saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil }, func(*order, saga.Result[order]) error { return nil }).
						Undo(func(context.Context, *order) error { undone++; return nil }),
				}, c.steps...)...)
				e, h, stop := start(t, store, def, saga.Options{Definitions: []saga.Registered{inner}})
				time.Sleep(time.Second)
				rec, err := e.Admin().Inspect(context.Background(), "o1")
				require.NoError(t, err)
				require.Equal(t, saga.Suspended, rec.Status)
				_, err = saga.NewAdmin(untold{store, c.after}).Resolve(context.Background(), "o1", saga.ActionCancel, saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: rec.Revision})
				if c.after == 0 {
					require.ErrorIs(t, err, errGone)
				} else {
					require.NoError(t, err)
				}
				got := wait(t, h)
				stop()
				require.Equal(t, c.want, got.Status)
				require.Equal(t, c.reason, got.Reason)
				require.Equal(t, c.undone, undone)
			})
		})
	}
}

type parcel struct {
	Label, Route string
	Weight       int
}

func TestParallelStepsRunAtTheSameTimeAndMerge(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var tries atomic.Int64
		def := saga.MustDefine("parcel", 1,
			saga.Parallel("prepare",
				saga.Step("label", func(_ context.Context, p *parcel) error { time.Sleep(time.Second); p.Label = "L"; return nil }).Undo(func(context.Context, *parcel) error { return nil }),
				saga.Pure("weigh", func(_ context.Context, p *parcel) error { time.Sleep(time.Second); p.Weight = 3; return nil }),
				saga.Step("route", func(_ context.Context, p *parcel) error {
					time.Sleep(time.Second)
					p.Route = "R"
					if tries.Add(1) == 1 {
						return errors.New("503")
					}
					return nil
				}).Undo(func(context.Context, *parcel) error { return nil })),
			saga.Pivot("send", func(context.Context, *parcel) error { return nil }))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		begun := time.Now()
		h, err := def.Start(ctx, e, "p1", parcel{}, nil)
		require.NoError(t, err)
		got, err := h.Wait(ctx)
		require.NoError(t, err)
		require.NoError(t, got.Err())
		require.Equal(t, parcel{"L", "R", 3}, got.Data)
		require.Less(t, time.Since(begun), 4*time.Second)
		require.EqualValues(t, 2, tries.Load(), "only what failed is repeated")
		stop()
	})
}

func TestParallelStepsMustNotChangeTheSame(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		set := func(v string) saga.Func[order] {
			return func(_ context.Context, o *order) error { o.Charge = v; return nil }
		}
		def := saga.MustDefine("order", 1, saga.Parallel("both", saga.Step("a", set("a")).Undo(noop), saga.Step("b", set("b")).Undo(noop)))
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		got := wait(t, h)
		require.Equal(t, saga.Stuck, got.Status)
		require.ErrorContains(t, got.Err(), `both change "Charge"`)
	})
}

func TestAChildIsWaitedFor(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		fail := false
		shipping := saga.MustDefine("shipping", 1, saga.Pivot("ship", func(_ context.Context, p *parcel) error {
			if fail {
				return saga.Reject(errors.New("too heavy"))
			}
			p.Label = "shipped"
			return nil
		}))
		def := saga.MustDefine("order", 1,
			saga.Step("reserve", note("reserve")).Undo(note("release")),
			saga.Child("delivery", shipping, func(*order) (parcel, error) { return parcel{Weight: 3}, nil },
				func(o *order, r saga.Result[parcel]) error {
					o.Charge = r.Data.Label
					return saga.Reject(r.Err())
				}).Undo(note("recall")),
			saga.Pivot("confirm", note("confirm")))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def, shipping}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		h, err := def.Start(ctx, e, "o1", order{}, nil)
		require.NoError(t, err)
		got := wait(t, h)
		require.NoError(t, got.Err())
		require.Equal(t, "shipped", got.Data.Charge)
		fail = true
		h, err = def.Start(ctx, e, "o2", order{}, nil)
		require.NoError(t, err)
		got = wait(t, h)
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, "delivery", got.Failed)
		require.Equal(t, []string{"reserve", "release"}, got.Data.Seen)
		stop()
	})
}

func TestAChildThatCannotBeStartedIsTriedAsOftenAsAStep(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		tries := 0
		inner := five()
		def := saga.MustDefine("order", 1, saga.Child("inner", inner, func(*order) (order, error) {
			tries++
			return order{}, errors.New("not yet")
		}, func(*order, saga.Result[order]) error { return nil }).Undo(noop))
		_, h, end := start(t, store, def, saga.Options{Definitions: []saga.Registered{inner}})
		defer end()
		require.Equal(t, saga.Compensated, wait(t, h).Status)
		require.Equal(t, 5, tries)
	})
}

func TestAChildIsCancelledWithItsParent(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		inner := saga.MustDefine("inner", 1,
			saga.Step("reserve", func(context.Context, *order) error { return nil }).Undo(note("release")),
			saga.Sleep("pause", func(*order) time.Duration { return 24 * time.Hour }),
			saga.Pivot("pay", func(context.Context, *order) error {
				t.Error("it pays")
				return nil
			}))
		def := saga.MustDefine("order", 1,
			saga.Step("first", note("first")).Undo(note("-first")),
			saga.Child("inner", inner, func(*order) (order, error) { return order{}, nil }, func(_ *order, r saga.Result[order]) error {
				return saga.Reject(r.Err())
			}).Undo(note("-inner")),
			saga.Pivot("confirm", note("confirm")))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def, inner}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		h, err := def.Start(ctx, e, "o1", order{}, nil)
		require.NoError(t, err)
		time.Sleep(time.Hour)
		require.NoError(t, e.Cancel(ctx, "o1"))
		got := wait(t, h)
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, []string{"first", "-first"}, got.Data.Seen)
		child := wait(t, inner.Handle(e, "o1/inner"))
		require.Equal(t, saga.Compensated, child.Status)
		require.Equal(t, []string{"release"}, child.Data.Seen)
		stop()
	})
}

// A deploy renames and adds steps: what is under way finishes on the steps it began
// with, and what nobody knows any more waits for somebody who does.
func TestSagasFinishOnTheirStoredPlan(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		v1 := saga.MustDefine("order", 1, saga.Sleep("pause", func(*order) time.Duration { return time.Hour }),
			saga.Step("charge", note("charge")).Undo(noop), saga.Pivot("confirm", note("confirm")))
		_, _, end := start(t, store, v1, saga.Options{})
		time.Sleep(time.Minute)
		end()
		v2 := saga.MustDefine("order", 2, saga.Sleep("pause", func(*order) time.Duration { return time.Hour }),
			saga.Step("charge-card", note("v2")).Undo(noop), saga.Pivot("confirm", note("v2")))
		e2, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{v2}})
		require.NoError(t, err)
		ctx, stop := runs(t, e2)
		time.Sleep(2 * time.Hour)
		rec, err := e2.Admin().Inspect(ctx, "o1")
		require.NoError(t, err)
		require.Equal(t, saga.Suspended, rec.Status)
		require.Contains(t, rec.Error, "no version")
		require.Len(t, rec.Events, 1, "it says so once")
		stop()
		v3 := saga.MustDefine("order", 3, saga.Sleep("pause", func(*order) time.Duration { return time.Hour }),
			saga.Step("reserve", note("v3")).Undo(noop), saga.Step("charge", note("charge")).Undo(noop), saga.Pivot("confirm", note("confirm")))
		e3, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{v2, v3}})
		require.NoError(t, err)
		_, stop = runs(t, e3)
		got := wait(t, v3.Handle(e3, "o1"))
		require.Equal(t, saga.Completed, got.Status)
		require.Equal(t, []string{"charge", "confirm"}, got.Data.Seen)
		stop()
	})
}

func TestStartTxIsThereWithTheCommit(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := five()
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		tx := store.Begin()
		h, err := def.StartTx(ctx, e, tx, "o1", order{}, nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		_, err = e.Admin().Inspect(ctx, "o1")
		require.ErrorIs(t, err, saga.ErrNotFound)
		require.NoError(t, store.Commit(tx))
		require.Equal(t, saga.Completed, wait(t, h).Status)
		_, err = def.StartTx(ctx, e, "no transaction", "o2", order{}, nil)
		require.ErrorContains(t, err, "not string")
		stop()
	})
}

// Run ends: the step under way is finished and kept, and the rest left to others at
// once, without a wait for the lease and without doubt.
func TestShutdownKeepsWhatIsDone(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var n atomic.Int64
		def := saga.MustDefine("order", 1,
			saga.Step("charge", func(context.Context, *order) error { n.Add(1); time.Sleep(5 * time.Second); return nil }).Undo(noop),
			saga.Pivot("confirm", func(context.Context, *order) error { n.Add(1); return nil }))
		_, h, end := start(t, store, def, saga.Options{})
		time.Sleep(time.Second)
		end()
		require.EqualValues(t, 1, n.Load())
		begun := time.Now()
		e2, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		_, stop := runs(t, e2)
		require.Equal(t, saga.Completed, wait(t, def.Handle(e2, h.ID())).Status)
		require.EqualValues(t, 2, n.Load())
		require.Less(t, time.Since(begun), 2*time.Second)
		stop()
	})
}

// The provider is given its time also where the process ends meanwhile: it is no crash,
// and the next process waits for what is left.
// An engine that is told to end while a Pure step is under way begins nothing behind it.
func TestShutdownBeginsNothingBehindAPureStep(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		charged := 0
		def := saga.MustDefine("order", 1,
			saga.Pure("price", func(context.Context, *order) error { time.Sleep(time.Second); return nil }),
			saga.Step("charge", func(context.Context, *order) error { charged++; return nil }).Undo(noop))
		e, _, stop := start(t, store, def, saga.Options{})
		stop()
		rec, err := e.Admin().Inspect(context.Background(), "o1")
		require.NoError(t, err)
		require.Zero(t, charged)
		require.Equal(t, []saga.Mark{saga.Done, saga.Open}, []saga.Mark{rec.Steps[0].Mark, rec.Steps[1].Mark})
		require.Empty(t, rec.Owner)
	})
}

func TestShutdownKeepsTheWaitBetweenAttempts(t *testing.T) {
	for name, takes := range map[string]time.Duration{"while it waits": 0, "while the step is under way": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				var failed, again time.Time
				n := 0
				def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error {
					if n++; n == 1 {
						time.Sleep(takes)
						failed = time.Now()
						return errPlain
					}
					again = time.Now()
					return nil
				}).Undo(noop).Retry(saga.Retry{First: 4 * time.Second}))
				_, _, end := start(t, store, def, saga.Options{})
				time.Sleep(time.Second)
				end()
				e, stop := second(t, store, def)
				require.Equal(t, saga.Completed, wait(t, def.Handle(e, "o1")).Status)
				rec, err := e.Admin().Inspect(context.Background(), "o1")
				stop()
				require.NoError(t, err)
				require.GreaterOrEqual(t, again.Sub(failed), 2*time.Second, "half of 4 s at least")
				require.Less(t, again.Sub(failed), 6*time.Second)
				require.Equal(t, 2, n)
				for _, ev := range rec.Events {
					require.NotEqual(t, saga.EventCrashed, ev.Kind)
				}
			})
		})
	}
}

// An owner dies without a word: recovery begins within its lease and a poll.
func TestRecoveryBeginsWithinTheLease(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := saga.MustDefine("order", 1, saga.Step("charge", noop).Undo(noop).Idempotent(),
			saga.Pivot("confirm", note("confirm")).Idempotent())
		e1, err := saga.New(&dead{Memory: store}, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx1, stop1 := runs(t, e1)
		synctest.Wait()
		_, err = def.Start(ctx1, e1, "o1", order{}, nil)
		require.NoError(t, err)
		begun := time.Now()
		e2, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		_, stop := runs(t, e2)
		require.Equal(t, saga.Completed, wait(t, def.Handle(e2, "o1")).Status)
		require.LessOrEqual(t, time.Since(begun), 17*time.Second)
		require.GreaterOrEqual(t, time.Since(begun), 14*time.Second)
		stop()
		stop1()
	})
}

// dead is the store as a process sees it that has just lost its network.
type dead struct{ *saga.Memory }

var errGone = errors.New("network is unreachable")

func (d *dead) Save(context.Context, []*saga.Write) error { return errGone }

func (d *dead) Renew(context.Context, []*saga.Lease, time.Duration) error { return errGone }

func (d *dead) Claim(context.Context, saga.Claim) ([]saga.Claimed, error) { return nil, errGone }

func TestMessagesArePublishedWithTheirStep(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		tries := 0
		def := saga.MustDefine("order", 1, saga.Pivot("confirm", func(ctx context.Context, _ *order) error {
			require.NoError(t, saga.Publish(ctx, "orders", []byte(`1`)))
			require.NoError(t, saga.Publish(ctx, "orders", []byte(`2`)))
			if tries++; tries == 1 {
				return errors.New("503")
			}
			return nil
		}))
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		wait(t, h)
		n, err := store.Relay(t.Context(), 10, func(_ context.Context, msgs []saga.Message) error {
			require.Equal(t, "o1/confirm/1", msgs[1].Key)
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.ErrorContains(t, saga.Publish(t.Context(), "orders", nil), "outside of a step")
	})
}

// A Pure step has no checkpoint, with which the owner would hear of the cancellation.
func TestACancellationBehindAPureStepIsHeardBeforeThePivot(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var w world
		def := saga.MustDefine("order", 1,
			saga.Pure("price", func(context.Context, *order) error { time.Sleep(5 * time.Second); return nil }),
			saga.Pivot("charge", func(context.Context, *order) error { w.charged.Add(1); return nil }))
		e, h, stop := start(t, store, def, saga.Options{})
		time.Sleep(time.Second)
		require.NoError(t, e.Cancel(context.Background(), "o1"))
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Compensated, got.Status)
		require.Zero(t, w.charged.Load())
	})
}
