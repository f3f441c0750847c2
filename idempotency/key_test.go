package idempotency_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

func TestNewKey(t *testing.T) {
	t.Parallel()
	full := strings.Repeat("x", 255)
	for _, c := range []struct{ scope, op, value, field string }{
		{"s", "o", "v", ""},
		{full, full, full, ""},
		{"\x00", "\xff", "\n", ""},
		{"", "o", "v", "scope"},
		{"s", "", "v", "op"},
		{"s", "o", "", "value"},
		{full + "x", "o", "v", "scope"},
		{"s", full + "x", "v", "op"},
		{"s", "o", full + "x", "value"},
	} {
		key, err := idempotency.NewKey(c.scope, c.op, c.value)
		if c.field == "" {
			require.NoError(t, err)
			require.Equal(t, idempotency.Key{Scope: c.scope, Op: c.op, Value: c.value}, key)
			continue
		}
		require.ErrorIs(t, err, idempotency.ErrInvalid)
		invalid, ok := errors.AsType[*idempotency.InvalidError](err)
		require.True(t, ok)
		require.Equal(t, c.field, invalid.Field)
		require.Zero(t, key)
	}
}

func TestKeyString(t *testing.T) {
	t.Parallel()
	require.Equal(t, "8:tenant-74:send3:abc", idempotency.Key{Scope: "tenant-7", Op: "send", Value: "abc"}.String())
}

// FuzzKeyString: equal strings only for equal keys.
func FuzzKeyString(f *testing.F) {
	f.Add("a", "b", "c", "a", "b", "c")
	f.Add("a:b", "c", "d", "a", "b:c", "d")
	f.Add("a", "1:b1:c", "d", "a1:1", "b", "1:c1:d")
	f.Fuzz(func(t *testing.T, s1, o1, v1, s2, o2, v2 string) {
		k1, k2 := idempotency.Key{Scope: s1, Op: o1, Value: v1}, idempotency.Key{Scope: s2, Op: o2, Value: v2}
		require.Equal(t, k1 == k2, k1.String() == k2.String())
	})
}

func TestFingerprintKeepsPartsApart(t *testing.T) {
	t.Parallel()
	of := func(parts ...string) idempotency.Fingerprint {
		var all [][]byte
		for _, p := range parts {
			all = append(all, []byte(p))
		}
		return idempotency.FingerprintOf(all...)
	}
	seen := make(map[idempotency.Fingerprint][]string)
	for _, parts := range [][]string{{}, {""}, {"", ""}, {"abc"}, {"ab", "c"}, {"a", "bc"}, {"", "abc"}, {"abc", ""}} {
		require.NotContains(t, seen, of(parts...), parts)
		seen[of(parts...)] = parts
	}
	require.Equal(t, []string{"ab", "c"}, seen[of("ab", "c")])
}
