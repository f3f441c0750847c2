package ratelimit

import "time"

// refusal is until when a counter is refused without asking. The shard of its entry is locked.
//
// Until the store's wait is over nothing can be admitted. A counter of which there is always too little would then be asked for a unit at a time, by
// every process: so the pause grows, as long as questions come more often than reports do, or there are many checks but few of them for a question, up to
// the time in which the process' share of what comes back is worth a whole bound. Nothing is lost by that but smoothness: what comes back meanwhile is
// admitted at once afterwards.
type refusal struct {
	n            int64 // so many units are refused, and so are more
	begin, until int64 // in ns by the clock of local; until is 0 when nothing is refused
	asked        int64
	pause        int64
	seen, checks uint32 // refusals and checks since asked
	dry          bool   // the store had less than it was asked for
}

const (
	hammered     = 8   // refusals for one question are many
	enoughChecks = 512 // checks for one question are enough
)

// refuses is for how long n units are refused without asking, 0 if they are not. The shard is locked.
func (c *local) refuses(e *entry, n int64) time.Duration {
	if n > e.plan.Burst && e.known {
		return Never
	}
	return c.left(e, n)
}

// left is how much of the refusal of n units is to go. A clock that is before the beginning was set back, and ends it.
func (c *local) left(e *entry, n int64) time.Duration {
	if n > e.plan.Burst { // this is the store's to say, and n may be too large to reckon with
		return 0
	}
	r := &e.refusal
	spent := r.dry && r.pause > 0 && e.known && e.left < n && e.plan.Algorithm.bucket()
	if r.until == 0 && !spent {
		return 0
	}
	now, wait := c.now(), int64(0)
	switch {
	case r.until == 0 || now < r.begin || now >= r.until:
		r.until = 0
	case n > r.n && e.plan.Algorithm.bucket(): // for what is more he has to wait longer
		wait = r.until - now + e.plan.span(n-r.n).up()*1000
	case n == r.n: // of more only the store can tell
		wait = r.until - now
	}
	// All that the store had is used. It was asked not long ago, and what has come back since can be computed. This may be longer than the store's own
	// wait, and a caller is told of all that he will have to wait.
	if spent && r.asked <= now {
		wait = max(wait, r.asked+max(r.pause, (e.plan.span(n-e.left).up()+1)*1000)-now)
	}
	return upToMicrosecond(wait)
}

func upToMicrosecond(ns int64) time.Duration {
	return time.Duration(ns+999) / time.Microsecond * time.Microsecond
}

// paced takes in the answer to a question of n units: how long the next one has to wait.
func (c *local) paced(e *entry, n int64, o *Outcome, dry bool) {
	r := &e.refusal
	now := c.now()
	often, many := now-r.asked < int64(c.period), r.seen >= hammered
	switch {
	case dry && r.checks < enoughChecks && (often || many):
		unit := mulDivUp(1, e.plan.window, e.plan.Rate) * 1000
		r.pause = min(c.longest(e), max(2*r.pause, unit))
	case now-r.asked > 2*int64(c.period) && !many:
		r.pause /= 2
	}
	r.seen, r.checks, r.asked, r.dry, r.until = 0, 0, now, dry, 0
	if !o.Allowed && o.Wait != Never {
		r.n, r.begin = n, r.asked
		r.until = r.begin + max(int64(o.Wait), r.pause)
	}
}

// longest is how long a pause gets, in ns: so that this process' share of what comes back is a whole bound, not over a tenth of Per, and nothing
// is lost because a bucket is full. A fixed window needs none: when it is over all is there.
func (c *local) longest(e *entry) int64 {
	p := e.plan
	most := p.window / 10
	if share := max(e.bound, 1) * c.members.Load(); share < p.Rate {
		most = min(most, mulDivUp(share, p.window, p.Rate))
	}
	switch {
	case p.Algorithm == FixedWindow:
		return 0
	case p.Algorithm.bucket():
		most = min(most, p.refill.us/2)
	}
	return most * 1000
}
