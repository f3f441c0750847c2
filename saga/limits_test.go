package saga_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// punctual is a store that commits nothing when the context of the call is over.
type punctual struct{ *saga.Memory }

func (p punctual) SaveTx(ctx context.Context, w *saga.Write, work func(context.Context, any) error) error {
	var late error
	err := p.Memory.SaveTx(ctx, w, func(ctx context.Context, tx any) error {
		if err := work(ctx, tx); err != nil {
			return err
		}
		late = ctx.Err()
		return late
	})
	if late != nil {
		return &saga.StoreError{Cause: late}
	}
	return err
}

// A transaction may take as long as its step: the call of the store is not over before.
func TestATransactionMayTakeAsLongAsItsStep(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var tries atomic.Int64
		def := saga.MustDefine("order", 1,
			saga.StepTx("book", func(_ context.Context, _ *saga.MemoryTx, _ *order) error {
				if tries.Add(1) > 3 {
					return saga.Reject(errors.New("enough"))
				}
				time.Sleep(time.Minute)
				return nil
			}).Timeout(2*time.Minute).Undo(func(context.Context, *saga.MemoryTx, *order) error { return nil }),
			saga.Pivot("confirm", noop))
		_, h, end := start(t, punctual{store}, def, saga.Options{})
		defer end()
		require.Equal(t, saga.Completed, wait(t, h).Status)
		require.EqualValues(t, 1, tries.Load())
	})
}

// A wait of centuries neither ends at once nor makes a record that cannot be read.
func TestAWaitThatIsLongerThanATimeCanBe(t *testing.T) {
	for _, d := range []time.Duration{math.MaxInt64, 40 * 365 * 24 * time.Hour} {
		t.Run(d.String(), func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				def := saga.MustDefine("order", 1, saga.Step("charge", noop).Undo(noop), saga.Sleep("sleep", func(*order) time.Duration { return d }), saga.Pivot("confirm", noop))
				e, h, end := start(t, store, def, saga.Options{})
				defer end()
				time.Sleep(time.Hour)
				rec, err := e.Admin().Inspect(t.Context(), h.ID())
				require.NoError(t, err)
				require.Equal(t, saga.Suspended, rec.Status)
				text, err := rec.Steps.AppendText(nil)
				require.NoError(t, err)
				var read saga.Progress
				require.NoError(t, read.UnmarshalText(text))
				require.Equal(t, rec.Steps, read)
				require.NoError(t, e.Cancel(t.Context(), h.ID()))
				require.Equal(t, saga.Compensated, wait(t, h).Status)
			})
		})
	}
}

type text struct{ A, B string }

// Each branch stays within a record's limit, and both together do not.
func TestBranchesTogetherAreTooLarge(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		large := strings.Repeat("x", 600<<10)
		none := func(context.Context, *text) error { return nil }
		def := saga.MustDefine("text", 1, saga.Parallel("both",
			saga.Step("a", func(_ context.Context, d *text) error { d.A = large; return nil }).Undo(none),
			saga.Step("b", func(_ context.Context, d *text) error { d.B = large; return nil }).Undo(none)))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		defer stop()
		h, err := def.Start(ctx, e, "o1", text{}, nil)
		require.NoError(t, err)
		got, err := h.Wait(ctx)
		require.NoError(t, err)
		require.Equal(t, saga.Stuck, got.Status)
		require.ErrorContains(t, got.Err(), "more than 1048576")
		rec, err := e.Admin().Inspect(ctx, "o1")
		require.NoError(t, err)
		require.LessOrEqual(t, len(rec.Data), 1<<20)
		require.Equal(t, saga.Done, rec.Steps[0].Mark)
		require.Equal(t, saga.Done, rec.Steps[1].Mark)
	})
}

