package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// maxBatch is how many counters one question of a pass is about.
const maxBatch = 512

// job is an entry's part in a pass.
type job struct {
	spot
	f     *flight
	since uint32
}

// run makes passes until ctx ends, and one more. While it does not run all bounds are 0.
func (c *local) run(ctx context.Context, name string) error {
	if !c.begun.CompareAndSwap(false, true) {
		return errors.New("ratelimit: " + name + ".Run is running already")
	}
	defer c.begun.Store(false)
	c.count()
	c.running.Store(true)
	c.epoch.Add(1)
	defer c.rest() // also where nodes panics
	ticker := time.NewTicker(c.period)
	defer ticker.Stop()
	work := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		select {
		case <-ticker.C:
			c.count()
			_ = c.pass(work, false) // what fails is part of the next one
		case <-c.wake:
			c.rush(work)
		case <-ctx.Done():
		}
	}
	c.rest()
	return c.drain(work)
}

// rest has the store decide on every check.
func (c *local) rest() {
	if c.running.Swap(false) {
		c.epoch.Add(1)
	}
}

// count asks how many processes there are.
func (c *local) count() {
	if n := max(1, int64(c.nodes())); c.members.Swap(n) != n {
		c.epoch.Add(1)
	}
}

// drain tells the store all that is pending and gives back what is prepaid. What a caller's question has on its way is waited for.
func (c *local) drain(ctx context.Context) (err error) {
	for range 4 {
		if err = c.pass(ctx, true); err == nil && c.listed() == 0 {
			return nil
		}
	}
	if n := c.listed(); n > 0 {
		return fmt.Errorf("ratelimit: %d counters could not be told to the store: %w", n, cmp.Or(err, errUnanswered))
	}
	return nil
}

func (c *local) listed() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.listed)
		s.mu.Unlock()
	}
	return n
}

// pass tells the store what has to be told, by the batch.
func (c *local) pass(ctx context.Context, final bool) error {
	pass := c.passes.Add(1)
	var jobs []job
	var calls, back []Call
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		back, s.orphans = append(back, s.orphans...), s.orphans[:0]
		list := s.listed
		s.listed, s.spare = s.spare[:0], nil
		for k, e := range list {
			list[k] = nil
			e.listed = false
			if f := e.flight; f != nil && final {
				s.mu.Unlock()
				<-f.done
				s.mu.Lock()
			}
			if e.flight == nil { // else it is for the next pass; due takes what is to be given back out of the entry
				if op, ok := c.mode.due(e, pass, final); ok && op.Kind == Return {
					back = append(back, Call{Ops: []Op{op}})
				} else if ok {
					jobs = append(jobs, c.start(s, e, &op, pass))
					calls = append(calls, Call{Ops: []Op{op}})
				}
			}
			c.list(s, e)
		}
		s.spare = list[:0]
		s.mu.Unlock()
	}
	c.returned(ctx, back)
	return c.send(ctx, jobs, calls)
}

// start puts an entry on its way. The shard is locked.
func (c *local) start(s *localShard, e *entry, op *Op, pass uint32) job {
	f := &flight{done: make(chan struct{})}
	e.flight, e.asked = f, pass
	if op.Kind == Charge { // a batch tells nothing
		e.sent = op.N
	}
	return job{spot{s, e}, f, e.since}
}

// rush asks for those who will soon have to wait for it.
func (c *local) rush(ctx context.Context) {
	c.mu.Lock()
	hot := c.hot
	c.hot = nil
	c.mu.Unlock()
	var jobs []job
	var calls []Call
	for _, h := range hot {
		h.s.mu.Lock()
		h.e.hot = false
		if h.e.flight == nil && !h.e.gone {
			if op, ok := c.mode.ahead(h.e); ok {
				jobs = append(jobs, c.start(h.s, h.e, &op, c.passes.Load()+1))
				calls = append(calls, Call{Ops: []Op{op}})
			}
		}
		h.s.mu.Unlock()
	}
	_ = c.send(ctx, jobs, calls) // what fails is part of the next pass
}

// returned gives units back, once: done twice it would give away what is not there.
func (c *local) returned(ctx context.Context, calls []Call) {
	for len(calls) > 0 {
		n := min(len(calls), maxBatch)
		_, _ = c.batch(ctx, calls[:n])
		calls = calls[n:]
	}
}

// send asks the store about the counters of a pass. One that fails stays pending, and listed, and is part of the next pass.
func (c *local) send(ctx context.Context, jobs []job, calls []Call) (err error) {
	defer func() {
		for _, j := range jobs { // none are left, unless the store has ended this goroutine
			j.s.mu.Lock()
			c.land(j.e, j.f, errPanic, false)
			j.s.mu.Unlock()
		}
	}()
	for len(jobs) > 0 {
		n := min(len(jobs), maxBatch)
		asked := c.now()
		replies, fault := c.batch(ctx, calls[:n])
		for i, j := range jobs[:n] {
			j.s.mu.Lock()
			f := fault
			if f == nil {
				f = replies[i].Err
			}
			if f == nil {
				c.synced(j, &calls[i].Ops[0], asked, &replies[i].Outcomes[0])
			} else {
				err = f
			}
			c.land(j.e, j.f, f, false)
			c.list(j.s, j.e)
			j.s.mu.Unlock()
		}
		jobs, calls = jobs[n:], calls[n:]
	}
	return err
}

// batch is askAll, that turns a panic of the store into its failure: nobody may wait for ever for the flights of a pass, nor Run end by it.
func (c *local) batch(ctx context.Context, calls []Call) (replies []Reply, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errPanic, r)
		}
	}()
	return c.limiter.askAll(ctx, calls)
}

func (c *local) synced(j job, op *Op, asked int64, o *Outcome) {
	e := j.e
	e.pending -= e.sent
	e.standing = false
	if e.since == j.since {
		c.mode.synced(e, op, asked, o)
		e.at, e.reset = o.At, o.Reset.Microseconds()
	}
}
