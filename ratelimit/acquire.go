package ratelimit

import (
	"context"
	"crypto/rand"
	"sync/atomic"
)

// Permit is places of a [Concurrency] limit, held for as long as the limit's Per, unless they are extended or released.
type Permit struct {
	// Result is the answer. Refused, nothing is held.
	Result Result

	taken
	perhaps  taken // what the store has given, though its answer was lost
	released atomic.Bool
}

// Acquire takes n places for work that is under way, for limits of [Concurrency] only. A process that dies gives them back when the lease, the
// limit's Per, is over; work that may take longer calls [Permit.Extend] in time. Where there is an error, or a policy that refuses, the store may have
// given places without being heard: those, too, are held until then.
//
// Extend and [Permit.Release] ask the store within ctx, or within [Options.Timeout] where that has no deadline.
func (l *Limiter) Acquire(ctx context.Context, key string, n int64) (*Permit, error) {
	p, err := l.planFor(ctx, key)
	if err != nil {
		return nil, err
	}
	if p.Algorithm != Concurrency {
		return nil, invalid("algorithm", "is "+p.Algorithm.String()+", of which nothing is held")
	}
	op := Op{Limit: p.Limit, Key: key, N: n, Holder: rand.Text()}
	if err := op.validate(); err != nil {
		return nil, err
	}
	r, err := l.reserve(ctx, p, op)
	if err != nil {
		return nil, err
	}
	permit := &Permit{Result: r.Result, taken: r.taken}
	if r.unsure {
		op.Kind = Return
		permit.perhaps = taken{store: l.store, op: op, timeout: l.timeout}
	}
	return permit, nil
}

// Extend begins the lease anew. False: it was over, and there is no room any more, or the places were released; the work has to end. The error is the
// store's: whether the lease is extended is not known. It may be called beside Release. One that was not answered may get to the store after the Release,
// and then holds the places until its lease is over.
//
// What it has taken after Release it gives back, or nobody would:
//
//	whoever extends in the background is about to ask
//	the work ends, and its places are given back
//	the store is asked to extend the lease: it finds none, and gives the places anew, for as long as a lease
func (p *Permit) Extend(ctx context.Context) (bool, error) {
	switch {
	case p.released.Load():
		return false, nil
	case p.store == nil:
		return p.Result.Allowed, nil
	}
	op := p.op
	op.Kind = Take
	reply := p.decide(ctx, op)
	if p.released.Load() {
		return false, p.decide(context.WithoutCancel(ctx), p.op).Err
	}
	if reply.Err != nil {
		return false, reply.Err
	}
	return reply.Outcomes[0].Allowed, nil
}

// Release gives the places back. Twice is as once.
//
// Places that were admitted by the policy are given back at the store, too, if that was asked for them and has not answered in time:
//
//	the store gives the places, and its answer is late
//	the policy admits the work, which ends after a second
//	nobody is at work, and the places are taken until the lease is over
func (p *Permit) Release(ctx context.Context) error {
	p.released.Store(true)
	if p.perhaps.store != nil {
		_ = p.perhaps.decide(ctx, p.perhaps.op) // if it fails again, nothing is known of what is held there
	}
	if p.store == nil {
		return nil
	}
	return p.decide(ctx, p.op).Err
}
