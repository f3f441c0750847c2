package ratelimittest

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

// model says what counts at a time, by fractions of any size, walking through all that was ever charged where it must. It knows no waits: that a
// wait is right is seen by asking it at the end of the wait, and a microsecond before.
type model interface {
	// mend is what a take does that is refused: nothing, but where the clock was set back so far that it must be right.
	mend(now int64)
	// used is how much counts at a time, were nothing charged until then.
	used(at int64) *big.Rat
	// charge has n units counted from a time on.
	charge(at, n int64)
	giveBack(at, n, when int64)
	// time is what a store that was asked at now takes for the time.
	time(now int64) int64
}

func newModel(l ratelimit.Limit) model {
	l = l.Normal()
	switch l.Algorithm {
	case ratelimit.SlidingLog:
		return &logModel{l: l}
	case ratelimit.SlidingCounter, ratelimit.FixedWindow:
		return &windowModel{l: l, counts: map[int64]int64{}}
	default:
		return &bucketModel{l: l, full: new(big.Rat)}
	}
}

func whole(n int64) *big.Rat { return big.NewRat(n, 1) }

// bucketModel keeps when the bucket is full.
type bucketModel struct {
	l    ratelimit.Limit
	full *big.Rat
}

func (m *bucketModel) perUnit() *big.Rat { return big.NewRat(m.l.Per.Microseconds(), m.l.Rate) }

func (m *bucketModel) used(at int64) *big.Rat {
	debt := new(big.Rat).Sub(m.full, whole(at))
	if debt.Sign() <= 0 {
		return new(big.Rat)
	}
	used := debt.Quo(debt, m.perUnit())
	if used.Cmp(whole(2*m.l.Burst)) > 0 {
		return whole(m.l.Burst)
	}
	return used
}

func (m *bucketModel) charge(at, n int64) { m.full = m.at(at, new(big.Rat).Add(m.used(at), whole(n))) }

func (m *bucketModel) giveBack(at, n, _ int64) {
	used := new(big.Rat).Sub(m.used(at), whole(n))
	if used.Sign() < 0 {
		used = new(big.Rat)
	}
	m.full = m.at(at, used)
}

func (m *bucketModel) time(now int64) int64 { return now }

func (m *bucketModel) mend(now int64) {
	if m.full.Cmp(m.at(now, whole(2*m.l.Burst))) > 0 {
		m.charge(now, 0)
	}
}

// at is when a bucket of which so much is used now is full.
func (m *bucketModel) at(now int64, used *big.Rat) *big.Rat {
	return new(big.Rat).Add(whole(now), new(big.Rat).Mul(used, m.perUnit()))
}

// windowModel keeps the count of every window there ever was.
type windowModel struct {
	l      ratelimit.Limit
	counts map[int64]int64
	last   int64 // number of the newest window that was written
}

func (m *windowModel) size() int64           { return m.l.Per.Microseconds() }
func (m *windowModel) number(at int64) int64 { return at / m.size() }

// view is where a time is, seen from the last window: a clock that is less than a window behind stands still. One that is further behind is
// right, and what counted then counts now.
func (m *windowModel) view(at int64) (counts map[int64]int64, last, number, elapsed int64) {
	number = m.number(at)
	switch {
	case number == m.last-1:
		return m.counts, m.last, m.last, 0
	case number < m.last:
		moved := map[int64]int64{number: m.counts[m.last], number - 1: m.counts[m.last-1]}
		return moved, number, number, at - number*m.size()
	}
	return m.counts, m.last, number, at - number*m.size()
}

// count is that of a window, with what the ones before it owe.
func (m *windowModel) count(counts map[int64]int64, last, number int64) int64 {
	if m.l.Algorithm == ratelimit.FixedWindow && number > last {
		owed := counts[last]
		for n := last; n < number && owed > 0; n++ {
			owed = max(0, owed-m.l.Rate)
		}
		return owed
	}
	return counts[number]
}

func (m *windowModel) used(at int64) *big.Rat {
	counts, last, number, elapsed := m.view(at)
	used := whole(m.count(counts, last, number))
	if m.l.Algorithm == ratelimit.SlidingCounter {
		used.Add(used, new(big.Rat).Mul(whole(counts[number-1]), big.NewRat(m.size()-elapsed, m.size())))
	}
	return used
}

// add changes the count of the window that a time is in.
func (m *windowModel) add(at, n int64) {
	counts, last, number, _ := m.view(at)
	count := m.count(counts, last, number)
	m.counts, m.last = counts, number
	m.counts[number] = max(0, count+n)
}

