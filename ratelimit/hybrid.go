package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// Hybrid counts in this process and tells the store every 100 ms, so that most decisions cost no question to it. It may admit more than the limit, but
// never more than a known part of it. It is safe for concurrent use. Make one with [NewHybrid]; the zero value is not usable, and
// [Hybrid.Run] must run.
//
// # What is guaranteed
//
// A process has at most bound = MaxOver × L / Nodes units admitted that the store does not know of, where L is the lesser of the limit's Rate and Burst. At
// the bound the next caller has the store decide, and those who come meanwhile wait for the same answer. So in any span of time all processes
// together admit what the [Algorithm] would, and MaxOver × L units more at most:
//
//	Each process goes on admitting only while the store's last answer to it, less what it has admitted since, is above 0; nothing is ever added to
//	that here. Take a time when the store's counter is overdrawn, and the moment when that began. Each process has since admitted, or had then
//	admitted and not told, at most one bound: with the next answer it learns that nothing is left. So the counter is never overdrawn by more than
//	Nodes bounds, what is not told yet included.
//
// What is overdrawn is repaid: it is charged to the counter, and nobody is admitted until that much has come back. A limit of which the bound is under
// one unit is decided by the store alone, check by check, and so exact. So is every check while Run is not running.
//
// # What is not
//
//   - Nodes has to be true: with more processes each has a bound of its own. A process that crashes takes its unreported units along, at most
//     its bound; who replaces it is one more process, until Per (of a bucket, the time it takes to fill) is over.
//   - Who is refused may be so although room came back a moment ago: by other processes' Reset, or by a limit that was raised there.
//   - A key that is hammered is asked for less often the more it is, at most for a tenth of Per; what came back meanwhile is admitted then.
//
// # When the store is down
//
// What was admitted is kept, and told when the store is back; it is never dropped. Up to the bound all goes on. Then Options.OnError decides:
// FailOpen (the default) admits without counting, and so there is no bound while the store is down; FailClosed keeps it. FailLocal, with Share =
// 1/Nodes, keeps it where no process can reach the store: each has its share of what comes back, beginning with nothing for a key that it has counted,
// and what it admits is charged to the store afterwards. A process that is cut off alone admits its share beyond the limit until it is back.
//
// A report of which the answer is lost may be charged twice: then less is admitted, by as much as was reported, for once.
type Hybrid struct{ local *local }

// HybridOptions are the settings of a [Hybrid]. DenyCache is of no use here.
type HybridOptions struct {
	Options
	// Nodes is how many processes share the limit. Required, unless NodesNow is given: a guarantee that rests on a guess is none.
	Nodes int
	// NodesNow returns how many there are now. It is asked every Period.
	NodesNow func() int
	// MaxOver is how much more than the limit may be admitted, in parts of one. 0 to 1.
	// Default: 0.1. Negative: 0, so that the store decides on each check.
	MaxOver float64
	// Period is how often the store is told.
	// Default: 100 ms.
	Period time.Duration
	// MaxKeys is how many keys this process knows at most, to within the evenness of 64 parts. With more, those that have nothing to report make
	// way, and if there are none, the store decides.
	// Default: 100,000.
	MaxKeys int
}

// NewHybrid returns a hybrid limiter. It starts nothing and asks the store nothing. The error joins an [*InvalidError] for each fault.
func NewHybrid(store Store, limit Limit, o *HybridOptions) (*Hybrid, error) {
	if o == nil {
		o = &HybridOptions{}
	}
	nodes, faults := nodesOf(o.Nodes, o.NodesNow, "HybridOptions")
	if !(o.MaxOver <= 1) { // nor is it NaN
		faults = append(faults, invalid("HybridOptions.MaxOver", "is over 1"))
	}
	faults = append(faults, scaleFaults(limit, o.Period, o.MaxKeys, "HybridOptions"))
	m := &hybridMode{over: max(0, cmp.Or(o.MaxOver, 0.1))}
	c, err := newLocal(store, limit, &o.Options, m, nodes, cmp.Or(o.Period, 100*time.Millisecond), cmp.Or(o.MaxKeys, 100_000))
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	return &Hybrid{c}, nil
}

