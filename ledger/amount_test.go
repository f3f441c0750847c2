package ledger

import (
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
)

func TestAmountOf(t *testing.T) {
	t.Parallel()
	nines := strings.Repeat("9", MaxDigits)
	for _, c := range []struct {
		in    string
		scale uint8
		want  string
		err   error
	}{
		{"10000", 2, "1000000", nil},
		{"0", 2, "0", nil},
		{"0.000", 0, "0", nil},
		{"-1.5", 2, "-150", nil},
		{"10.00", 0, "10", nil},
		{"10.50", 0, "", ErrOverScale},
		{"0.001", 2, "", ErrOverScale},
		{"1e3", 0, "1000", nil},
		{"1e9999", 2, "", ErrOverflow},
		{"1e-9999", 2, "", ErrOverScale},
		{nines, 0, nines, nil},
		{"-" + nines, 0, "-" + nines, nil},
		{nines, 1, "", ErrOverflow},
		{"1" + strings.Repeat("0", MaxDigits), 0, "", ErrOverflow},
		{"1e38", 0, "", ErrOverflow},
		{"9e37", 0, "9" + strings.Repeat("0", 37), nil},
		{"9999999999999999999", 0, "9999999999999999999", nil}, // more than 63 bits
		{"1" + strings.Repeat("0", MaxDigits) + ".0", 0, "", ErrOverflow},
		{"2" + strings.Repeat("0", MaxDigits) + ".0", 0, "", ErrOverflow}, // 128 bits
		{nines + ".00", 0, nines, nil},
		{nines + "9.00", 0, "", ErrOverflow},
		{nines + "9.01", 0, "", ErrOverScale}, // and more than 38 digits
		{"9223372036854775807", 18, "9223372036854775807" + strings.Repeat("0", 18), nil},
		{"123456789012345678901234567890.12", 2, "12345678901234567890123456789012", nil},
		{"1234567890123456789012345678901.123", 2, "", ErrOverScale},
	} {
		got, err := AmountOf(decimal.RequireFromString(c.in), c.scale)
		require.ErrorIs(t, err, c.err, c.in)
		if err == nil {
			require.Equal(t, c.want, got.String(), c.in)
			require.True(t, got.Decimal(c.scale).Equal(decimal.RequireFromString(c.in)), c.in)
		}
	}
}

// The last digit is one too many, whatever the first ones are: ten times them may have 127 bits, or 128, or more.
func TestParseMinorRefusesThe39thDigit(t *testing.T) {
	t.Parallel()
	_, err := ParseMinor("1" + strings.Repeat("0", MaxDigits))
	require.ErrorIs(t, err, ErrOverflow)
	for lead := 10; lead < 100; lead++ {
		most := strconv.Itoa(lead) + strings.Repeat("7", MaxDigits-2)
		a, err := ParseMinor(most)
		require.NoError(t, err)
		require.Equal(t, most, a.String())
		_, err = ParseMinor(most + "7")
		require.ErrorIs(t, err, ErrOverflow, most)
	}
}

// 2^127 is more than 38 digits have, and in 128 bits its own negative.
func TestSumsOf128Bits(t *testing.T) {
	t.Parallel()
	half, err := ParseMinor("85070591730234615865843651857942052864") // 2^126
	require.NoError(t, err)
	for _, one := range []Amount{half, maxAmount} {
		for _, a := range []Amount{one, one.Neg()} {
			sum, ok := a.Add(a)
			require.False(t, ok, "%s + %s = %s", a, a, sum)
			sum, ok = a.Add(a.Neg())
			require.True(t, ok)
			require.Zero(t, sum)
		}
	}
	s := State{Normal: Credit, Debits: half, HeldDebits: half}
	require.Equal(t, maxAmount.Neg(), s.Available(), "38 digits at the most")
}

func TestAmountAgainstBig(t *testing.T) {
	t.Parallel()
	limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(MaxDigits), nil)
	random := func() *big.Int {
		n, _ := new(big.Int).SetString(strings.Repeat("9", 1+rand.IntN(MaxDigits)), 10)
		n.Sub(n, big.NewInt(rand.Int64()))
		if rand.IntN(2) == 0 {
			n.Neg(n)
		}
		return n
	}
	for range 20_000 {
		x, y := random(), random()
		a, err := ParseMinor(x.String())
		require.NoError(t, err)
		b, err := ParseMinor(y.String())
		require.NoError(t, err)
		require.Equal(t, x.Cmp(y), a.Cmp(b))
		require.Equal(t, x.Sign(), a.Sign())
		sum, ok := a.Add(b)
		want := new(big.Int).Add(x, y)
		require.Equal(t, want.CmpAbs(limit) < 0, ok, "%s + %s", x, y)
		if ok {
			require.Equal(t, want.String(), sum.String())
		}
		diff, ok := a.Sub(b)
		want.Sub(x, y)
		require.Equal(t, want.CmpAbs(limit) < 0, ok, "%s - %s", x, y)
		if ok {
			require.Equal(t, want.String(), diff.String())
		}
	}
}

func FuzzParseMinor(f *testing.F) {
	for _, s := range []string{"", "-", "0", "-0", "1e3", "NaN", " 1", "+1", strings.Repeat("9", 39), "-12"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseMinor(s)
		if err != nil {
			return
		}
		want, ok := new(big.Int).SetString(s, 10)
		require.True(t, ok, s)
		require.Equal(t, want.String(), a.String())
	})
}

func FuzzAmountOf(f *testing.F) {
	f.Add("12.34", uint8(2))
	f.Add("1e400", uint8(0))
	f.Fuzz(func(t *testing.T, s string, scale uint8) {
		d, err := decimal.NewFromString(s)
		if err != nil {
			return
		}
		a, err := AmountOf(d, scale)
		if err != nil {
			return
		}
		require.True(t, a.Decimal(scale).Equal(d), "%s at scale %d became %s", s, scale, a)
	})
}
