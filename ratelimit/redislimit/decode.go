package redislimit

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

// errAnswer: the server answered in a form that the script does not have.
var errAnswer = errors.New("unexpected answer of the script")

// size is how many bytes the answer to an op of a class has.
func (c class) size() int {
	switch c {
	case bucketClass:
		return 17
	case windowClass:
		return 14
	case logClass:
		return 33
	case holdersClass:
		return 25
	default: // of a decision, and what was done of one
		return 1
	}
}

func get64(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

func get32(b []byte) int64 { return int64(binary.BigEndian.Uint32(b)) }

// outcome reads what became of an op, or, trial, what would have. The script has sent the state that it has found or written: what a caller sees of
// that is worked out here.
func (f *form) outcome(op *ratelimit.Op, trial bool, now int64, b []byte) (o ratelimit.Outcome) {
	if op.Kind == ratelimit.Reset {
		return ratelimit.Outcome{Allowed: true, Remaining: f.Burst, At: now}
	}
	o = ratelimit.Outcome{Allowed: b[0] == 1, Charged: get32(b[1:]), At: now}
	n := int64(0) // what the state has more than what is to be shown
	if trial || op.Kind == ratelimit.Peek {
		n, o.Charged = o.Charged, 0
	}
	switch f.class {
	case bucketClass:
		f.bucket(&o, op, span{get64(b[5:]) - now, get32(b[13:])}, n)
	case windowClass:
		w := window{cur: get32(b[5:]) - n, prev: get32(b[9:]), elapsed: now % f.window}
		if b[13] == 1 { // the clock is in the window before
			w.elapsed -= f.window
		}
		f.counted(&o, op, w)
	case logClass:
		o.At = get64(b[5:])
		f.logged(&o, op, now, get32(b[13:])-n, get64(b[17:]), get64(b[25:]))
	default:
		f.held(&o, op, get32(b[5:])-n, get64(b[9:]), get64(b[17:]))
	}
	return o
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// asked is what a Take that was refused needs at least.
func asked(op *ratelimit.Op) int64 {
	if op.Min > 0 {
		return op.Min
	}
	return op.N
}

// bucket shows what a bucket owes afterwards, without n units of that.
func (f *form) bucket(o *ratelimit.Outcome, op *ratelimit.Op, debt span, n int64) {
	shown := debt
	if n > 0 {
		shown = f.sub(debt, f.span(n))
	}
	o.Remaining = f.Burst - f.units(shown)
	o.Reset = micros(shown.up())
	switch n := asked(op); {
	case op.Kind != ratelimit.Take && op.Kind != ratelimit.Peek:
	case o.Allowed:
		if debt.after(f.refill) {
			o.Wait = micros(f.sub(debt, f.refill).up())
		}
	case n > f.Burst:
		o.Wait = ratelimit.Never
	default:
		o.Wait = micros(f.sub(f.add(debt, f.span(n)), f.refill).up())
	}
}

// window is the state of a fixed window or a sliding counter.
type window struct{ prev, cur, elapsed int64 }

func (f *form) counted(o *ratelimit.Outcome, op *ratelimit.Op, w window) {
	used := w.cur
	if w.prev > 0 {
		used += mulDivUp(w.prev, f.window-max(0, w.elapsed), f.window)
	}
	o.Remaining = f.Rate - used
	switch left := f.window - w.elapsed; {
	case w.cur > 0 && f.Algorithm == ratelimit.FixedWindow:
		o.Reset = micros(left + (w.cur-1)/f.Rate*f.window)
	case w.cur > 0:
		o.Reset = micros(left + f.window)
	case w.prev > 0:
		o.Reset = micros(left)
	}
	if !o.Allowed {
		o.Wait = f.room(w, asked(op))
	}
}

// room is after what time n units fit in that do not now.
func (f *form) room(w window, n int64) time.Duration {
	if n > f.Rate {
		return ratelimit.Never
	}
	left := f.window - w.elapsed
	if f.Algorithm == ratelimit.FixedWindow { // the k-th window from this one on begins with cur - k·Rate
		k := (w.cur + n - 1) / f.Rate
		return micros(left + (k-1)*f.window)
	}
	// In this window: prev·(window-e) ≤ (Rate-cur-n)·window.
	if free := f.Rate - w.cur - n; free >= 0 {
		share, _ := mulDiv(free, f.window, w.prev)
		return micros(f.window - share - w.elapsed)
	}
	// In the next one, where cur is what prev is now.
	share, _ := mulDiv(f.Rate-n, f.window, w.cur)
	return micros(left + f.window - share)
}

// logged shows a log by what it counts, its last entry, and the entry that must run out.
func (f *form) logged(o *ratelimit.Outcome, op *ratelimit.Op, now, used, last, out int64) {
	o.Remaining = f.Rate - used
	if used > 0 {
		o.Reset = micros(last + f.window - now)
	}
	switch {
	case o.Allowed:
	case asked(op) > f.Rate:
		o.Wait = ratelimit.Never
	default:
		o.Wait = micros(out + f.window - now)
	}
}

// held shows holders by how many units they have, the end of the last lease, and of the one that must end.
func (f *form) held(o *ratelimit.Outcome, op *ratelimit.Op, used, last, out int64) {
	o.Remaining = f.Rate - used
	o.Reset = micros(max(0, last-o.At))
	switch {
	case o.Allowed:
	case op.N > f.Rate:
		o.Wait = ratelimit.Never
	default:
		o.Wait = micros(out - o.At)
	}
}
