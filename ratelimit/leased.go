package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// Leased takes units from the store by the batch and decides in this process until they are used up. It never admits more than the limit. It is safe for
// concurrent use. Make one with [NewLeased]; the zero value is not usable, and [Leased.Run] must run.
//
// # What is guaranteed
//
// What is admitted was charged to the store before. A unit can be used some time after it was charged, though, and that must not let two bursts
// meet: one of prepaid units, and one of those that came back meanwhile. So, of a limit of L and processes that hold h units at most altogether:
//
//	TokenBucket, GCRA   The store's bucket has room for Burst - h. In the bucket and in all hands there are never more than Burst units, so
//	                    in any Per at most Burst + L are admitted, as by the limit itself. The rate is L; a burst, and the most that one call
//	                    can be given, is smaller by h.
//	SlidingLog          The store admits L - h in any Per. With what was held before it makes at most L.
//	FixedWindow,        A batch ends when the window does in which it was charged, so that each window admits what it would. The end is
//	SlidingCounter      taken from the store's answer and measured by this process' clock: from when the question was sent, so rather too soon.
//
// h is Reserve / (1 + Reserve) of the limit: with the default of 0.1, a limit of 1,100 is one of 1,000, and up to 100 in hands. A process holds h / Nodes
// at most; where that is under one unit the store decides on every check, and so it does while Run is not running.
//
// Batches grow with use, from an eighth of what a process may hold. Where the store has less than a batch it gives what there is, and a refused key is
// refused here until the wait is over. Units that are not used for Idle, or are left when Run ends, are given back.
//
// # What is not
//
//   - Nodes has to be true: each process more may hold a share more.
//   - The limit is not always used up: a process that crashes takes along what it holds, and one that has units left holds them for up to Idle
//     while another refuses. Of a SlidingLog only the units of the last batch are given back; older ones run out there.
//   - The clock (Options.Now) must not go back for windows; if it is seen to, the batch is not used. The default cannot go back.
//
// # When the store is down
//
// What is prepaid is used; then Options.OnError decides, as in [Hybrid]: under FailClosed there is never more than the limit. A question of which the
// answer is lost may have been charged: those units are not admitted.
type Leased struct{ local *local }

// LeasedOptions are the settings of a [Leased]. DenyCache is of no use here.
type LeasedOptions struct {
	Options
	// Nodes is how many processes share the limit. Required, unless NodesNow is given: a guarantee that rests on a guess is none.
	Nodes int
	// NodesNow returns how many there are now. It is asked every 100 ms.
	NodesNow func() int
	// Reserve is how much of the limit, in parts of what remains for the store, may be in the hands of processes. Up to 1.
	// Default: 0.1. Negative: none, so that the store decides on each check.
	Reserve float64
	// Idle is after what time units that nobody uses are given back, to within 100 ms.
	// Default: 1 s.
	Idle time.Duration
	// MaxKeys is how many keys this process knows at most, to within the evenness of 64 parts. With more, others make way and what they hold is
	// given back.
	// Default: 100,000.
	MaxKeys int
}

// leasePeriod is how often Leased.Run looks what to give back.
const leasePeriod = 100 * time.Millisecond

// NewLeased returns a leased limiter. It starts nothing and asks the store nothing. The error joins an [*InvalidError] for each fault.
func NewLeased(store Store, limit Limit, o *LeasedOptions) (*Leased, error) {
	if o == nil {
		o = &LeasedOptions{}
	}
	nodes, faults := nodesOf(o.Nodes, o.NodesNow, "LeasedOptions")
	if !(o.Reserve <= 1) {
		faults = append(faults, invalid("LeasedOptions.Reserve", "is over 1"))
	}
	if o.Idle < 0 {
		faults = append(faults, invalid("LeasedOptions.Idle", "is negative"))
	}
	faults = append(faults, scaleFaults(limit, 0, o.MaxKeys, "LeasedOptions"))
	m := &leasedMode{reserve: max(0, cmp.Or(o.Reserve, 0.1))}
	m.idle = uint32(max(1, cmp.Or(o.Idle, time.Second)/leasePeriod))
	inner := o.Options
	if of := inner.LimitFor; of != nil {
		inner.LimitFor = func(ctx context.Context, key string) Limit { return m.lessReserve(of(ctx, key)) }
	}
	c, err := newLocal(store, m.lessReserve(limit), &inner, m, nodes, leasePeriod, cmp.Or(o.MaxKeys, 100_000))
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	m.local = c
	return &Leased{c}, nil
}

