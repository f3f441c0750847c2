package pglock

import (
	"context"
	"sync"
	"time"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
)

// line lets those of one process who want the same name stand behind each other, so that only the first takes a connection.
type line struct {
	mu     sync.Mutex
	places map[idempotency.Key]*place
}

type place struct {
	turn chan struct{} // has room for one, who is at the server
	here int           // at the server and behind; guarded by line.mu
}

// enter returns when it is the caller's turn, or a *lock.HeldError.
func (l *line) enter(ctx context.Context, key idempotency.Key, wait time.Duration) error {
	p := l.join(key)
	select {
	case p.turn <- struct{}{}:
		return nil
	default:
	}
	err := &lock.HeldError{Name: key.Value}
	if wait > 0 {
		over := time.NewTimer(wait)
		defer over.Stop()
		select {
		case p.turn <- struct{}{}:
			return nil
		case <-over.C:
		case <-ctx.Done():
			err.Cause = context.Cause(ctx)
		}
	}
	l.part(key, p)
	return err
}

// leave lets the next one have its turn.
func (l *line) leave(key idempotency.Key) {
	l.mu.Lock()
	p := l.places[key]
	l.mu.Unlock()
	<-p.turn
	l.part(key, p)
}

func (l *line) join(key idempotency.Key) *place {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.places[key]
	if p == nil {
		p = &place{turn: make(chan struct{}, 1)}
		if l.places == nil {
			l.places = make(map[idempotency.Key]*place)
		}
		l.places[key] = p
	}
	p.here++
	return p
}

func (l *line) part(key idempotency.Key, p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.here--; p.here == 0 {
		delete(l.places, key)
	}
}
