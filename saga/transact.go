package saga

import (
	"bytes"
	"context"
	"errors"
	"slices"
)

// stepTx does step i in the transaction of its checkpoint.
func (r *run) stepTx(i int) bool {
	p := r.parts[i]
	s := &r.rec.Steps[i]
	s.Attempts++
	more, err := r.transact(&transaction{
		run: r, part: p, attempt: s.Attempts, mark: func() { r.settle(i) },
		work: func(ctx context.Context, tx any) error { return p.doTx(ctx, tx, r.data) },
	})
	if err == nil {
		return more
	}
	if stands(err) {
		s.Mark = Maybe
		r.event(EventFailed, p.name, s.Attempts, text(err))
		r.stick(p.name, err)
		return r.save()
	}
	v := judge(err)
	if r.again(i, failed, err) && v != rejected {
		return r.pause(r.retrying(i, err))
	}
	s.Mark = NotApplied // it was rolled back
	return r.fail(i, err)
}

// stands reports whether an error of work says that it may have been committed all the same:
//
//	a step sends COMMIT as text, and fails; it is taken for rolled back, and done again,
//	as often as it may; the saga goes back, and undoes none of it.
func stands(err error) bool {
	e, ok := errors.AsType[interface {
		error
		MayStand() bool
	}](err)
	return ok && e.MayStand()
}

// transaction is work that is committed with the checkpoint that mark makes of it.
type transaction struct {
	run     *run
	part    *part
	attempt int
	work    func(ctx context.Context, tx any) error
	mark    func()

	before Record // and its steps: what is to be restored when work is rolled back
	steps  Progress
	data   []byte // as the last call of the work has left it
	failed bool   // the last call of the work has
}

// errRolledBack ends the repetition of a write whose work has failed.
var errRolledBack = errors.New("saga: rolled back")

// transact commits t. err is that of the work: everything was rolled back.
func (r *run) transact(t *transaction) (more bool, err error) {
	t.before, t.steps = *r.rec, slices.Clone(r.rec.Steps)
	r.pack(false, 0, nil)
	more = r.persist(func(context.Context) error {
		// The work has the time of its step, and what is before and behind it that of a
		// call of the store:
		//
		//	the work takes a minute; the call of the store is over after half of one; the
		//	COMMIT fails, and everything is done again, for ever.
		ctx, cancel := context.WithTimeout(context.Background(), storeLimit+t.part.timeout)
		defer cancel()
		var broken error
		broken, err = t.save(ctx)
		return broken
	})
	switch {
	case err != nil:
		t.restore()
		r.blame(err)
		err = r.rewind(err)
	case !bytes.Equal(t.data, r.rec.Data):
		// The data in hand is that of an attempt that was not committed:
		//
		//	a COMMIT takes too long, and the work is called again; the COMMIT succeeds, and
		//	the second is rolled back; the next step goes by what that has left.
		r.kept = nil
		if more {
			err = r.decode()
		}
	}
	return more, err
}

func (t *transaction) restore() {
	*t.run.rec = t.before
	copy(t.run.rec.Steps, t.steps)
}

// save commits the work and its checkpoint, and tells an error of the store, or that
// it was rolled back, from one of the work, whatever that is:
//
//	a step lets a person's decision be done to another saga, which has changed meanwhile,
//	and returns [ErrFenced]; it is taken for this saga's, which is let go of; the next
//	owner does the same, until nobody is left who may.
func (t *transaction) save(ctx context.Context) (broken, err error) {
	t.failed = false
	err = t.run.e.store.(Transactor).SaveTx(ctx, &t.run.write, func(ctx context.Context, tx any) error {
		err := t.do(ctx, tx)
		t.failed = err != nil
		return err
	})
	if _, ok := errors.AsType[*StoreError](err); !t.failed && (ok || errors.Is(err, ErrFenced)) {
		return err, nil
	}
	if err != nil {
		return errRolledBack, err
	}
	return t.run.write.Err, nil
}

// do does the work, and makes the checkpoint.
func (t *transaction) do(_ context.Context, tx any) error {
	r := t.run
	t.data = nil
	t.restore() // not before: what was committed by a call whose answer was lost is done, and stays so
	r.rec.Revision++
	if err := r.decode(); err != nil {
		return err
	}
	msgs, err := r.attempt(t.part, t.attempt, func(ctx context.Context, _ any) error { return t.work(ctx, tx) }, nil)
	if err != nil {
		return err
	}
	t.mark()
	if err := r.encode(); err != nil {
		return err
	}
	t.data = r.rec.Data
	r.write.Messages, r.write.Due = msgs, 0
	r.write.Release = r.rec.Status.Over() || r.e.stopped()
	return nil
}
