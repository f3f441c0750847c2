package ratelimit

import (
	"context"
	"errors"
	"time"
)

// Limiter decides on calls by the counters of a store. It is safe for concurrent use. Make one with [New].
//
// A counter is kept by the limit's name and the key. When a limit changes, the counter goes on: what was used stays used, as far as the new
// limit has room for it, and comes back at the new rate, at once. With another [Algorithm] it begins anew.
//
// Cost: in memory no allocation and no lock that is shared by more than a few keys; else one question to the store, which is one round trip.
type Limiter struct {
	store  Store
	memory decideOne // the store, where it can be asked without allocating
	limit  *plan
	o      Options

	breaker breaker
	denied  denyCache
	stand   *Memory // in for the store under FailLocal
}

// New returns a limiter of a limit on a store. It asks the store nothing. The error joins an [*InvalidError] for each fault.
func New(s Store, limit Limit, o *Options) (*Limiter, error) {
	l := &Limiter{store: s}
	if o != nil {
		l.o = *o
	}
	var noStore error
	if s == nil {
		noStore = invalid("store", "is nil")
	}
	p, fault := planOf(limit)
	if err := errors.Join(noStore, fault, l.o.validate()); err != nil {
		return nil, err
	}
	l.limit = p
	l.memory, _ = s.(decideOne)
	l.o.setDefaults()
	l.breaker = breaker{limit: l.o.Failures, cooldown: l.o.Cooldown}
	if l.memory == nil {
		l.denied.limit = max(0, l.o.DenyCache)
	}
	if l.o.OnError == FailLocal {
		l.stand = NewMemory(&MemoryOptions{Now: l.o.Now})
	}
	return l, nil
}

// Check is one limit that a call is held to by [Limiter.All].
type Check struct {
	Limit Limit
	Key   string
	N     int64 // 0 means 1
}

// Results are the answers to the checks of one call.
type Results struct {
	Allowed bool // all were, and all were charged; else none
	Each    []Result
}

// Tightest is the result that decides: of a refusal the one with the longest wait, else the one with the least left.
func (r *Results) Tightest() (i int) {
	for j := range r.Each {
		a, b := &r.Each[i], &r.Each[j]
		switch {
		case a.Allowed != b.Allowed:
			if a.Allowed {
				i = j
			}
		case !b.Allowed && b.RetryAfter > a.RetryAfter, b.Allowed && b.Remaining < a.Remaining:
			i = j
		}
	}
	return i
}

// Allow charges one unit to key if there is room for it. The error is one of the call ([*InvalidError]) or ctx's; what the store's failure means is
// the policy's business ([Options.OnError]).
func (l *Limiter) Allow(ctx context.Context, key string) (Result, error) {
	return l.AllowN(ctx, key, 1)
}

// AllowN charges n units to key if there is room for all of them. What is refused is not charged.
func (l *Limiter) AllowN(ctx context.Context, key string, n int64) (Result, error) {
	return l.one(ctx, Take, key, n)
}

// Peek tells what Allow would answer, and writes nothing.
func (l *Limiter) Peek(ctx context.Context, key string) (Result, error) {
	return l.one(ctx, Peek, key, 1)
}

// Reset forgets what key has used. Unlike the others it fails where the store does.
func (l *Limiter) Reset(ctx context.Context, key string) error {
	p, err := l.planFor(ctx, key)
	if err != nil {
		return err
	}
	l.denied.forget(p, key)
	_, err = l.must(ctx, Op{Kind: Reset, Limit: p.Limit, Key: key})
	return err
}

// All holds one call to several limits at once: each check is charged, or none is, in one question to the store. The limits are those of the checks.
func (l *Limiter) All(ctx context.Context, checks ...Check) (Results, error) {
	call := Call{Ops: make([]Op, len(checks))}
	plans := make([]*plan, len(checks))
	for i, c := range checks {
		if c.N == 0 {
			c.N = 1
		}
		var err error
		if plans[i], err = planOf(c.Limit); err != nil {
			return Results{}, err
		}
		call.Ops[i] = Op{Limit: plans[i].Limit, Key: c.Key, N: c.N}
	}
	if err := call.Validate(); err != nil {
		return Results{}, err
	}
	return l.decide(ctx, call, plans)
}

