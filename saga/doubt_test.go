package saga_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// quick options make a crash cheap: a step that ends its goroutine is one.
func quick(defs ...saga.Registered) *saga.Options {
	return &saga.Options{Definitions: defs, Lease: 30 * time.Millisecond, Poll: 5 * time.Millisecond}
}

// crash ends the owner the first time that it is called.
func crash(once *atomic.Bool) {
	if once.CompareAndSwap(false, true) {
		runtime.Goexit()
	}
}

func result(t *testing.T, def *saga.Definition[order], e *saga.Engine) saga.Result[order] {
	t.Helper()
	h, err := def.Start(within(t), e, "o1", order{}, nil)
	require.NoError(t, err)
	got, err := h.Wait(within(t))
	require.NoError(t, err)
	return got
}

// forgetful loses the answer of its first SaveTx.
type forgetful struct {
	*saga.Memory

	lost atomic.Bool
}

func (f *forgetful) SaveTx(ctx context.Context, w *saga.Write, work func(context.Context, any) error) error {
	err := f.Memory.SaveTx(ctx, w, work)
	if err == nil && f.lost.CompareAndSwap(false, true) {
		return &saga.StoreError{Cause: errors.New("connection reset")}
	}
	return err
}

func TestATransactionWhoseAnswerIsLostIsNotRepeated(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var rows atomic.Int64
		def := saga.MustDefine("order", 1,
			saga.StepTx("a", func(_ context.Context, tx *saga.MemoryTx, o *order) error {
				tx.OnCommit(func() { rows.Add(1) })
				o.Seen = append(o.Seen, "a")
				return nil
			}).Undo(func(context.Context, *saga.MemoryTx, *order) error { return nil }),
			saga.Pivot("b", note("b")))
		losing := &forgetful{Memory: store}
		got := result(t, def, engine(t, losing, quick(def)))
		require.True(t, losing.lost.Load())
		require.NoError(t, got.Err())
		require.Equal(t, int64(1), rows.Load())
		require.Equal(t, []string{"a", "b"}, got.Data.Seen)
	})
}

// chargeAndDie crashes behind its effect, once; a look-up finds that.
func chargeAndDie(died *atomic.Bool, charges, looks *atomic.Int64) saga.Part[order] {
	return saga.Step("charge", func(context.Context, *order) error {
		charges.Add(1)
		crash(died)
		return nil
	}).Undo(noop).Verify(func(context.Context, *order) (saga.Outcome, error) {
		looks.Add(1)
		return saga.Applied, nil
	})
}

func TestAStepBehindAPureOneIsInDoubtAfterACrash(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var died atomic.Bool
		var charges, looks atomic.Int64
		def := saga.MustDefine("order", 1,
			saga.Pure("validate", note("validate")),
			saga.Pure("price", note("price")),
			chargeAndDie(&died, &charges, &looks))
		got := result(t, def, engine(t, store, quick(def)))
		require.NoError(t, got.Err())
		require.Equal(t, int64(1), charges.Load(), "charged again without a look-up")
		require.Equal(t, int64(1), looks.Load())
		require.Equal(t, []string{"validate", "price"}, got.Data.Seen)
	})
}

// A person has said that a step has taken effect, and the Pure one in front of it is done
// again: what is begun behind both may have happened.
func TestAStepBehindOneThatAPersonKnowsIsInDoubtAfterACrash(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var reserved, died atomic.Bool
		var charges, looks atomic.Int64
		def := saga.MustDefine("order", 1,
			saga.Pure("price", noop),
			saga.Step("reserve", func(context.Context, *order) error { crash(&reserved); return nil }).Undo(noop),
			chargeAndDie(&died, &charges, &looks))
		o := quick(def)
		o.MaxCrashes = 1
		e := engine(t, store, o)
		for _, do := range []saga.Action{saga.ActionForceApplied, saga.ActionRetry} {
			require.Equal(t, saga.Stuck, result(t, def, e).Status)
			rec, err := e.Admin().Inspect(within(t), "o1")
			require.NoError(t, err)
			require.Equal(t, saga.Open, rec.Steps[0].Mark)
			_, err = e.Admin().Resolve(within(t), "o1", do, saga.Audit{Actor: "ada", Reason: "r", ExpectRevision: rec.Revision})
			require.NoError(t, err)
		}
		require.Equal(t, saga.Completed, result(t, def, e).Status)
		require.Equal(t, []int64{1, 1}, []int64{charges.Load(), looks.Load()}, "charged again without a look-up")
	})
}

