package ratelimit

import (
	"slices"
	"sort"
	"time"
)

// slidingLog is the state of a sliding log: when units were admitted, the oldest first, each entry with the sum of all up to and with it. So what
// counts, and when enough of it has run out, is a search and no walk.
type slidingLog struct {
	entries []logEntry
	base    int64 // the sum before the first entry
}

type logEntry struct{ at, sum int64 }

func (l *slidingLog) total(from int) int64 { return l.sum(len(l.entries)) - l.sum(from) }

// sum is that of the entries before i.
func (l *slidingLog) sum(i int) int64 {
	if i == 0 {
		return l.base
	}
	return l.entries[i-1].sum
}

// mend has all count from now on where the clock was set back by more than Per: see plan.at.
func (p *plan) mend(l *slidingLog, now int64) {
	if p.ahead(l, now) > p.window {
		l.entries, l.base = []logEntry{{now, l.total(0)}}, 0
	}
}

// ahead is by how much the log is ahead of the clock.
func (p *plan) ahead(l *slidingLog, now int64) int64 {
	if len(l.entries) == 0 {
		return 0
	}
	return max(0, l.entries[len(l.entries)-1].at-now)
}

// live is the first entry that counts at a time.
func (p *plan) live(l *slidingLog, now int64) int {
	if len(l.entries) == 0 || l.entries[0].at > now-p.window {
		return 0
	}
	return sort.Search(len(l.entries), func(i int) bool { return l.entries[i].at > now-p.window })
}

// changeLog takes, charges or gives back. A clock that is behind the log stands still.
func (p *plan) changeLog(l *slidingLog, now int64, op *Op) Outcome {
	p.mend(l, now)
	if op.Kind == Take {
		if o := p.peekLog(l, now, op); !o.Allowed {
			return o
		}
	}
	o := Outcome{Allowed: true, Charged: op.N, At: now + p.ahead(l, now)}
	l.prune(p.live(l, o.At))
	switch {
	case op.Kind == Return:
		o.Charged = 0
		l.giveBack(op.At, op.N)
	case op.Kind == Charge:
		o.Charged = min(op.N, max(0, 2*p.Rate-l.total(0)))
	case op.Min > 0:
		o.Charged = max(op.Min, min(op.N, p.Rate-l.total(0)))
	}
	l.push(o.At, o.Charged)
	p.showLog(&o, l, now, 0)
	return o
}

// peekLog writes nothing.
func (p *plan) peekLog(l *slidingLog, now int64, op *Op) Outcome {
	if p.ahead(l, now) > p.window {
		l = &slidingLog{entries: []logEntry{{now, l.total(0)}}}
	}
	o := Outcome{At: now + p.ahead(l, now)}
	from := p.live(l, o.At)
	free := p.Rate - l.total(from)
	n := op.N
	if op.Min > 0 {
		n = max(op.Min, min(n, free))
	}
	o.Allowed = n <= free
	p.showLog(&o, l, now, from)
	switch {
	case o.Allowed:
	case n > p.Rate:
		o.Wait = Never
	default: // until enough has run out
		i := from + sort.Search(len(l.entries)-from-1, func(i int) bool { return l.entries[from+i].sum-l.sum(from) >= n-free })
		o.Wait = time.Duration(l.entries[i].at+p.window-now) * time.Microsecond
	}
	return o
}

func (p *plan) showLog(o *Outcome, l *slidingLog, now int64, from int) {
	o.Remaining = p.Rate - l.total(from)
	if o.Remaining < p.Rate {
		o.Reset = time.Duration(l.entries[len(l.entries)-1].at+p.window-now) * time.Microsecond
	}
}

// prune forgets the entries before i, and gives memory back where most of it is empty.
func (l *slidingLog) prune(i int) {
	if i == 0 {
		return
	}
	l.base = l.sum(i)
	l.entries = l.entries[i:] // append moves to new memory what is left, now and then
	if c := cap(l.entries); c > 64 && len(l.entries) < c/4 {
		l.entries = slices.Clip(slices.Clone(l.entries))
	}
}

func (l *slidingLog) push(at, n int64) {
	if n == 0 {
		return
	}
	if k := len(l.entries); k > 0 && l.entries[k-1].at == at {
		l.entries[k-1].sum += n
		return
	}
	l.entries = append(l.entries, logEntry{at, l.sum(len(l.entries)) + n})
}

// giveBack takes n units out of the entry of a time, if it still is there.
func (l *slidingLog) giveBack(at, n int64) {
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].at >= at })
	if i == len(l.entries) || l.entries[i].at != at {
		return
	}
	n = min(n, l.entries[i].sum-l.sum(i))
	for j := i; j < len(l.entries); j++ {
		l.entries[j].sum -= n
	}
	if l.entries[i].sum == l.sum(i) {
		l.entries = slices.Delete(l.entries, i, i+1)
	}
}