func (m *windowModel) charge(at, n int64) { m.add(at, n) }

func (m *windowModel) giveBack(at, n, when int64) {
	m.add(at, 0)
	switch then := m.number(when); {
	case then == m.last:
		m.add(at, -n)
	case then == m.last-1 && m.l.Algorithm == ratelimit.SlidingCounter:
		m.counts[then] = max(0, m.counts[then]-n)
	}
}

func (m *windowModel) time(now int64) int64 { return now }

func (m *windowModel) mend(now int64) {
	if m.number(now) < m.last-1 {
		m.add(now, 0)
	}
}

// logModel keeps every charge that counts.
type logModel struct {
	l   ratelimit.Limit
	log []charged
}

type charged struct{ at, n int64 }

// view is the log at a time, and what the time is taken for: a clock that is less than Per behind stands still. One that is further behind is
// right, and what counted then counts from now on.
func (m *logModel) view(now int64) (log []charged, at int64) {
	if len(m.log) == 0 {
		return nil, now
	}
	last := m.log[len(m.log)-1].at
	if last-now > m.l.Per.Microseconds() {
		for _, e := range m.log {
			log = append(log, charged{now, e.n})
		}
		return log, now
	}
	now = max(now, last)
	for _, e := range m.log {
		if now-e.at < m.l.Per.Microseconds() {
			log = append(log, e)
		}
	}
	return log, now
}

func (m *logModel) time(now int64) int64 {
	_, at := m.view(now)
	return at
}

func (m *logModel) mend(now int64) {
	if log, at := m.view(now); len(log) > 0 && log[0].at == at && m.log[len(m.log)-1].at > at {
		m.log = log
	}
}

func (m *logModel) used(at int64) *big.Rat {
	log, _ := m.view(at)
	used := int64(0)
	for _, e := range log {
		used += e.n
	}
	return whole(used)
}

func (m *logModel) charge(at, n int64) {
	m.log, at = m.view(at)
	if n > 0 {
		m.log = append(m.log, charged{at, n})
	}
}

func (m *logModel) giveBack(at, n, when int64) {
	log, _ := m.view(at)
	m.log = nil
	for _, e := range log {
		if e.at == when {
			back := min(n, e.n)
			e.n -= back
			n -= back
		}
		if e.n > 0 {
			m.log = append(m.log, e)
		}
	}
}

// randomLimit returns one of any size, some of which no whole number of microseconds divides.
func randomLimit(r *rand.Rand, a ratelimit.Algorithm) ratelimit.Limit {
	for {
		l := ratelimit.Limit{
			Algorithm: a,
			Rate:      pick[int64](r, 1, 2, 3, 7, 10, 100, 199, 1000, 9999, 200_000, 999_983),
			Per:       pick(r, time.Microsecond, 500*time.Microsecond, time.Millisecond, 100*time.Millisecond, time.Second, 7*time.Second, time.Minute, time.Hour, 24*time.Hour, 30*24*time.Hour),
		}
		switch a {
		case ratelimit.TokenBucket, ratelimit.GCRA:
			l.Burst = pick[int64](r, 0, 1, 2, 5, 10, 77, 1000, 10_000)
		case ratelimit.SlidingLog:
			l.Rate = min(l.Rate, 1000)
		default:
		}
		if l.Validate() == nil {
			return l
		}
	}
}

// againstModel does random things to a few counters of random limits, at random times.
func againstModel(t *testing.T, a ratelimit.Algorithm, ops int, open Open) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	c := newClock()
	s := open(t, c.now)
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	for done := 0; done < ops; {
		p := &pair{t: t, r: r, c: c, s: s, m: nil, l: randomLimit(r, a), key: pick(r, "k", "user:7", "a b")}
		p.m = newModel(p.l)
		one(t, s, ratelimit.Op{Kind: ratelimit.Reset, Limit: p.l, Key: p.key})
		for range 200 {
			p.step()
			if t.Failed() {
				return
			}
			done++
		}
		c.move(3 * p.l.Per.Microseconds())
	}
}

// pair is a counter and its model.
type pair struct {
	t   *testing.T
	r   *rand.Rand
	c   *clock
	s   ratelimit.Store
	m   model
	l   ratelimit.Limit
	key string
	ago []ratelimit.Outcome // what was taken
}

