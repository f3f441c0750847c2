package ratelimit_test

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ratelimit"
)

func quota(l ratelimit.Limit, remaining int64, reset time.Duration) ratelimit.Quota {
	return ratelimit.Quota{Limit: l.Normal(), Result: ratelimit.Result{Remaining: remaining}, Reset: reset}
}

func TestDraft11(t *testing.T) {
	t.Parallel()
	perMinute := ratelimit.PerMinute(100)
	failed := quota(perMinute, 99, 0)
	failed.Result.Source = ratelimit.FromFailOpen
	fallback := quota(perMinute, 9, time.Second)
	fallback.Result.Source = ratelimit.FromFallback
	for name, c := range map[string]struct {
		quotas        []ratelimit.Quota
		policy, limit string
	}{
		"none": {},
		"the draft's example": {
			[]ratelimit.Quota{quota(perMinute, 50, 30*time.Second)},
			`"default";q=100;w=60`, `"default";r=50;t=30`,
		},
		"several": {
			[]ratelimit.Quota{quota(perMinute.Named("ip"), 99, time.Millisecond), quota(ratelimit.PerHour(9).Named("user"), 0, time.Hour)},
			`"ip";q=100;w=60, "user";q=9;w=3600`, `"ip";r=99;t=1, "user";r=0;t=3600`,
		},
		"rounded up": {
			[]ratelimit.Quota{quota(perMinute, 50, 30*time.Second+time.Nanosecond)},
			`"default";q=100;w=60`, `"default";r=50;t=31`,
		},
		"a window under a second is not told": {
			[]ratelimit.Quota{quota(ratelimit.Limit{Rate: 5, Per: 100 * time.Millisecond}, 4, 20*time.Millisecond)},
			`"default";q=5`, `"default";r=4;t=1`,
		},
		"nor one of a second and a half": {
			[]ratelimit.Quota{quota(ratelimit.Limit{Rate: 5, Per: 1500 * time.Millisecond}, 5, 0)},
			`"default";q=5`, `"default";r=5;t=0`,
		},
		"places": {
			[]ratelimit.Quota{quota(ratelimit.PerMinute(8).As(ratelimit.Concurrency), 3, time.Minute)},
			`"default";q=8;qu="concurrent-requests"`, `"default";r=3;t=60`,
		},
		"escapes, of names that no limit has": {
			[]ratelimit.Quota{quota(perMinute.Named(`a "b" \ c`), 1, 0), quota(perMinute.Named("é"), 1, 0), quota(perMinute.Named("a\nb: c"), 1, 0)},
			`"a \"b\" \\ c";q=100;w=60`, `"a \"b\" \\ c";r=1;t=0`,
		},
		"no name that is one": {[]ratelimit.Quota{quota(perMinute.Named("\x7f"), 1, 0)}, "", ""},
		"nobody has counted":  {[]ratelimit.Quota{failed}, `"default";q=100;w=60`, ""},
		"one is counted":      {[]ratelimit.Quota{failed, fallback}, `"default";q=100;w=60, "default";q=100;w=60`, `"default";r=9;t=1`},
		"bounds of an integer": {
			[]ratelimit.Quota{quota(perMinute, math.MaxInt64, -time.Hour), quota(perMinute, -1, 0)},
			`"default";q=100;w=60, "default";q=100;w=60`, `"default";r=999999999999999;t=0, "default";r=0;t=0`,
		},
	} {
		h := http.Header{}
		ratelimit.Draft11(h, c.quotas)
		require.Equal(t, c.policy, h.Get("RateLimit-Policy"), name)
		require.Equal(t, c.limit, h.Get("RateLimit"), name)
		ratelimit.NoFields(h, c.quotas)
		require.Len(t, h.Values("RateLimit"), min(1, len(c.limit)), name)
		require.Len(t, h.Values("RateLimit-Policy"), min(1, len(c.policy)), name)
	}
}

