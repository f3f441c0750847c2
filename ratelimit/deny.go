package ratelimit

import (
	"sync"
	"time"
)

// denyCache remembers until when keys are refused, so that a caller who hammers costs no round trip. It never refuses what the store would
// admit, but for what was given back, reset or changed meanwhile by others: that is seen when the wait is over.
type denyCache struct {
	limit int // 0: off

	mu   sync.Mutex
	keys map[counter]denial
}

// counter is what a count is kept by.
type counter struct{ name, key string }

type denial struct {
	plan  *plan
	n     int64 // so many units were refused, and so are more
	until time.Time
	last  Result
}

// ask returns the refusal of n units that is still good.
func (c *denyCache) ask(p *plan, key string, n int64, now time.Time) (Result, bool) {
	if c.limit == 0 {
		return Result{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := counter{p.Name, key}
	d, ok := c.keys[id]
	left := d.until.Sub(now)
	switch {
	case !ok || n < d.n:
		return Result{}, false
	case left <= 0 || d.plan.Limit != p.Limit:
		delete(c.keys, id)
		return Result{}, false
	}
	r := d.last
	r.Source, r.RetryAfter = FromDenyCache, left
	if n > p.Burst {
		r.RetryAfter = Never
	}
	return r, true
}

// remember keeps a refusal. now is after the store has answered: so the wait is never over before the store's is, and the caller's own trip is on top.
func (c *denyCache) remember(p *plan, op *Op, o *Outcome, r Result, now time.Time) {
	if c.limit == 0 || o.Wait == Never || p.Algorithm == Concurrency {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys == nil {
		c.keys = map[counter]denial{}
	}
	id := counter{p.Name, op.Key}
	if _, there := c.keys[id]; !there && len(c.keys) >= c.limit {
		c.makeRoom(now)
	}
	c.keys[id] = denial{plan: p, n: op.N, until: now.Add(o.Wait), last: r}
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

func (c *denyCache) forget(p *plan, key string) {
	if c.limit == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, counter{p.Name, key})
}
