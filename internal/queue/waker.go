package queue

import "sync"

// Waker lets a pusher wake an idle worker of [Consume] in the same process instead of waiting for its next poll. The zero
// value is ready for use; one Waker serves one queue and must not be copied. A wake-up is a hint: losing one costs a poll.
type Waker struct {
	once sync.Once
	ch   chan struct{}
}

// Wake wakes one idle worker, or the next one to become idle. Call it after a successful Push. It never blocks.
//
// One push wakes one worker and not all: ten workers that race for one message would cost ten round trips. A worker that
// finds a full batch wakes the next.
func (w *Waker) Wake() {
	if w == nil {
		return
	}
	select {
	case w.signal() <- struct{}{}:
	default: // a wake-up is pending already; whoever takes it claims what was pushed before this call too
	}
}

// signal is never ready for a nil Waker.
func (w *Waker) signal() chan struct{} {
	if w == nil {
		return nil
	}
	w.once.Do(func() { w.ch = make(chan struct{}, 1) })
	return w.ch
}
