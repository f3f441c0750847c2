package saga

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// errStands is said of a step that its provider knows after it was undone.
var errStands = errors.New("the provider still says that it took effect")

// errUnasked is said of a step of which the provider was to be asked after it was undone.
var errUnasked = errors.New("it was undone, and the provider could not be asked whether it took effect since")

// back undoes the last step that stands, or may stand. It returns true if the saga
// goes on here. A compensation that is given up does not keep the others: they
// are undone first, and then a person is called.
func (r *run) back() bool {
	i := r.rec.at()
	if i < 0 {
		return r.endBack()
	}
	p, s := r.parts[i], &r.rec.Steps[i]
	s.Attempts++
	if p.undoTx != nil {
		return r.backTx(i)
	}
	msgs, err := r.attempt(p, s.Attempts, p.undo, r.data)
	if err == nil && s.Mark == Maybe && p.verify != nil {
		err = r.overtaken(i)
	}
	if err == nil {
		return r.undone(i, msgs)
	}
	r.blame(err)
	return r.undoFailed(i, r.rewind(err))
}

// overtaken asks the provider whether an attempt of which nobody knew has taken
// effect after it was undone:
//
//	the charge is sent, and slow; its time is up; the refund finds nothing to
//	refund and succeeds; the charge arrives: the customer has paid for nothing.
//
// Where it cannot be asked, the compensation is attempted again as if it had failed.
// What the look-up fills in is not kept, whatever its answer.
func (r *run) overtaken(i int) error {
	data := r.data
	if body, err := encode(r.data, r.rec.Data); err == nil { // else a person gets it
		if copied, err := r.program.read(body); err == nil {
			data = copied
		}
	}
	outcome, ev, _, err := r.verify(r.parts[i], r.rec.Steps[i].Attempts, data)
	r.event(ev.Kind, ev.Step, ev.Attempt, ev.Text)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errUnasked, err)
	case outcome == Applied:
		return errStands
	}
	return nil
}

func (r *run) undone(i int, msgs []Message) bool {
	r.markUndone(i)
	if err := r.encode(); err != nil {
		r.stick(r.parts[i].name, err)
	}
	return r.save(msgs...)
}

func (r *run) markUndone(i int) {
	s := &r.rec.Steps[i]
	s.Mark, s.At = Undone, r.elapsed()
	r.rec.Crashes = 0
	if r.rec.at() < 0 && r.rec.leftover() < 0 {
		r.rec.Status = Compensated
	}
}

// backTx undoes step i in the transaction of its checkpoint.
func (r *run) backTx(i int) bool {
	p := r.parts[i]
	more, err := r.transact(&transaction{
		run: r, part: p, attempt: r.rec.Steps[i].Attempts, mark: func() { r.markUndone(i) },
		work: func(ctx context.Context, tx any) error { return p.undoTx(ctx, tx, r.data) },
	})
	if err == nil {
		return more
	}
	return r.undoFailed(i, err)
}

// undoFailed waits for the next attempt, or gives the compensation up.
func (r *run) undoFailed(i int, err error) bool {
	p, s := r.parts[i], &r.rec.Steps[i]
	final := stands(err) || judge(err) == rejected || p.undoRetry.permanent(err) || s.Attempts >= p.undoRetry.Attempts || r.rec.Crashes >= r.e.o.MaxCrashes
	if !final {
		r.event(EventRetry, p.name, s.Attempts, text(err))
		return r.pause(p.undoRetry.delay(s.Attempts))
	}
	s.Mark, s.At = UndoFailed, r.elapsed()
	r.rec.Crashes = 0
	r.event(EventUndoFailed, p.name, s.Attempts, text(err))
	if r.rec.at() < 0 {
		return r.endBack()
	}
	return r.save()
}

// endBack ends a saga of which nothing is left that could be undone.
func (r *run) endBack() bool {
	if i := r.rec.leftover(); i >= 0 {
		r.stick(r.rec.Plan[i].Name, errors.New(gaveUp+r.rec.Error))
		return r.save()
	}
	r.rec.Status = Compensated
	return r.save()
}

// leftover is the index of a step whose compensation was given up, or -1.
func (r *Record) leftover() int {
	return slices.IndexFunc(r.Steps, func(s StepState) bool { return s.Mark == UndoFailed })
}
