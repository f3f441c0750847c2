package ratelimit

import (
	"math"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
)

// plan is a valid limit, with what can be computed of it beforehand.
type plan struct {
	Limit            // with its defaults
	per, rate  int64 // a unit comes back every per/rate µs
	window     int64 // Per in µs
	refill     moment
	cost       moment // of one unit
	inverse    uint64 // (2^64-1)/per, to divide by it
	id         uint32 // 0: it is one of too many, and nobody remembers it
	nameDigest uint64
}

// moment is an instant or a span: us + frac/rate microseconds. Nothing is ever rounded but for showing it.
type moment struct{ us, frac int64 }

// newPlan returns the plan of a valid limit.
func newPlan(l Limit) *plan {
	l = l.Normal()
	p := &plan{Limit: l, window: l.Per.Microseconds(), nameDigest: digestOfName(l.Name)}
	p.per, p.rate = l.Interval()
	p.inverse = math.MaxUint64 / uint64(p.per)
	if l.Algorithm.bucket() {
		p.refill, p.cost = p.span(l.Burst), p.span(1)
	}
	return p
}

// span is how long n units take to come back.
func (p *plan) span(n int64) moment {
	if p.rate == 1 {
		return moment{us: n * p.per}
	}
	us, frac := mulDivRem(n, p.per, p.rate)
	return moment{us, frac}
}

func (p *plan) add(a, b moment) moment {
	a.us += b.us
	if a.frac += b.frac; a.frac >= p.rate {
		a.us++
		a.frac -= p.rate
	}
	return a
}

func (p *plan) sub(a, b moment) moment {
	a.us -= b.us
	if a.frac -= b.frac; a.frac < 0 {
		a.us--
		a.frac += p.rate
	}
	return a
}

func (a moment) after(b moment) bool { return a.us > b.us || a.us == b.us && a.frac > b.frac }

func earlier(a, b moment) moment {
	if a.after(b) {
		return b
	}
	return a
}

// up rounds up to a microsecond.
func (a moment) up() int64 {
	if a.frac > 0 {
		return a.us + 1
	}
	return a.us
}

// units is how many units come back during a span ≥ 0, rounded up.
func (p *plan) units(s moment) int64 {
	if p.rate == 1 {
		// A quotient by multiplication, too small by 1 at most, takes a tenth of the time of a division.
		up := s.us + p.per - 1
		q, _ := bits.Mul64(uint64(up), p.inverse)
		if up-int64(q)*p.per >= p.per {
			q++
		}
		return int64(q)
	}
	whole, rest := mulDivRem(s.us, p.rate, p.per)
	return whole + (rest+s.frac+p.per-1)/p.per
}

// plans remembers the limits that were seen, so that a counter can tell under which one it was last changed. A program has few; those
// that come when there are very many are not remembered, and a counter of theirs is taken to be under the limit that asks.
var plans = struct {
	byLimit sync.Map // Limit to *plan
	mu      sync.Mutex
	byID    atomic.Pointer[[]*plan] // by id, from 1
}{}

const maxPlans = 1 << 14

// planOf returns the plan of a limit, or what is wrong with it.
func planOf(l Limit) (*plan, error) {
	if p, ok := plans.byLimit.Load(l); ok {
		return p.(*plan), nil
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	p := newPlan(l)
	plans.mu.Lock()
	defer plans.mu.Unlock()
	known := []*plan{nil}
	if list := plans.byID.Load(); list != nil {
		known = *list
	}
	if len(known) > maxPlans {
		return p, nil
	}
	if q, ok := plans.byLimit.Load(l); ok { // somebody was faster
		return q.(*plan), nil
	}
	p.id = uint32(len(known))
	known = append(slices.Clip(known), p)
	plans.byID.Store(&known)
	plans.byLimit.Store(l, p) // from here on others see it: it does not change any more
	return p, nil
}

// planByID returns nil for 0.
func planByID(id uint32) *plan {
	if id == 0 {
		return nil
	}
	return (*plans.byID.Load())[id]
}
