package pgidem

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/idempotency"
)

// txLocal is what a guard knows without asking the database.
type txLocal struct {
	mu     sync.Mutex
	visits map[txPlace]*txVisit
	recent [4096]atomic.Int64
}

// txPlace is a key of one database. A guard may be bound to several (In), and a result is that of the one that has it:
//
//	A debits under a key on one database; B, the credit of the same transfer, asks for the same key on another;
//	B waits for A, is handed its result, and never runs.
type txPlace struct {
	db any
	id string
}

// placeOf returns where a call is made. A DB that cannot be compared has each of its calls to itself.
func placeOf(c *txCall) txPlace {
	if reflect.ValueOf(c.g.db).Comparable() {
		return txPlace{c.g.db, string(c.id)}
	}
	return txPlace{new(byte), string(c.id)}
}

// txVisit is the call that asks the database for all of this process that have its key there: a connection for each of a storm of
// duplicates would leave none for other keys.
type txVisit struct {
	local       *txLocal
	place       txPlace
	fingerprint idempotency.Fingerprint
	done        chan struct{} // closed at its end
	result      *txResult     // nil: it had none
}

func newTxLocal() *txLocal { return &txLocal{visits: make(map[txPlace]*txVisit)} }

// seen tells whether a key may have a record; to be wrong costs a round trip.
func (l *txLocal) seen(lock int64) bool {
	return l.recent[uint64(lock)%uint64(len(l.recent))].Load() == lock
}

func (l *txLocal) saw(lock int64) { l.recent[uint64(lock)%uint64(len(l.recent))].Store(lock) }

// enter returns the visit of the caller, or what the one before it was answered.
func (l *txLocal) enter(ctx context.Context, c *txCall) (*txVisit, *txResult, error) {
	var over <-chan time.Time
	for {
		v, mine := l.visit(c)
		if mine {
			return v, nil, nil
		}
		inFlight := &idempotency.InFlightError{Key: c.key, RetryAfter: txAskAgain}
		if c.g.wait == 0 {
			return nil, nil, inFlight
		}
		if over == nil {
			timer := time.NewTimer(time.Until(c.patience))
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-v.done:
		case <-over:
			return nil, nil, inFlight
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("%w: %w", inFlight, context.Cause(ctx))
		}
		switch {
		case v.result == nil:
		case v.fingerprint != c.fingerprint:
			return nil, nil, idempotency.ErrMismatch
		default:
			return nil, &txResult{status: v.result.status, response: v.result.response, replayed: true}, nil
		}
	}
}

func (l *txLocal) visit(c *txCall) (v *txVisit, mine bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	place := placeOf(c)
	if v := l.visits[place]; v != nil {
		return v, false
	}
	v = &txVisit{local: l, place: place, fingerprint: c.fingerprint, done: make(chan struct{})}
	l.visits[place] = v
	return v, true
}

// leave hands on what the visit was answered, or nil.
func (v *txVisit) leave(result *txResult) {
	v.result = result
	v.local.mu.Lock()
	delete(v.local.visits, v.place)
	v.local.mu.Unlock()
	close(v.done)
}
