package ledger

import (
	"errors"
	"fmt"
	"math/big"
	"math/bits"

	"github.com/shopspring/decimal"
)

// MaxDigits is how many decimal digits an [Amount] can have: what fits a
// PostgreSQL NUMERIC(38,0) and a 128-bit integer alike.
const MaxDigits = 38

// Faults of a decimal that cannot be an [Amount].
var (
	ErrOverScale = errors.New("ledger: more decimal places than the currency has")
	ErrOverflow  = errors.New("ledger: more than 38 digits")
)

// Amount is a whole number of a currency's minor units (kobo, cents, wei), of
// either sign and of at most [MaxDigits] digits. It is what a [Store] counts
// in; users of a [Ledger] see [decimal.Decimal] instead. The zero Amount is 0,
// amounts can be compared with ==, and no operation rounds or wraps.
type Amount struct {
	hi int64 // two's complement, most significant half
	lo uint64
}

// maxAmount is 10^38 − 1, and minAmount as far below 0.
var maxAmount = Amount{hi: 0x4B3B4CA85A86C47A, lo: 0x098A223FFFFFFFFF}

var minAmount = maxAmount.Neg()

// Minor returns n minor units.
func Minor(n int64) Amount { return Amount{hi: n >> 63, lo: uint64(n)} }

// ParseMinor reads what [Amount.String] writes: an optional minus sign and 1 to
// 38 digits, nothing else.
func ParseMinor(s string) (Amount, error) {
	digits, negative := s, false
	if len(s) > 0 && s[0] == '-' {
		digits, negative = s[1:], true
	}
	if digits == "" {
		return Amount{}, fmt.Errorf("ledger: %q is not a whole number of minor units", s)
	}
	var a Amount
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return Amount{}, fmt.Errorf("ledger: %q is not a whole number of minor units", s)
		}
		var ok bool
		if a, ok = a.times10(c - '0'); !ok {
			return Amount{}, fmt.Errorf("%w: %q", ErrOverflow, s)
		}
	}
	if negative {
		a = a.Neg()
	}
	return a, nil
}

// AmountOf returns d in minor units of a currency with scale decimal places.
// It goes by value, so 10.00 fits a currency without decimals and 10.50 does
// not: [ErrOverScale]. More than 38 digits are [ErrOverflow], if it is not both.
func AmountOf(d decimal.Decimal, scale uint8) (Amount, error) {
	shift := int64(d.Exponent()) + int64(scale)
	if d.IsZero() {
		return Amount{}, nil
	}
	digits := int64(d.NumDigits())
	switch { // before any power of ten is made: 1e1000000000 must cost nothing
	case shift >= 0 && digits+shift > MaxDigits:
		return Amount{}, ErrOverflow
	case digits+shift <= 0:
		return Amount{}, ErrOverScale
	}
	if digits <= 18 {
		return amountFromInt64(d.CoefficientInt64(), shift)
	}
	n := d.Coefficient()
	ten := big.NewInt(10)
	if shift < 0 {
		rest := new(big.Int)
		if n.QuoRem(n, ten.Exp(ten, big.NewInt(-shift), nil), rest); rest.Sign() != 0 {
			return Amount{}, ErrOverScale
		}
	} else {
		n.Mul(n, ten.Exp(ten, big.NewInt(shift), nil))
	}
	a, ok := amountFromBig(n)
	if !ok {
		return Amount{}, ErrOverflow
	}
	return a, nil
}

// amountFromInt64 returns n·10^shift, which the caller has bounded to 38 digits.
func amountFromInt64(n, shift int64) (Amount, error) {
	for ; shift < 0; shift++ {
		if n%10 != 0 {
			return Amount{}, ErrOverScale
		}
		n /= 10
	}
	a := Minor(n)
	negative := a.Sign() < 0
	if negative {
		a = a.Neg()
	}
	for ; shift > 0; shift-- {
		a, _ = a.times10(0)
	}
	if negative {
		a = a.Neg()
	}
	return a, nil
}

func amountFromBig(n *big.Int) (Amount, bool) {
	if n.BitLen() > 127 {
		return Amount{}, false
	}
	var raw [16]byte
	new(big.Int).Abs(n).FillBytes(raw[:])
	var a Amount
	for i := range 8 {
		a.hi = a.hi<<8 | int64(raw[i])
		a.lo = a.lo<<8 | uint64(raw[8+i])
	}
	if a.Cmp(maxAmount) > 0 {
		return Amount{}, false
	}
	if n.Sign() < 0 {
		a = a.Neg()
	}
	return a, true
}

// times10 returns 10·a + digit for a ≥ 0, and whether it has at most 38 digits.
func (a Amount) times10(digit byte) (Amount, bool) {
	if a.hi >= 1<<59 { // over 10^38 / 10, and ten times it could wrap
		return Amount{}, false
	}
	over, lo := bits.Mul64(a.lo, 10)
	lo, carry := bits.Add64(lo, uint64(digit), 0)
	r := Amount{hi: a.hi*10 + int64(over) + int64(carry), lo: lo}
	return r, r.Cmp(maxAmount) <= 0
}

// Add returns a + b, and whether it has at most 38 digits.
func (a Amount) Add(b Amount) (Amount, bool) {
	lo, carry := bits.Add64(a.lo, b.lo, 0)
	r := Amount{hi: a.hi + b.hi + int64(carry), lo: lo}
	// |a|, |b| < 10^38: what a sum that leaves 128 bits comes to is still further than that from 0.
	if r.Cmp(maxAmount) > 0 || r.Cmp(minAmount) < 0 {
		return Amount{}, false
	}
	return r, true
}

// Sub returns a − b, and whether it has at most 38 digits.
func (a Amount) Sub(b Amount) (Amount, bool) { return a.Add(b.Neg()) }

// Neg returns −a.
func (a Amount) Neg() Amount {
	lo, borrow := bits.Sub64(0, a.lo, 0)
	return Amount{hi: -a.hi - int64(borrow), lo: lo}
}

// Cmp returns -1, 0 or +1 as a is less than, equal to or greater than b.
func (a Amount) Cmp(b Amount) int {
	switch {
	case a == b:
		return 0
	case a.hi < b.hi, a.hi == b.hi && a.lo < b.lo:
		return -1
	}
	return 1
}

// Sign returns -1, 0 or +1.
func (a Amount) Sign() int { return a.Cmp(Amount{}) }

// String returns the minor units in decimal, without a point.
func (a Amount) String() string { return string(a.Append(nil)) }

// Append appends what [Amount.String] returns to dst.
func (a Amount) Append(dst []byte) []byte {
	if a.Sign() < 0 {
		dst, a = append(dst, '-'), a.Neg()
	}
	var digits [MaxDigits]byte
	i := len(digits)
	for {
		hi, rest := uint64(a.hi)/10, uint64(a.hi)%10
		lo, digit := bits.Div64(rest, a.lo, 10)
		i--
		digits[i] = '0' + byte(digit)
		if a = (Amount{hi: int64(hi), lo: lo}); a == (Amount{}) {
			return append(dst, digits[i:]...)
		}
	}
}

// Decimal returns the amount in a currency with scale decimal places.
func (a Amount) Decimal(scale uint8) decimal.Decimal {
	if a.hi == int64(a.lo)>>63 {
		return decimal.New(int64(a.lo), -int32(scale))
	}
	n, _ := new(big.Int).SetString(a.String(), 10)
	return decimal.NewFromBigInt(n, -int32(scale))
}