func nodesOf(n int, now func() int, name string) (func() int, []error) {
	switch {
	case now != nil:
		return now, nil
	case n < 1:
		return nil, []error{invalid(name+".Nodes", "is not at least 1: how many processes share the limit is part of the guarantee")}
	}
	return func() int { return n }, nil
}

func scaleFaults(l Limit, period time.Duration, maxKeys int, name string) error {
	var faults []error
	if l.Algorithm == Concurrency {
		faults = append(faults, invalid("algorithm", "is concurrency, of which places are acquired: see Acquire"))
	}
	if period < 0 {
		faults = append(faults, invalid(name+".Period", "is negative"))
	}
	if maxKeys < 0 {
		faults = append(faults, invalid(name+".MaxKeys", "is negative"))
	}
	return errors.Join(faults...)
}

// Allow charges one unit to key if there is room for it. The error is one of the call ([*InvalidError]) or ctx's.
//
// Cost: mostly no question and no allocation; at the bound, after a refusal is over, and for a new key one question.
func (h *Hybrid) Allow(ctx context.Context, key string) (Result, error) {
	return h.local.take(ctx, key, 1)
}

// AllowN charges n units to key if there is room for all of them. More than the bound are decided by the store.
func (h *Hybrid) AllowN(ctx context.Context, key string, n int64) (Result, error) {
	return h.local.take(ctx, key, n)
}

// Peek tells what Allow would answer as far as this process knows, else asks the store. It charges nothing.
func (h *Hybrid) Peek(ctx context.Context, key string) (Result, error) {
	return h.local.peek(ctx, key)
}

// Reset forgets what key has used, here and at the store, and fails where the store does. What other processes have admitted and not told is
// charged afterwards: a bound each, at most.
func (h *Hybrid) Reset(ctx context.Context, key string) error { return h.local.reset(ctx, key) }

// Run tells the store what was admitted, every Period: all keys in few questions, of which idle keys are no part. When ctx ends it tells
// the rest and returns nil, or the error if that fails four times. From then on every check is the store's. Call it once at a time.
func (h *Hybrid) Run(ctx context.Context) error { return h.local.run(ctx, "Hybrid") }

// hybridMode implements mode.
type hybridMode struct{ over float64 }

func (m *hybridMode) bound(p *plan, nodes int64) int64 {
	return int64(m.over * float64(min(p.Rate, p.Burst)) / float64(nodes))
}

func (m *hybridMode) admit(e *entry, n int64) bool {
	if n > e.left || e.pending+n > e.bound {
		return false
	}
	e.left -= n
	e.pending += n
	return true
}

// short: three quarters of the bound are used, and it is no limit on which the store will refuse more.
func (m *hybridMode) short(e *entry) bool {
	return e.bound >= 16 && 4*e.pending >= 3*e.bound && e.left > e.bound
}

func (m *hybridMode) question(e *entry, n int64) Op {
	return Op{Kind: Take, Limit: e.plan.Limit, Key: e.key, N: n}
}

func (m *hybridMode) answer(e *entry, _ *Op, _, _ int64, o *Outcome) (allowed, again bool) {
	m.learn(e, o)
	return o.Allowed, false
}

// learn takes what the store has left, less what it has not been told.
func (m *hybridMode) learn(e *entry, o *Outcome) {
	e.left = o.Remaining - e.pending
	e.had = o.Remaining
}

func (m *hybridMode) ahead(e *entry) (Op, bool) {
	return Op{Kind: Charge, Limit: e.plan.Limit, Key: e.key, N: e.pending}, e.pending > 0
}

func (m *hybridMode) due(e *entry, pass uint32, final bool) (Op, bool) {
	op, ok := m.ahead(e)
	return op, ok && (final || e.asked < pass)
}

func (m *hybridMode) synced(e *entry, _ *Op, _ int64, o *Outcome) {
	m.learn(e, o)
	e.known = true
	// A wait that came of less than there is now is over.
	if e.left > 0 && e.refusal.until != 0 && e.left >= e.refusal.n {
		e.refusal.until = 0
	}
}

func (m *hybridMode) busy(e *entry) bool { return e.pending > 0 }
