package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// local decides in this process as far as its mode lets it, and asks the store for the rest: what [Hybrid] and [Leased] have in common.
//
// Of one key there is one question on its way at a time, a flight. Who cannot be decided on meanwhile waits for it: a thousand callers at a bound
// are one question, and answers cannot overtake each other.
type local struct {
	limiter *Limiter // asks the store, and has the policy for when it fails
	mode    mode
	base    time.Time
	nodes   func() int

	epoch   atomic.Uint32 // changes with what bounds depend on: see entry.bound
	begun   atomic.Bool
	running atomic.Bool
	members atomic.Int64
	passes  atomic.Uint32
	wake    chan struct{} // holds one: look at hot

	mu  sync.Mutex
	hot []spot

	shards [localShards]localShard
	limit  int // entries of a shard
	period time.Duration
}

const (
	localShards = 64
	maxOrphans  = 1024 // of a shard: what is over is lost, and so not admitted
)

type localShard struct {
	mu      sync.Mutex
	entries map[uint64]*entry
	listed  []*entry // those with something to report or to give back
	spare   []*entry
	orphans []Call // units of entries that are gone, to be given back
	_       [64]byte
}

// spot is where an entry lives.
type spot struct {
	s *localShard
	e *entry
}

// mode is what Hybrid and Leased differ in. The shard of the entry is locked.
type mode interface {
	// bound is how many units an entry may have out, of so many nodes.
	bound(p *plan, nodes int64) int64
	// admit charges n units here, if it may.
	admit(e *entry, n int64) bool
	// short tells that the mode would like to ask ahead of need.
	short(e *entry) bool
	// question is the Take of a check that was not admitted here.
	question(e *entry, n int64) Op
	// answer takes in what came of it. again: the caller has to look once more.
	answer(e *entry, op *Op, n, asked int64, o *Outcome) (allowed, again bool)
	// ahead is what to ask of a short entry, due what to tell of a listed one at a pass; false for nothing.
	ahead(e *entry) (Op, bool)
	due(e *entry, pass uint32, final bool) (Op, bool)
	// synced takes in what came of those.
	synced(e *entry, op *Op, asked int64, o *Outcome)
	// busy tells whether the entry has to stay listed.
	busy(e *entry) bool
}

// entry is what this process knows of one counter. Its shard's lock guards it.
type entry struct {
	key   string
	plan  *plan
	epoch uint32
	bound int64 // 0: every check is the store's

	known bool   // the store has told of this counter under this plan
	since uint32 // changes when what is on its way no longer says anything
	// left is, in a Hybrid, what the store has left less all that was admitted since; in a Leased, what is prepaid.
	left int64
	// pending is what was admitted and the store has not confirmed; sent is the part of it that is on its way.
	pending, sent int64
	flight        *flight
	listed, hot   bool
	standing      bool   // the policy's own limiter knows of this counter: see stand
	asked         uint32 // the pass that need not ask, since somebody has just asked
	used          uint32 // the last pass before it was used (Leased)

	had, at, reset int64 // of a Hybrid what was left when the store told; the store's clock then, and its Reset in µs
	rest           int64 // of a Leased what the store has left
	gone           bool  // it has made way for another
	lease          prepaid
	refusal        refusal
}

// flight is a question on its way.
type flight struct {
	done chan struct{}
	// Set before done is closed.
	err    error
	hungUp bool // its caller did; it says nothing of the store
}

func newLocal(s Store, limit Limit, o *Options, m mode, nodes func() int, period time.Duration, maxKeys int) (*local, error) {
	inner := *o
	inner.DenyCache = -1 // entries remember refusals
	l, err := New(s, limit, &inner)
	if err != nil {
		return nil, err
	}
	c := &local{limiter: l, mode: m, base: l.o.Now(), nodes: nodes, wake: make(chan struct{}, 1), period: period}
	c.limit = max(1, (maxKeys+localShards-1)/localShards)
	for i := range c.shards {
		c.shards[i].entries = map[uint64]*entry{}
	}
	c.members.Store(1)
	return c, nil
}

// now is the time by which refusals and leases end, in ns.
func (c *local) now() int64 { return int64(c.limiter.o.Now().Sub(c.base)) }

func (c *local) find(p *plan, key string) (*localShard, uint64) {
	d := p.digest(key)
	return &c.shards[d%localShards], d
}

