package pgidem

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/idempotency"
)

// txLocal is what a guard knows without asking the database.
type txLocal struct {
	mu     sync.Mutex
	visits map[string]*txVisit
	recent [4096]atomic.Int64
}

// txVisit is the call that asks the database for all of this process that have its key: a connection for each of a storm of
// duplicates would leave none for other keys.
type txVisit struct {
	local       *txLocal
	id          string
	fingerprint idempotency.Fingerprint
	done        chan struct{} // closed at its end
	result      *txResult     // nil: it had none
}

func newTxLocal() *txLocal { return &txLocal{visits: make(map[string]*txVisit)} }

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
	if v := l.visits[string(c.id)]; v != nil {
		return v, false
	}
	v = &txVisit{local: l, id: string(c.id), fingerprint: c.fingerprint, done: make(chan struct{})}
	l.visits[v.id] = v
	return v, true
}

// leave hands on what the visit was answered, or nil.
func (v *txVisit) leave(result *txResult) {
	v.result = result
	v.local.mu.Lock()
	delete(v.local.visits, v.id)
	v.local.mu.Unlock()
	close(v.done)
}