// Allow charges one unit to key if there is room for it. The error is one of the call ([*InvalidError]) or ctx's.
//
// Cost: mostly no question and no allocation; one question for a batch.
func (l *Leased) Allow(ctx context.Context, key string) (Result, error) {
	return l.local.take(ctx, key, 1)
}

// AllowN charges n units to key if there is room for all of them. More than a process may hold are decided by the store.
func (l *Leased) AllowN(ctx context.Context, key string, n int64) (Result, error) {
	return l.local.take(ctx, key, n)
}

// Peek tells what Allow would answer as far as this process knows, else asks the store. It charges nothing.
func (l *Leased) Peek(ctx context.Context, key string) (Result, error) {
	return l.local.peek(ctx, key)
}

// Reset forgets what key has used, here and at the store, and fails where the store does. Other processes still have what they hold.
func (l *Leased) Reset(ctx context.Context, key string) error { return l.local.reset(ctx, key) }

// Run takes batches before they are needed, and gives back units that are not used. When ctx ends it gives back the rest and returns nil, or the
// error if what the policy has admitted cannot be charged. From then on every check is the store's. Call it once at a time.
func (l *Leased) Run(ctx context.Context) error { return l.local.run(ctx, "Leased") }

// leasedMode implements mode.
type leasedMode struct {
	local   *local
	reserve float64
	idle    uint32 // passes
}

// prepaid is what there is to know of the units that an entry holds.
type prepaid struct {
	batch int64 // how many it would hold next
	at, n int64 // of the last grant, by the store's clock

	window, end, last int64 // of aligned windows: the number, when it is over, and when it was last looked at, in ns by the clock of local
	stale, staleAt    int64 // units of a window that is over

	promised int64 // how many a caller who was refused is waiting for; 0 if the last question was answered with units
}

// aligned tells whether units are of one window, of those that begin at the Unix epoch.
func (p *plan) aligned() bool { return p.Algorithm == FixedWindow || p.Algorithm == SlidingCounter }

// lessReserve is the limit that the store is asked about: with what may be in hands it makes no more than the limit. An invalid one is left as it is,
// for others to refuse.
func (m *leasedMode) lessReserve(l Limit) Limit {
	l = l.Normal()
	switch {
	case l.Rate < 1 || l.Rate > MaxRate || l.Burst < 1 || l.Burst > MaxRate || !l.Algorithm.bucket() && l.Burst != l.Rate:
	case l.Algorithm == SlidingLog:
		l.Rate = m.fit(l.Rate)
		l.Burst = 0
	case l.Algorithm.bucket():
		l.Burst = m.fit(l.Burst)
	default:
		l.Burst = 0
	}
	return l
}

// fit is the largest n that with its reserve makes no more than all.
func (m *leasedMode) fit(all int64) int64 {
	n := min(all, int64(float64(all)/(1+m.reserve))+1)
	for n > 1 && n+m.inHands(n) > all {
		n--
	}
	return n
}

func (m *leasedMode) inHands(n int64) int64 { return int64(m.reserve * float64(n)) }

func (m *leasedMode) bound(p *plan, nodes int64) int64 {
	return m.inHands(min(p.Rate, p.Burst)) / nodes
}

func (m *leasedMode) admit(e *entry, n int64) bool {
	if e.plan.aligned() && e.left > 0 && !e.lease.live(m.local) {
		e.lease.lapse(e)
	}
	if n > e.left {
		return false
	}
	e.left -= n
	e.used = m.local.passes.Load()
	return true
}

// live tells whether the window in which the units were charged goes on. That the clock was set back whoever comes sees, until there are units anew:
//
//	the clock is set back; a peek sees it, and asks the store
//	a take, for which the clock goes on, would use the units after their window
func (l *prepaid) live(c *local) bool {
	if l.end == 0 {
		return true
	}
	now := c.now()
	if now < l.last {
		return false
	}
	l.last = now
	return now < l.end
}

// lapse takes an entry's units out of use. The next pass gives them back: of a sliding counter they weigh in the next window.
func (l *prepaid) lapse(e *entry) {
	l.stale, l.staleAt = e.left, l.at
	l.batch = max(1, l.batch-e.left)
	e.left = 0
}