// entry returns what is known of a counter, a new entry for one that is not known, and nil if there is no room for one. The shard is locked.
func (c *local) entry(s *localShard, d uint64, p *plan, key string) *entry {
	e := s.entries[d]
	switch {
	case e == nil:
		if len(s.entries) >= c.limit && !c.evict(s) {
			return nil
		}
		e = &entry{key: strings.Clone(key), plan: p}
		s.entries[d] = e
		c.rebound(e)
	case e.key != key || e.plan.Name != p.Name: // two in 2^64
		return nil
	case e.plan != p && e.plan.Limit != p.Limit:
		c.change(s, e, p)
	case e.epoch != c.epoch.Load():
		c.rebound(e)
	}
	return e
}

func (c *local) rebound(e *entry) {
	e.epoch, e.bound = c.epoch.Load(), 0
	if c.running.Load() {
		e.bound = c.mode.bound(e.plan, c.members.Load())
	}
}

// change puts an entry under another limit, of which the store has told nothing yet. What is pending stays so.
func (c *local) change(s *localShard, e *entry, p *plan) {
	c.giveUp(s, e)
	e.plan = p
	e.forget()
	c.rebound(e)
}

// forget drops what the store has told; what is pending stays.
func (e *entry) forget() {
	e.known, e.left, e.had, e.rest, e.lease, e.refusal = false, 0, 0, 0, prepaid{}, refusal{}
	e.since++
}

// evict makes room for an entry. One that has something to report never makes way, and one that is refused only if there is no other: it costs a
// question more.
func (c *local) evict(s *localShard) bool {
	victim, looked := uint64(0), 0
	for d, e := range s.entries {
		if e.pending > 0 || e.flight != nil {
			continue
		}
		if victim = d; e.refusal.until == 0 {
			break
		}
		if looked++; looked == 8 {
			break
		}
	}
	if victim == 0 {
		return false
	}
	e := s.entries[victim]
	c.giveUp(s, e)
	e.gone = true
	delete(s.entries, victim)
	return true
}

// giveUp puts what an entry has prepaid among what the next pass gives back.
func (c *local) giveUp(s *localShard, e *entry) {
	for range 2 { // those of a window that is over, and those that are in use
		if op, ok := e.lease.back(e); ok && len(s.orphans) < maxOrphans {
			s.orphans = append(s.orphans, Call{Ops: []Op{op}})
		}
	}
}

// take is Allow.
func (c *local) take(ctx context.Context, key string, n int64) (Result, error) {
	p, err := c.limiter.planFor(ctx, key)
	if err != nil {
		return Result{}, err
	}
	return c.takeOf(ctx, p, key, n)
}

// takeOf is take, of a limit that is known.
func (c *local) takeOf(ctx context.Context, p *plan, key string, n int64) (Result, error) {
	if uint(len(key)-1) >= MaxKey || n < 1 || p.Algorithm == Concurrency {
		if err := faultOf(p, Take, key, n); err != nil {
			return Result{}, err
		}
	}
	s, d := c.find(p, key)
	var patience <-chan struct{}
	for {
		r, again, err := c.once(ctx, s, d, p, key, n, &patience)
		if !again {
			if err == nil {
				c.told(p, key, &r)
			}
			return r, err
		}
	}
}

func (c *local) once(ctx context.Context, s *localShard, d uint64, p *plan, key string, n int64, patience *<-chan struct{}) (r Result, again bool, err error) {
	s.mu.Lock()
	e := c.entry(s, d, p, key)
	if e == nil {
		s.mu.Unlock()
		r, err = c.plain(ctx, Op{Limit: p.Limit, Key: key, N: n}, p)
		return r, false, err
	}
	e.refusal.checks++
	if c.mode.admit(e, n) {
		c.list(s, e)
		r = e.result(true, FromLocal)
		c.early(s, e)
		s.mu.Unlock()
		return r, false, nil
	}
	if wait := c.refuses(e, n); wait > 0 {
		e.refusal.seen++
		r = e.result(false, FromLocal)
		s.mu.Unlock()
		r.RetryAfter = wait
		return r, false, nil
	}
	if f := e.flight; f != nil && e.bound > 0 {
		s.mu.Unlock()
		return c.wait(ctx, s, e, p, f, n, patience)
	}
	return c.ask(ctx, s, e, n)
}

// wait waits for another's flight. patience begins when the caller of one has hung up, and ends when none has stayed to hear an answer for as long as that
// may take; then who waits asks beside them:
//
//	the store hangs, and callers who wait for less than Options.Timeout come and go
//	whoever has more patience waits for the flight of one of them; its caller hangs up
//	another of them is faster to ask; he waits for that, and so on, for as long as they come
func (c *local) wait(ctx context.Context, s *localShard, e *entry, p *plan, f *flight, n int64, patience *<-chan struct{}) (r Result, again bool, err error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		return Result{}, false, ctx.Err()
	case <-*patience:
		r, err = c.aside(ctx, s, e, p, n)
		return r, false, err
	}
	switch {
	case f.hungUp:
		if *patience == nil {
			*patience = c.limiter.timeout.Shared().Done()
		}
		return Result{}, true, nil
	case f.err == nil:
		*patience = nil // the store answers
		return Result{}, true, nil
	}
	r, err = c.stand(ctx, s, e, n)
	return r, false, err
}