// Behind a Pure step, which has no checkpoint of its own, a pivot may have happened
// already when that step is done again.
func TestAPivotThatMayHaveHappenedIsNotTurnedBack(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var died atomic.Bool
		var undone atomic.Int64
		var e *saga.Engine
		def := saga.MustDefine("order", 1,
			saga.Step("reserve", noop).Undo(func(context.Context, *order) error { undone.Add(1); return nil }),
			saga.Pure("price", noop),
			saga.Pivot("pay", func(ctx context.Context, _ *order) error {
				if !died.Load() {
					_ = e.Cancel(ctx, "o1")
				}
				crash(&died)
				return nil
			}).Verify(func(context.Context, *order) (saga.Outcome, error) { return saga.Applied, nil }))
		e = engine(t, store, quick(def))
		got := result(t, def, e)
		require.NoError(t, got.Err())
		require.Zero(t, undone.Load())
	})
}

// A process of before Pure steps were written in front of the pivot has died at it.
func TestAPureStepCannotRefuseWhatMayBeDecided(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var undone atomic.Int64
		def := saga.MustDefine("order", 1,
			saga.Step("reserve", noop).Undo(func(context.Context, *order) error { undone.Add(1); return nil }),
			saga.Pure("price", func(context.Context, *order) error { return saga.Reject(errors.New("the offer has expired")) }),
			saga.Pivot("pay", noop).Idempotent())
		left := &saga.Record{
			ID: "o1", Definition: "order", Version: 1, Plan: def.Plan(), Status: saga.Running, Data: []byte("{}"), Token: 1, Owner: "before",
			Steps: saga.Progress{{Mark: saga.Done}, {Mark: saga.Open}, {Mark: saga.Open}},
		}
		require.NoError(t, store.Create(t.Context(), []*saga.Create{{Record: left, Lease: time.Millisecond}}))
		h := def.Handle(engine(t, store, quick(def)), "o1")
		got, err := h.Wait(within(t))
		require.NoError(t, err)
		require.Equal(t, saga.Stuck, got.Status, "it went back from a payment that was made")
		require.Zero(t, undone.Load())
	})
}

// What is written in front of the pivot is not done again behind it.
func TestAPureStepIsNotDoneAgainWhenThePivotMayHaveHappened(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var died atomic.Bool
		def := saga.MustDefine("order", 1,
			saga.Step("reserve", noop).Undo(noop),
			saga.Pure("price", func(context.Context, *order) error {
				if died.Load() {
					return saga.Reject(errors.New("the offer has expired"))
				}
				return nil
			}),
			saga.Pivot("pay", func(context.Context, *order) error { crash(&died); return nil }).Idempotent())
		got := result(t, def, engine(t, store, quick(def)))
		require.Equal(t, saga.Completed, got.Status)
	})
}

func TestALookUpAsksForTheStepAlsoOnTheWayBack(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var keys []string
		def := saga.MustDefine("order", 1,
			saga.Step("charge", func(context.Context, *order) error { return context.DeadlineExceeded }).Undo(noop).
				Retry(saga.Retry{Attempts: 2, First: time.Millisecond}).
				Verify(func(ctx context.Context, _ *order) (saga.Outcome, error) {
					c := saga.CallFrom(ctx)
					require.True(t, c.Verify)
					keys = append(keys, c.Key())
					return saga.Unknown, nil
				}))
		got := result(t, def, engine(t, store, quick(def)))
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, []string{"o1/charge", "o1/charge"}, keys) // once forward, and once after the Undo
	})
}