// A limiter further out has told of its own limits: both are members of the list, which may be split over lines.
func TestFieldsAddToThoseThatAreThere(t *testing.T) {
	t.Parallel()
	outer, h := []string{`"ip";r=1;t=1`}, http.Header{}
	h["Ratelimit"] = outer[:1:1]
	ratelimit.Draft11(h, []ratelimit.Quota{quota(ratelimit.PerMinute(100).Named("user"), 50, time.Minute)})
	require.Equal(t, []string{`"ip";r=1;t=1`, `"user";r=50;t=60`}, h["Ratelimit"])
	h.Add("RateLimit", `"x";r=1`) // must not write over the policy's line, which is next to it in memory
	require.Equal(t, []string{`"user";q=100;w=60`}, h["Ratelimit-Policy"])
	told, err := ratelimit.ParseFields(h)
	require.NoError(t, err)
	require.Equal(t, []ratelimit.Told{
		{Name: "user", Rate: 100, Window: time.Minute, Remaining: 50, Reset: time.Minute},
		{Name: "ip", Rate: -1, Remaining: 1, Reset: time.Second},
		{Name: "x", Rate: -1, Remaining: 1, Reset: -1},
	}, told)
}

func TestParseFieldsOfTheDraft(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line string
		want ratelimit.Told
	}{
		{`"default";r=50;t=30`, ratelimit.Told{Name: "default", Rate: -1, Remaining: 50, Reset: 30 * time.Second}},
		{`"default";r=999;pk=:dHJpYWwxMjEzMjM=:`, ratelimit.Told{Name: "default", Rate: -1, Remaining: 999, Reset: -1}},
		{`"default";r=300000000;t=60;pk=:QXBwLTk5OQ==:`, ratelimit.Told{Name: "default", Rate: -1, Remaining: 300000000, Reset: time.Minute}},
		{`"a\"\\b c~";  r=1;t=0`, ratelimit.Told{Name: `a"\b c~`, Rate: -1, Remaining: 1}},
		{`"a";r=1;acme-x=1.5;y;z=?1;*=tok/en:x;d=@-5;s="s";e=%"e"`, ratelimit.Told{Name: "a", Rate: -1, Remaining: 1, Reset: -1}},
		{`"a";r=1;r=2`, ratelimit.Told{Name: "a", Rate: -1, Remaining: 2, Reset: -1}},
		{`"a";r=1;t=999999999999999`, ratelimit.Told{Name: "a", Rate: -1, Remaining: 1, Reset: math.MaxInt64 / time.Second * time.Second}},
	} {
		told, err := ratelimit.ParseFields(http.Header{"Ratelimit": {c.line}})
		require.NoError(t, err, c.line)
		require.Equal(t, []ratelimit.Told{c.want}, told, c.line)
	}
	told, err := ratelimit.ParseFields(http.Header{"Ratelimit": {"  \"a\";r=1 \t,\t\"b\";r=2 "}})
	require.NoError(t, err)
	require.Len(t, told, 2, "blanks around members")
	told, err = ratelimit.ParseFields(http.Header{"Ratelimit-Policy": {`"burst";q=100;w=60,"daily";q=1000;w=86400`, `"peruser";q=65535;qu="content-bytes";w=10;pk=:sdfjLJUOUH==:`}})
	require.NoError(t, err)
	require.Equal(t, []ratelimit.Told{
		{Name: "burst", Rate: 100, Window: time.Minute, Remaining: -1, Reset: -1},
		{Name: "daily", Rate: 1000, Window: 24 * time.Hour, Remaining: -1, Reset: -1},
		{Name: "peruser", Rate: 65535, Window: 10 * time.Second, Remaining: -1, Reset: -1},
	}, told)
}

