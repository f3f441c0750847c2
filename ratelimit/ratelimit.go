package ratelimit

import (
	"context"
	"errors"

	"github.com/safetill/safetill/internal/absent"
	"github.com/safetill/safetill/internal/deadline"
)

// Limiter decides on calls by the counters of a store. It is safe for concurrent use. Make one with [New]; the zero value is not
// usable.
//
// A counter is kept by the limit's name and the key. When a limit changes, the counter goes on: what was used stays used, as far as the new
// limit has room for it, and comes back at the new rate, at once. With an [Algorithm] of another kind of state it begins anew.
//
// Cost: in memory no allocation for a single limit, and a lock that a 256th of the keys share; else one question to the store, which is one round trip.
type Limiter struct {
	store  Store
	memory *Memory // the store, where it is one: it is asked without allocating
	limit  *plan
	o      Options

	timeout *deadline.Pool
	breaker breaker
	denied  denyCache
	resets  resets
	stand   *Memory // in for the store under FailLocal
}

// New returns a limiter of a limit on a store. It asks the store nothing. The error joins an [*InvalidError] for each fault.
func New(s Store, limit Limit, o *Options) (*Limiter, error) {
	l := &Limiter{store: s}
	if o != nil {
		l.o = *o
	}
	var noStore error
	if absent.Is(s) {
		noStore = invalid("store", "is nil")
	}
	p, fault := planOf(limit)
	if err := errors.Join(noStore, fault, l.o.validate()); err != nil {
		return nil, err
	}
	l.limit = p
	l.memory, _ = s.(*Memory)
	l.o.setDefaults()
	l.timeout = deadline.NewPool(l.o.Timeout)
	l.breaker = breaker{limit: l.o.Failures, cooldown: l.o.Cooldown}
	if l.memory == nil {
		l.denied.limit = max(0, l.o.DenyCache)
	}
	if l.o.OnError == FailLocal {
		l.stand = NewMemory(nil)
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
// the policy's business ([Options.OnError]). A store in memory answers at once, and charges also one whose ctx has ended.
func (l *Limiter) Allow(ctx context.Context, key string) (r Result, err error) {
	err = l.one(ctx, Take, key, 1, &r)
	return r, err
}

// AllowN charges n units to key if there is room for all of them. What is refused is not charged.
func (l *Limiter) AllowN(ctx context.Context, key string, n int64) (r Result, err error) {
	err = l.one(ctx, Take, key, n, &r)
	return r, err
}

// Peek tells what Allow would answer, and writes nothing.
func (l *Limiter) Peek(ctx context.Context, key string) (r Result, err error) {
	err = l.one(ctx, Peek, key, 1, &r)
	return r, err
}

// Reset forgets what key has used. Unlike the others it fails where the store does.
func (l *Limiter) Reset(ctx context.Context, key string) error {
	p, err := l.planFor(ctx, key)
	if err != nil {
		return err
	}
	_, err = l.must(ctx, Op{Kind: Reset, Limit: p.Limit, Key: key})
	l.resets.note(p, key)
	l.denied.forget(p, key) // afterwards, or who is refused meanwhile would be remembered; also of an answer that was lost
	return err
}

// All holds one call to several limits at once: each check is charged, or none is, in one question to the store. The limits are those of the checks,
// of which there are 1 to [MaxOps], no two with the same name and key.
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
		if c.Limit.Algorithm == Concurrency { // a check has no holder
			return Results{}, faultOf(plans[i], Take, c.Key, c.N)
		}
		call.Ops[i] = Op{Limit: plans[i].Limit, Key: c.Key, N: c.N}
	}
	if err := call.validate("checks"); err != nil {
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

// one decides on one op: the way that most calls go. It fills in r, which is too large to be handed on.
func (l *Limiter) one(ctx context.Context, kind Kind, key string, n int64, r *Result) error {
	if l.o.LimitFor == nil {
		return l.oneOf(ctx, l.limit, kind, key, n, r)
	}
	p, err := l.planFor(ctx, key)
	if err != nil {
		return err
	}
	return l.oneOf(ctx, p, kind, key, n, r)
}

// oneOf is one, of a limit that is known.
func (l *Limiter) oneOf(ctx context.Context, p *plan, kind Kind, key string, n int64, r *Result) error {
	if uint(len(key)-1) >= MaxKey || n < 1 || p.Algorithm == Concurrency {
		if err := faultOf(p, kind, key, n); err != nil {
			return err
		}
	}
	if l.memory != nil {
		var o Outcome
		l.memory.decideOne(p, kind, key, n, &o)
		p.result(&o, FromStore, r)
		if l.o.Hooks.OnDecision != nil {
			l.o.Hooks.OnDecision(p.Limit, key, *r)
		}
		return nil
	}
	op := Op{Kind: kind, Limit: p.Limit, Key: key, N: n}
	results, err := l.decide(ctx, Call{Ops: []Op{op}}, []*plan{p})
	if err != nil {
		return err
	}
	*r = results.Each[0]
	return nil
}

func faultOf(p *plan, kind Kind, key string, n int64) error {
	op := Op{Kind: kind, Limit: p.Limit, Key: key, N: n}
	if p.Algorithm == Concurrency && kind == Take {
		return invalid("algorithm", "is concurrency, of which places are acquired: see Acquire")
	}
	return op.validate()
}

// decide answers a call, and tells of it.
func (l *Limiter) decide(ctx context.Context, call Call, plans []*plan) (Results, error) {
	r, denied := l.denied.ask(&call, plans, l.o.Now())
	if !denied {
		forgets := l.denied.forgets.Load()
		outcomes, source, err := l.ask(ctx, call)
		if err != nil {
			return Results{}, err
		}
		r = l.results(&call, plans, outcomes, source, forgets)
	}
	if f := l.o.Hooks.OnDecision; f != nil {
		for i, p := range plans {
			f(p.Limit, call.Ops[i].Key, r.Each[i])
		}
	}
	return r, nil
}

// results shows the outcomes of a call to its caller. forgets is for denyCache.remember.
func (l *Limiter) results(call *Call, plans []*plan, outcomes []Outcome, source Source, forgets uint64) Results {
	r := Results{Allowed: true, Each: make([]Result, len(plans))}
	for i, p := range plans {
		p.result(&outcomes[i], source, &r.Each[i])
		r.Allowed = r.Allowed && outcomes[i].Allowed
		if source == FromStore && call.Ops[i].Kind == Take && !outcomes[i].Allowed {
			l.denied.remember(p, &call.Ops[i], outcomes[i].Wait, r.Each[i], l.o.Now(), forgets)
		}
	}
	return r
}

// must is an op for which no policy can stand in.
func (l *Limiter) must(ctx context.Context, op Op) (Outcome, error) {
	if err := op.validate(); err != nil {
		return Outcome{}, err
	}
	outcomes, err := l.question(ctx, Call{Ops: []Op{op}})
	if err != nil {
		return Outcome{}, err
	}
	return outcomes[0], nil
}

// callers tells whether an error is about the caller and not the store.
func callers(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, ErrInvalid)
}
