package saga

import (
	"crypto/rand"
	"time"
)

// starter is the owner of what an engine starts.
type starter struct {
	name string
	lost time.Time // when the latest answer to a Start was; zero: none
}

// unsure reports whether a saga may be there by a Start that has not heard so.
func (s *starter) unsure() bool { return !s.lost.IsZero() }

// starts returns the owner of what is started now. One of which an answer was lost gives
// way to another name when those leases are over: a saga of the old name is then anybody's.
func (e *Engine) starts() *starter {
	if s := e.starter.Load(); !s.unsure() || time.Since(s.lost)/2 < e.o.Lease {
		return s
	}
	e.rename()
	return e.starter.Load()
}

// unanswered is told that nobody knows what a Start by this name has come to, before the
// same saga can be started again:
//
//	a saga is created, and its Start, which has waited long enough, does not hear so; the
//	caller starts it again when the lease is nearly over: it is this engine's still, and
//	it charges; the lease ends, and the next owner refunds.
//
// As long as that may be, each lease is renewed before anything begins.
func (e *Engine) unanswered(s *starter) {
	e.starter.CompareAndSwap(s, &starter{name: s.name, lost: time.Now()}) // else another has told, or the name is given up
}

// disown takes another name for what is started from now on, if the store has not heard
// that the run of a saga has ended:
//
//	a saga is started, and its first step charges, and panics in how its data is
//	written; the caller starts it again; the store finds that it belongs to this name,
//	and that nothing has happened to it yet: it charges again.
func (e *Engine) disown(r *run) {
	if !r.ceded {
		e.rename()
	}
}

func (e *Engine) rename() { e.starter.Store(&starter{name: e.owner + "+" + rand.Text()[:8]}) }
