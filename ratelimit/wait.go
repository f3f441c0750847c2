package ratelimit

import (
	"context"
	"errors"
	"time"

	"github.com/safetill/safetill/internal/deadline"
)

// Reservation is units that were taken, to be used or given back.
type Reservation struct {
	// Result is the answer. Refused, there is nothing to use and nothing to give back.
	Result Result
	// Delay is after what time the units may be used, counted from when the store has decided.
	Delay time.Duration

	taken
	unsure bool // the store was asked, and whether it has charged is not known
	forget func()
	out    func() int64 // how many of the units have not come back
}

// taken is what can be given back.
type taken struct {
	store   Store // nil: there is nothing
	op      Op    // gives it back
	timeout *deadline.Pool
}

// decide asks the store within ctx or, where that has no deadline, the limiter's timeout: a caller who gives back in a deferred call must not hang.
func (t *taken) decide(ctx context.Context, op Op) Reply {
	if _, ends := ctx.Deadline(); !ends {
		asked := t.timeout.Within(ctx)
		defer asked.End()
		ctx = asked
	}
	return decideOn(ctx, t.store, Call{Ops: []Op{op}})
}

// Reserve takes n units that may be used within some time: from a bucket, also those that come back until then, in the order of those who ask;
// from others, those that are there. At most what an empty bucket takes to fill can be reserved ahead.
func (l *Limiter) Reserve(ctx context.Context, key string, n int64, within time.Duration) (*Reservation, error) {
	p, err := l.planFor(ctx, key)
	if err != nil {
		return nil, err
	}
	return l.reserveFor(ctx, p, key, n, within)
}

func (l *Limiter) reserveFor(ctx context.Context, p *plan, key string, n int64, within time.Duration) (*Reservation, error) {
	if err := faultOf(p, Take, key, n); err != nil {
		return nil, err
	}
	op := Op{Limit: p.Limit, Key: key, N: n}
	if p.Algorithm.bucket() {
		op.Ahead = max(0, within)
	}
	return l.reserve(ctx, p, op)
}

// reserve carries out a take by itself, so that it can be given back.
func (l *Limiter) reserve(ctx context.Context, p *plan, op Op) (*Reservation, error) {
	call := Call{Ops: []Op{op}}
	forgets, resets, source := l.denied.forgets.Load(), l.resets.count(), FromStore
	begun := l.o.Now()
	outcomes, err := l.question(ctx, call)
	if err != nil {
		if callers(ctx, err) {
			return nil, err
		}
		outcomes, source = l.policy(ctx, call)
	}
	o := &outcomes[0]
	r := &Reservation{Result: l.results(&call, []*plan{p}, outcomes, source, forgets).Each[0]}
	if f := l.o.Hooks.OnDecision; f != nil {
		f(p.Limit, op.Key, r.Result)
	}
	if !o.Allowed {
		return r, nil
	}
	r.Delay, r.timeout = o.Wait, l.timeout
	r.unsure = source != FromStore && !errors.Is(err, errOpen)
	switch source {
	case FromStore:
		r.store = l.store
	case FromFallback:
		r.store, op.Limit = l.stand, share(op.Limit, l.o.Share)
	default: // it was counted nowhere
	}
	op.Kind, op.At, op.Min, op.Ahead = Return, o.At, 0, 0
	if p.Algorithm.bucket() {
		op.Ahead = o.Reset
	}
	r.op = op
	r.forget = func() { l.denied.forget(p, op.Key) }
	full := begun.Add(o.Reset)
	r.out = func() int64 {
		if l.resets.since(p, op.Key, resets) {
			return 0
		}
		return outstanding(op.Limit, op.N, full.Sub(l.o.Now()))
	}
	return r, nil
}

// outstanding is how many of n units, the last that were taken, have not come back when all will have after some time. A window asks for itself when they
// were charged; a bucket does not:
//
//	units are taken and held; a period later the bucket is full again, and others take all of it
//	the held ones are given back: the bucket is full a second time, and who has held those of ten periods gets ten bursts at once
func outstanding(limit Limit, n int64, left time.Duration) int64 {
	p, err := planOf(limit)
	if err != nil || !p.Algorithm.bucket() {
		return n
	}
	return min(n, p.units(moment{us: max(0, left.Microseconds())}))
}

// Cancel gives the units back: of a window as long as that counts, of a bucket those that have not come back by themselves, by the clock of
// [Options.Now]; what was taken last comes back last, and what others have taken ahead since, and wait for, is left whole. Of a counter that this limiter
// has reset meanwhile nothing is given back: others may have used it. Once is enough; a second time does nothing. It asks the store, within ctx, or within
// [Options.Timeout] where that has no deadline.
func (r *Reservation) Cancel(ctx context.Context) error {
	if r.store == nil {
		return nil
	}
	var err error
	if r.op.N = r.out(); r.op.N > 0 {
		err = r.decide(ctx, r.op).Err
	}
	r.forget() // who was refused for what is there again
	r.store = nil
	return err
}

// Wait waits until there is room for one unit, and takes it. See [Limiter.WaitN].
func (l *Limiter) Wait(ctx context.Context, key string) error { return l.WaitN(ctx, key, 1) }

// WaitN waits until there is room for n units, and takes them. It is a [*RefusedError] at once where that would be after ctx's deadline, or never;
// nothing is charged then, nor when ctx ends meanwhile. From a bucket it takes ahead, as many units as that holds: so many are waited for in the order in
// which their callers came, each after one question to the store. All others ask again when there should be room, and whoever is first gets it.
func (l *Limiter) WaitN(ctx context.Context, key string, n int64) error {
	for {
		p, err := l.planFor(ctx, key)
		if err != nil {
			return err
		}
		within := MaxRefill
		if end, ok := ctx.Deadline(); ok {
			within = time.Until(end)
		}
		r, err := l.reserveFor(ctx, p, key, n, within)
		if err != nil {
			return err
		}
		if r.Result.Allowed {
			return l.use(ctx, r)
		}
		after := r.Result.RetryAfter
		if after > within {
			return &RefusedError{r.Result}
		}
		// As much as can be is taken ahead: there is room to queue before there are units. A policy has no queue, and its wait may be shorter than
		// a refill: without that wait this would be a loop that never rests.
		if p.Algorithm.bucket() && r.Result.Source == FromStore {
			after -= time.Duration(p.refill.us) * time.Microsecond
		}
		if !pause(ctx, max(after, time.Microsecond)) {
			return context.Cause(ctx)
		}
	}
}

// use waits for what was reserved, and gives it back if ctx ends first.
func (l *Limiter) use(ctx context.Context, r *Reservation) error {
	if pause(ctx, r.Delay) {
		return nil
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.o.Timeout)
	defer cancel()
	_ = r.Cancel(back) // or it comes back by itself
	return context.Cause(ctx)
}

// pause waits. False: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
