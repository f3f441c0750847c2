package redislimit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

// reservation is what the takes of a call over several places have in common.
//
// How it is all or none, though no script sees more than one place:
//
//	each place's takes are charged as reservations: their units, until when, and the name of the decision
//	all were admitted: the decision is set to "committed", unless it is set already
//	    then the reservations are confirmed, and when all are the decision is forgotten
//	one was refused: the others are given back
//
// If the client dies, whoever next comes to a counter with a reservation that has lapsed sets the decision to "aborted", unless it is set already, and
// carries out at that counter what the decision then is. So one write, to one key, decides for all places, whenever the client has died:
//
//	the client was about to commit            the reservation lapses, somebody aborts; the client's commit finds that and gives back the rest
//	it had confirmed some, and others not     the others lapse, somebody finds "committed" and confirms
type reservation struct {
	name        string // of the decision's key
	lease, life time.Duration
}

// What is decided, and what the script is to do with a decision.
const (
	committed = 'c'
	aborted   = 'a'
	forgotten = 'f'
)

// abortedFor is how long an aborted decision is kept: longer than any command of the client that it stops can be on its way.
const abortedFor = time.Hour

// errLapsed: a reservation was given back before the call was decided.
var errLapsed = errors.New("redislimit: the call took longer than Options.ReserveLease; nothing was charged")

func (s *Store) newReservation(t *trip) *reservation {
	r := &reservation{lease: s.o.ReserveLease}
	for i := range t.call.Ops {
		if op := &t.call.Ops[i]; op.Kind == ratelimit.Take {
			if r.name == "" {
				r.name = s.keyName(decisionClass, op.Key, rand.Text())
			}
			r.life = max(r.life, t.form(i).life())
		}
	}
	r.life += r.lease
	return r
}

// life is after what time nothing of a charge can count any more.
func (f *form) life() time.Duration {
	if f.class == bucketClass {
		return micros(2*f.refill.us + 2)
	}
	return 3 * f.Per
}

func (r *reservation) append(b []byte) []byte {
	b = u64(b, r.lease.Microseconds())
	b = u64(b, r.life.Microseconds())
	return text(b, r.name)
}

// beginApart puts a call on its way whose ops are in several places.
func (s *Store) beginApart(ctx context.Context, t *trip, groups []*group) func() ([]ratelimit.Outcome, error) {
	var keys []string
	taking := 0
	for _, g := range groups {
		if g.takes > 0 {
			taking++
			keys = append(keys, g.keys...)
		}
	}
	switch {
	case taking < 2: // the others are carried out in any case
		legs := s.startAll(t, groups, nil)
		return func() ([]ratelimit.Outcome, error) {
			outcomes, _, err := s.finishAll(ctx, legs)
			return outcomes, err
		}
	case s.o.CrossSlot == Refuse:
		return func() ([]ratelimit.Outcome, error) { return nil, &CrossSlotError{Keys: keys} }
	case !s.enter():
		return func() ([]ratelimit.Outcome, error) { return nil, ErrClosed }
	}
	done := make(chan ratelimit.Reply, 1)
	own := *t // the caller may leave, and change what he has asked
	own.call = &ratelimit.Call{Ops: slices.Clone(t.call.Ops)}
	go func() {
		defer s.working.Done()
		s.reserve(ctx, &own, groups, done)
	}()
	return func() ([]ratelimit.Outcome, error) {
		select {
		case reply := <-done:
			return reply.Outcomes, reply.Err
		case <-ctx.Done():
			return nil, errFlying{context.Cause(ctx)}
		}
	}
}

func (s *Store) startAll(t *trip, groups []*group, r *reservation) []*leg {
	legs := make([]*leg, len(groups))
	for i, g := range groups {
		legs[i] = &leg{trip: t, group: g, inside: r != nil}
		if r != nil && g.takes > 0 {
			legs[i].mode, legs[i].reserve = reserving, r
		}
		s.start(legs[i])
	}
	return legs
}

// reserve decides a call over several places, and tells its caller as soon as it is decided. The caller's end does not end it: reservations would
// be left behind.
func (s *Store) reserve(caller context.Context, t *trip, groups []*group, done chan<- ratelimit.Reply) {
	ctx := context.WithoutCancel(caller)
	r := s.newReservation(t)
	begun := time.Now()
	outcomes, allowed, err := s.finishAll(ctx, s.startAll(t, groups, r))
	what := byte(aborted)
	if s.dies("reserved") {
		return
	}
	switch {
	case err != nil || !allowed:
	case caller.Err() != nil: // nobody waits for it: it is as if it had not been
		err = errFlying{context.Cause(caller)}
	case time.Since(begun) > r.lease:
		err = errLapsed
	default:
		if what, err = s.decision(ctx, true, r.name, committed, r.life+time.Minute); err != nil {
			done <- ratelimit.Reply{Err: err} // whether it is committed will be seen by who comes when the reservations have lapsed
			return
		}
		if what != committed {
			err = errLapsed
		}
	}
	if err != nil {
		outcomes = nil
	}
	if s.dies("decided") {
		return
	}
	done <- ratelimit.Reply{Outcomes: outcomes, Err: err}
	if s.dies("half settled") {
		_ = s.settle(ctx, true, t, groups[:1], r.name, what)
		return
	}
	if s.settle(ctx, true, t, groups, r.name, what) == nil && what == committed {
		_, _ = s.decision(ctx, true, r.name, forgotten, 0) // or it expires
	}
}

func (s *Store) dies(stage string) bool { return s.halt != nil && s.halt(stage) }

// decision sets a decision, or finds out that it is set already.
func (s *Store) decision(ctx context.Context, inside bool, name string, what byte, life time.Duration) (byte, error) {
	j := newJob()
	j.place = s.layout.place(name)
	j.keys = append(j.keys, name)
	j.packed = append(j.packed, 1, 0, decisionCode+anyKind, what)
	j.packed = u64(j.packed, max(1, life.Milliseconds()))
	j.size = 1
	if err := s.launch(j, inside); err != nil {
		return 0, err
	}
	if err := j.await(ctx); err != nil {
		return 0, err
	}
	defer j.free()
	return j.answer[0], nil
}

// settle carries out a decision at all counters of the groups that have takes.
func (s *Store) settle(ctx context.Context, inside bool, t *trip, groups []*group, name string, what byte) error {
	var jobs []*job
	var faults []error
	for _, g := range groups {
		if g.takes == 0 {
			continue
		}
		j := newJob()
		j.place = g.place
		j.packed = append(j.packed, byte(len(g.ops)), 0)
		for n, i := range g.ops {
			j.keys = append(j.keys, g.keys[n])
			j.packed = append(j.packed, settleCode+anyKind, what, byte(t.form(i).class))
			j.packed = text(j.packed, name)
			j.size++
		}
		if err := s.launch(j, inside); err != nil {
			faults = append(faults, err)
			continue
		}
		jobs = append(jobs, j)
	}
	for _, j := range jobs {
		if err := j.await(ctx); err != nil {
			faults = append(faults, err)
			continue
		}
		j.free()
	}
	return errors.Join(faults...)
}

// resolve decides a reservation that has lapsed, for a client that is gone, and carries out the decision at the counters of a leg.
func (s *Store) resolve(ctx context.Context, l *leg, name string) error {
	what, err := s.decision(ctx, l.inside, name, aborted, abortedFor)
	if err != nil {
		return fmt.Errorf("redislimit: look up a reservation's decision: %w", err)
	}
	whole := *l.group
	whole.takes = max(1, whole.takes)
	return s.settle(ctx, l.inside, l.trip, []*group{&whole}, name, what)
}
