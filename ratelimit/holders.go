package ratelimit

import (
	"container/list"
	"time"
)

// holders is the state of a concurrency limit: who is at work, by the end of their leases.
type holders struct {
	byName map[string]*list.Element
	leases list.List // of *lease, the first to end in front
	units  int64
}

type lease struct {
	holder   string
	n, until int64
}

// expire forgets leases that are over.
func (h *holders) expire(now int64) {
	for e := h.leases.Front(); e != nil && e.Value.(*lease).until <= now; e = h.leases.Front() {
		h.remove(e)
	}
}

func (h *holders) remove(e *list.Element) {
	l := h.leases.Remove(e).(*lease)
	delete(h.byName, l.holder)
	h.units -= l.n
}

// put keeps the leases in the order of their ends; with one period that is the order in which they come.
func (h *holders) put(l *lease) {
	if h.byName == nil {
		h.byName = map[string]*list.Element{}
	}
	before := h.leases.Back()
	for before != nil && before.Value.(*lease).until > l.until {
		before = before.Prev()
	}
	if before == nil {
		h.byName[l.holder] = h.leases.PushFront(l)
	} else {
		h.byName[l.holder] = h.leases.InsertAfter(l, before)
	}
	h.units += l.n
}

// changeHolders acquires, extends or releases.
func (p *plan) changeHolders(h *holders, now int64, op *Op) Outcome {
	h.expire(now)
	mine := h.byName[op.Holder]
	if op.Kind == Return {
		if mine != nil {
			h.remove(mine)
		}
		o := Outcome{Allowed: true, At: now}
		p.showHolders(&o, h, now)
		return o
	}
	if mine != nil {
		n := mine.Value.(*lease).n // of the first time
		h.remove(mine)
		h.put(&lease{op.Holder, n, now + p.window})
		o := Outcome{Allowed: true, At: now}
		p.showHolders(&o, h, now)
		return o
	}
	o := p.peekHolders(h, now, op.N)
	if o.Allowed {
		h.put(&lease{op.Holder, op.N, now + p.window})
		o.Charged = op.N
		p.showHolders(&o, h, now)
	}
	return o
}

// peekHolders writes nothing.
func (p *plan) peekHolders(h *holders, now, n int64) Outcome {
	used := h.units
	for e := h.leases.Front(); e != nil && e.Value.(*lease).until <= now; e = e.Next() {
		used -= e.Value.(*lease).n
	}
	o := Outcome{At: now, Remaining: p.Rate - used}
	if last := h.leases.Back(); last != nil {
		o.Reset = time.Duration(max(0, last.Value.(*lease).until-now)) * time.Microsecond
	}
	switch {
	case n > p.Rate:
		o.Wait = Never
	case used+n <= p.Rate:
		o.Allowed = true
	default:
		missing := used + n - p.Rate
		for e := h.leases.Front(); e != nil && missing > 0; e = e.Next() {
			if l := e.Value.(*lease); l.until > now {
				missing -= l.n
				o.Wait = time.Duration(l.until-now) * time.Microsecond
			}
		}
	}
	return o
}

func (p *plan) showHolders(o *Outcome, h *holders, now int64) {
	o.Remaining = p.Rate - h.units
	if last := h.leases.Back(); last != nil {
		o.Reset = time.Duration(last.Value.(*lease).until-now) * time.Microsecond
	}
}
