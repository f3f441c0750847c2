package ratelimit

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

// MemoryOptions are the optional settings of a [Memory]. The zero value means the defaults.
type MemoryOptions struct {
	// MaxKeys is how many counters there are at most of each kind of state, which are buckets, windows, logs and places, to within the evenness of 256
	// parts. Beyond it idle and little-used ones make way,
	// exhausted ones never: see the package's documentation.
	// Default: 1,000,000.
	MaxKeys int
	// Now is the clock. What it returns is used to the microsecond.
	// Default: the time since the store was made, by the monotonic clock, which no one can set.
	Now func() time.Time
}

// Memory is a store of one process. It is safe for concurrent use. Make one with [NewMemory]; the zero value is not usable.
//
// Cost: no allocation for a limit of one instant or count; 24 bytes a slot for buckets, 40 for windows, of which 64 to 80 % are in use; an entry of
// 16 bytes for each call that a sliding log admits. A lock that a 256th of the keys share.
type Memory struct {
	shards [shards]shard
	now    func() time.Time
	base   time.Time // of the monotonic clock
	epoch  int64     // base in µs since the Unix epoch
}

const shards = 256

type shard struct {
	mu      sync.Mutex
	last    int64 // when it was asked last, by the monotonic clock
	buckets table[bucket]
	windows table[window]
	logs    table[*logged]
	holders table[*held]
	_       [64]byte // keeps the neighbour's lock out of this cache line
}

// logged and held are states that are changed in place.
type (
	logged struct {
		slidingLog
		plan *plan
	}
	held struct {
		holders
		plan *plan
	}
)

// NewMemory returns an empty store.
func NewMemory(o *MemoryOptions) *Memory {
	if o == nil {
		o = &MemoryOptions{}
	}
	limit := o.MaxKeys
	if limit <= 0 {
		limit = 1_000_000
	}
	limit = max(1, (limit+shards-1)/shards)
	m := &Memory{now: o.Now, base: time.Now()}
	m.epoch = m.base.UnixMicro()
	for i := range m.shards {
		s := &m.shards[i]
		s.buckets.limit, s.windows.limit, s.logs.limit, s.holders.limit = limit, limit, limit, limit
	}
	return m
}

// micros reads the clock. It is read before a counter is locked, since that takes longer than all that is done under the lock. See shard.time.
func (m *Memory) micros() int64 {
	if m.now != nil {
		return max(0, m.now().UnixMicro())
	}
	return m.epoch + int64(time.Since(m.base))/1000
}

// time is the time for a call that has read the clock and then waited for the lock.
//
// Why it is not simply what was read:
//
//	A and B read the clock, B a microsecond later;
//	B gets the lock first and takes the last but one of 40 units: 39 are used, to the microsecond;
//	A, for whom it is earlier, finds a microsecond more than 39 used, and is refused the last.
//
// A clock that was given may be set back and is believed: the algorithms see to it that this gives nothing away.
func (s *shard) time(m *Memory, now int64) int64 {
	if m.now != nil {
		return now
	}
	s.last = max(s.last, now)
	return s.last
}

// Keys and names of limits are digested by a seed each. With one for both they would cancel out: the key "all" of the limit "all" would have the
// counter of "login" of "login", and "login" of "all" that of "all" of "login". A small limit that finds the counter of a large one translates
// it, as if it had been changed, to no more than it has room for itself: of 1,000 units that were used 10 would be left.
var keySeed, nameSeed = maphash.MakeSeed(), maphash.MakeSeed()

func digestOfName(name string) uint64 { return maphash.String(nameSeed, name) }

// digest names the counter of a key: of a shard by its low bits, of a slot by its high ones.
func (p *plan) digest(key string) uint64 {
	d := maphash.String(keySeed, key) ^ p.nameDigest
	if d == 0 {
		d = 1
	}
	return d
}

// decideOne is what most calls are, without allocating.
func (m *Memory) decideOne(p *plan, kind Kind, key string, n int64, o *Outcome) {
	now, d := m.micros(), p.digest(key)
	s := &m.shards[d%shards]
	s.mu.Lock()
	now = s.time(m, now)
	if p.Algorithm.bucket() && kind == Take {
		if i := s.buckets.find(d); i >= 0 {
			p.take(&s.buckets.slots[i].state, now, n, 0, 0, o)
			s.mu.Unlock()
			return
		}
	}
	*o = s.decide(p, d, now, &Op{Kind: kind, N: n})
	s.mu.Unlock()
}

