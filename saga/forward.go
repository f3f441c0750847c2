package saga

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// forward does the next step. It returns true if the saga goes on here.
func (r *run) forward() bool {
	i := r.rec.at()
	if i < 0 { // it was resolved by a person, or ended in Pure steps
		r.rec.Status = Completed
		return r.save()
	}
	// Pure steps in front of the pivot are written before it begins:
	//
	//	a saga is started, and computes a price, which takes a while; it is cancelled
	//	meanwhile, and the canceller told so; nothing was written since, so that its owner
	//	has not heard of it, and charges.
	//
	// That may take as long as our lease, and another owner charge meanwhile.
	if r.unwritten && r.decides(i) && (!r.save() || !r.holds()) {
		return false
	}
	if kind, reason := r.turned(); kind != "" {
		if free, more := r.childless(r.underWay(i)); !free {
			return more
		}
		r.event(kind, "", 0, reason)
		return r.goBack("", reason)
	}
	switch p := r.parts[i]; {
	case p.group > 0:
		return r.parallel(i)
	case p.wait != nil:
		return r.waiting(i)
	case p.start != nil:
		return r.child(i)
	case p.doTx != nil:
		return r.stepTx(i)
	default:
		return r.step(i)
	}
}

// turned tells whether the saga is to go back for another reason than a step. It
// asks between steps only, so that nothing that was done is forgotten: what a step
// has done is written first and undone then.
func (r *run) turned() (EventKind, string) {
	if r.decided() {
		return "", "" // there is no way back, or perhaps none
	}
	if r.rec.cancelled() {
		return EventCancelled, r.rec.Error
	}
	if _, ok := r.rec.Signals[cancelSignal]; ok {
		return EventCancelled, "it was cancelled"
	}
	if d := r.rec.DeadlineAfter; d > 0 && r.elapsed() >= d {
		return EventDeadline, fmt.Sprintf("it took longer than %v", d)
	}
	return "", ""
}

// decided reports whether the pivot, or what is behind or beside it, has happened or
// may have. The pivot may have been done by an owner that died before it was written, and
// with it the Pure steps in front of it, which are to be done again:
//
//	the price is computed; the transfer is made; the owner dies; the next one computes
//	the price again, and finds that the saga was cancelled, or that there is no price.
//
// Nor is there a way back from a step that a person has passed over: what it has done stays.
func (r *run) decided() bool {
	return slices.ContainsFunc(r.rec.Steps[r.rec.Plan.pivot():], func(s StepState) bool { return s.happened() || s.Mark == Skipped })
}

// decides reports whether the pivot is among what is begun with step i.
func (r *run) decides(i int) bool {
	plan, pivot := r.rec.Plan, r.rec.Plan.pivot()
	return i == pivot || pivot < len(plan) && plan[i].Group > 0 && plan[i].Group == plan[pivot].Group
}

// step makes one attempt of step i.
func (r *run) step(i int) bool {
	t := trial{i: i, state: r.rec.Steps[i], data: r.data, base: r.rec.Data}
	t.state.Attempts++
	r.try(&t)
	r.take(&t)
	if t.v == applied {
		r.data = t.data
		return r.applied(i, t.msgs)
	}
	t.err = r.rewind(t.err)
	if r.again(i, t.v, t.err) {
		return r.pause(r.retrying(i, t.err))
	}
	return r.fail(i, t.err)
}

// retrying notes that step i is attempted again, and returns after which time.
func (r *run) retrying(i int, err error) time.Duration {
	p, n := r.parts[i], r.rec.Steps[i].Attempts
	r.event(EventRetry, p.name, n, text(err))
	return p.retry.delay(n)
}

// again reports whether another attempt is to be made.
func (r *run) again(i int, v verdict, err error) bool {
	p, s := r.parts[i], r.rec.Steps[i]
	switch {
	case r.rec.Crashes >= r.e.o.MaxCrashes, s.Attempts >= p.retry.Attempts, p.retry.permanent(err):
		return false
	case v == failed:
		return true
	case v == unknown:
		return p.repeatable() || p.verify != nil
	}
	return false
}

