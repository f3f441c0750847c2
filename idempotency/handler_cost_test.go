package idempotency_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

// sink is a ResponseWriter that costs nothing.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }

// payment returns a bare handler, the same behind the middleware, and a function that sends either a request.
func payment(tb testing.TB, store idempotency.Store) (bare, guarded http.Handler, send func(http.Handler)) {
	tb.Helper()
	answer := []byte(`{"id":"pay_8e03978e40d543e8bc936894a57f9324","amount":"10.00","currency":"EUR","status":"captured"}`)
	bare = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", "/payments/pay_8e03978e40d543e8bc936894a57f9324")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(answer)
	})
	guard, err := idempotency.New(store, nil)
	require.NoError(tb, err)
	middleware, err := idempotency.NewMiddleware(guard, &idempotency.HandlerOptions{
		Scope: func(*http.Request) string { return "tenant" },
	})
	require.NoError(tb, err)

	body := strings.NewReader(`{"amount":"10.00","currency":"EUR","card":"tok_1"}`)
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "/payments", nil)
	r.Pattern, r.ContentLength = "POST /payments", body.Size()
	r.Header.Set("Idempotency-Key", `"8e03978e-40d5-43e8-bc93-6894a57f9324"`)
	r.Header.Set("Content-Type", "application/json")
	w := &sink{http.Header{}}
	return bare, middleware(bare), func(h http.Handler) {
		_, _ = body.Seek(0, 0)
		r.Body = readCloser{body}
		clear(w.header)
		h.ServeHTTP(w, r)
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestReplayOverHTTPAllocates(t *testing.T) {
	bare, guarded, send := payment(t, idempotency.NewMemory(nil))
	send(guarded)
	without := testing.AllocsPerRun(1000, func() { send(bare) })
	with := testing.AllocsPerRun(1000, func() { send(guarded) })
	t.Logf("%v allocations bare, %v replayed", without, with)
	require.LessOrEqual(t, with-without, 15.0)
}

func BenchmarkHandler(b *testing.B) {
	bare, guarded, send := payment(b, idempotency.NewMemory(nil))
	send(guarded)
	b.Run("bare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			send(bare)
		}
	})
	b.Run("replay", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			send(guarded)
		}
	})
}