// Decide implements [Store]. It never waits and never fails.
func (m *Memory) Decide(_ context.Context, calls []Call) []Reply {
	replies := make([]Reply, len(calls))
	for i := range calls {
		replies[i] = m.call(&calls[i])
	}
	return replies
}

// call carries out a call, with all its counters locked, in the order of the shards.
func (m *Memory) call(c *Call) Reply {
	if err := c.Validate(); err != nil {
		return Reply{Err: err}
	}
	now := m.micros()
	plans, digests := make([]*plan, len(c.Ops)), make([]uint64, len(c.Ops))
	locks := make([]uint64, 0, len(c.Ops))
	takes := 0
	for i := range c.Ops {
		p, err := planOf(c.Ops[i].Limit)
		if err != nil {
			return Reply{Err: err}
		}
		plans[i], digests[i] = p, p.digest(c.Ops[i].Key)
		locks = append(locks, digests[i]%shards)
		if c.Ops[i].Kind == Take {
			takes++
		}
	}
	slices.Sort(locks)
	locks = slices.Compact(locks)
	for _, i := range locks {
		m.shards[i].mu.Lock()
		defer m.shards[i].mu.Unlock()
		now = m.shards[i].time(m, now)
	}
	for _, i := range locks { // the next to come to one must not be earlier than this call, either
		m.shards[i].time(m, now)
	}
	outcomes := make([]Outcome, len(c.Ops))
	one := func(i int, op *Op) Outcome { return m.shards[digests[i]%shards].decide(plans[i], digests[i], now, op) }
	refused := false
	if takes > 1 {
		refused = try(c.Ops, outcomes, one)
	}
	if refused {
		mend(c.Ops, outcomes, one)
	}
	for i := range c.Ops {
		if refused && c.Ops[i].Kind == Take {
			continue
		}
		outcomes[i] = one(i, &c.Ops[i])
		if takes > 1 && c.Ops[i].Kind == Take && !outcomes[i].Allowed {
			// Keys that have to share a counter, since there is no room, were each found to have room in it, and together they have not.
			refused = true
			undo(c.Ops[:i], outcomes, one)
			try(c.Ops[:i], outcomes, one)
		}
	}
	return Reply{Outcomes: outcomes}
}

// try finds out what takes would be told, and whether one is refused.
func try(ops []Op, outcomes []Outcome, one func(i int, op *Op) Outcome) (refused bool) {
	for i := range ops {
		if trial := ops[i]; trial.Kind == Take {
			trial.Kind = Peek
			outcomes[i] = one(i, &trial)
			refused = refused || !outcomes[i].Allowed
		}
	}
	return refused
}

// mend carries out the takes that try has found to be refused: that charges nothing, but writes down that the clock was set back. Where all calls are to several
// limits nobody else would:
//
//	the clock is set back an hour: a bucket that was hardly used is to be full in an hour, which counts as empty
//	every call to it and to others is refused, and leaves it as it is, for an hour
//
// A place of a holder who has one already would be extended, and is let be.
func mend(ops []Op, outcomes []Outcome, one func(i int, op *Op) Outcome) {
	for i := range ops {
		if ops[i].Kind == Take && !outcomes[i].Allowed && ops[i].Limit.Algorithm != Concurrency {
			one(i, &ops[i])
		}
	}
}

// undo gives back what takes have charged: all of it, since nobody has come since, to whom some of it would have to be left (see plan.before).
func undo(ops []Op, outcomes []Outcome, one func(i int, op *Op) Outcome) {
	for i := range ops {
		if back := ops[i]; back.Kind == Take && outcomes[i].Charged > 0 {
			back.Kind, back.N, back.At, back.Ahead = Return, outcomes[i].Charged, outcomes[i].At, 0
			one(i, &back)
		}
	}
}

// decide carries out one op; the shard is locked.
func (s *shard) decide(p *plan, d uint64, now int64, op *Op) Outcome {
	switch p.Algorithm {
	case SlidingLog:
		return s.log(p, d, now, op)
	case Concurrency:
		return s.hold(p, d, now, op)
	case FixedWindow, SlidingCounter:
		return s.window(p, d, now, op)
	default:
		return s.bucket(p, d, now, op)
	}
}

