package saga

import (
	"context"
	"errors"
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
			switch there, fault := r.hasChild(i); {
			case fault != nil: // nobody knows whether there is one
				s.Mark = Maybe
				s.Attempts--
				return r.pause(p.retry.First)
			case !there:
				if judge(err) == unknown {
					s.Mark = Maybe // it may be on its way
				}
				return r.childFailed(i, err)
			}
		}
		s.Mark = Waiting
	}
	rec, err := r.e.find(r.e.limited(), childID(r.rec, p.name))
	switch {
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

// hasChild reports whether step i has started its child, as far as the store knows,
// when it has failed to do so:
//
//	the child is started, and the answer lost; what it would be given now has another
//	time in it, and is refused as another saga; the step is given up, and undone; the
//	child goes on, and pays.
func (r *run) hasChild(i int) (bool, error) {
	rec, err := r.e.find(r.e.limited(), childID(r.rec, r.parts[i].name))
	switch {
	case errors.Is(err, ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	return rec.Parent == r.rec.ID, nil
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
// Where there is none, it may still be on its way, and the step is undone.
func (r *run) cancelChild(i int) (bool, error) {
	p, s := r.parts[i], &r.rec.Steps[i]
	if p.start == nil || s.Mark != Waiting && s.Mark != Maybe {
		return false, nil
	}
	if s.Mark == Maybe {
		if there, fault := r.hasChild(i); !there || fault != nil {
			return false, fault
		}
		s.Mark = Waiting
	}
	_ = r.e.deliver(r.e.limited(), childID(r.rec, p.name), cancelSignal, []byte("{}")) // it is over, or is told again at the next look
	return true, nil
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
	s.Mark = Maybe // it may be under way
	if v == rejected {
		s.Mark = NotApplied
	}
	return r.fail(i, err)
}
