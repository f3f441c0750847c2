package saga

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// save writes a checkpoint. It returns true if the saga goes on here: not if it is
// over, was released because the engine is stopping, or belongs to somebody else.
func (r *run) save(msgs ...Message) bool {
	if r.rec.Status.Over() {
		return r.put(true, -1, msgs)
	}
	return r.put(r.e.stopped(), 0, msgs)
}

// release writes a checkpoint and lets go of the saga until it is due again.
func (r *run) release(due time.Duration) { r.put(true, due, nil) }

func (r *run) put(release bool, due time.Duration, msgs []Message) bool {
	r.pack(release, due, msgs)
	return r.persist(nil)
}

// pack makes the next checkpoint.
func (r *run) pack(release bool, due time.Duration, msgs []Message) {
	r.rec.Revision++
	r.write = Write{Record: r.rec, Release: release, Due: due, Seen: r.seen, Events: r.events, Messages: msgs}
}

// persist repeats a write until the store has answered. What a step has done is not
// given up because the database is away: this is how a charge would be lost.
//
//	the step charges the card; the checkpoint fails; the saga is dropped;
//	it is taken up later from the checkpoint before, and charges again.
//
// If the process dies all the same, the saga is taken up in doubt of that step. While
// it waits here it holds the saga only as long as nobody else has claimed it: the
// write is fenced.
func (r *run) persist(write func(context.Context) error) bool {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := r.persistOnce(write)
		switch {
		case err == nil:
			return r.written()
		case errors.Is(err, ErrFenced):
			r.lose()
			return false
		case errors.Is(err, errRolledBack):
			return false
		}
		if refused, ok := errors.AsType[*InputError](err); ok { // it will not be taken ever
			r.e.log.Error("a checkpoint was refused", slog.String("saga", r.rec.ID), slog.Any("error", refused))
			return false
		}
		r.e.log.LogAttrs(context.Background(), urgency(err), "a checkpoint failed, and is repeated", slog.String("saga", r.rec.ID), slog.Any("error", err))
		if !r.e.rest(wait) {
			return false
		}
	}
}

// urgency is how loudly it is told that a checkpoint failed. A store that is away comes
// back by itself. What it refuses is repeated too, as it knows what has happened, and
// nobody else does; but it takes a person to make room for it:
//
//	an operator adds a CHECK to the table; a step charges, and its checkpoint violates
//	that; it is repeated until the CHECK is gone.
func urgency(err error) slog.Level {
	if r, ok := errors.AsType[retrier](err); ok && !r.Retryable() {
		return slog.LevelError
	}
	return slog.LevelWarn
}

// persistOnce calls write, or else saves r.write. The engine's end does not cut it
// short: it may be the result of the last step before it.
func (r *run) persistOnce(write func(context.Context) error) error {
	ctx := r.e.limited()
	if write != nil {
		return write(ctx)
	}
	if err := r.e.store.Save(ctx, r.writes[:]); err != nil {
		return err
	}
	return r.write.Err
}

// written is told that the store has the checkpoint.
func (r *run) written() bool {
	r.events, r.unwritten = r.events[:0:0], false
	fresh := len(r.write.Signals) > r.seen
	if r.write.Signals != nil {
		r.rec.Signals, r.seen = r.write.Signals, len(r.write.Signals)
	}
	switch {
	case r.rec.Status.Over():
		r.over, r.ceded = true, true
		r.ended()
		return false
	case r.write.Release:
		r.ceded = true
		if fresh {
			defer r.e.nudge(r.rec.ID)
		}
		return false
	}
	return true
}

// ended tells those who wait for the end.
func (r *run) ended() {
	if r.e.o.Hooks.OnOver != nil {
		r.e.o.Hooks.OnOver(r.rec, r.elapsed())
	}
	if r.rec.Parent == "" || r.rec.Status == Stuck {
		return
	}
	// If this is lost, the parent finds out when it looks next.
	name := "$child" + r.rec.ID[len(r.rec.Parent):]
	if err := r.e.deliver(r.e.limited(), r.rec.Parent, name, []byte("{}")); err != nil && !errors.Is(err, ErrOver) && !errors.Is(err, ErrNotFound) {
		r.e.log.Warn("a parent could not be told", slog.String("saga", r.rec.ID), slog.Any("error", err))
	}
}

// pause waits between two attempts: here if that is short, so that no other engine
// need take the saga up, and else without an owner. It returns true if the saga goes
// on here. The checkpoint is written in either case: attempts are counted for ever.
func (r *run) pause(d time.Duration) bool {
	if d > r.e.o.Lease/3 || r.e.stopped() {
		r.release(d)
		return false
	}
	if !r.save() {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	begun := time.Now()
	select {
	case <-timer.C:
		return true
	case <-r.e.stopping:
		r.release(max(0, d-time.Since(begun)))
		return false
	}
}