// back is what gives an entry's units back. Those of several grants are one: a bucket does not ask when they were charged, and of windows they are all of
// one. A log does, and gets back what the last grant was.
func (l *prepaid) back(e *entry) (Op, bool) {
	n, at := l.stale, l.staleAt
	l.stale = 0
	if n == 0 && l.n > 0 {
		n, at = e.left, l.at
		if e.plan.Algorithm == SlidingLog {
			n = min(n, l.n)
		}
		e.left, l.n = 0, 0
	}
	return Op{Kind: Return, Limit: e.plan.Limit, Key: e.key, N: n, At: at}, n > 0
}

// short: a quarter of the batch is left, and the last one was whole.
func (m *leasedMode) short(e *entry) bool {
	return e.lease.batch >= 16 && 4*e.left <= e.lease.batch && !e.refusal.dry
}

// target is how many units to hold next: twice as many if they were used up within a second.
func (m *leasedMode) target(e *entry, least int64) int64 {
	l := &e.lease
	switch {
	case l.batch == 0:
		l.batch = max(1, e.bound/8)
	case m.local.passes.Load()-e.asked < 10 || m.local.passes.Load() < e.asked:
		l.batch *= 2
	}
	l.batch = min(l.batch, e.bound)
	return max(l.batch, least)
}

func (m *leasedMode) question(e *entry, n int64) Op {
	op := Op{Kind: Take, Limit: e.plan.Limit, Key: e.key, N: n}
	if n <= e.bound {
		op.N, op.Min = m.target(e, n)-e.left, n-e.left
		if e.refusal.pause > 0 && !e.plan.Algorithm.bucket() {
			// When what comes back next cannot be computed here, crumbs would be asked for one by one. What a caller was told to wait for is none.
			crumbs := op.N / 2
			if e.lease.promised > 0 {
				crumbs = min(crumbs, e.lease.promised)
			}
			op.Min = max(op.Min, crumbs)
		}
	}
	return op
}

func (m *leasedMode) answer(e *entry, op *Op, n, asked int64, o *Outcome) (allowed, again bool) {
	e.rest, e.lease.promised = o.Remaining, 0
	if !o.Allowed {
		e.lease.promised = op.Min
	}
	if op.Min == 0 || !o.Allowed {
		return o.Allowed, false
	}
	m.grant(e, asked, o)
	if n > e.left { // others have used meanwhile what there was
		return false, true
	}
	e.left -= n
	e.used = m.local.passes.Load()
	return true, false
}

// grant adds units to those that an entry holds.
func (m *leasedMode) grant(e *entry, asked int64, o *Outcome) {
	l, p := &e.lease, e.plan
	if p.aligned() {
		number := floorDiv(o.At, p.window)
		if number != l.window && e.left > 0 {
			l.lapse(e)
		}
		l.window, l.last = number, asked
		l.end = asked + ((number+1)*p.window-o.At)*1000
	}
	e.left += o.Charged
	l.at, l.n = o.At, o.Charged
}

func (m *leasedMode) ahead(e *entry) (Op, bool) {
	if !m.short(e) || e.bound == 0 {
		return Op{}, false
	}
	n := m.target(e, 0) - e.left
	return Op{Kind: Take, Limit: e.plan.Limit, Key: e.key, N: n, Min: 1}, n > 0
}

func (m *leasedMode) due(e *entry, pass uint32, final bool) (Op, bool) {
	switch {
	case e.pending > 0:
		return Op{Kind: Charge, Limit: e.plan.Limit, Key: e.key, N: e.pending}, final || e.asked < pass
	case e.lease.stale > 0 || e.left > 0 && (final || pass-e.used > m.idle):
		e.lease.batch = max(1, e.lease.batch/4)
		return e.lease.back(e)
	}
	return Op{}, false
}

func (m *leasedMode) synced(e *entry, op *Op, asked int64, o *Outcome) {
	e.rest = o.Remaining
	if op.Kind != Take {
		return
	}
	if o.Allowed {
		m.grant(e, asked, o)
	}
	e.refusal.dry, e.refusal.asked = o.Charged < op.N, m.local.now()
}

// busy: also while a question is on its way, which may bring units. When Run ends it waits for that, to give them back.
func (m *leasedMode) busy(e *entry) bool {
	return e.pending > 0 || e.left > 0 || e.lease.stale > 0 || e.flight != nil && e.bound > 0
}
