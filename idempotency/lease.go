package idempotency

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// lease keeps a claim for as long as the work and the writing of its result take. A timer starts the goroutine when the
// first extension is due: work that is done by then does without.
type lease struct {
	run   *Run
	timer *time.Timer
	ctx   context.Context // ends with Do, not with the caller
	end   context.CancelFunc
	gone  chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex
	until time.Duration // by the clock of the Guard, not later than in the store
}

// localEnd returns when a lease is over that was asked for at sent. The store counts from when it got the request, which was
// later. A hundredth is for clocks that do not run equally fast.
func (g *Guard) localEnd(sent time.Duration) time.Duration { return sent + g.lease - g.lease/100 }

// keepLease begins to extend the lease of a claim that was asked for at sent.
func (r *Run) keepLease(ctx context.Context, sent time.Duration) {
	l := &r.lease
	l.run, l.until, l.gone = r, r.guard.localEnd(sent), make(chan struct{})
	l.ctx, l.end = context.WithCancel(context.WithoutCancel(ctx))
	first := l.until
	if r.guard.beat > 0 {
		first = sent + r.guard.beat
	}
	now := r.guard.clock()
	if now >= l.until { // it was answered too late: another may have the key by now
		r.leave(ErrLost)
	}
	l.timer = time.AfterFunc(first-now, func() {
		defer close(l.gone)
		if cause := l.keep(); cause != nil {
			r.leave(cause) // another may run the work from now on
		}
	})
}

// stop ends the goroutine, if there is one, and waits for it.
func (l *lease) stop() {
	l.end()
	if !l.timer.Stop() {
		<-l.gone
	}
}

// renewed notes that the lease was extended by a call that began at sent.
func (l *lease) renewed(sent time.Duration) {
	until := l.run.guard.localEnd(sent)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = max(l.until, until)
}

// left is how long the lease goes on at least.
func (l *lease) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until - l.run.guard.clock()
}

// keep extends the lease until Do ends, when it returns nil, or the claim is lost.
func (l *lease) keep() (cause error) {
	g := l.run.guard
	var failure error
	for {
		left := l.left()
		if left <= 0 {
			if failure == nil {
				return ErrLost
			}
			return unextended(failure)
		}
		pause := left
		if g.beat > 0 {
			failure = l.extend(left)
			switch {
			case errors.Is(failure, ErrLost):
				return failure
			case failure == nil:
				pause = g.beat
			default: // the store may be back any moment
				pause = min(left, g.jitter(g.beat/4))
			}
		}
		if !sleep(l.ctx, pause) {
			return nil
		}
	}
}

// unextended is why a claim is lost that nobody else need have taken.
func unextended(failure error) error {
	return fmt.Errorf("%w: its lease could not be extended: %w", ErrLost, failure)
}

// extend asks the store once, in the time that is left. Not every client heeds a context: that of go-redis waits for its own
// ReadTimeout by default. The work hears in time all the same: it would write beside the next owner.
func (l *lease) extend(left time.Duration) error {
	r := l.run
	ctx, cancel := context.WithTimeout(l.ctx, min(left, r.guard.beat))
	defer cancel()
	waiting, answered := context.WithCancel(l.ctx)
	defer answered()
	over := time.AfterFunc(left, func() {
		for left := l.left(); left > 0; left = l.left() { // a step has extended it meanwhile
			if !sleep(waiting, left) {
				return
			}
		}
		r.leave(unextended(context.DeadlineExceeded))
	})
	defer over.Stop()
	sent := r.guard.clock()
	err := single(r.guard.store.Extend(ctx, []Extension{{Key: r.key, Token: r.token, Lease: r.guard.lease}}))
	if err == nil {
		l.renewed(sent)
	}
	return err
}