func TestABranchThatEndsItsGoroutineIsInDoubt(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var died atomic.Bool
		var charges, looks atomic.Int64
		def := saga.MustDefine("order", 1,
			saga.Parallel("both",
				saga.Step("a", noop).Undo(noop),
				chargeAndDie(&died, &charges, &looks)))
		got := result(t, def, engine(t, store, quick(def)))
		require.NoError(t, got.Err())
		require.Equal(t, int64(1), charges.Load(), "charged again without a look-up")
		require.Equal(t, int64(1), looks.Load())
	})
}

// An earlier attempt is known not to have taken effect; of the next one, which ends its
// goroutine, nobody knows.
func TestABranchThatEndsItsGoroutineBehindALookUpIsInDoubt(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var attempts, charges atomic.Int64
		def := saga.MustDefine("order", 1,
			saga.Parallel("both",
				saga.Step("a", noop).Undo(noop),
				saga.Step("charge", func(context.Context, *order) error {
					if attempts.Add(1) == 1 {
						return context.DeadlineExceeded
					}
					charges.Add(1)
					runtime.Goexit()
					return nil
				}).Undo(noop).Retry(saga.Retry{First: time.Millisecond}).Verify(func(context.Context, *order) (saga.Outcome, error) {
					if charges.Load() == 0 {
						return saga.NeverApplied, nil
					}
					return saga.Applied, nil
				})))
		got := result(t, def, engine(t, store, quick(def)))
		require.NoError(t, got.Err())
		require.Equal(t, int64(1), charges.Load(), "charged again without a look-up")
	})
}

// slow gives the engine time to renew leases while a saga begins.
type slow struct{ *saga.Memory }

func (s slow) Create(ctx context.Context, c []*saga.Create) error {
	time.Sleep(8 * time.Millisecond)
	return s.Memory.Create(ctx, c)
}

func TestLeasesAreRenewedWhileSagasBegin(t *testing.T) { // under -race
	t.Parallel()
	def := saga.MustDefine("order", 1,
		saga.StepTx("a", func(context.Context, *saga.MemoryTx, *order) error { time.Sleep(8 * time.Millisecond); return nil }).
			Undo(func(context.Context, *saga.MemoryTx, *order) error { return nil }))
	o := quick(def)
	o.Lease, o.MaxCrashes = 10*time.Millisecond, 100
	e := engine(t, slow{saga.NewMemory(nil)}, o)
	for i := range 20 {
		h, err := def.Start(within(t), e, string(rune('a'+i)), order{}, nil)
		require.NoError(t, err)
		_, err = h.Wait(within(t))
		require.NoError(t, err)
	}
}

func TestAParallelAcrossThePivotIsRefused(t *testing.T) {
	t.Parallel()
	_, err := saga.Define("order", 1, saga.Parallel("both", saga.Step("a", noop).Undo(noop), saga.Retriable("b", noop)))
	require.ErrorContains(t, err, "Parallel")
	_, err = saga.Define("order", 1, saga.Parallel("both", saga.Retriable("a", noop), saga.Pure("b", noop)))
	require.NoError(t, err)
}

func TestAStoppingEngineHoldsAParallelToItsEnd(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var slowly atomic.Int64
		entered, stopped, leave := make(chan struct{}), make(chan struct{}), make(chan struct{})
		def := saga.MustDefine("order", 1,
			saga.Parallel("both",
				saga.Step("fast", func(context.Context, *order) error { <-stopped; return nil }).Undo(noop),
				saga.Step("slow", func(context.Context, *order) error {
					if slowly.Add(1) == 1 {
						close(entered)
					}
					<-leave
					return nil
				}).Undo(noop)))
		first, err := saga.New(store, quick(def))
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- first.Run(ctx) }()
		h, err := def.Start(within(t), first, "o1", order{}, nil)
		require.NoError(t, err)
		<-entered
		stop()
		time.AfterFunc(10*time.Millisecond, func() { close(stopped) })
		second := engine(t, store, quick(def))
		time.Sleep(40 * time.Millisecond)
		close(leave)
		require.NoError(t, <-ended)
		h = def.Handle(second, h.ID())
		got, err := h.Wait(within(t))
		require.NoError(t, err)
		require.NoError(t, got.Err())
		require.Equal(t, int64(1), slowly.Load(), "a branch was begun twice")
	})
}

