package limits

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/examples/internal/cli"
	"github.com/safetill/safetill/examples/internal/problem"
	"github.com/safetill/safetill/ratelimit"
)

// gate returns a gate whose clock stands, and what asks it.
func gate(t *testing.T, counters ratelimit.Store, o *Options) func(address, forwarded, customer string) (http.Header, error) {
	t.Helper()
	if counters == nil {
		counters = ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: func() time.Time { return time.Unix(1_800_000_000, 0) }})
	}
	g, err := New(counters, o, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return func(address, forwarded, customer string) (http.Header, error) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		r.RemoteAddr = address
		r.Header.Set("X-Forwarded-For", forwarded)
		header := http.Header{}
		return header, g.Admit(t.Context(), header, r, customer)
	}
}

func TestAllLimitsAreChargedOrNone(t *testing.T) {
	t.Parallel()
	admit := gate(t, nil, &Options{Address: 2, Customer: 3, All: 4})
	const here, there = "192.0.2.1:1", "192.0.2.2:1"
	for range 2 {
		_, err := admit(here, "", "ada")
		require.NoError(t, err)
	}
	header, err := admit(here, "203.0.113.1", "ada") // its field is not believed
	p, ok := errors.AsType[*problem.Problem](err)
	require.True(t, ok)
	require.Equal(t, http.StatusTooManyRequests, p.Status)
	require.Equal(t, "too many payments a second: no room by the limits ip", p.Detail)
	require.Equal(t, "1", header.Get("Retry-After"))
	require.Equal(t, `"ip";r=0;t=1, "customer";r=1;t=1, "global";r=2;t=1`, header.Get("RateLimit"))
	header, err = admit(there, "", "ada")
	require.NoError(t, err)
	require.Equal(t, `"ip";q=2;w=1, "customer";q=3;w=1, "global";q=4;w=1`, header.Get("RateLimit-Policy"))
	_, err = admit(there, "", "ada")
	require.ErrorContains(t, err, "limits customer")
	_, err = admit(there, "", "grace")
	require.NoError(t, err)
	_, err = admit("@", "", "grace")
	require.ErrorContains(t, err, "limits global")
}

func TestWithoutLimits(t *testing.T) {
	t.Parallel()
	admit := gate(t, nil, &Options{})
	for range 10 {
		header, err := admit("192.0.2.1:1", "", "ada")
		require.NoError(t, err)
		require.Empty(t, header)
	}
}

func TestClientsBehindAProxyAndWithoutAddress(t *testing.T) {
	t.Parallel()
	admit := gate(t, nil, &Options{Address: 1, Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	for _, client := range []string{"192.0.2.1", "192.0.2.2"} {
		_, err := admit("10.0.0.1:1", client, "ada")
		require.NoError(t, err)
		_, err = admit("10.0.0.2:1", client, "ada")
		require.Error(t, err)
	}
	_, err := admit("@", "", "ada")
	require.NoError(t, err)
	_, err = admit("", "", "ada")
	require.Error(t, err)
}

type broken struct{}

func (broken) Decide(_ context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	replies := make([]ratelimit.Reply, len(calls))
	for i := range replies {
		replies[i].Err = io.ErrUnexpectedEOF
	}
	return replies
}

func TestThisProcessCountsWhileTheStoreFails(t *testing.T) {
	t.Parallel()
	admit := gate(t, broken{}, &Options{Customer: 1})
	_, err := admit("192.0.2.1:1", "", "ada")
	require.NoError(t, err)
	header, err := admit("192.0.2.1:1", "", "ada")
	require.Error(t, err)
	require.Equal(t, "1", header.Get("Retry-After"))
}

func TestFlags(t *testing.T) {
	t.Parallel()
	var o Options
	f := cli.NewFlags("test", io.Discard)
	o.Flags(f)
	require.NoError(t, f.Parse([]string{"-limit-ip", "5", "-limit-customer=6", "-proxies", "10.0.0.0/8,fd00::/8"}))
	o.Demand(f)
	require.NoError(t, f.Err())
	require.Equal(t, Options{Address: 5, Customer: 6, Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}, o)
	require.Error(t, f.Parse([]string{"-proxies", "10.0.0.1"}))
	require.NoError(t, f.Parse([]string{"-limit-global", "-1", "-limit-ip", "2000000000"}))
	o.Demand(f)
	require.ErrorContains(t, f.Err(), "-limit-global -1: must be in 0..")
	require.ErrorContains(t, f.Err(), "-limit-ip 2000000000: must be in 0..")
}
