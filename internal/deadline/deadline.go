// Package deadline bounds many short calls by few timers: a timer for each of a hundred thousand calls a second costs more than much of what they do.
package deadline

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Pool hands out contexts that end after its timeout, or up to an eighth of it sooner: those that begin within an eighth have one timer. It is safe
// for concurrent use.
type Pool struct {
	timeout time.Duration
	begun   time.Time
	last    atomic.Pointer[slot]
}

// slot is what the contexts of an eighth share.
type slot struct {
	ctx    context.Context //nolint:containedctx // it has the timer
	cancel context.CancelFunc
	end    time.Time
	until  time.Duration // since the pool has begun: who comes later has another
}

// NewPool returns a pool without a timer yet.
func NewPool(timeout time.Duration) *Pool { return &Pool{timeout: timeout, begun: time.Now()} }

// Within returns a context that ends with its parent, or by the timeout. Its caller calls [Context.End] when the call is over.
func (p *Pool) Within(parent context.Context) *Context {
	return &Context{Context: parent, slot: p.slot()}
}

// Shared returns a context that ends by the timeout, and that others have too: it costs nothing, and has no parent.
func (p *Pool) Shared() context.Context { return p.slot().ctx }

func (p *Pool) slot() *slot {
	now := time.Since(p.begun)
	if s := p.last.Load(); s != nil && now < s.until {
		return s
	}
	s := &slot{until: now + p.timeout/8, end: time.Now().Add(p.timeout)}
	s.ctx, s.cancel = context.WithDeadline(context.Background(), s.end) // which ends it
	p.last.Store(s)
	return s
}

// Context is a context of a [Pool]. It is like any other; who knows it waits for what [Context.Ends] returns, which needs no timer of its own.
type Context struct {
	context.Context // the parent
	slot            *slot

	mu    sync.Mutex
	inner context.Context //nolint:containedctx // it is this context, made for who asks for its Done
	stop  context.CancelFunc
}

// Ends returns the two channels of which one is closed when the context ends. The first may be nil.
func (c *Context) Ends() (parent, late <-chan struct{}) { return c.Context.Done(), c.slot.ctx.Done() }

// Cause is why the context has ended, by either of the channels that Ends returns; nil if it has not.
func (c *Context) Cause() error {
	if err := c.Context.Err(); err != nil {
		return cmp.Or(context.Cause(c.Context), err)
	}
	return c.slot.ctx.Err() // not inner's, which may be behind
}

// End frees what the context holds.
func (c *Context) End() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		c.stop()
	}
}

// Deadline implements [context.Context].
func (c *Context) Deadline() (time.Time, bool) {
	if end, ok := c.Context.Deadline(); ok && end.Before(c.slot.end) {
		return end, true
	}
	return c.slot.end, true
}

// Done implements [context.Context].
func (c *Context) Done() <-chan struct{} {
	if c.Context.Done() == nil {
		return c.slot.ctx.Done()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.stop = context.WithDeadline(c.Context, c.slot.end)
	}
	return c.inner.Done()
}

// Err implements [context.Context].
func (c *Context) Err() error {
	if inner := c.made(); inner != nil {
		return inner.Err()
	}
	if err := c.Context.Err(); err != nil {
		return err
	}
	return c.slot.ctx.Err()
}

// Value implements [context.Context].
func (c *Context) Value(key any) any {
	if inner := c.made(); inner != nil {
		return inner.Value(key) // where package context finds what to propagate to
	}
	return c.Context.Value(key)
}

func (c *Context) made() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inner
}