// The provider's answer is no UTF-8, and goes into the data as it came. What was charged
// is known to be, and what is done in a transaction is rolled back.
func TestDataThatNoStoreCouldKeepDoesNotForgetItsStep(t *testing.T) {
	type receipt struct{ Raw json.RawMessage }
	answer := json.RawMessage("\"\xff\"")
	outside := saga.Step("charge", func(_ context.Context, r *receipt) error { r.Raw = answer; return nil }).
		Undo(func(context.Context, *receipt) error { return nil })
	inside := saga.StepTx("charge", func(_ context.Context, _ *saga.MemoryTx, r *receipt) error { r.Raw = answer; return nil }).
		Undo(func(context.Context, *saga.MemoryTx, *receipt) error { return nil })
	for name, c := range map[string]struct {
		step   saga.Part[receipt]
		status saga.Status
		mark   saga.Mark
	}{"outside": {outside, saga.Stuck, saga.Done}, "in a transaction": {inside, saga.Compensated, saga.NotApplied}} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				def := saga.MustDefine("order", 1, c.step)
				e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
				require.NoError(t, err)
				ctx, stop := runs(t, e)
				defer stop()
				_, err = def.Start(ctx, e, "o1", receipt{Raw: answer}, nil)
				require.ErrorContains(t, err, "not UTF-8")
				h, err := def.Start(ctx, e, "o1", receipt{}, nil)
				require.NoError(t, err)
				got, err := h.Wait(ctx)
				require.NoError(t, err)
				require.Equal(t, c.status, got.Status)
				require.ErrorContains(t, got.Err(), "not UTF-8")
				rec, err := e.Admin().Inspect(ctx, "o1")
				require.NoError(t, err)
				require.Equal(t, c.mark, rec.Steps[0].Mark)
				require.JSONEq(t, `{"Raw": null}`, string(rec.Data))
			})
		})
	}
}

// The same of a compensation: it is done, and what it has found out cannot be kept.
func TestDataThatNoStoreCouldKeepDoesNotForgetACompensation(t *testing.T) {
	type rate struct{ Fee float64 }
	alone(t, func(t *testing.T, store *saga.Memory) {
		none := func(context.Context, *rate) error { return nil }
		def := saga.MustDefine("order", 1,
			saga.Step("reserve", none).Undo(none),
			saga.Step("charge", none).Undo(func(_ context.Context, r *rate) error { r.Fee = math.NaN(); return nil }),
			saga.Pivot("confirm", func(context.Context, *rate) error { return errNo }))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		defer stop()
		h, err := def.Start(ctx, e, "o1", rate{}, nil)
		require.NoError(t, err)
		got, err := h.Wait(ctx)
		require.NoError(t, err)
		require.Equal(t, saga.Stuck, got.Status)
		require.ErrorContains(t, got.Err(), "NaN")
		rec, err := e.Admin().Inspect(ctx, "o1")
		require.NoError(t, err)
		require.Equal(t, []saga.Mark{saga.Done, saga.Undone}, []saga.Mark{rec.Steps[0].Mark, rec.Steps[1].Mark})
	})
}

func TestATopicThatNoStoreCouldKeepIsRefused(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := saga.MustDefine("order", 1, saga.Pivot("confirm", func(ctx context.Context, _ *order) error {
			for _, topic := range []string{"", "a\x00b", "\xff", strings.Repeat("x", 256)} {
				_, ok := errors.AsType[*saga.InputError](saga.Publish(ctx, topic, nil))
				require.True(t, ok, "%q", topic)
			}
			return nil
		}))
		_, h, end := start(t, store, def, saga.Options{})
		defer end()
		require.Equal(t, saga.Completed, wait(t, h).Status)
	})
}

// unreadable is data whose code refuses to read what it has written.
type unreadable struct{ Sealed bool }

func (u *unreadable) UnmarshalJSON(b []byte) error {
	if !bytes.Contains(b, []byte("true")) {
		return nil
	}
	return errors.New("it is sealed")
}

// What one process has written the next cannot read: a person must see that.
func TestDataThatCannotBeReadIsAPersonsBusiness(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := saga.MustDefine("order", 1, saga.Step("seal", func(_ context.Context, u *unreadable) error { u.Sealed = true; return nil }).
			Undo(func(context.Context, *unreadable) error { return nil }),
			saga.Sleep("pause", func(*unreadable) time.Duration { return time.Hour }))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		defer stop()
		_, err = def.Start(ctx, e, "o1", unreadable{}, nil)
		require.NoError(t, err)
		time.Sleep(2 * time.Hour)
		rec, err := e.Admin().Inspect(ctx, "o1")
		require.NoError(t, err)
		require.Equal(t, saga.Stuck, rec.Status)
		require.Contains(t, rec.Error, "does not unmarshal: it is sealed")
	})
}

