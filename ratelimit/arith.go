package ratelimit

import "math/bits"

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return max(a, 1)
}

// mulDiv is ⌊a·b/c⌋ for a, b ≥ 0 and c > 0, through 128 bits; over tells that it does not fit.
func mulDiv(a, b, c int64) (over bool, q int64) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return true, 0
	}
	quo, _ := bits.Div64(hi, lo, uint64(c))
	return quo > 1<<63-1, int64(quo)
}

// mulDivUp is ⌈a·b/c⌉ where that fits.
func mulDivUp(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	quo, rem := bits.Div64(hi, lo, uint64(c))
	if rem > 0 {
		quo++
	}
	return int64(quo)
}

// mulDivRem is ⌊a·b/c⌋ and what is left, where that fits.
func mulDivRem(a, b, c int64) (q, r int64) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	quo, rem := bits.Div64(hi, lo, uint64(c))
	return int64(quo), int64(rem)
}
