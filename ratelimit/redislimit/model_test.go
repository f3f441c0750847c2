package redislimit_test

import (
	"math/big"
	"slices"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

// model is what package ratelimit says, as plainly as can be: fractions of any size, sums made anew each time. It is slow.
type model struct {
	buckets map[string]*modelBucket
	windows map[string]*modelWindow
	logs    map[string][]modelEntry
	holders map[string][]modelLease
}

type (
	modelBucket struct {
		full  *big.Rat // µs
		limit ratelimit.Limit
	}
	modelWindow struct {
		number, prev, cur int64
		limit             ratelimit.Limit
	}
	modelEntry struct{ at, n int64 }
	modelLease struct {
		holder   string
		n, until int64
	}
)

func newModel() *model {
	return &model{map[string]*modelBucket{}, map[string]*modelWindow{}, map[string][]modelEntry{}, map[string][]modelLease{}}
}

func rat(n int64) *big.Rat         { return new(big.Rat).SetInt64(n) }
func sum(a, b *big.Rat) *big.Rat   { return new(big.Rat).Add(a, b) }
func minus(a, b *big.Rat) *big.Rat { return new(big.Rat).Sub(a, b) }

func least(a, b *big.Rat) *big.Rat {
	if a.Cmp(b) < 0 {
		return a
	}
	return b
}

// ceil rounds up.
func ceil(r *big.Rat) int64 {
	q, m := new(big.Int).DivMod(r.Num(), r.Denom(), new(big.Int))
	if m.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return q.Int64()
}

// takes is how long n units of a limit take to come back.
func takes(l ratelimit.Limit, n int64) *big.Rat {
	return new(big.Rat).Mul(rat(n), big.NewRat(l.Per.Microseconds(), l.Rate))
}

// unitsOf is the reverse, rounded up.
func unitsOf(l ratelimit.Limit, d *big.Rat) int64 {
	return ceil(new(big.Rat).Quo(d, big.NewRat(l.Per.Microseconds(), l.Rate)))
}

func us(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// decide carries out a call.
func (m *model) decide(now int64, c ratelimit.Call) []ratelimit.Outcome {
	takes, refused := 0, false
	outcomes := make([]ratelimit.Outcome, len(c.Ops))
	for _, op := range c.Ops {
		if op.Kind == ratelimit.Take {
			takes++
		}
	}
	if takes > 1 {
		for i, op := range c.Ops {
			if op.Kind == ratelimit.Take {
				trial := op
				trial.Kind = ratelimit.Peek
				outcomes[i] = m.op(now, trial)
				refused = refused || !outcomes[i].Allowed
				if !outcomes[i].Allowed && op.Limit.Algorithm != ratelimit.Concurrency {
					m.op(now, op) // by itself it mends a clock that was set back
				}
			}
		}
	}
	for i, op := range c.Ops {
		if !refused || op.Kind != ratelimit.Take {
			outcomes[i] = m.op(now, op)
		}
	}
	return outcomes
}

func (m *model) op(now int64, op ratelimit.Op) ratelimit.Outcome {
	op.Limit = op.Limit.Normal()
	key := op.Limit.Name + " " + op.Key
	switch op.Limit.Algorithm {
	case ratelimit.TokenBucket, ratelimit.GCRA:
		return m.bucket(now, key, op)
	case ratelimit.SlidingLog:
		return m.log(now, key, op)
	case ratelimit.Concurrency:
		return m.hold(now, key, op)
	default:
		return m.window(now, key, op)
	}
}

func (m *model) bucket(now int64, key string, op ratelimit.Op) ratelimit.Outcome {
	l := op.Limit
	full := takes(l, l.Burst)
	twice := sum(full, full)
	debt, mended := rat(0), false
	if b := m.buckets[key]; b != nil && b.full.Cmp(rat(now)) > 0 {
		debt = minus(b.full, rat(now))
		if big.NewRat(l.Per.Microseconds(), l.Rate).Cmp(big.NewRat(b.limit.Per.Microseconds(), b.limit.Rate)) != 0 {
			used, old := l.Burst, takes(b.limit, 2*b.limit.Burst)
			if debt.Cmp(old) <= 0 {
				used = min(used, unitsOf(b.limit, debt))
			}
			debt = takes(l, used)
		}
		if debt.Cmp(twice) > 0 {
			debt, mended = full, true
		}
	}
	o := ratelimit.Outcome{Allowed: true, At: now}
	n, after := op.N, debt
	switch op.Kind {
	case ratelimit.Reset:
		delete(m.buckets, key)
		o.Remaining = l.Burst
		return o
	case ratelimit.Return:
		back := takes(l, min(n, 2*l.Burst))
		if op.Ahead > 0 { // what was taken behind is left alone, and those who wait find the bucket empty but for theirs
			behind := max(0, now+ceil(debt)-op.At-op.Ahead.Microseconds())
			back = least(back, minus(least(debt, full), rat(behind)))
		}
		if back.Sign() > 0 {
			after = minus(debt, least(debt, back))
		}
	case ratelimit.Charge:
		o.Charged = min(n, max(0, 2*l.Burst-unitsOf(l, debt)))
		after = sum(debt, takes(l, o.Charged))
	default:
		if op.Min > 0 {
			n = max(op.Min, min(n, l.Burst-unitsOf(l, debt)))
		}
		if n > l.Burst {
			o.Allowed, o.Wait = false, ratelimit.Never
			break
		}
		then := sum(debt, takes(l, n))
		if over := minus(then, full); over.Sign() > 0 {
			o.Wait = us(ceil(over))
			o.Allowed = o.Wait <= op.Ahead && then.Cmp(twice) <= 0
		}
		if o.Allowed {
			o.Charged, after = n, then
		}
	}
	if o.Allowed && op.Kind != ratelimit.Peek {
		m.buckets[key] = &modelBucket{sum(rat(now), after), l}
	}
	if op.Kind == ratelimit.Take && mended && !o.Allowed {
		m.buckets[key] = &modelBucket{sum(rat(now), full), l}
	}
	if op.Kind == ratelimit.Peek {
		after, o.Charged = debt, 0
	}
	o.Remaining, o.Reset = l.Burst-unitsOf(l, after), us(ceil(after))
	return o
}

// at brings a window up to date by a limit.
func (w modelWindow) at(l ratelimit.Limit, now int64) (_ modelWindow, elapsed int64) {
	window := l.Per.Microseconds()
	number := now / window
	elapsed = now % window
	switch gone := number - w.number; {
	case gone == -1:
		elapsed -= window // less than nothing
	case gone < -1:
		w.number = number
	case gone > 0 && l.Algorithm == ratelimit.FixedWindow:
		w.prev = 0
		for range min(gone, 2) {
			w.cur = max(0, w.cur-l.Rate)
		}
	case gone == 1:
		w.prev, w.cur = w.cur, 0
	case gone > 1:
		w.prev, w.cur = 0, 0
	}
	w.number = max(w.number, number)
	return w, elapsed
}

func (w modelWindow) used(l ratelimit.Limit, elapsed int64) int64 {
	window := l.Per.Microseconds()
	return w.cur + ceil(new(big.Rat).Mul(rat(w.prev), big.NewRat(window-max(0, elapsed), window)))
}

func (m *model) window(now int64, key string, op ratelimit.Op) ratelimit.Outcome {
	l := op.Limit
	per := l.Per.Microseconds()
	w := modelWindow{limit: l}
	if old := m.windows[key]; old != nil {
		w = *old
		if w.limit.Per != l.Per {
			v, elapsed := w.at(w.limit, now)
			w = modelWindow{number: now / per, cur: v.used(w.limit, elapsed)}
		}
		if old.limit != l {
			w.cur, w.prev = min(w.cur, l.Rate), min(w.prev, l.Rate)
			if l.Algorithm == ratelimit.FixedWindow {
				w.prev = 0 // a sliding counter's, of which it knows nothing
			}
		}
	}
	mended := now/per < w.number-1
	w, elapsed := w.at(l, now)
	w.limit = l
	before := w
	o := ratelimit.Outcome{Allowed: true, At: now}
	n := op.N
	switch op.Kind {
	case ratelimit.Reset:
		delete(m.windows, key)
		o.Remaining = l.Rate
		return o
	case ratelimit.Return:
		switch when := op.At / per; when {
		case w.number:
			w.cur = max(0, w.cur-n)
		case w.number - 1:
			w.prev = max(0, w.prev-n)
		}
	case ratelimit.Charge:
		o.Charged = min(n, max(0, 2*l.Rate-w.cur))
		w.cur += o.Charged
	default:
		if op.Min > 0 {
			n = max(op.Min, min(n, l.Rate-w.used(l, elapsed)))
		}
		switch {
		case n > l.Rate:
			o.Allowed, o.Wait = false, ratelimit.Never
		case n > l.Rate-w.used(l, elapsed):
			o.Allowed, o.Wait = false, us(w.room(l, elapsed, n))
		default:
			o.Charged = n
			w.cur += n
		}
	}
	if o.Allowed && op.Kind != ratelimit.Peek {
		m.windows[key] = &w
	}
	if op.Kind == ratelimit.Take && mended && !o.Allowed {
		m.windows[key] = &before
	}
	if op.Kind == ratelimit.Peek {
		w, o.Charged = before, 0
	}
	o.Remaining = l.Rate - w.used(l, elapsed)
	switch {
	case w.cur > 0 && l.Algorithm == ratelimit.FixedWindow:
		o.Reset = us(per - elapsed + (w.cur-1)/l.Rate*per)
	case w.cur > 0:
		o.Reset = us(2*per - elapsed)
	case w.prev > 0:
		o.Reset = us(per - elapsed)
	}
	return o
}

// room searches for the first time at which n units fit in.
func (w modelWindow) room(l ratelimit.Limit, elapsed, n int64) int64 {
	per := l.Per.Microseconds()
	begin := w.number * per
	if l.Algorithm == ratelimit.FixedWindow {
		k := (w.cur + n - 1) / l.Rate // what package ratelimit says of a window that has been a sliding counter's too
		return per - elapsed + (k-1)*per
	}
	fits := func(wait int64) bool {
		at := begin + elapsed + wait
		v, e := w.at(l, at)
		return v.used(l, e)+n <= l.Rate
	}
	low, high := int64(0), 3*per // of which fits is false and true
	for high-low > 1 {
		if mid := (low + high) / 2; fits(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

func (m *model) log(now int64, key string, op ratelimit.Op) ratelimit.Outcome {
	l := op.Limit
	per := l.Per.Microseconds()
	entries := slices.Clone(m.logs[key])
	at, mended := now, false
	if len(entries) > 0 {
		last := entries[len(entries)-1].at
		at = max(now, last)
		if last-now > per {
			at, mended = now, true
			all := int64(0)
			for _, e := range entries {
				all += e.n
			}
			entries = []modelEntry{{now, all}}
		}
	}
	entries = slices.DeleteFunc(entries, func(e modelEntry) bool { return e.at <= at-per })
	used := int64(0)
	for _, e := range entries {
		used += e.n
	}
	o := ratelimit.Outcome{Allowed: true, At: at}
	n := op.N
	switch op.Kind {
	case ratelimit.Reset:
		delete(m.logs, key)
		return ratelimit.Outcome{Allowed: true, Remaining: l.Rate, At: now}
	case ratelimit.Return:
		for i := range entries {
			if entries[i].at == op.At {
				given := min(n, entries[i].n)
				entries[i].n -= given
				used -= given
			}
		}
		entries = slices.DeleteFunc(entries, func(e modelEntry) bool { return e.n == 0 })
	case ratelimit.Charge:
		o.Charged = min(n, max(0, 2*l.Rate-used))
	default:
		if op.Min > 0 {
			n = max(op.Min, min(n, l.Rate-used))
		}
		switch {
		case n > l.Rate:
			o.Allowed, o.Wait = false, ratelimit.Never
		case n > l.Rate-used:
			o.Allowed = false
			missing := n - (l.Rate - used)
			for i := 0; missing > 0; i++ {
				missing -= entries[i].n
				o.Wait = us(entries[i].at + per - now)
			}
		case op.Kind == ratelimit.Take:
			o.Charged = n
		}
	}
	if o.Charged > 0 {
		used += o.Charged
		if k := len(entries); k > 0 && entries[k-1].at == at {
			entries[k-1].n += o.Charged
		} else {
			entries = append(entries, modelEntry{at, o.Charged})
		}
	}
	if (o.Allowed || mended) && op.Kind != ratelimit.Peek {
		m.logs[key] = entries
	}
	o.Remaining = l.Rate - used
	if used > 0 {
		o.Reset = us(entries[len(entries)-1].at + per - now)
	}
	return o
}

func (m *model) hold(now int64, key string, op ratelimit.Op) ratelimit.Outcome {
	l := op.Limit
	until := now + l.Per.Microseconds()
	leases := slices.Clone(m.holders[key])
	leases = slices.DeleteFunc(leases, func(h modelLease) bool { return h.until <= now })
	used := int64(0)
	for _, h := range leases {
		used += h.n
	}
	mine := slices.IndexFunc(leases, func(h modelLease) bool { return h.holder == op.Holder })
	o := ratelimit.Outcome{Allowed: true, At: now}
	switch {
	case op.Kind == ratelimit.Reset:
		delete(m.holders, key)
		return ratelimit.Outcome{Allowed: true, Remaining: l.Rate, At: now}
	case op.Kind == ratelimit.Return:
		if mine >= 0 {
			used -= leases[mine].n
			leases = slices.Delete(leases, mine, mine+1)
		}
	case op.Kind == ratelimit.Take && mine >= 0:
		leases[mine].until = until
	case op.N > l.Rate:
		o.Allowed, o.Wait = false, ratelimit.Never
	case used+op.N > l.Rate:
		o.Allowed = false
		slices.SortFunc(leases, func(a, b modelLease) int { return int(a.until - b.until) })
		missing := used + op.N - l.Rate
		for i := 0; missing > 0; i++ {
			missing -= leases[i].n
			o.Wait = us(leases[i].until - now)
		}
	case op.Kind == ratelimit.Take:
		o.Charged = op.N
		used += op.N
		leases = append(leases, modelLease{op.Holder, op.N, until})
	}
	if o.Allowed && op.Kind != ratelimit.Peek {
		m.holders[key] = leases
	}
	o.Remaining = l.Rate - used
	for _, h := range leases {
		o.Reset = max(o.Reset, us(h.until-now))
	}
	return o
}