func TestBranchesThatClashStayStuck(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		first, second := make(chan struct{}), make(chan struct{})
		def := saga.MustDefine("order", 1,
			saga.Parallel("three",
				saga.Step("a", func(_ context.Context, o *order) error { o.Charge = "a"; return nil }).Undo(noop),
				saga.Step("b", func(_ context.Context, o *order) error { <-first; o.Charge = "b"; return nil }).Undo(noop),
				saga.Step("c", func(_ context.Context, o *order) error { <-second; o.Reserved = true; return nil }).Undo(noop)))
		o := quick(def)
		o.Lease = time.Minute
		e := engine(t, store, o)
		time.AfterFunc(20*time.Millisecond, func() { close(first) })
		time.AfterFunc(60*time.Millisecond, func() { close(second) })
		got := result(t, def, e)
		require.Equal(t, saga.Stuck, got.Status)
		require.ErrorContains(t, got.Err(), `both change "Charge"`)
		require.Equal(t, "a", got.Data.Charge)
		require.True(t, got.Data.Reserved)
	})
}

func TestWhatIsDoneBehindThePivotIsNotTurnedBack(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		done := make(chan struct{})
		def := saga.MustDefine("order", 1,
			saga.Step("reserve", noop).Undo(noop),
			saga.Parallel("both",
				saga.Retriable("a", func(context.Context, *order) error { <-done; return saga.Reject(errors.New("no")) }),
				saga.Retriable("b", func(context.Context, *order) error { close(done); return nil })))
		got := result(t, def, engine(t, store, quick(def)))
		require.Equal(t, saga.Stuck, got.Status, "it went back from what b has done")
	})
}

// A deploy is under way; the owner of a saga dies; a process of the old version takes it
// up, does not know its steps and lets it go; the next one of the new version is not
// told of the death, and charges again.
func TestAProcessThatDoesNotKnowTheStepsPassesTheDoubtOn(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		charges, asked := 0, 0
		def := saga.MustDefine("order", 2,
			saga.Step("charge", func(context.Context, *order) error {
				if charges++; charges == 1 {
					runtime.Goexit()
				}
				return nil
			}).Undo(noop).Verify(func(context.Context, *order) (saga.Outcome, error) {
				asked++
				return saga.Applied, nil
			}))
		old := saga.MustDefine("order", 1, saga.Pivot("other", noop))
		deploy := func(def saga.Registered) (e *saga.Engine, stop func()) {
			e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
			require.NoError(t, err)
			_, stop = runs(t, e)
			time.Sleep(time.Second)
			return e, stop
		}
		dies, stop := deploy(def)
		h, err := def.Start(context.Background(), dies, "o1", order{}, nil)
		require.NoError(t, err)
		time.Sleep(time.Second)
		stop()
		e1, stop := deploy(old)
		time.Sleep(20 * time.Second)
		stop()
		rec, err := e1.Admin().Inspect(t.Context(), "o1")
		require.NoError(t, err)
		require.Equal(t, saga.Suspended, rec.Status)
		_, stop = deploy(def)
		require.Equal(t, saga.Completed, wait(t, h).Status)
		stop()
		require.Equal(t, 1, charges)
		require.Equal(t, 1, asked)
	})
}

