package ratelimit

import (
	"sync"
	"sync/atomic"
	"time"
)

// denyCache remembers until when keys are refused, so that a caller who hammers costs no round trip. It never refuses what the store would
// admit, but for what was given back, reset or changed meanwhile by others: that is seen when the wait is over.
type denyCache struct {
	limit int // 0: off

	mu      sync.Mutex
	keys    map[counter]denial
	forgets atomic.Uint64 // how often something was forgotten: see remember
}

// counter is what a count is kept by.
type counter struct{ name, key string }

type denial struct {
	limit Limit
	n     int64 // so many units were refused, and so are more
	until time.Time
	last  Result
}

// ask answers a call of which a check is refused, as far as is known. The others are then not asked.
func (c *denyCache) ask(call *Call, plans []*plan, now time.Time) (r Results, denied bool) {
	if c.limit == 0 {
		return r, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, p := range plans {
		one, ok := c.look(p, &call.Ops[i], now)
		if !ok {
			continue
		}
		if !denied {
			denied, r.Each = true, make([]Result, len(plans))
			for j, q := range plans {
				r.Each[j] = Result{Allowed: true, Source: NotAsked, Limit: q.Burst, Remaining: q.Burst, ResetAt: now}
			}
		}
		r.Each[i] = one
	}
	return r, denied
}

// look returns the refusal of an op that is still good.
func (c *denyCache) look(p *plan, op *Op, now time.Time) (Result, bool) {
	id := counter{p.Name, op.Key}
	d, ok := c.keys[id]
	left := d.until.Sub(now)
	switch {
	case !ok || op.Kind != Take || op.N < d.n:
		return Result{}, false
	case left <= 0 || left > d.last.RetryAfter || d.limit != p.Limit: // more is left only of a clock that was set back
		delete(c.keys, id)
		return Result{}, false
	}
	r := d.last
	r.Source, r.RetryAfter = FromDenyCache, left
	switch more := op.N - d.n; {
	case op.N > p.Burst:
		r.RetryAfter = Never
	case more > 0 && p.Algorithm.bucket(): // for what is more he has to wait longer
		r.RetryAfter += time.Duration(p.span(more).up()) * time.Microsecond
	case more > 0: // how much longer only the store can tell
		return Result{}, false
	}
	return r, true
}

// remember keeps a refusal. now is after the store has answered: so the wait is never over before the store's is, and the caller's own trip is on top.
// forgets is c.forgets from before the store was asked. Where that has changed the refusal may be one of before a reset:
//
//	a caller asks, and the store refuses him
//	another resets the counter, at the store and here
//	the first one comes back with his refusal, of a counter that is as new
func (c *denyCache) remember(p *plan, op *Op, wait time.Duration, r Result, now time.Time, forgets uint64) {
	if c.limit == 0 || wait == Never || p.Algorithm == Concurrency || op.Min > 0 || op.Ahead > 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forgets.Load() != forgets {
		return
	}
	if c.keys == nil {
		c.keys = map[counter]denial{}
	}
	id := counter{p.Name, op.Key}
	if _, there := c.keys[id]; !there && len(c.keys) >= c.limit {
		c.makeRoom(now)
	}
	c.keys[id] = denial{limit: p.Limit, n: op.N, until: now.Add(wait), last: r}
}

// makeRoom forgets one that is over, or any: it costs a question more.
func (c *denyCache) makeRoom(now time.Time) {
	looked := 0
	for id, d := range c.keys {
		if looked++; looked >= 8 || !now.Before(d.until) {
			delete(c.keys, id)
			return
		}
	}
	for id := range c.keys {
		delete(c.keys, id)
		return
	}
}

// forget drops the refusal of a counter that was reset at the store.
func (c *denyCache) forget(p *plan, key string) {
	if c.limit == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgets.Add(1)
	delete(c.keys, counter{p.Name, key})
}