// aside has the store decide beside a flight. What is pending here it does not know, and that is no more than the bound.
func (c *local) aside(ctx context.Context, s *localShard, e *entry, p *plan, n int64) (Result, error) {
	replies, err := c.limiter.askAll(ctx, []Call{{Ops: []Op{{Limit: p.Limit, Key: e.key, N: n}}}})
	switch {
	case err == nil:
		return p.shown(&replies[0].Outcomes[0], FromStore), nil
	case callers(ctx, err):
		return Result{}, err
	}
	return c.stand(ctx, s, e, n)
}

func (c *local) told(p *plan, key string, r *Result) {
	if f := c.limiter.o.Hooks.OnDecision; f != nil {
		f(p.Limit, key, *r)
	}
}

func (p *plan) shown(o *Outcome, source Source) (r Result) {
	p.result(o, source, &r)
	return r
}

// plain has the store decide on a key for which there is no room here.
func (c *local) plain(ctx context.Context, op Op, p *plan) (Result, error) {
	calls := []Call{{Ops: []Op{op}}}
	replies, err := c.limiter.askAll(ctx, calls)
	if err == nil {
		return p.shown(&replies[0].Outcomes[0], FromStore), nil
	}
	if callers(ctx, err) {
		return Result{}, err
	}
	outcomes, source := c.limiter.policy(ctx, calls[0])
	return p.shown(&outcomes[0], source), nil
}

// list keeps an entry in sight of the passes.
func (c *local) list(s *localShard, e *entry) {
	if !e.listed && c.mode.busy(e) {
		e.listed = true
		s.listed = append(s.listed, e)
	}
}