// A deploy is under way; the owner of a saga of the new version dies; a process of the
// old one has steps of the same names, and would write the data without what it does not
// know of it.
func TestAnOlderVersionLeavesASagaToTheNewer(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		type receipted struct{ Receipt string }
		dies, refunded := true, ""
		v2 := saga.MustDefine("order", 2,
			saga.Step("charge", func(_ context.Context, o *receipted) error {
				o.Receipt = "r1"
				return nil
			}).Undo(func(_ context.Context, o *receipted) error {
				refunded = o.Receipt
				return nil
			}),
			saga.Step("ship", func(context.Context, *receipted) error {
				if dies {
					runtime.Goexit()
				}
				return saga.Reject(errors.New("sold out"))
			}).Undo(func(context.Context, *receipted) error { return nil }))
		v1 := saga.MustDefine("order", 1, saga.Step("charge", noop).Undo(noop), saga.Step("ship", noop).Undo(noop))
		for n, def := range []saga.Registered{v2, v1, v2} {
			dies = n == 0
			e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
			require.NoError(t, err)
			_, stop := runs(t, e)
			time.Sleep(20 * time.Second)
			if n == 0 {
				_, err := v2.Start(context.Background(), e, "o1", receipted{}, nil)
				require.NoError(t, err)
				time.Sleep(time.Second)
			}
			rec, err := e.Admin().Inspect(t.Context(), "o1")
			require.NoError(t, err)
			require.Equal(t, []saga.Status{saga.Running, saga.Suspended, saga.Compensated}[n], rec.Status)
			stop()
		}
		require.Equal(t, "r1", refunded)
	})
}

func TestANoAfterADoubtIsUndoneAllTheSame(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var undone atomic.Int64
		def := saga.MustDefine("order", 1,
			saga.Step("charge", func(ctx context.Context, _ *order) error {
				if saga.CallFrom(ctx).Attempt == 1 {
					return context.DeadlineExceeded // it has charged
				}
				return saga.Reject(errors.New("the offer has expired")) // nobody was asked
			}).Idempotent().Retry(saga.Retry{First: time.Millisecond}).
				Undo(func(context.Context, *order) error { undone.Add(1); return nil }))
		got := result(t, def, engine(t, store, quick(def)))
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, int64(1), undone.Load())
	})
}

// Who lets go of a saga that has crashed must say so: the next owner is not told.
func TestADoubtOutlivesAnOwnerThatDoesNotKnowTheSteps(t *testing.T) {
	alone(t, func(t *testing.T, _ *saga.Memory) {
		var died atomic.Bool
		var charges, looks atomic.Int64
		def := saga.MustDefine("order", 1,
			chargeAndDie(&died, &charges, &looks))
		var later atomic.Int64
		store := saga.NewMemory(&saga.MemoryOptions{Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) }})
		run := func(o *saga.Options) (e *saga.Engine, stop func()) {
			e, err := saga.New(store, o)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- e.Run(ctx) }()
			return e, func() {
				cancel()
				require.NoError(t, <-ended)
			}
		}
		first, stop := run(quick(def))
		for !died.Load() {
			_, err := def.Start(within(t), first, "o1", order{}, nil)
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
		}
		stop()
		other := saga.MustDefine("order", 2, saga.Step("another", noop).Undo(noop))
		e, stop := run(quick(other))
		require.Eventually(t, func() bool {
			rec, err := e.Admin().Inspect(within(t), "o1")
			return err == nil && rec.Status == saga.Suspended
		}, 5*time.Second, time.Millisecond)
		stop()
		later.Store(int64(time.Minute))
		got := result(t, def, engine(t, store, quick(def, other)))
		require.NoError(t, got.Err())
		require.Equal(t, int64(1), charges.Load(), "charged again without a look-up")
		require.Equal(t, int64(1), looks.Load())
	})
}

