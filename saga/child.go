package saga

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// childPoll is how often a parent looks at a child whose end it was not told of.
const childPoll = 5 * time.Second

func childID(parent *Record, step string) string { return parent.ID + "/" + step }

// child starts the child of step i, and waits for its end without an owner. The
// child has an id of its own that follows from its parent's: to start it twice is to
// start it once.
func (r *run) child(i int) bool {
	p, s := r.parts[i], &r.rec.Steps[i]
	if s.Mark != Waiting {
		s.Attempts++
		_, err := r.attempt(p, s.Attempts, func(ctx context.Context, data any) error {
			return p.start(ctx, r.e, r.rec, data)
		}, r.data)
		if err != nil {
			err = r.rewind(err)
			switch _, fault := r.findChild(i); {
			case errors.Is(fault, ErrNotFound):
				if judge(err) == unknown {
					s.Mark = Maybe // it may be on its way
				}
				return r.childFailed(i, err)
			case fault != nil && !errors.Is(fault, ErrConflict) && !errors.Is(fault, errBuried): // nobody knows whether there is one
				s.Mark = Maybe
				s.Attempts--
				return r.pause(p.retry.First)
			}
		}
		s.Mark = Waiting
	}
	rec, err := r.findChild(i)
	switch {
	case errors.Is(err, ErrConflict), errors.Is(err, errBuried):
		return r.childFailed(i, Reject(err)) // what has its id keeps it from coming
	case errors.Is(err, ErrNotFound):
		s.Mark = Open // it was removed by hand
		return r.pause(p.retry.First)
	case err != nil || rec.Status != Completed && rec.Status != Compensated:
		r.rec.Status = Suspended
		s.At = r.elapsed() + childPoll
		r.release(childPoll)
		return false
	}
	_, err = r.attempt(p, max(1, s.Attempts), func(_ context.Context, data any) error { return p.ended(data, rec) }, r.data)
	if err != nil {
		return r.childFailed(i, err)
	}
	return r.applied(i, nil)
}

// findChild reads the child of step i. What the step would give it now does not matter:
//
//	the child is started, and the answer lost; what it would be given now has another
//	time in it, and is refused as another saga; the step is given up, and undone; the
//	child goes on, and pays.
//
// A saga of its id that is somebody else's is an [ErrConflict], whatever its data:
//
//	somebody starts the saga "o1/inner" and pays; "o1" starts its child, and hears that it
//	is there; it is cancelled: it refunds what somebody else has paid.
func (r *run) findChild(i int) (*Record, error) {
	id := childID(r.rec, r.parts[i].name)
	rec, err := r.e.find(r.e.limited(), id)
	if err == nil && rec.Parent != r.rec.ID {
		return nil, fmt.Errorf("%w: %s is no child of this saga", ErrConflict, id)
	}
	if err == nil && rec.Fingerprint == [32]byte{} {
		return nil, fmt.Errorf("%w: %s", errBuried, id)
	}
	return rec, err
}

var errBuried = errors.New("its parent has given it up before it came")

// bury takes the id of a child that may be on its way, so that it does not come:
//
//	the create of a child is late; its parent finds none, goes back, and has nothing to
//	undo; the child comes, and pays.
//
// What has the id then is a saga that goes back, has nothing to undo, and no fingerprint.
// False: the child was first.
func (r *run) bury(i int) (bool, error) {
	child := r.parts[i].child
	rec := &Record{
		ID: childID(r.rec, r.parts[i].name), BusinessID: r.rec.BusinessID, Definition: child.name, Version: child.version, Plan: child.plan,
		Parent: r.rec.ID, Status: Compensating, Undoing: true, Steps: make(Progress, len(child.plan)), Error: errBuried.Error(), Data: []byte("null"),
	}
	for n := range rec.Steps {
		rec.Steps[n].Mark = Open
	}
	c := &Create{Record: rec}
	if err := r.e.store.Create(r.e.limited(), []*Create{c}); err != nil {
		return false, err
	}
	if errors.Is(c.Err, ErrConflict) {
		return false, nil
	}
	return c.Err == nil, c.Err
}

// cancelChild cancels the child that step i waits for, and reports whether there is
// one. Its end decides what there is to undo:
//
//	the parent is cancelled, and goes back; the child goes on, and pays.
//
// One that the store was to start, and of which there is no answer, is looked for:
//
//	the child is started; the owner of its parent dies before that is written; the
//	parent is cancelled, and has no child to cancel and to undo; the child pays.
//
// Where there is none, it may still be on its way, and is buried.
func (r *run) cancelChild(i int) (bool, error) {
	p, s := r.parts[i], &r.rec.Steps[i]
	if p.start == nil || s.Mark != Waiting && s.Mark != Maybe {
		return false, nil
	}
	_, fault := r.findChild(i)
	buried := errors.Is(fault, errBuried)
	if errors.Is(fault, ErrNotFound) && s.Mark == Maybe {
		buried, fault = r.bury(i)
	}
	switch {
	case errors.Is(fault, ErrConflict), buried:
		s.Mark = NotApplied
		return false, nil
	case fault != nil && !errors.Is(fault, ErrNotFound):
		return false, fault
	}
	s.Mark = Waiting
	_ = r.e.deliver(r.e.limited(), childID(r.rec, p.name), cancelSignal, []byte("{}")) // it is over, or is told again at the next look
	return true, nil
}

// underWay is the index of a child that may be under way when step i is next, or i. It
// stands behind Pure steps that its starter had done, and died before they were written:
//
//	the price is computed, and the child started; the owner dies; the next one computes
//	the price again, and hears that the saga is cancelled, or that there is no price; it
//	undoes what the child may have done; the child goes on, and pays.
func (r *run) underWay(i int) int {
	for j, s := range r.rec.Steps[i:] {
		switch kind := r.rec.Plan[i+j].Kind; {
		case kind == KindChild && (s.Mark == Maybe || s.Mark == Waiting):
			return i + j
		case kind != KindPure && s.ahead():
			return i
		}
	}
	return i
}

// childless reports whether nothing is under way in step i, so that the saga may go back.
// A child is cancelled, and waited for; more is whether the saga goes on here meanwhile.
func (r *run) childless(i int) (free, more bool) {
	switch there, fault := r.cancelChild(i); {
	case fault != nil:
		return false, r.pause(r.parts[i].retry.First)
	case there:
		return false, r.child(i)
	}
	return true, false
}

func (r *run) childFailed(i int, err error) bool {
	p, s := r.parts[i], &r.rec.Steps[i]
	v := judge(err)
	err = r.rewind(err)
	if v != rejected && s.Attempts < p.retry.Attempts {
		if s.Mark == Waiting { // its end is looked at again; a start has counted itself
			s.Attempts++
		}
		return r.pause(r.retrying(i, err))
	}
	if s.Mark == Maybe {
		switch buried, fault := r.bury(i); {
		case fault != nil:
			return r.pause(p.retry.First)
		case !buried:
			return r.pause(0) // and it is found
		}
		v = rejected
	}
	s.Mark = Maybe // it may be under way
	if v == rejected {
		s.Mark = NotApplied
	}
	return r.fail(i, err)
}
