package ratelimit

import "time"

// bucket is the state of a token bucket or GCRA: the instant at which it will be full again, the "theoretical arrival time" of ITU-T I.371.
// One instant says it all: a bucket that is full at that time lacks, now, what comes back until then.
//
//	taken from a full bucket of 5, one unit every 200 ms:     now      now+400ms      now+1s
//	                                                           |---2 used---|            |
//	                                                                      full      refill: room up to here
//
// Since nothing is stored but an instant, time that stands still or goes back never gives anything back.
type bucket struct {
	us    int64  // of that instant, in µs
	frac  uint32 // and in parts of a microsecond: see moment
	limit uint32 // plan.id of who wrote it
}

// debt is how long the bucket takes to be full again. An instant that is further off than anything that can be used says that the clock was
// set back: it counts as an empty bucket. That has to be written down (mended), also by who is refused, or the bucket would be empty until the
// clock is back where it was.
func (p *plan) debt(b bucket, now int64) (debt moment, mended bool) {
	if b.limit != p.id {
		b = p.adopt(b, now)
	}
	if b.us < now {
		return moment{}, false
	}
	debt = moment{b.us - now, int64(b.frac)}
	if p.twice(debt) {
		return p.refill, true
	}
	return debt, false
}

// twice tells whether a debt is over twice the capacity.
func (p *plan) twice(debt moment) bool {
	return debt.us >= 2*p.refill.us && debt.after(p.add(p.refill, p.refill))
}

// adopt translates a bucket of another limit: what was used stays used, as far as there is room for it, and comes back at the new rate.
func (p *plan) adopt(b bucket, now int64) bucket {
	old := planByID(b.limit)
	if old == nil || p.id == 0 || old.per == p.per && old.rate == p.rate || b.us < now {
		return b
	}
	used, owed := p.Burst, moment{b.us - now, int64(b.frac)}
	if !old.twice(owed) {
		used = min(used, old.units(owed))
	}
	back := p.span(used)
	b.us, b.frac = now+back.us, uint32(back.frac)
	return b
}

// take charges n units if there is room within ahead; least is [Op.Min]. It fills in o, since this is the way that most calls go.
func (p *plan) take(b *bucket, now, n, least int64, ahead time.Duration, o *Outcome) {
	debt, mended := p.debt(*b, now)
	if mended {
		*b = p.due(now, debt)
	}
	if least > 0 {
		n = max(least, min(n, p.Burst-p.units(debt)))
	}
	o.At = now
	if n > p.Burst {
		o.Wait = Never
		p.show(o, debt)
		return
	}
	cost := p.cost
	if n != 1 {
		cost = p.span(n)
	}
	after := p.add(debt, cost)
	if after.after(p.refill) {
		o.Wait = time.Duration(p.sub(after, p.refill).up()) * time.Microsecond
		if o.Wait > ahead || p.twice(after) {
			p.show(o, debt)
			return
		}
	}
	o.Allowed, o.Charged = true, n
	p.show(o, after)
	*b = p.due(now, after)
}

// charge charges n units in any case.
func (p *plan) charge(b bucket, now, n int64) (bucket, Outcome) {
	debt, _ := p.debt(b, now)
	n = min(n, max(0, 2*p.Burst-p.units(debt)))
	after := p.add(debt, p.span(n))
	o := Outcome{Allowed: true, Charged: n, At: now}
	p.show(&o, after)
	return p.due(now, after), o
}

// giveBack makes the bucket fuller by n units, never more than full. due is when the bucket was to be full after they were taken, 0 if that is not told.
func (p *plan) giveBack(b bucket, now, n, due int64) (bucket, Outcome) {
	debt, _ := p.debt(b, now)
	back := p.span(min(n, 2*p.Burst))
	if due > 0 {
		back = earlier(back, p.before(debt, due-now))
	}
	debt = p.sub(debt, earlier(back, debt))
	o := Outcome{Allowed: true, At: now}
	p.show(&o, debt)
	return p.due(now, debt), o
}

// before is how much of a debt may be given back of what was taken when the bucket was to be full after so many µs. What comes back until those behind
// have all used what is theirs is not part of it:
//
//	A takes all there is, and B as much ahead, to be used when it has come back
//	A gives back what he has not used; while B waits the bucket fills
//	B uses what is his, and in the same instant another takes a full bucket
func (p *plan) before(debt moment, left int64) moment {
	behind := max(0, debt.up()-left)
	before := earlier(debt, p.refill)
	if before.us < behind {
		return moment{}
	}
	before.us -= behind
	return before
}

func (p *plan) due(now int64, debt moment) bucket {
	return bucket{now + debt.us, uint32(debt.frac), p.id}
}

// show fills in what a caller sees of a debt.
func (p *plan) show(o *Outcome, debt moment) {
	o.Remaining = p.Burst - p.units(debt)
	o.Reset = time.Duration(debt.up()) * time.Microsecond
}