// planFor returns the limit of a key.
func (l *Limiter) planFor(ctx context.Context, key string) (*plan, error) {
	if l.o.LimitFor == nil {
		return l.limit, nil
	}
	return planOf(l.o.LimitFor(ctx, key))
}

// one decides on one op: the way that most calls go.
func (l *Limiter) one(ctx context.Context, kind Kind, key string, n int64) (Result, error) {
	p, err := l.planFor(ctx, key)
	if err != nil {
		return Result{}, err
	}
	return l.oneOf(ctx, p, kind, key, n)
}

// oneOf is one, of a limit that is known.
func (l *Limiter) oneOf(ctx context.Context, p *plan, kind Kind, key string, n int64) (Result, error) {
	if uint(len(key)-1) >= MaxKey || n < 1 || p.Algorithm == Concurrency {
		if err := faultOf(p, kind, key, n); err != nil {
			return Result{}, err
		}
	}
	if l.memory != nil {
		o := l.memory.decideOne(p, kind, key, n)
		r := p.result(&o, FromStore)
		if l.o.Hooks.OnDecision != nil {
			l.o.Hooks.OnDecision(p.Limit, key, r)
		}
		return r, nil
	}
	if kind == Take {
		if r, denied := l.denied.ask(p, key, n, l.o.Now()); denied {
			l.told(p, key, r)
			return r, nil
		}
	}
	results, err := l.decide(ctx, Call{Ops: []Op{{Kind: kind, Limit: p.Limit, Key: key, N: n}}}, []*plan{p})
	if err != nil {
		return Result{}, err
	}
	return results.Each[0], nil
}

func faultOf(p *plan, kind Kind, key string, n int64) error {
	op := Op{Kind: kind, Limit: p.Limit, Key: key, N: n}
	if p.Algorithm == Concurrency && kind == Take {
		return invalid("algorithm", "is concurrency, of which places are acquired: see Acquire")
	}
	return op.validate()
}

// decide asks the store, and the policy where that fails.
func (l *Limiter) decide(ctx context.Context, call Call, plans []*plan) (Results, error) {
	outcomes, err := l.ask(ctx, call)
	source := FromStore
	if err != nil {
		if callers(ctx, err) {
			return Results{}, err
		}
		outcomes, source = l.policy(ctx, call)
	}
	r := Results{Allowed: true, Each: make([]Result, len(plans))}
	for i, p := range plans {
		r.Each[i] = p.result(&outcomes[i], source)
		r.Allowed = r.Allowed && outcomes[i].Allowed
		op := &call.Ops[i]
		if source == FromStore && op.Kind == Take && !outcomes[i].Allowed {
			l.denied.remember(p, op, &outcomes[i], r.Each[i], l.o.Now())
		}
		l.told(p, op.Key, r.Each[i])
	}
	return r, nil
}

func (l *Limiter) told(p *plan, key string, r Result) {
	if f := l.o.Hooks.OnDecision; f != nil {
		f(p.Limit, key, r)
	}
}

// must is an op for which no policy can stand in.
func (l *Limiter) must(ctx context.Context, op Op) (Outcome, error) {
	if err := op.validate(); err != nil {
		return Outcome{}, err
	}
	outcomes, err := l.ask(ctx, Call{Ops: []Op{op}})
	if err != nil {
		return Outcome{}, err
	}
	return outcomes[0], nil
}

// callers tells whether an error is about the caller and not the store.
func callers(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, ErrInvalid)
}

// microseconds rounds up: who waits for less is not admitted.
func microseconds(d time.Duration) int64 { return int64((d + time.Microsecond - 1) / time.Microsecond) }
