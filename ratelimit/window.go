package ratelimit

import "time"

// window is the state of a fixed window (without prev) or a sliding counter: what was used in the window with this number, counted from
// the Unix epoch, and in the one before it.
type window struct {
	number    int64
	prev, cur int64
	limit     uint32 // plan.id of who wrote it
}

// at brings a window up to date and returns how much of it is over, in µs. Where the clock has gone back by less than a window, that is less
// than nothing: time that comes twice must not be given twice. Further back, what was used counts from now on; that has to be written down
// (mended), also by who is refused.
func (p *plan) at(w window, now int64) (_ window, elapsed int64, mended bool) {
	if w.limit != p.id {
		w = p.adoptWindow(w, now)
	}
	number := floorDiv(now, p.window)
	elapsed = now - number*p.window
	switch gone := number - w.number; {
	case gone == 0:
	case gone == -1:
		elapsed -= p.window
	case gone < 0:
		w.number, mended = number, true
	case p.Algorithm == FixedWindow: // a charge beyond the limit is paid back by the windows that follow
		w = window{number: number, cur: max(0, w.cur-min(gone, 2)*p.Rate), limit: p.id}
	case gone == 1:
		w = window{number: number, prev: w.cur, limit: p.id}
	default:
		w = window{number: number, limit: p.id}
	}
	return w, elapsed, mended
}

// adoptWindow translates the counts of another limit: what was used stays used, as far as there is room for it.
func (p *plan) adoptWindow(w window, now int64) window {
	if old := planByID(w.limit); old != nil && old.window != p.window {
		v, elapsed, _ := old.at(w, now)
		w = window{number: floorDiv(now, p.window), cur: old.used(v, elapsed)}
	}
	w.cur, w.prev, w.limit = min(w.cur, p.Rate), min(w.prev, p.Rate), p.id
	if p.Algorithm == FixedWindow {
		w.prev = 0 // it was a sliding counter's
	}
	return w
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// used is what counts of a window: all of this one, and of the one before it what its share of the last Per is, rounded up.
func (p *plan) used(w window, elapsed int64) int64 {
	if w.prev == 0 {
		return w.cur
	}
	return w.cur + mulDivUp(w.prev, p.window-max(0, elapsed), p.window)
}

// room is after how many µs n ≤ Rate more units fit in.
func (p *plan) room(w window, elapsed, n int64) int64 {
	if free := p.Rate - p.used(w, elapsed); n <= free {
		return 0
	}
	left := p.window - elapsed
	if p.Algorithm == FixedWindow { // the k-th window from this one on begins with cur - k·Rate
		k := (w.cur + n - 1) / p.Rate
		return left + (k-1)*p.window
	}
	// In this window: prev·(window-e) ≤ (Rate-cur-n)·window.
	if free := p.Rate - w.cur - n; free >= 0 {
		_, share := mulDiv(free, p.window, w.prev)
		return p.window - share - elapsed
	}
	// In the next one, where cur is what prev is now.
	_, share := mulDiv(p.Rate-n, p.window, w.cur)
	return left + p.window - share
}

func (p *plan) takeWindow(w window, now, n, least int64) (window, Outcome) {
	old := w
	w, elapsed, mended := p.at(w, now)
	if mended {
		old = w
	}
	if least > 0 {
		n = max(least, min(n, p.Rate-p.used(w, elapsed)))
	}
	o := Outcome{At: now}
	switch {
	case n > p.Rate:
		o.Wait = Never
	case n > p.Rate-p.used(w, elapsed):
		o.Wait = time.Duration(p.room(w, elapsed, n)) * time.Microsecond
	default:
		o.Allowed, o.Charged = true, n
		w.cur += n
		old = w
	}
	p.showWindow(&o, w, now)
	return old, o
}

func (p *plan) chargeWindow(w window, now, n int64) (window, Outcome) {
	w, _, _ = p.at(w, now)
	n = min(n, max(0, 2*p.Rate-w.cur))
	w.cur += n
	o := Outcome{Allowed: true, Charged: n, At: now}
	p.showWindow(&o, w, now)
	return w, o
}

// giveBackWindow gives back what was used in a window that still counts.
func (p *plan) giveBackWindow(w window, now, n, when int64) (window, Outcome) {
	w, _, _ = p.at(w, now)
	switch floorDiv(when, p.window) {
	case w.number:
		w.cur = max(0, w.cur-n)
	case w.number - 1:
		w.prev = max(0, w.prev-n)
	}
	o := Outcome{Allowed: true, At: now}
	p.showWindow(&o, w, now)
	return w, o
}

func (p *plan) showWindow(o *Outcome, w window, now int64) {
	w, elapsed, _ := p.at(w, now)
	o.Remaining = p.Rate - p.used(w, elapsed)
	o.Reset = time.Duration(p.fresh(w, elapsed)) * time.Microsecond
}

// fresh is after how many µs nothing counts any more.
func (p *plan) fresh(w window, elapsed int64) int64 {
	switch left := p.window - elapsed; {
	case w.cur > 0 && p.Algorithm == FixedWindow:
		return left + (w.cur-1)/p.Rate*p.window
	case w.cur > 0:
		return left + p.window
	case w.prev > 0:
		return left
	}
	return 0
}
