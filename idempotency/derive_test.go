package idempotency_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

// Ids are in ledgers and at providers for ever: these must never change.
func TestIDsAreForEver(t *testing.T) {
	t.Parallel()
	key := idempotency.Key{Scope: "tenant-7", Op: "create-payment", Value: "8e03978e-40d5-43dd-bc93-6894a57f9324"}
	long := idempotency.Key{Scope: strings.Repeat("\xff", 255), Op: strings.Repeat("o", 255), Value: strings.Repeat("\x00", 255)}
	for want, got := range map[string]string{
		"kfnh6joMdt8TUGyuckQ0g7zmOk0yJoOkt72KqG75Ebsw": key.ID(),
		"kgcSZIREJ5_Ea_WnJs-3tD-LCEXu8D6YEgLsmHxnPSlM": key.ID("transfer"),
		"knB_zybr7LVp-F0_hZdz_4yAXObYigtnM8YDfKpxOUUQ": key.ID("transfer", "2"),
		"k75X4D776Cb4FquTkpzOEpODe2PBzmmD834uEL4sWsXE": key.ID(""),
		"kcJk0Z1EywEq-YvKwS1QRR8JHqBoeiZH7AsV52XI0kAs": long.ID(),
	} {
		require.Equal(t, want, got)
		require.Len(t, got, 44)
	}
}

func TestIDsOfDifferentKeysDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, c := range []struct {
		key   idempotency.Key
		parts []string
	}{
		{idempotency.Key{Scope: "a", Op: "b", Value: "c"}, nil},
		{idempotency.Key{Scope: "ab", Op: "", Value: "c"}, nil},
		{idempotency.Key{Scope: "a", Op: "bc", Value: ""}, nil},
		{idempotency.Key{Scope: "c", Op: "b", Value: "a"}, nil},
		{idempotency.Key{Scope: "a", Op: "b", Value: "c"}, []string{""}},
		{idempotency.Key{Scope: "a", Op: "b", Value: "c"}, []string{"", ""}},
		{idempotency.Key{Scope: "a", Op: "b", Value: "c"}, []string{"de"}},
		{idempotency.Key{Scope: "a", Op: "b", Value: "c"}, []string{"d", "e"}},
		{idempotency.Key{Scope: "a", Op: "b", Value: "cde"}, nil},
	} {
		id := c.key.ID(c.parts...)
		require.False(t, seen[id], c)
		seen[id] = true
	}
}

func TestDerivedKeyWindows(t *testing.T) {
	t.Parallel()
	const window = 10 * time.Second
	at := func(d time.Duration) idempotency.Key {
		t.Helper()
		key, err := idempotency.DerivedKey("tenant", "pay", time.Unix(1_700_000_000, 0).Add(d), window, []byte("coffee"))
		require.NoError(t, err)
		return key
	}
	require.Equal(t, at(0), at(window-1)) // all of a window
	require.NotEqual(t, at(-1), at(0))    // however close, on both sides of its boundary
	require.NotEqual(t, at(0), at(window))
	for _, odd := range []time.Time{time.Unix(0, 0), time.Unix(0, -1), time.Unix(0, math.MinInt64+1), time.Unix(0, math.MaxInt64-1)} {
		_, err := idempotency.DerivedKey("tenant", "pay", odd, window, []byte("coffee"))
		require.NoError(t, err)
	}
	before, err := idempotency.DerivedKey("tenant", "pay", time.Unix(-1, 0), window, []byte("coffee"))
	require.NoError(t, err)
	after, err := idempotency.DerivedKey("tenant", "pay", time.Unix(1, 0), window, []byte("coffee"))
	require.NoError(t, err)
	require.NotEqual(t, before, after)
}

// A time that was never set is in no window: two equal coffees, years apart, would be one.
func TestDerivedKeyRefusesTimesWithoutAWindow(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{{}, time.Time{}.Add(time.Hour), time.Unix(1<<40, 0), time.Unix(1<<41, 0)} {
		key, err := idempotency.DerivedKey("tenant", "pay", at, time.Minute, []byte("coffee"))
		invalid, ok := errors.AsType[*idempotency.InvalidError](err)
		require.True(t, ok, "%v: %v", at, key)
		require.Equal(t, "time", invalid.Field)
		require.Zero(t, key)
	}
}

// The probability of the documentation: of repeats after d, 1 - d/window are recognised.
func TestDerivedKeyRecognisesWhatItSays(t *testing.T) {
	t.Parallel()
	const window, d, n = 1000 * time.Millisecond, 300 * time.Millisecond, 10_000
	same := 0
	for i := range n {
		first := time.Unix(1_700_000_000, 0).Add(time.Duration(i) * 7919 * time.Microsecond)
		a, err := idempotency.DerivedKey("tenant", "pay", first, window, []byte("coffee"))
		require.NoError(t, err)
		b, err := idempotency.DerivedKey("tenant", "pay", first.Add(d), window, []byte("coffee"))
		require.NoError(t, err)
		if a == b {
			same++
		}
	}
	require.InDelta(t, 0.7*n, same, 0.01*n)
}

func TestDerivedKeyTellsPartsApart(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	key := func(window time.Duration, parts ...string) string {
		t.Helper()
		var all [][]byte
		for _, p := range parts {
			all = append(all, []byte(p))
		}
		k, err := idempotency.DerivedKey("tenant", "pay", at, window, all...)
		require.NoError(t, err)
		require.Equal(t, "tenant", k.Scope)
		require.Equal(t, "pay", k.Op)
		return k.Value
	}
	seen := map[string]bool{}
	for _, parts := range [][]string{{""}, {"", ""}, {"ab", "c"}, {"a", "bc"}, {"abc"}} {
		v := key(time.Second, parts...)
		require.False(t, seen[v], parts)
		seen[v] = true
	}
	require.NotEqual(t, key(time.Second, "a"), key(2*time.Second, "a"))
	require.Equal(t, "derived-BBDfjkzAM_djPHgBSN9sgNjP70fgFxhzMHFrixD7DjY", key(time.Second, "payer", "payee", `{"amount":"80.50"}`)) // a deployment must not forget the last window
}

func TestDerivedKeyFaults(t *testing.T) {
	t.Parallel()
	for field, c := range map[string]struct {
		scope, op string
		window    time.Duration
		parts     [][]byte
	}{
		"scope":  {"", "pay", time.Second, [][]byte{{}}},
		"op":     {"tenant", strings.Repeat("x", 256), time.Second, [][]byte{{}}},
		"window": {"tenant", "pay", 0, [][]byte{{}}},
		"parts":  {"tenant", "pay", time.Second, nil},
	} {
		key, err := idempotency.DerivedKey(c.scope, c.op, time.Now(), c.window, c.parts...)
		invalid, ok := errors.AsType[*idempotency.InvalidError](err)
		require.True(t, ok, field)
		require.Equal(t, field, invalid.Field)
		require.Zero(t, key)
	}
}