// Malformed fields must be ignored: no part of them is told.
func TestParseFieldsRefuses(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		`x`, `"a"`, `"a";r`, `"a";r=`, `"a";r=x`, `"a";r=-1`, `"a";r=1.5`, `"a";r=1;t=x`, `"a";r=1;t=-1`, `"a";r=1,`, `"a";r=1 "b";r=1`, `"a" ;r=1`,
		`"a;r=1`, `"a\x";r=1`, "\"a\x00\";r=1", "\"\u00e9\";r=1", `"a";R=1`, `"a";;r=1`, `"a";r=1000000000000000`, `"a";r=1;t=1.`, `"a";r=1;x=:a`,
		`"a";r=1;x=?2`, `"a";r=1;x=@1.5`, `"a";r=1;x=!`, `"a";r=1;x=1.2345`, `"a";r=1;x=1234567890123.5`, `("a");r=1`, `"b";r=1, "a`,
		`"a";r=1, "b\`, `"a";r=1;{=1`,
		strings.Repeat(`"a";r=1,`, 64) + `"a";r=1`,
	} {
		told, err := ratelimit.ParseFields(http.Header{"Ratelimit": {line}})
		require.ErrorIs(t, err, ratelimit.ErrInvalid, line)
		require.Empty(t, told, line)
		_, err = ratelimit.ParseFields(http.Header{"Ratelimit-Policy": {line}})
		require.ErrorIs(t, err, ratelimit.ErrInvalid, line)
	}
	for _, line := range []string{`"a";q=1;w=0`, `"a";q=1;w=-1`, `"a";w=1`, `"a";q=1;w=1.5`, `"a";q=1;w`} {
		_, err := ratelimit.ParseFields(http.Header{"Ratelimit-Policy": {line}})
		require.ErrorIs(t, err, ratelimit.ErrInvalid, line)
	}
}

// What is parsed is in bounds, and written again says the same.
func FuzzParseFields(f *testing.F) {
	f.Add(`"default";q=100;w=60`, `"default";r=50;t=30`)
	f.Add(`"a\"\\";q=1, "b";q=2;w=1;pk=:aGk=:`, `"b";r=1;x=?1;y=1.5;z=tok, "c";r=0;t=999999999999999`)
	f.Add(`"a";q=1;s="x\"";e=%"%c3";d=@-1`, `"a" ;r`)
	f.Fuzz(func(t *testing.T, policy, limit string) {
		told, err := ratelimit.ParseFields(http.Header{"Ratelimit-Policy": {policy}, "Ratelimit": {limit}})
		if err != nil {
			require.ErrorIs(t, err, ratelimit.ErrInvalid)
			require.Empty(t, told)
			return
		}
		for _, q := range told {
			require.True(t, q.Rate >= -1 && q.Remaining >= -1 && q.Window >= 0 && q.Reset >= -1)
			if q.Rate < 0 || q.Remaining < 0 || q.Reset < 0 || q.Window == 0 {
				continue
			}
			h := http.Header{}
			ratelimit.Draft11(h, []ratelimit.Quota{quota(ratelimit.Limit{Name: q.Name, Rate: q.Rate, Per: q.Window}, q.Remaining, q.Reset)})
			again, err := ratelimit.ParseFields(h)
			require.NoError(t, err)
			if q.Name == "" {
				continue // becomes "default"
			}
			require.Equal(t, []ratelimit.Told{q}, again)
		}
	})
}

// Any name is either written so that it is read as it was, or not written at all.
func FuzzDraft11(f *testing.F) {
	f.Add("default", int64(100), int64(time.Minute), int64(50), int64(time.Second))
	f.Add("a\"b\\", int64(1), int64(1500*time.Millisecond), int64(-1), int64(-1))
	f.Fuzz(func(t *testing.T, name string, rate, per, remaining, reset int64) {
		h := http.Header{}
		ratelimit.Draft11(h, []ratelimit.Quota{quota(ratelimit.Limit{Name: name, Rate: rate, Per: time.Duration(per)}, remaining, time.Duration(reset))})
		told, err := ratelimit.ParseFields(h)
		require.NoError(t, err)
		if strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c > '~' }) {
			require.Empty(t, told)
			return
		}
		require.Len(t, told, 1)
		if name != "" {
			require.Equal(t, name, told[0].Name)
		}
		require.GreaterOrEqual(t, told[0].Reset, min(time.Duration(reset), math.MaxInt64/time.Second*time.Second))
	})
}
