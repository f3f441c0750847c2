package ratelimit_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ratelimit"
)

// sink is a ResponseWriter that costs nothing.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }

// limitedBy returns a function that sends a request through a middleware to a handler that does nothing.
func limitedBy(tb testing.TB, o *ratelimit.HandlerOptions) func() {
	tb.Helper()
	l, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerSecond(1_000_000_000), nil)
	require.NoError(tb, err)
	middleware, err := ratelimit.NewMiddleware(l, o)
	require.NoError(tb, err)
	h := middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "/", nil)
	r.RemoteAddr = "192.0.2.1:1234"
	w := &sink{http.Header{}}
	return func() {
		clear(w.header)
		h.ServeHTTP(w, r)
	}
}

func constantKey(*http.Request) (string, bool) { return "ada", true }

func twoChecks(*http.Request) ([]ratelimit.Check, bool) {
	return []ratelimit.Check{
		{Limit: ratelimit.PerSecond(1_000_000_000).Named("user"), Key: "ada"}, {Limit: ratelimit.PerSecond(1_000_000_000).Named("global"), Key: "all"},
	}, true
}

func TestMiddlewareAllocates(t *testing.T) {
	for name, c := range map[string]struct {
		o    *ratelimit.HandlerOptions
		most float64
	}{
		"key":                {&ratelimit.HandlerOptions{Key: constantKey}, 3},
		"key, no fields":     {&ratelimit.HandlerOptions{Key: constantKey, Fields: ratelimit.NoFields}, 1},
		"address":            {&ratelimit.HandlerOptions{Key: ratelimit.ClientIP()}, 4},
		"two checks":         {&ratelimit.HandlerOptions{Checks: twoChecks}, 15},
		"nothing is limited": {&ratelimit.HandlerOptions{Key: constantKey, Skip: func(*http.Request) bool { return true }}, 0},
	} {
		n := testing.AllocsPerRun(1000, limitedBy(t, c.o))
		t.Logf("%s: %v", name, n)
		require.LessOrEqual(t, n, c.most, name)
	}
}

func BenchmarkMiddleware(b *testing.B) {
	for name, o := range map[string]*ratelimit.HandlerOptions{
		"key": {Key: constantKey}, "address": {Key: ratelimit.ClientIP()}, "two checks": {Checks: twoChecks},
	} {
		b.Run(name, func(b *testing.B) {
			send := limitedBy(b, o)
			b.ReportAllocs()
			for b.Loop() {
				send()
			}
		})
	}
}