// early lets Run ask before the next caller has to wait for it.
func (c *local) early(s *localShard, e *entry) {
	if e.hot || e.flight != nil || !c.mode.short(e) {
		return
	}
	e.hot = true
	c.mu.Lock()
	c.hot = append(c.hot, spot{s, e})
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// ask has the store decide; what is pending goes along. The shard is locked and is unlocked here.
func (c *local) ask(ctx context.Context, s *localShard, e *entry, n int64) (r Result, again bool, err error) {
	calls := make([]Call, 0, 2)
	var f *flight
	if e.flight == nil {
		f = &flight{done: make(chan struct{})}
		e.flight, e.sent = f, e.pending
		if e.pending > 0 {
			calls = append(calls, Call{Ops: []Op{{Kind: Charge, Limit: e.plan.Limit, Key: e.key, N: e.pending}}})
		}
	}
	calls = append(calls, Call{Ops: []Op{c.mode.question(e, n)}})
	since, asked := e.since, c.now()
	e.asked = c.passes.Load() + 1
	c.list(s, e)
	s.mu.Unlock()

	err = errPanic
	var replies []Reply
	defer func() {
		if f != nil && err == errPanic { //nolint:errorlint // it is this very one, and wraps nothing
			s.mu.Lock()
			c.land(e, f, err, false)
			s.mu.Unlock()
		}
	}()
	replies, err = c.limiter.askAll(ctx, calls)

	s.mu.Lock()
	if err == nil {
		r, again, err = c.learn(e, f, since, asked, calls, replies, n)
	}
	if f != nil {
		c.land(e, f, err, err != nil && callers(ctx, err))
	}
	c.list(s, e)
	s.mu.Unlock()
	if err != nil && !callers(ctx, err) {
		r, err = c.stand(ctx, s, e, n)
	}
	return r, again, err
}

var errPanic = errors.New("ratelimit: store panicked")

// land ends a flight. The shard is locked.
func (c *local) land(e *entry, f *flight, err error, hungUp bool) {
	e.sent, e.flight = 0, nil
	f.err, f.hungUp = err, hungUp
	close(f.done)
}

// learn takes in what the store has answered to ask. The shard is locked.
func (c *local) learn(e *entry, f *flight, since uint32, asked int64, calls []Call, replies []Reply, n int64) (r Result, again bool, err error) {
	last := len(calls) - 1
	op, reply := &calls[last].Ops[0], &replies[last]
	least := int64(MaxRate)
	if last > 0 && replies[0].Err == nil {
		e.pending -= e.sent
		least = replies[0].Outcomes[0].Remaining
	}
	if reply.Err != nil {
		return r, false, reply.Err
	}
	o := &reply.Outcomes[0]
	o.Remaining = min(o.Remaining, least) // whichever of the two the store did first
	e.standing = false
	allowed := o.Allowed
	switch {
	case e.since != since: // of another limit, or before a reset
		allowed, again = allowed && op.Min == 0, op.Min > 0
	case f == nil: // others are on their way too, and may be newer
		c.paced(e, n, o, true)
	default:
		allowed, again = c.mode.answer(e, op, n, asked, o)
		e.known, e.at, e.reset = true, o.At, o.Reset.Microseconds()
		c.paced(e, n, o, e.left < e.bound && (op.Min == 0 || o.Charged < op.N))
	}
	r = e.plan.shown(o, FromStore)
	if r.Allowed = allowed; !allowed && o.Wait != Never {
		r.RetryAfter = max(o.Wait, c.left(e, n))
	}
	return r, again, nil
}

// result shows what is known to a caller.
func (e *entry) result(allowed bool, source Source) Result {
	p, at := e.plan, e.at+e.reset
	if p.Algorithm.bucket() && e.left < e.had {
		at += p.span(e.had - e.left).up()
	}
	return Result{Allowed: allowed, Source: source, Limit: p.Burst, Remaining: min(max(0, e.left+e.rest), p.Burst), ResetAt: time.UnixMicro(at)}
}

// stand answers for a store that fails, by the policy. Its own limiter ([FailLocal]) begins empty for a key that this process has counted: the
// burst may be spent already, and what it has admitted is charged to the store when that is back.
func (c *local) stand(ctx context.Context, s *localShard, e *entry, n int64) (Result, error) {
	l := c.limiter
	s.mu.Lock()
	p := e.plan
	if l.stand != nil && e.known && !e.standing {
		// Under the lock: who comes next must not find a full bucket.
		e.standing = true
		part := share(p.Limit, l.o.Share)
		l.stand.Decide(ctx, []Call{{Ops: []Op{{Kind: Charge, Limit: part, Key: e.key, N: part.Capacity()}}}})
	}
	s.mu.Unlock()
	op := Op{Limit: p.Limit, Key: e.key, N: n}
	outcomes, source := l.policy(ctx, Call{Ops: []Op{op}})
	r := p.shown(&outcomes[0], source)
	if r.Allowed && source == FromFallback {
		s.mu.Lock()
		e.pending = max(e.pending, min(e.pending+n, 2*p.Burst)) // those of a larger limit stay
		c.list(s, e)
		s.mu.Unlock()
	}
	return r, nil
}

// peek tells what take would, as far as this process knows.
func (c *local) peek(ctx context.Context, key string) (Result, error) {
	p, err := c.limiter.planFor(ctx, key)
	if err != nil {
		return Result{}, err
	}
	s, d := c.find(p, key)
	s.mu.Lock()
	if e := s.entries[d]; e != nil && e.key == key && e.plan.Limit == p.Limit && e.epoch == c.epoch.Load() && e.known && e.bound > 0 {
		r := e.result(e.left > 0 && e.lease.live(c), FromLocal)
		if !r.Allowed {
			r.RetryAfter = c.refuses(e, 1)
		}
		if r.Allowed || r.RetryAfter > 0 {
			s.mu.Unlock()
			c.told(p, key, &r)
			return r, nil
		}
	}
	s.mu.Unlock()
	return c.limiter.Peek(ctx, key)
}

// reset forgets a key, here and at the store.
func (c *local) reset(ctx context.Context, key string) error {
	p, err := c.limiter.planFor(ctx, key)
	if err != nil {
		return err
	}
	s, d := c.find(p, key)
	err = s.quiet(ctx, d, key, func(e *entry) { e.pending, e.sent = 0, 0; e.forget() }, func(e *entry) { e.pending = 0; e.forget() })
	if err != nil {
		return err
	}
	err = c.limiter.Reset(ctx, key)
	// Who was refused before the store has forgotten, and is told so only now, must not have others refused here.
	calm := func(e *entry) { e.refusal = refusal{} }
	return cmp.Or(err, s.quiet(ctx, d, key, calm, func(e *entry) { calm(e); e.since++ }))
}

// quiet changes an entry, if there is one, now and when nothing of it is on its way: a charge, or a refusal, would come after.
func (s *localShard) quiet(ctx context.Context, d uint64, key string, now, then func(e *entry)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[d]
	if e == nil || e.key != key {
		return nil
	}
	now(e)
	for f := e.flight; f != nil; f = e.flight {
		s.mu.Unlock()
		select {
		case <-f.done:
			s.mu.Lock()
		case <-ctx.Done():
			s.mu.Lock()
			return ctx.Err()
		}
	}
	then(e)
	return nil
}