func TestABranchThatIsRefusedIsNotForgottenByTheOthers(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		refused := make(chan struct{})
		var undone atomic.Int64
		def := saga.MustDefine("order", 1,
			saga.Parallel("both",
				saga.Step("charge", func(context.Context, *order) error {
					defer time.AfterFunc(20*time.Millisecond, func() { close(refused) })
					return saga.Reject(errors.New("declined"))
				}).Undo(noop),
				saga.Step("reserve", func(context.Context, *order) error { <-refused; return nil }).
					Undo(func(context.Context, *order) error { undone.Add(1); return nil })))
		got := result(t, def, engine(t, store, quick(def)))
		require.Equal(t, saga.Compensated, got.Status, "completed without a charge")
		require.Equal(t, int64(1), undone.Load())
	})
}

func TestStepsThatAreRefusedTogetherDecideNothing(t *testing.T) {
	t.Parallel()
	for range 50 { // whichever of them is heard of first
		refused := func(context.Context, *order) error { return saga.Reject(errors.New("no")) }
		def := saga.MustDefine("order", 1, saga.Parallel("both", saga.Retriable("a", refused), saga.Retriable("b", refused)))
		o := quick(def)
		o.Lease = time.Minute // to be held up for longer would be a doubt, and decide
		require.Equal(t, saga.Compensated, result(t, def, engine(t, saga.NewMemory(nil), o)).Status)
	}
}

// A step overruns its lease; the engine claims its own saga, waits for the step in vain
// and lets go of it; when the step has ended at last, the next owner is not told that
// there was one, and charges again.
func TestAnEngineThatWaitsForItselfPassesTheDoubtOn(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		charges, asked := 0, 0
		def := saga.MustDefine("order", 1,
			saga.Step("charge", func(context.Context, *order) error {
				if charges++; charges == 1 {
					time.Sleep(time.Minute) // it does not heed its context
				}
				return nil
			}).Undo(noop).Timeout(time.Second).Verify(func(context.Context, *order) (saga.Outcome, error) {
				asked++
				return saga.Applied, nil
			}))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		h, err := def.Start(ctx, e, "o1", order{}, nil)
		require.NoError(t, err)
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Completed, got.Status)
		require.Equal(t, 1, charges)
		require.Equal(t, 1, asked)
	})
}

// late holds back every Create until a saga was claimed.
type late struct {
	*saga.Memory
	claimed chan struct{}
}

func (l *late) Create(ctx context.Context, c []*saga.Create) error {
	<-l.claimed
	return l.Memory.Create(ctx, c)
}

func (l *late) Claim(ctx context.Context, c saga.Claim) ([]saga.Claimed, error) {
	claimed, err := l.Memory.Claim(ctx, c)
	if len(claimed) > 0 {
		close(l.claimed)
	}
	return claimed, err
}

// Both would find the saga's first token with the engine that runs it.
func TestASagaThatIsStartedAgainAndClaimedMeanwhileRunsOnce(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var calls, dead atomic.Int64
		def := saga.MustDefine("order", 1, saga.Pivot("charge", func(ctx context.Context, _ *order) error {
			calls.Add(1)
			time.Sleep(time.Second)
			if ctx.Err() != nil {
				dead.Add(1)
			}
			return nil
		}))
		o := &saga.Options{Definitions: []saga.Registered{def}}
		idle, err := saga.New(store, o)
		require.NoError(t, err)
		e, err := saga.New(&late{Memory: store, claimed: make(chan struct{})}, o)
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		time.Sleep(1500 * time.Millisecond) // between two polls
		_, err = def.Start(ctx, idle, "o1", order{}, nil)
		require.NoError(t, err)
		h, err := def.Start(ctx, e, "o1", order{}, nil)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, wait(t, h).Status)
		stop()
		require.EqualValues(t, 1, calls.Load())
		require.Zero(t, dead.Load())
	})
}

// The first step charges and its goroutine ends; who has started the saga hears nothing,
// and starts it again.
func TestToStartAgainIsNotToForgetADoubt(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		charges, asked := 0, 0
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error {
			if charges++; charges == 1 {
				runtime.Goexit()
			}
			return nil
		}).Undo(noop).Verify(func(context.Context, *order) (saga.Outcome, error) {
			asked++
			return saga.Applied, nil
		}))
		e, _, stop := start(t, store, def, saga.Options{})
		synctest.Wait()
		h, err := def.Start(context.Background(), e, "o1", order{}, nil)
		require.NoError(t, err)
		require.Equal(t, saga.Completed, wait(t, h).Status)
		stop()
		require.Equal(t, 1, charges, "charged again without a look-up")
		require.Equal(t, 1, asked)
	})
}

