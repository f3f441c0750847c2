package redislimit

import "math/bits"

// mulDiv is ⌊a·b/c⌋ and what is left, for a, b ≥ 0 and c > 0, through 128 bits. That it fits is what limits are validated for.
func mulDiv(a, b, c int64) (q, r int64) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	quo, rem := bits.Div64(hi, lo, uint64(c))
	return int64(quo), int64(rem)
}

// mulDivUp is ⌈a·b/c⌉.
func mulDivUp(a, b, c int64) int64 {
	q, r := mulDiv(a, b, c)
	if r > 0 {
		q++
	}
	return q
}

// span is how long units take to come back: us + frac/rate microseconds.
type span struct{ us, frac int64 }

// up rounds up to a microsecond.
func (s span) up() int64 {
	if s.frac > 0 {
		return s.us + 1
	}
	return s.us
}

func (s span) after(t span) bool { return s.us > t.us || s.us == t.us && s.frac > t.frac }

// span is how long n units take to come back.
func (f *form) span(n int64) span {
	us, frac := mulDiv(n, f.per, f.rate)
	return span{us, frac}
}

// units is how many units come back during a span, rounded up.
func (f *form) units(s span) int64 {
	whole, rest := mulDiv(s.us, f.rate, f.per)
	return whole + (rest+s.frac+f.per-1)/f.per
}

func (f *form) add(a, b span) span {
	a.us += b.us
	if a.frac += b.frac; a.frac >= f.rate {
		a.us++
		a.frac -= f.rate
	}
	return a
}

func (f *form) sub(a, b span) span {
	a.us -= b.us
	if a.frac -= b.frac; a.frac < 0 {
		a.us--
		a.frac += f.rate
	}
	return a
}