func (s *shard) bucket(p *plan, d uint64, now int64, op *Op) (o Outcome) {
	t := &s.buckets
	b := t.get(d, p.nameDigest, now)
	switch op.Kind {
	case Charge:
		b, o = p.charge(b, now, op.N)
	case Return:
		b, o = p.giveBack(b, now, op.N, op.due())
	case Reset:
		t.delete(d)
		return p.unused(now)
	default:
		next := b
		p.take(&next, now, op.N, op.Min, op.Ahead, &o)
		if op.Kind == Peek {
			o.Charged = 0
			debt, _ := p.debt(b, now)
			p.show(&o, debt)
		}
		if next == b || op.Kind == Peek {
			return o
		}
		b = next
	}
	t.put(d, p.nameDigest, b, now)
	return o
}

func (s *shard) window(p *plan, d uint64, now int64, op *Op) (o Outcome) {
	t := &s.windows
	w := t.get(d, p.nameDigest, now)
	switch op.Kind {
	case Charge:
		w, o = p.chargeWindow(w, now, op.N)
	case Return:
		w, o = p.giveBackWindow(w, now, op.N, op.At)
	case Reset:
		t.delete(d)
		return p.unused(now)
	default:
		var next window
		next, o = p.takeWindow(w, now, op.N, op.Min)
		if op.Kind == Peek {
			o.Charged = 0
			p.showWindow(&o, w, now)
		}
		if next == w || op.Kind == Peek {
			return o
		}
		w = next
	}
	t.put(d, p.nameDigest, w, now)
	return o
}

func (s *shard) log(p *plan, d uint64, now int64, op *Op) Outcome {
	t := &s.logs
	l := t.get(d, p.nameDigest, now)
	switch {
	case op.Kind == Reset:
		t.delete(d)
		return p.unused(now)
	case l == nil:
		l = &logged{}
	}
	if op.Kind == Peek {
		return p.peekLog(&l.slidingLog, now, op)
	}
	o := p.changeLog(&l.slidingLog, now, op)
	if l.plan == nil && len(l.entries) > 0 {
		t.put(d, p.nameDigest, l, now)
	}
	l.plan = p
	return o
}

func (s *shard) hold(p *plan, d uint64, now int64, op *Op) Outcome {
	t := &s.holders
	h := t.get(d, p.nameDigest, now)
	switch {
	case op.Kind == Reset:
		t.delete(d)
		return p.unused(now)
	case h == nil:
		h = &held{}
	}
	if op.Kind == Peek {
		return p.peekHolders(&h.holders, now, op.N)
	}
	o := p.changeHolders(&h.holders, now, op)
	if h.plan == nil && h.units > 0 {
		t.put(d, p.nameDigest, h, now)
	}
	h.plan = p
	return o
}

// unused is the outcome of a Reset.
func (p *plan) unused(now int64) Outcome {
	return Outcome{Allowed: true, Remaining: p.Burst, At: now}
}

func (b bucket) idle(now int64) bool { return b.us < now || b.us == now && b.frac == 0 }

func (b bucket) load(now int64) int64 {
	p := planByID(b.limit)
	if p == nil {
		return 0
	}
	debt, _ := p.debt(b, now)
	return p.part(p.units(debt))
}

// part is how much of the limit so many units are, in parts of 1024.
func (p *plan) part(units int64) int64 { return units << 10 / p.Burst }

func (w window) idle(now int64) bool {
	p := planByID(w.limit)
	if p == nil {
		return w.cur == 0 && w.prev == 0
	}
	w, elapsed, _ := p.at(w, now)
	return p.fresh(w, elapsed) == 0
}

func (w window) load(now int64) int64 {
	p := planByID(w.limit)
	if p == nil {
		return 0
	}
	w, elapsed, _ := p.at(w, now)
	return p.part(p.used(w, elapsed))
}

func (l *logged) idle(now int64) bool { return l.plan.live(&l.slidingLog, now) == len(l.entries) }

func (l *logged) load(now int64) int64 {
	return l.plan.part(l.total(l.plan.live(&l.slidingLog, now)))
}

func (h *held) idle(now int64) bool {
	last := h.leases.Back()
	return last == nil || last.Value.(*lease).until <= now
}

func (h *held) load(now int64) int64 {
	if h.idle(now) {
		return 0
	}
	return h.plan.part(h.units)
}