// The attempts of a branch are counted also where it does not come to its function.
func TestABranchThatCannotReadItsDataIsNotTriedForEver(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		none := func(context.Context, *unreadable) error { return nil }
		def := saga.MustDefine("order", 1, saga.Pure("seal", func(_ context.Context, u *unreadable) error { u.Sealed = true; return nil }),
			saga.Parallel("both", saga.Retriable("a", none), saga.Retriable("b", none)))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}, Lease: 10 * time.Minute}) // it waits in hand
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		defer stop()
		h, err := def.Start(ctx, e, "o1", unreadable{}, nil)
		require.NoError(t, err)
		_, err = h.Wait(ctx)
		require.ErrorContains(t, err, "it is sealed")
		rec, err := e.Admin().Inspect(ctx, "o1")
		require.NoError(t, err)
		require.Equal(t, saga.Stuck, rec.Status)
		require.Zero(t, rec.Crashes)
		require.Equal(t, 20, rec.Steps[1].Attempts)
	})
}

// A branch is done, and its data panics; another is under way, and takes longer than a
// lease. It is not left behind: the next owner would begin it beside itself.
func TestAPanicBesideABranchWaitsForIt(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		var under, most atomic.Int64
		def := saga.MustDefine("poisonous", 1, saga.Parallel("both",
			saga.Retriable("quick", func(_ context.Context, p *poisonous) error { p.Written = true; return nil }),
			saga.Retriable("slow", func(context.Context, *poisonous) error {
				most.Store(max(most.Load(), under.Add(1)))
				defer under.Add(-1)
				time.Sleep(25 * time.Second)
				return nil
			})))
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, stop := runs(t, e)
		defer stop()
		h, err := def.Start(ctx, e, "o1", poisonous{}, nil)
		require.NoError(t, err)
		got, err := h.Wait(ctx)
		require.NoError(t, err)
		require.Equal(t, saga.Stuck, got.Status)
		require.EqualValues(t, 1, most.Load())
	})
}

// poisonous is data whose code panics.
type poisonous struct{ Written, Read bool }

func (p poisonous) MarshalJSON() ([]byte, error) {
	if p.Written {
		panic("written")
	}
	type plain poisonous
	return json.Marshal(plain(p))
}

func (p *poisonous) UnmarshalJSON(b []byte) error {
	type plain poisonous
	if err := json.Unmarshal(b, (*plain)(p)); err != nil {
		return err
	}
	if p.Read {
		panic("read")
	}
	return nil
}

// The caller's code is called outside of steps too. Its panic is the saga's, as that of
// a step, and not the end of the process with all the others that it has in hand.
func TestAPanicOutsideOfAStepIsContained(t *testing.T) {
	none := func(context.Context, *poisonous) error { return nil }
	write := func(_ context.Context, p *poisonous) error { p.Written = true; return nil }
	read := func(_ context.Context, p *poisonous) error { p.Read = true; return nil }
	odd := func(context.Context, *poisonous) error { return errors.New("odd") }
	for name, step := range map[string][]saga.Part[poisonous]{
		"data that cannot be written": {saga.Step("a", write).Undo(none).Idempotent()},
		"data that cannot be read":    {saga.Step("a", read).Undo(none).Idempotent()},
		"nor by a branch":             {saga.Step("a", read).Undo(none), saga.Parallel("p", saga.Step("c", none).Undo(none), saga.Step("d", none).Undo(none))},
		"a judge of errors":           {saga.Step("a", odd).Undo(none).Idempotent().Retry(saga.Retry{Permanent: func(error) bool { panic("judged") }})},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, store *saga.Memory) {
				def := saga.MustDefine("poisonous", 1, append(step, saga.Pivot("b", odd).Retry(saga.Retry{Attempts: 2}).Idempotent())...)
				e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
				require.NoError(t, err)
				ctx, stop := runs(t, e)
				defer stop()
				_, err = def.Start(ctx, e, "o1", poisonous{}, nil)
				require.NoError(t, err)
				time.Sleep(3 * time.Minute)
				rec, err := e.Admin().Inspect(ctx, "o1")
				require.NoError(t, err)
				want := saga.Stuck
				if name == "nor by a branch" {
					want = saga.Compensated // it is not repeated
				}
				require.Equal(t, want, rec.Status)
			})
		})
	}
}