// pass lets some time pass: mostly what a few units take to come back, sometimes nothing, sometimes to just before or after what is due, and
// now and then a step back.
func (p *pair) pass() {
	per := p.l.Per.Microseconds()
	unit := max(1, per/p.l.Rate)
	switch p.r.IntN(12) {
	case 0, 1, 2:
	case 3:
		p.c.move(p.r.Int64N(2*per + 1))
	case 4:
		p.c.move(-p.r.Int64N(min(per, 3*unit) + 1))
		p.mend()
	case 5:
		p.c.move(per - 1 + p.r.Int64N(3))
	default:
		p.c.move(p.r.Int64N(3*unit + 1))
	}
}

// mend is a take that is refused for ever. What a peek says of waits is not so before a take has come: it may not mend.
func (p *pair) mend() {
	op := ratelimit.Op{Limit: p.l, Key: p.key, N: p.l.Capacity() + 1}
	if o := one(p.t, p.s, op); o.Allowed || o.Wait != ratelimit.Never {
		p.fail(op, o, p.c.us, "more than there can ever be")
	}
	p.m.mend(p.c.us)
}

func (p *pair) step() {
	p.pass()
	now := p.c.now().UnixMicro()
	capacity := p.l.Capacity()
	op := ratelimit.Op{Limit: p.l, Key: p.key, N: 1}
	if p.r.IntN(3) == 0 {
		op.N = 1 + p.r.Int64N(capacity)
	}
	before := p.m.used(now)
	switch k := p.r.IntN(20); {
	case k < 14:
		p.take(op, now, before)
	case k < 16:
		op.Kind = ratelimit.Peek
		p.take(op, now, before)
	case k < 17:
		op.Kind = ratelimit.Charge
		p.charge(op, now, before)
	case k < 19 && len(p.ago) > 0:
		op.Kind, op.At = ratelimit.Return, p.ago[p.r.IntN(len(p.ago))].At
		one(p.t, p.s, op)
		p.m.giveBack(now, op.N, op.At)
	case k == 19:
		p.mend()
	}
	p.remaining(now)
}

// up rounds a fraction up.
func up(x *big.Rat) int64 {
	q, rem := new(big.Int).QuoRem(x.Num(), x.Denom(), new(big.Int))
	if rem.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return q.Int64()
}

func (p *pair) free(at int64) int64 { return p.l.Capacity() - up(p.m.used(at)) }

func (p *pair) take(op ratelimit.Op, now int64, before *big.Rat) {
	if op.N > 1 && p.r.IntN(4) == 0 {
		op.Min = 1 + p.r.Int64N(op.N)
	}
	free := p.l.Capacity() - up(before)
	n := op.N
	if op.Min > 0 {
		n = max(op.Min, min(n, free))
	}
	o := one(p.t, p.s, op)
	if o.Allowed != (n <= free) || o.At != p.m.time(now) {
		p.fail(op, o, now, "free %d", free)
		return
	}
	if o.Allowed {
		if op.Kind == ratelimit.Take {
			if o.Charged != n || o.Wait != 0 {
				p.fail(op, o, now, "charge %d", n)
			}
			p.m.charge(now, n)
			p.ago = append(p.ago, o)
		}
		return
	}
	wait := o.Wait.Microseconds()
	if op.Min > 0 {
		op.N = op.Min
	}
	if wait <= 0 || p.free(now+wait) < n || p.free(now+wait-1) >= n {
		p.fail(op, o, now, "free a microsecond before the wait is over %d, then %d", p.free(now+wait-1), p.free(now+wait))
	}
}

func (p *pair) charge(op ratelimit.Op, now int64, _ *big.Rat) {
	o := one(p.t, p.s, op)
	if !o.Allowed || o.Charged > op.N || o.Charged < op.N && p.free(now)-o.Charged > -p.l.Capacity()+1 {
		p.fail(op, o, now, "free %d", p.free(now))
		return
	}
	p.m.charge(now, o.Charged)
	p.ago = append(p.ago, o)
}

// remaining compares what is left, and when all is as new.
func (p *pair) remaining(now int64) {
	op := ratelimit.Op{Kind: ratelimit.Peek, Limit: p.l, Key: p.key, N: 1}
	o := one(p.t, p.s, op)
	if o.Remaining != p.free(now) {
		p.fail(op, o, now, "free %d", p.free(now))
		return
	}
	reset := o.Reset.Microseconds()
	if p.m.used(now+reset).Sign() != 0 || reset > 0 && p.m.used(now+reset-1).Sign() == 0 {
		p.fail(op, o, now, "used at the reset %v", p.m.used(now+reset))
	}
}

func (p *pair) fail(op ratelimit.Op, o ratelimit.Outcome, now int64, format string, args ...any) {
	p.t.Helper()
	p.t.Errorf("at %d: op %+v: outcome %+v, model: "+format, append([]any{now, op, o}, args...)...)
}