// A rule says no, and whoever calls it knows that the provider may have been asked before.
func TestADoubtAboutANoIsADoubt(t *testing.T) {
	no := saga.Reject(errors.New("no"))
	for name, c := range map[string]struct {
		err    error
		undone int
	}{
		"in doubt of a no":     {saga.InDoubt(no), 1},
		"a no and a timeout":   {errors.Join(no, context.DeadlineExceeded), 1},
		"no, after a timeout":  {saga.Reject(context.DeadlineExceeded), 0},
		"no, whatever it said": {saga.Reject(saga.InDoubt(errors.New("503"))), 0},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				undone := 0
				def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error { return c.err }).
					Undo(func(context.Context, *order) error { undone++; return nil }))
				_, h, stop := start(t, store, def, saga.Options{})
				require.Equal(t, saga.Compensated, wait(t, h).Status)
				stop()
				require.Equal(t, c.undone, undone)
			})
		})
	}
}

// A look-up reads half of the provider's answer into the data, and fails, or finds that
// nothing has happened. The step that is attempted again has its data as it was.
func TestALookUpLeavesNothingInTheDataOfTheNextAttempt(t *testing.T) {
	for name, answer := range map[string]error{"it fails": errPlain, "it says no": nil} {
		for _, beside := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", beside another ", beside), func(t *testing.T) {
				alone(t, func(t *testing.T, store *saga.Memory) {
					var seen []string
					charge := saga.Step("charge", func(_ context.Context, o *order) error {
						if seen = append(seen, o.Customer); len(seen) == 1 {
							return errLost
						}
						return nil
					}).Idempotent().Undo(noop).Verify(func(_ context.Context, o *order) (saga.Outcome, error) {
						o.Customer = "somebody else"
						return saga.NeverApplied, answer
					})
					part := saga.Part[order](charge)
					if beside {
						part = saga.Parallel("both", charge, saga.Step("reserve", noop).Undo(noop))
					}
					_, h, stop := start(t, store, saga.MustDefine("order", 1, part, saga.Pivot("confirm", noop)), saga.Options{})
					got := wait(t, h)
					stop()
					require.Equal(t, saga.Completed, got.Status)
					require.Equal(t, []string{"", ""}, seen)
					require.Empty(t, got.Data.Customer)
				})
			})
		}
	}
}

// Nor in that of the next compensation, where the provider is asked behind an Undo; what
// that has written is kept, and seen by who asks.
func TestALookUpBehindAnUndoLeavesNothingInTheData(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var seen, asked []string
		see := func(_ context.Context, o *order) error { seen = append(seen, o.Customer); return nil }
		def := saga.MustDefine("order", 1,
			saga.Step("reserve", func(_ context.Context, o *order) error { o.Customer = "ann"; return nil }).Undo(see),
			saga.Step("charge", func(context.Context, *order) error { return errLost }).Retry(saga.Retry{Attempts: 1}).
				Undo(func(_ context.Context, o *order) error { o.Charge = "refunded"; return nil }).
				Verify(func(_ context.Context, o *order) (saga.Outcome, error) {
					asked = append(asked, o.Charge)
					*o = order{Customer: "somebody else"}
					return saga.NeverApplied, nil
				}))
		_, h, stop := start(t, store, def, saga.Options{})
		got := wait(t, h)
		stop()
		require.Equal(t, saga.Compensated, got.Status)
		require.Equal(t, []string{"ann"}, seen)
		require.Equal(t, []string{"refunded"}, asked)
		require.Equal(t, order{Customer: "ann", Charge: "refunded"}, got.Data)
	})
}
