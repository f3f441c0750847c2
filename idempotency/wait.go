package idempotency

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	firstPoll   = 5 * time.Millisecond // after which a duplicate asks the store again; then twice as long
	longestPoll = 500 * time.Millisecond
)

// lobby is where the duplicates of a Guard wait, in a room for each key and payload.
type lobby struct {
	mu    sync.Mutex
	rooms map[roomKey]*room
	open  atomic.Int64 // rooms, so that those who have no need of them do not take the lock
}

type roomKey struct {
	key         Key
	fingerprint Fingerprint
}

// room is the duplicates of one key. One of them leads: it asks the store for all. That is a claim, so when the key is
// free it is the leader that runs the work, and another leads.
type room struct {
	waiting int           // guarded by lobby.mu
	lead    chan struct{} // holds one token; whoever takes it leads and puts it back
	wake    chan struct{} // tells the leader not to wait any longer
	settled chan struct{} // closed when record is set
	record  Record        // Completed
	mu      sync.Mutex
	until   time.Time // the end of the present lease
	failure error     // why the store could not be asked at last
}

// admission is a claim that was answered: Won or Completed.
type admission struct {
	record Record
	sent   time.Duration // before the claim was, by the clock of the Guard
}

// admit claims the key, or waits for whoever has it.
func (g *Guard) admit(ctx context.Context, q *Request) (admission, error) {
	if g.lobby.open.Load() > 0 { // who does not wait opens none
		if r := g.lobby.enter(q, false); r != nil { // someone asks for this key already
			return g.await(ctx, q, r)
		}
	}
	sent := g.clock()
	record, err := g.claim(ctx, q)
	if err != nil {
		return admission{}, err
	}
	if record.Outcome != InFlight {
		return admission{record, sent}, nil
	}
	if g.wait == 0 {
		return admission{}, &InFlightError{Key: q.Key, RetryAfter: record.Remaining}
	}
	r := g.lobby.enter(q, true)
	r.seen(record.Remaining, nil)
	return g.await(ctx, q, r)
}

// await waits in a room, which it leaves.
func (g *Guard) await(ctx context.Context, q *Request, r *room) (admission, error) {
	defer g.lobby.leave(q, r)
	waiting, stop := context.WithTimeout(ctx, g.wait)
	defer stop()
	select {
	case <-r.lead:
		defer func() { r.lead <- struct{}{} }()
		return g.lead(ctx, waiting, q, r)
	case <-r.settled:
	case <-waiting.Done():
	}
	won, _, err := r.over(ctx, waiting, q.Key)
	return won, err
}

// lead asks the store until the key is free or completed.
func (g *Guard) lead(ctx, waiting context.Context, q *Request, r *room) (admission, error) {
	for pause := firstPoll; ; pause = min(2*pause, longestPoll) {
		if won, over, err := r.over(ctx, waiting, q.Key); over { // before a nudge is taken that is the next one's
			return won, err
		}
		poll := time.NewTimer(g.jitter(min(pause, r.left())))
		select {
		case <-poll.C:
		case <-r.wake:
		case <-r.settled:
		case <-waiting.Done():
		}
		poll.Stop()
		if won, over, err := r.over(ctx, waiting, q.Key); over {
			return won, err
		}
		sent := g.clock()
		record, err := g.claim(ctx, q)
		switch {
		case err == nil && record.Outcome == Won:
			return admission{record, sent}, nil
		case err == nil && record.Outcome == Completed:
			g.lobby.settle(q.Key, q.Fingerprint, record.Status, record.Response)
			return admission{record: record}, nil
		case err == ErrMismatch: //nolint:errorlint // it comes as it is
			return admission{}, err
		}
		if err == nil || ctx.Err() == nil { // that the caller is gone is no failure of the store, for those who go on waiting least of all
			r.seen(record.Remaining, err)
		}
	}
}

// over tells whether there is nothing to wait for any more, and what came of it. A result counts more than that time is up.
func (r *room) over(ctx, waiting context.Context, key Key) (admission, bool, error) {
	select {
	case <-r.settled:
		return admission{record: r.record}, true, nil
	default:
	}
	if ctx.Err() != nil {
		return admission{}, true, fmt.Errorf("%w: %w", r.inFlight(key), context.Cause(ctx))
	}
	if waiting.Err() != nil {
		return admission{}, true, r.inFlight(key)
	}
	return admission{}, false, nil
}

// enter returns the room of a request, or nil where there is none and none is to be made.
func (l *lobby) enter(q *Request, open bool) *room {
	k := roomKey{q.Key, q.Fingerprint}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rooms[k]
	if r == nil {
		if !open {
			return nil
		}
		r = &room{lead: make(chan struct{}, 1), wake: make(chan struct{}, 1), settled: make(chan struct{})}
		r.lead <- struct{}{}
		if l.rooms == nil {
			l.rooms = make(map[roomKey]*room)
		}
		l.rooms[k] = r
		l.open.Add(1)
	}
	r.waiting++
	return r
}

// leave closes a room behind the last one.
func (l *lobby) leave(q *Request, r *room) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.waiting--; r.waiting == 0 {
		l.close(roomKey{q.Key, q.Fingerprint}, r)
	}
}

func (l *lobby) close(k roomKey, r *room) {
	if l.rooms[k] == r { // not one that was opened since
		delete(l.rooms, k)
		l.open.Add(-1)
	}
}

// settle gives the result to all who wait for it. Whoever comes later asks the store.
func (l *lobby) settle(key Key, fp Fingerprint, status int32, response []byte) {
	if l.open.Load() == 0 {
		return
	}
	k := roomKey{key, fp}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.rooms[k]; r != nil {
		r.record = Record{Outcome: Completed, Status: status, Response: bytes.Clone(response)}
		close(r.settled)
		l.close(k, r)
	}
}

// nudge lets the leader ask at once: the key has become free.
func (l *lobby) nudge(key Key, fp Fingerprint) {
	if l.open.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.rooms[roomKey{key, fp}]; r != nil {
		select {
		case r.wake <- struct{}{}:
		default: // it has not followed the last nudge yet
		}
	}
}

// seen notes the answer of the store.
func (r *room) seen(remaining time.Duration, failure error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure = failure; failure == nil {
		r.until = time.Now().Add(remaining)
	}
}

// left is how long the present lease goes on, at least a little.
func (r *room) left() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(time.Until(r.until), firstPoll)
}

// inFlight is what those get who have waited in vain.
func (r *room) inFlight(key Key) error {
	left := r.left()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure != nil {
		return r.failure
	}
	return &InFlightError{Key: key, RetryAfter: left}
}
