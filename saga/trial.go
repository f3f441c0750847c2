package saga

import (
	"context"
	"errors"
)

// trial is one attempt of a step. It touches nothing of its run, so that several can
// be made at the same time.
type trial struct {
	i     int
	state StepState // of the step: what is known after the trial
	data  any
	base  []byte // what data was read from
	msgs  []Message
	v     verdict
	err   error

	events []Event
	panics int
}

// take brings what a trial has found into the record.
func (r *run) take(t *trial) {
	r.rec.Steps[t.i] = t.state
	r.rec.Crashes += t.panics
	for _, ev := range t.events {
		r.event(ev.Kind, ev.Step, ev.Attempt, ev.Text)
	}
}

// try makes one attempt of a step, which its caller has counted, once it is clear what
// became of the last one. It sets the mark of the step, but for Done.
func (r *run) try(t *trial) {
	p, s := r.parts[t.i], &t.state
	if s.Mark == Maybe {
		if t.v, t.err = r.doubtful(t); t.v != failed {
			return
		}
		if !r.holds() { // the look-up may have taken long
			t.v, t.err = unknown, ErrFenced
			return
		}
	}
	t.msgs, t.err = r.attempt(p, s.Attempts, p.do, t.data)
	t.v = judge(t.err)
	switch {
	case t.v == rejected && (s.Mark == Open || p.idempotent && !p.undoable()):
		// Of a step that is not idempotent, an earlier attempt may have gone through. What
		// can be undone is undone also where it is: the no may be the caller's own, said
		// before the provider was asked.
		s.Mark = NotApplied
	case t.v == failed && s.Mark == Open:
		s.Mark = Failed
	case t.v == unknown && p.kind != KindPure:
		s.Mark = Maybe
	}
	if _, ok := errors.AsType[*panicked](t.err); ok {
		t.panics++
	}
}

var errDoubt = errors.New("nobody knows whether it took effect, and it has neither Verify nor Idempotent")

// doubtful is for a step of which nobody knows whether an attempt took effect. This
// is how a charge would be doubled:
//
//	the provider charges the card; its answer is lost, or we die before the
//	checkpoint; the step is attempted again, and the card charged again.
//
// So the provider is asked first. If it does not know, or cannot be asked, only a
// step that has its effect once per key is attempted again. The verdict is applied,
// unknown, or failed for one that may be attempted.
func (r *run) doubtful(t *trial) (verdict, error) {
	p := r.parts[t.i]
	if p.verify == nil {
		if p.repeatable() {
			return failed, nil
		}
		return unknown, errDoubt
	}
	outcome, ev, msgs, err := r.verify(p, t.state.Attempts, t.data)
	t.events = append(t.events, ev)
	if outcome == Applied {
		t.msgs = msgs // the step is done, and has published nothing else that is kept
		return applied, nil
	}
	// It may have filled in half of the data, and failed then:
	//
	//	the provider's answer ends behind the amount; the step is attempted again, and
	//	charges that.
	var fault error
	if t.data, fault = r.program.read(t.base); fault != nil {
		return unknown, errors.Join(fault, err)
	}
	switch {
	case outcome == NeverApplied:
		t.state.Mark = Open
		return failed, nil
	case p.repeatable():
		return failed, nil
	}
	return unknown, errors.Join(errors.New("the provider does not know whether it took effect"), err)
}

// verify asks the provider, always by the key of the step:
//
//	the charge is in doubt and undone; the provider is asked about the key of the
//	refund, and has not heard of it: the charge that arrives now is overlooked.
func (r *run) verify(p *part, attempt int, data any) (outcome Outcome, ev Event, msgs []Message, err error) {
	msgs, err = r.called(&callCtx{run: r, part: p, attempt: attempt, verify: true}, func(ctx context.Context, data any) (err error) {
		outcome, err = p.verify(ctx, data)
		return err
	}, data)
	ev = Event{Kind: EventVerified, Step: p.name, Attempt: attempt}
	switch {
	case err != nil:
		outcome, ev.Text = Unknown, "the provider could not be asked: "+text(err)
	case outcome == Applied:
		ev.Text = "the provider says that it took effect"
	case outcome == NeverApplied:
		ev.Text = "the provider says that it took no effect"
	default:
		outcome, ev.Text = Unknown, "the provider does not know"
	}
	return outcome, ev, msgs, err
}
