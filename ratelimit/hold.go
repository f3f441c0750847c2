package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// Decision is what is said to the client of a request that was held to limits.
type Decision struct {
	// Refusal is nil for a request that is admitted.
	Refusal *Refusal
	// Quotas are what an [Encoder] tells of each limit, in the order of the checks. Of a request that could not be held to its limits there are none.
	Quotas []Quota
}

// Hold holds a request to all of the checks, or to none ([Limiter.All]), and returns what its client is to be told. Middlewares are made of it:
// [NewMiddleware] that of net/http; those of Gin and gRPC are in examples/ratelimit. Without checks the request is admitted.
//
// When the store is down, the limiter's [OnError] decides: under FailClosed the refusal is one with 503.
//
// Cost: that of [Limiter.All].
func Hold(ctx context.Context, l *Limiter, checks ...Check) Decision {
	if len(checks) == 0 {
		return Decision{}
	}
	results, err := l.All(ctx, checks...)
	if err != nil {
		return Decision{Refusal: refusalOf(ctx, err)}
	}
	d := Decision{Quotas: make([]Quota, len(checks))}
	for i := range checks {
		d.Quotas[i] = Quota{Limit: checks[i].Limit.Normal(), Result: results.Each[i]}
	}
	d.judge(l.o.Now)
	return d
}

// keeper is a [Decider] that tells by what it has decided. Those of this package are.
type keeper interface {
	Decider
	// hold is AllowN, with the limit that the key is held to.
	hold(ctx context.Context, key string, n int64, q *Quota) error
	// settings are the options, with their defaults.
	settings() *Options
}

func (l *Limiter) hold(ctx context.Context, key string, n int64, q *Quota) error {
	p, err := l.planFor(ctx, key)
	if err != nil {
		return err
	}
	q.Limit = p.Limit
	return l.oneOf(ctx, p, Take, key, n, &q.Result)
}

func (c *local) hold(ctx context.Context, key string, n int64, q *Quota) (err error) {
	p, err := c.limiter.planFor(ctx, key)
	if err != nil {
		return err
	}
	q.Limit = p.Limit
	q.Result, err = c.takeOf(ctx, p, key, n)
	return err
}

func (h *Hybrid) hold(ctx context.Context, key string, n int64, q *Quota) error {
	return h.local.hold(ctx, key, n, q)
}

func (l *Leased) hold(ctx context.Context, key string, n int64, q *Quota) error {
	return l.local.hold(ctx, key, n, q)
}

func (w *Owned) hold(ctx context.Context, key string, n int64, q *Quota) error {
	return w.of(key).hold(ctx, key, n, q)
}

func (l *Limiter) settings() *Options { return &l.o }
func (h *Hybrid) settings() *Options  { return h.local.limiter.settings() }
func (l *Leased) settings() *Options  { return l.local.limiter.settings() }
func (w *Owned) settings() *Options   { return w.own.settings() }

// holdOne holds a request to a key's limit.
func holdOne(ctx context.Context, k keeper, key string, n int64) Decision {
	d := Decision{Quotas: make([]Quota, 1)}
	if err := k.hold(ctx, key, n, &d.Quotas[0]); err != nil {
		return Decision{Refusal: refusalOf(ctx, err)}
	}
	d.judge(k.settings().Now)
	return d
}

// judge completes a decision: the refusal is of the longest wait among those that refuse. What could never be admitted is refused for that also while
// the store fails, or its client would be told to come back in three hundred years.
func (d *Decision) judge(now func() time.Time) {
	var violated []string
	var wait time.Duration
	refused, failed := false, false
	for i := range d.Quotas {
		q := &d.Quotas[i]
		if q.counted() {
			q.Reset = untilFull(q.Limit, &q.Result, now)
		}
		if q.Result.Allowed {
			continue
		}
		refused, wait = true, max(wait, q.Result.RetryAfter)
		if q.Result.Source == FromFailClosed && q.Result.RetryAfter != Never { // nobody has asked it
			failed = true
		} else {
			violated = append(violated, q.Limit.Name)
		}
	}
	if !refused {
		return
	}
	for i := range d.Quotas {
		d.Quotas[i].Reset = min(d.Quotas[i].Reset, wait)
	}
	switch {
	case wait == Never:
		d.Refusal = costTooHigh.because(nil)
	case failed:
		d.Refusal = unavailable.because(nil).after(wait)
		return
	default:
		d.Refusal = limited.because(nil).after(wait)
	}
	d.Refusal.Violated = violated
}

// refusalOf is of a request that could not be held to its limits.
func refusalOf(ctx context.Context, err error) *Refusal {
	bad, ok := errors.AsType[*InvalidError](err)
	switch {
	case ctx.Err() != nil:
		return unavailable.because(cmp.Or(context.Cause(ctx), err)).after(time.Second)
	case ok && bad.Field == "key":
		return keyInvalid.because(err)
	}
	return misconfigured.because(err)
}