// applied marks step i as done and writes that, together with the end of the saga if
// it is the last.
func (r *run) applied(i int, msgs []Message) bool {
	r.settle(i)
	if err := r.encode(); err != nil { // it has happened: that must be kept, though its data cannot
		r.stick(r.parts[i].name, err)
		return r.save(msgs...)
	}
	if r.rec.Status != Completed && r.parts[i].kind == KindPure && len(msgs)+len(r.events) == 0 && !r.e.stopped() {
		r.unwritten = true
		return true
	}
	return r.save(msgs...)
}

// settle marks step i as done, and the saga as completed if it was the last.
func (r *run) settle(i int) {
	s := &r.rec.Steps[i]
	s.Mark, s.At = Done, r.elapsed()
	r.rec.Crashes = 0
	if r.rec.at() < 0 {
		r.rec.Status, r.rec.Error = Completed, ""
	}
}

// fail gives step i up: the saga goes back, or to a person if it cannot.
func (r *run) fail(i int, err error) bool {
	p, s := r.parts[i], &r.rec.Steps[i]
	poison := r.rec.Crashes >= r.e.o.MaxCrashes
	back := !r.decided() && (i < r.rec.Plan.pivot() || s.Mark == NotApplied)
	if j := r.underWay(i); j != i && back && !poison {
		if r.rec.Steps[j].Mark == Maybe { // else it was said
			r.event(EventFailed, p.name, s.Attempts, text(err))
		}
		mark := s.Mark
		s.Mark = Open // it is done again when the child is over
		if free, more := r.childless(j); !free {
			return more
		}
		s.Mark = mark
	}
	r.event(EventFailed, p.name, s.Attempts, text(err))
	if !back || poison {
		r.stick(p.name, err)
		return r.save()
	}
	return r.goBack(p.name, text(err))
}

// goBack begins to undo. The step that failed is undone with the others if it may
// have happened.
func (r *run) goBack(step, reason string) bool {
	r.rec.Status, r.rec.Undoing, r.rec.Failed, r.rec.Error = Compensating, true, step, reason
	r.rec.Crashes = 0
	for i := range r.rec.Steps {
		r.rec.Steps[i].Attempts = 0
	}
	if r.rec.at() < 0 {
		r.rec.Status = Compensated
	}
	return r.save()
}

// waiting lets the time of a Sleep pass, or that of an Await until its signal comes.
// No process holds the saga meanwhile.
func (r *run) waiting(i int) bool {
	p, s := r.parts[i], &r.rec.Steps[i]
	if payload, ok := r.rec.Signals[p.name]; ok && p.on != nil {
		return r.heard(i, func() error { return p.on(r.data, payload) })
	}
	if s.Mark == Open {
		var d time.Duration
		_, err := r.attempt(p, 1, func(context.Context, any) error { d = max(0, p.wait(r.data)); return nil }, nil)
		if err != nil {
			return r.fail(i, r.rewind(err))
		}
		s.Mark, s.At = Waiting, r.elapsed()
		s.At += min(d, maxAt-s.At).Truncate(time.Microsecond)
	}
	// Of an Await whose time was not over when the store was asked, it is asked again:
	//
	//	another signal wakes the saga up; its owner is held up until the time is over;
	//	meanwhile the signal has come, in time.
	if left := max(0, s.At-r.elapsed()); left > 0 || p.on != nil && r.age < s.At {
		r.rec.Status = Suspended
		if err := r.encode(); err != nil { // it may have changed the data
			return r.fail(i, r.rewind(err))
		}
		if d := r.rec.DeadlineAfter; d > 0 && i < r.rec.Plan.pivot() {
			left = min(left, max(0, d-r.elapsed()))
		}
		r.release(left)
		return false
	}
	switch {
	case p.on == nil:
		return r.applied(i, nil)
	case p.late != nil:
		return r.heard(i, func() error { return p.late(r.data) })
	default:
		return r.heard(i, func() error { return Reject(errors.New("no signal came in time")) })
	}
}

// heard ends an Await with what f makes of the signal, or of its absence.
func (r *run) heard(i int, f func() error) bool {
	_, err := r.attempt(r.parts[i], 1, func(context.Context, any) error { return f() }, nil)
	if err == nil {
		return r.applied(i, nil)
	}
	r.rec.Steps[i].Mark = NotApplied
	return r.fail(i, r.rewind(err))
}
