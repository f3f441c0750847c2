package idempotency_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

// till is a handler behind the middleware, and what it needs.
type till struct {
	store   *flakyStore
	guard   *idempotency.Guard
	log     bytes.Buffer
	handler http.Handler
	charges atomic.Int32 // how often the handler has run
}

// flakyStore fails as it is told.
type flakyStore struct {
	idempotency.Store
	claim, complete error
}

func (s *flakyStore) Claim(ctx context.Context, q []idempotency.Request) ([]idempotency.Record, error) {
	if s.claim != nil {
		return nil, s.claim
	}
	return s.Store.Claim(ctx, q)
}

func (s *flakyStore) Complete(ctx context.Context, c []idempotency.Completion) ([]error, error) {
	if s.complete != nil {
		return nil, s.complete
	}
	return s.Store.Complete(ctx, c)
}

var errStoreDown = errors.New("store is down")

// newTill wraps a handler; a nil one answers 201. Of the options only Scope has a default of the test's. Duplicates do not
// wait.
func newTill(t *testing.T, handler http.HandlerFunc, opts *idempotency.HandlerOptions) *till {
	t.Helper()
	return newTillOn(t, idempotency.NewMemory(nil), &idempotency.Options{Wait: -1}, handler, opts)
}

func newTillOn(
	t *testing.T, store idempotency.Store, guardOpts *idempotency.Options, handler http.HandlerFunc, opts *idempotency.HandlerOptions,
) *till {
	t.Helper()
	s := &till{store: &flakyStore{Store: store}}
	guardOpts.Logger = slog.New(slog.NewTextHandler(&s.log, nil))
	guard, err := idempotency.New(s.store, guardOpts)
	require.NoError(t, err)
	s.guard = guard
	if handler == nil {
		handler = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", r.URL.Path+"/7")
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{"id":%d}`, s.charges.Load())
		}
	}
	s.handler = s.wrap(t, opts)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.charges.Add(1)
		handler(w, r)
	}))
	return s
}

// wrap returns the middleware on the till's guard.
func (s *till) wrap(t *testing.T, opts *idempotency.HandlerOptions) func(http.Handler) http.Handler {
	t.Helper()
	var o idempotency.HandlerOptions
	if opts != nil {
		o = *opts
	}
	if o.Scope == nil {
		o.Scope = func(*http.Request) string { return "tenant" }
	}
	middleware, err := idempotency.NewMiddleware(s.guard, &o)
	require.NoError(t, err)
	return middleware
}

// payRequest returns a POST to /pay with keys as they are.
func payRequest(body string, keys ...string) *http.Request {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/pay", strings.NewReader(body))
	for _, key := range keys {
		r.Header.Add("Idempotency-Key", key)
	}
	return r
}

func (s *till) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

const marker = "Idempotency-Replayed"

// requireReplay sends a request again and compares it with its first answer.
func (s *till) requireReplay(t *testing.T, r *http.Request, first *httptest.ResponseRecorder) {
	t.Helper()
	before := s.charges.Load()
	w := s.serve(r)
	require.Equal(t, before, s.charges.Load())
	require.Equal(t, first.Code, w.Code)
	require.Equal(t, first.Body.String(), w.Body.String())
	require.Equal(t, "true", w.Header().Get(marker))
	w.Header().Del(marker)
	require.Equal(t, first.Header(), w.Header())
}

// requireRefusal checks that an answer is a problem document with the code.
func requireRefusal(t *testing.T, w *httptest.ResponseRecorder, status int, code string) problem {
	t.Helper()
	var p problem
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p), w.Body.String())
	require.Equal(t, status, w.Code)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Equal(t, code, p.Code)
	require.Equal(t, status, p.Status)
	require.NotEmpty(t, p.Detail)
	require.Empty(t, w.Header().Get(marker))
	return p
}

// problem is what clients read of a refusal.
type problem struct {
	Type, Title, Detail, Code string
	Status                    int
	FirstStatus               int `json:"first_status"`
}

func TestNewMiddlewareReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := idempotency.NewMiddleware(nil, &idempotency.HandlerOptions{
		MaxBody: -1, MaxResponse: -1, Timeout: -1, Marker: "two words",
	})
	require.ErrorIs(t, err, idempotency.ErrInvalid)
	for _, fault := range []string{
		"guard is nil", "scope is nil", "max body is negative", "max response is negative", "timeout is negative",
		"marker is not the name of a header field",
	} {
		require.ErrorContains(t, err, fault)
	}
	_, err = idempotency.NewMiddleware(newTill(t, nil, nil).guard, nil)
	require.EqualError(t, err, "idempotency: scope is nil")
	_, err = idempotency.NewMiddleware(new(idempotency.Guard), &idempotency.HandlerOptions{Scope: func(*http.Request) string { return "s" }})
	require.EqualError(t, err, "idempotency: guard is nil, or was not made by New")
}

// A marker that net/http would not send is found when the server starts.
func TestMarkerIsTheNameOfAField(t *testing.T) {
	t.Parallel()
	guard := newTill(t, nil, nil).guard
	for name, fine := range map[string]bool{
		"": true, "Replayed": true, "x-~!#$%&'*+-.^_`|9": true,
		" ": false, "a b": false, "a\r\nb": false, "a:": false, "(a)": false, "a,b": false, "a\x7f": false, "ä": false, "a\xff": false,
	} {
		_, err := idempotency.NewMiddleware(guard, &idempotency.HandlerOptions{Marker: name, Scope: func(*http.Request) string { return "s" }})
		require.Equal(t, fine, err == nil, "%q", name)
	}
}

func TestMiddlewareRunsOnceAndReplays(t *testing.T) {
	t.Parallel()
	s := newTill(t, nil, nil)
	first := s.serve(payRequest("10 EUR", "a"))
	require.Equal(t, http.StatusCreated, first.Code)
	require.Equal(t, `{"id":1}`, first.Body.String())
	require.Equal(t, "/pay/7", first.Header().Get("Location"))
	require.NotContains(t, first.Header(), marker)
	for range 3 {
		s.requireReplay(t, payRequest("10 EUR", "a"), first)
	}
	require.Equal(t, `{"id":2}`, s.serve(payRequest("10 EUR", "b")).Body.String())
	require.Empty(t, s.log.String())
}

func TestMiddlewareHeaderForms(t *testing.T) {
	t.Parallel()
	s := newTill(t, nil, nil)
	first := s.serve(payRequest("", `a\`)) // refused: nothing has run
	requireRefusal(t, first, http.StatusBadRequest, "key_invalid")
	first = s.serve(payRequest("", `abc`))
	for _, same := range []string{`abc`, `"abc"`, ` abc`, `"abc" `} {
		s.requireReplay(t, payRequest("", same), first)
	}
	first = s.serve(payRequest("", `"a\"b\\c"`))
	s.requireReplay(t, payRequest("", ` "a\"b\\c"`), first)
	require.EqualValues(t, 2, s.charges.Load())

	for name, keys := range map[string][]string{
		"is empty":                        {``},
		"goes on after its closing quote": {`"abc", "def"`},
		"has ','":                         {`abc, def`},
		"is there 2 times":                {`abc`, `abc`},
		"is 256 bytes long":               {strings.Repeat("x", 256)},
		"has the byte 0x09":               {"a\tb"},
		"has the byte 0xff":               {"\"\xff\""},
		"has no closing quote":            {`"abc`},
	} {
		p := requireRefusal(t, s.serve(payRequest("", keys...)), http.StatusBadRequest, "key_invalid")
		require.Contains(t, p.Detail, "The header Idempotency-Key "+name)
	}
	require.EqualValues(t, 2, s.charges.Load())
}

func TestMiddlewareRequired(t *testing.T) {
	t.Parallel()
	s := newTill(t, nil, nil)
	send := func(method string, keys ...string) *httptest.ResponseRecorder {
		r := payRequest("", keys...)
		r.Method = method
		return s.serve(r)
	}
	for _, method := range []string{http.MethodPost, http.MethodPatch} {
		p := requireRefusal(t, send(method), http.StatusBadRequest, "key_missing")
		require.Equal(t, "about:blank", p.Type)
		require.Equal(t, "Bad Request", p.Title)
	}
	require.Zero(t, s.charges.Load())
	for _, method := range []string{http.MethodPut, http.MethodDelete} { // optional
		require.Equal(t, http.StatusCreated, send(method).Code)
		require.Equal(t, http.StatusCreated, send(method).Code)
		require.NotContains(t, send(method, "a").Header(), marker)
		require.Contains(t, send(method, "a").Header(), marker)
	}
	require.EqualValues(t, 6, s.charges.Load())
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace} { // not guarded
		require.NotContains(t, send(method, "a").Header(), marker)
		require.NotContains(t, send(method, "a").Header(), marker)
		require.Equal(t, http.StatusCreated, send(method, `"not a key`).Code)
	}
	require.EqualValues(t, 18, s.charges.Load())

	s = newTill(t, nil, &idempotency.HandlerOptions{Required: func(r *http.Request) bool { return r.Method == http.MethodPut }})
	require.Equal(t, http.StatusCreated, send(http.MethodPost).Code)
	requireRefusal(t, send(http.MethodPut), http.StatusBadRequest, "key_missing")
}

// A response is kept for the statuses of the first list, and the handler runs again for those of the second.
func TestMiddlewareStatuses(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	answer := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) }
	byDefault := newTill(t, answer, nil)
	greedy := newTill(t, answer, &idempotency.HandlerOptions{Stored: func(int) bool { return true }})
	shy := newTill(t, answer, &idempotency.HandlerOptions{Stored: func(s int) bool { return s == 201 }})

	again := map[int]bool{ // what the default does not keep, of 2xx to 4xx
		401: true, 403: true, 407: true,
		406: true, 411: true, 412: true, 416: true, 417: true, 426: true, 428: true, 431: true,
		404: true, 408: true, 409: true, 421: true, 423: true, 424: true, 425: true, 499: true,
		429: true,
	}
	for code := 200; code < 600; code++ {
		status.Store(int32(code))
		for _, c := range []struct {
			name string
			*till
			kept bool
		}{
			{"default", byDefault, code < 500 && !again[code]},
			{"everything", greedy, code < 500 && code != 429},
			{"201 only", shy, code == 201},
		} {
			before := c.charges.Load()
			first, second := c.serve(payRequest("", strconv.Itoa(code))), c.serve(payRequest("", strconv.Itoa(code)))
			runs := c.charges.Load() - before
			require.Equal(t, c.kept, runs == 1, "%d with %s: %d runs", code, c.name, runs)
			require.Equal(t, c.kept, second.Header().Get(marker) == "true", "%d with %s", code, c.name)
			require.Equal(t, []int{code, code}, []int{first.Code, second.Code})
		}
	}
	status.Store(101) // final to net/http; what comes after it is not HTTP
	for range 2 {
		before := greedy.charges.Load()
		require.Equal(t, 101, greedy.serve(payRequest("", "switch")).Code)
		require.Equal(t, before+1, greedy.charges.Load())
	}
}

func TestMiddlewareRefusesAnotherRequest(t *testing.T) {
	t.Parallel()
	s := newTill(t, nil, nil)
	base := func() *http.Request {
		r := payRequest("10 EUR", "a")
		r.Header.Set("Content-Type", "text/plain")
		return r
	}
	first := s.serve(base())
	for name, change := range map[string]func(r *http.Request) *http.Request{
		"body": func(*http.Request) *http.Request {
			r := payRequest("99 EUR", "a")
			r.Header.Set("Content-Type", "text/plain")
			return r
		},
		"query":        func(r *http.Request) *http.Request { r.URL.RawQuery = "to=mallory"; return r },
		"content type": func(r *http.Request) *http.Request { r.Header.Set("Content-Type", "text/csv"); return r },
	} {
		requireRefusal(t, s.serve(change(base())), http.StatusUnprocessableEntity, "key_reused")
		s.requireReplay(t, base(), first)
		require.EqualValues(t, 1, s.charges.Load(), name)
	}
	r := base()
	r.Header.Set("Authorization", "Bearer renewed") // what is no part of the request proper may change
	s.requireReplay(t, r, first)
}

func TestMiddlewareFingerprint(t *testing.T) {
	t.Parallel()
	var seen idempotency.Fingerprint
	s := newTill(t, nil, &idempotency.HandlerOptions{Fingerprint: func(_ *http.Request, body []byte) idempotency.Fingerprint {
		seen = idempotency.FingerprintOf(bytes.ToLower(body))
		return seen
	}})
	first := s.serve(payRequest("Ten", "a"))
	require.Equal(t, idempotency.FingerprintOf([]byte("ten")), seen)
	s.requireReplay(t, payRequest("tEN", "a"), first)
}

// What another part of the program has stored under a key is no response; that something is there tells that the work
// was done. It is found under what the comments say are the defaults of Op and Fingerprint.
func TestMiddlewareFindsNoResponse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		work func(context.Context, *idempotency.Run) ([]byte, error)
		code string
	}{
		"other bytes": {func(context.Context, *idempotency.Run) ([]byte, error) { return []byte("no response"), nil }, "response_unreadable"},
		"a failure": {func(context.Context, *idempotency.Run) ([]byte, error) {
			return nil, idempotency.Permanent(errors.New("declined"))
		}, "response_unreadable"},
		"nothing, for it was too large": {func(context.Context, *idempotency.Run) ([]byte, error) {
			return make([]byte, 3<<20), nil
		}, "response_not_kept"},
	} {
		s := newTill(t, nil, nil)
		key := idempotency.Key{Scope: "tenant", Op: "POST /a b/%2F", Value: "k"}
		_, _ = idempotency.Do(t.Context(), s.guard, key, idempotency.FingerprintOf([]byte("POST"), []byte("/a%20b/%252F"),
			[]byte("q=1"), []byte("text/plain"), []byte("body")), c.work)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/a%20b/%252F?q=1", strings.NewReader("body"))
		r.Header.Set("Content-Type", "text/plain")
		r.Header.Set("Idempotency-Key", "k")
		p := requireRefusal(t, s.serve(r), http.StatusInternalServerError, c.code)
		require.Contains(t, p.Detail, "Do not send it with another key", name)
		require.Zero(t, s.charges.Load())
		require.Contains(t, s.log.String(), c.code)
	}
}

// A duplicate waits for the first request by the Guard's default.
func TestMiddlewareDuplicatesWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var status atomic.Int32
		s := newTillOn(t, idempotency.NewMemory(nil), &idempotency.Options{}, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Duration(w.Header().Get("Sleep")[0]-'0') * time.Second)
			w.WriteHeader(int(status.Load()))
		}, nil)
		serve := func(key string, seconds byte) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			w.Header().Set("Sleep", string('0'+seconds))
			s.handler.ServeHTTP(w, payRequest("x", key))
			return w
		}
		var wg sync.WaitGroup
		status.Store(http.StatusCreated)
		wg.Go(func() { serve("a", 3) })
		synctest.Wait()
		require.Equal(t, "true", serve("a", 9).Header().Get(marker)) // it got the response of the first
		require.EqualValues(t, 1, s.charges.Load())

		status.Store(http.StatusBadGateway)
		wg.Go(func() { serve("b", 3) })
		synctest.Wait()
		require.Equal(t, http.StatusBadGateway, serve("b", 0).Code) // its turn came when the first had failed
		require.EqualValues(t, 3, s.charges.Load())
		wg.Wait()
	})
}

func TestMiddlewareInFlight(t *testing.T) {
	t.Parallel()
	began, end := make(chan struct{}), make(chan struct{})
	s := newTill(t, func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-end
		w.WriteHeader(http.StatusAccepted)
	}, nil)
	var wg sync.WaitGroup
	var first *httptest.ResponseRecorder
	wg.Go(func() { first = s.serve(payRequest("x", "a")) })
	<-began
	w := s.serve(payRequest("x", "a"))
	requireRefusal(t, w, http.StatusConflict, "key_in_flight")
	wait, err := strconv.Atoi(w.Header().Get("Retry-After"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, wait, 1)
	require.LessOrEqual(t, wait, 5)
	requireRefusal(t, s.serve(payRequest("y", "a")), http.StatusUnprocessableEntity, "key_reused")
	close(end)
	wg.Wait()
	s.requireReplay(t, payRequest("x", "a"), first)
	require.EqualValues(t, 1, s.charges.Load())
	require.Empty(t, s.log.String())
}

// The rest of a lease that is nearly over is still a second.
func TestMiddlewareRetryAfterIsAtLeastASecond(t *testing.T) {
	t.Parallel()
	store := idempotency.NewMemory(nil)
	s := newTillOn(t, store, &idempotency.Options{Wait: -1}, nil, nil)
	for remaining, want := range map[time.Duration]string{
		300 * time.Millisecond: "1", 2500 * time.Millisecond: "3", time.Hour: "5",
	} {
		key := idempotency.Key{Scope: "tenant", Op: "POST /pay", Value: want}
		_, err := store.Claim(t.Context(), []idempotency.Request{{
			Key: key, Lease: remaining,
			Fingerprint: idempotency.FingerprintOf([]byte("POST"), []byte("/pay"), nil, nil, nil),
		}})
		require.NoError(t, err)
		w := s.serve(payRequest("", want))
		requireRefusal(t, w, http.StatusConflict, "key_in_flight")
		require.Equal(t, want, w.Header().Get("Retry-After"))
	}
}

func TestMiddlewareScope(t *testing.T) {
	t.Parallel()
	s := newTill(t, nil, &idempotency.HandlerOptions{Scope: func(r *http.Request) string { return r.Header.Get("Test-Tenant") }})
	as := func(tenant string) *http.Request {
		r := payRequest("x", "a")
		r.Header.Set("Test-Tenant", tenant)
		return r
	}
	ada := s.serve(as("ada"))
	bob := s.serve(as("bob"))
	require.Equal(t, []string{`{"id":1}`, `{"id":2}`}, []string{ada.Body.String(), bob.Body.String()})
	s.requireReplay(t, as("ada"), ada)
	s.requireReplay(t, as("bob"), bob)
	for _, nobody := range []string{"", strings.Repeat("x", 256)} {
		requireRefusal(t, s.serve(as(nobody)), http.StatusInternalServerError, "misconfigured")
	}
	require.EqualValues(t, 2, s.charges.Load())
	require.Contains(t, s.log.String(), "scope is empty")
}

// The values of wildcards tell requests apart, routes tell keys apart.
func TestMiddlewareServeMuxPatterns(t *testing.T) {
	t.Parallel()
	s := newTill(t, nil, nil)
	mux := http.NewServeMux()
	mux.Handle("POST /accounts/{id}/debits", s.handler)
	mux.Handle("/refunds/{id}", s.handler)
	post := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := payRequest("x", "a")
		r.URL.Path = path
		mux.ServeHTTP(w, r)
		return w
	}
	require.Equal(t, `{"id":1}`, post("/accounts/1/debits").Body.String())
	require.Equal(t, `{"id":1}`, post("/accounts/1/debits").Body.String())
	requireRefusal(t, post("/accounts/2/debits"), http.StatusUnprocessableEntity, "key_reused")
	require.Equal(t, `{"id":2}`, post("/refunds/1").Body.String())
	require.Equal(t, `{"id":2}`, post("/refunds/1").Body.String())

	// Around the mux, the path is the route.
	inner := http.NewServeMux()
	inner.HandleFunc("POST /accounts/{id}", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.PathValue("id"))
	})
	outer := s.wrap(t, nil)(inner)
	for _, path := range []string{"/accounts/1", "/accounts/2", "/accounts/" + strings.Repeat("3", 300), "/accounts/" + strings.Repeat("4", 300)} {
		for _, replayed := range []string{"", "true"} {
			r := payRequest("x", "a")
			r.URL.Path = path
			w := httptest.NewRecorder()
			outer.ServeHTTP(w, r)
			require.Equal(t, strings.TrimPrefix(path, "/accounts/"), w.Body.String())
			require.Equal(t, replayed, w.Header().Get(marker))
			if replayed == "" {
				require.Equal(t, "POST /accounts/{id}", r.Pattern) // for the logs further out
			}
		}
	}
}

func TestMiddlewareOp(t *testing.T) {
	t.Parallel()
	s := newTill(t, nil, &idempotency.HandlerOptions{Op: func(*http.Request) string { return "pay" }})
	first := s.serve(payRequest("x", "a"))
	s.requireReplay(t, payRequest("x", "a"), first)
	r := payRequest("x", "a")
	r.URL.Path = "/other"
	requireRefusal(t, s.serve(r), http.StatusUnprocessableEntity, "key_reused")
}

func TestMiddlewareStoreDownIsClosed(t *testing.T) {
	t.Parallel()
	s := newTill(t, nil, nil)
	s.store.claim = errStoreDown
	w := s.serve(payRequest("x", "a"))
	p := requireRefusal(t, w, http.StatusServiceUnavailable, "unavailable")
	require.Equal(t, "5", w.Header().Get("Retry-After"))
	require.NotContains(t, p.Detail, errStoreDown.Error())
	require.Contains(t, s.log.String(), errStoreDown.Error())
	require.Zero(t, s.charges.Load())
	s.store.claim = nil
	require.Equal(t, http.StatusCreated, s.serve(payRequest("x", "a")).Code)
}

// The charge is made and cannot be recorded: the client is told of the charge, and its repeat is not let in.
func TestMiddlewareTellsTheClientWhatIsNotRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // the store is tried for seconds
		s := newTill(t, nil, nil)
		s.store.complete = errStoreDown
		w := s.serve(payRequest("x", "a"))
		require.Equal(t, http.StatusCreated, w.Code)
		require.Equal(t, `{"id":1}`, w.Body.String())
		require.Contains(t, s.log.String(), "response not recorded")
		require.Contains(t, s.log.String(), errStoreDown.Error())
		requireRefusal(t, s.serve(payRequest("x", "a")), http.StatusConflict, "key_in_flight")
		require.EqualValues(t, 1, s.charges.Load())
	})
}

func TestMiddlewarePanicsAreNotKept(t *testing.T) {
	t.Parallel()
	for _, value := range []any{"boom", http.ErrAbortHandler} {
		var broken atomic.Bool
		s := newTill(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, "half")
			if broken.Load() {
				panic(value)
			}
		}, nil)
		broken.Store(true)
		w := httptest.NewRecorder()
		require.PanicsWithValue(t, value, func() { s.handler.ServeHTTP(w, payRequest("x", "a")) })
		require.Empty(t, w.Body.String()) // a recoverer further out can still answer 500
		broken.Store(false)
		first := s.serve(payRequest("x", "a"))
		require.Equal(t, http.StatusCreated, first.Code)
		s.requireReplay(t, payRequest("x", "a"), first)
		require.EqualValues(t, 2, s.charges.Load())
	}
	for i, status := range []int{0, 99, 1000} { // net/http panics
		s := newTill(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }, nil)
		for range 2 { // it would at every replay, were it recorded
			require.Panics(t, func() { s.serve(payRequest("x", "a")) }, i)
		}
		require.EqualValues(t, 2, s.charges.Load())
	}
}

func TestMiddlewareRefusalsOfOnesOwn(t *testing.T) {
	t.Parallel()
	s := newTill(t, nil, &idempotency.HandlerOptions{Docs: "https://docs.example.com/keys"})
	p := requireRefusal(t, s.serve(payRequest("x")), http.StatusBadRequest, "key_missing")
	require.Equal(t, "https://docs.example.com/keys#key_missing", p.Type)
	require.Equal(t, "Idempotency-Key is missing", p.Title)

	var got []*idempotency.Refusal
	s = newTill(t, nil, &idempotency.HandlerOptions{Refuse: func(w http.ResponseWriter, _ *http.Request, refusal *idempotency.Refusal) {
		got = append(got, refusal)
		http.Error(w, refusal.Code, refusal.Status)
	}})
	s.store.claim = errStoreDown
	w := s.serve(payRequest("x", "a"))
	require.Equal(t, "unavailable\n", w.Body.String())
	require.Equal(t, "5", w.Header().Get("Retry-After"))
	s.serve(payRequest("x", ""))
	require.Len(t, got, 2)
	require.ErrorIs(t, got[0].Err, errStoreDown)
	require.ErrorIs(t, got[1].Err, idempotency.ErrInvalid)
}

func TestMiddlewareMarker(t *testing.T) {
	t.Parallel()
	s := newTill(t, nil, &idempotency.HandlerOptions{Marker: "idempotent-replayed"})
	s.serve(payRequest("x", "a"))
	require.Equal(t, []string{"true"}, s.serve(payRequest("x", "a")).Header()["Idempotent-Replayed"])
}

func TestRunFromContext(t *testing.T) {
	t.Parallel()
	var tokens []idempotency.Token
	s := newTill(t, func(w http.ResponseWriter, r *http.Request) {
		run, ok := idempotency.RunFromContext(r.Context())
		token, tokenOK := idempotency.TokenFromContext(r.Context())
		if r.Header.Get("Idempotency-Key") == "" {
			if ok || tokenOK {
				panic("a run without a key")
			}
			return
		}
		if run.Key() != (idempotency.Key{Scope: "tenant", Op: "POST /pay", Value: "a"}) || run.Token() != token {
			panic("not the run of this request")
		}
		tokens = append(tokens, token)
		w.WriteHeader(http.StatusBadGateway)
	}, &idempotency.HandlerOptions{Required: func(*http.Request) bool { return false }})
	s.serve(payRequest("x"))
	s.serve(payRequest("x", "a"))
	s.serve(payRequest("x", "a"))
	require.Len(t, tokens, 2)
	require.Less(t, tokens[0], tokens[1])
}

// impatient returns a request, and a function with which its client hangs up.
func impatient(t *testing.T) (*http.Request, context.CancelFunc) {
	t.Helper()
	client, hangUp := context.WithCancel(context.WithValue(t.Context(), clientKey{}, "ada"))
	return payRequest("x", "a").WithContext(client), hangUp
}

func TestHandlerOutlivesItsClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, hangUp := impatient(t)
		var value any
		var left time.Duration
		s := newTill(t, func(w http.ResponseWriter, r *http.Request) {
			hangUp()
			synctest.Wait()
			if r.Context().Err() != nil {
				w.WriteHeader(http.StatusBadGateway)
			}
			deadline, _ := r.Context().Deadline()
			value, left = r.Context().Value(clientKey{}), time.Until(deadline)
		}, nil)
		first := s.serve(r)
		require.Equal(t, http.StatusOK, first.Code)
		require.Equal(t, "ada", value)
		require.Equal(t, time.Minute, left)
		s.requireReplay(t, payRequest("x", "a"), first)
	})
}

// The handler has charged when its client hangs up: it does not stop before it has posted.
func TestHandlersStepsOutliveItsClient(t *testing.T) {
	t.Parallel()
	r, hangUp := impatient(t)
	var ran []string
	s := newTill(t, func(w http.ResponseWriter, r *http.Request) {
		run, _ := idempotency.RunFromContext(r.Context())
		for _, step := range []string{"charge", "post"} {
			_, err := idempotency.Step(r.Context(), run, step, func(context.Context) (int, error) {
				hangUp()
				ran = append(ran, step)
				return 0, nil
			})
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
			}
		}
	}, nil)
	require.Equal(t, http.StatusOK, s.serve(r).Code)
	require.Equal(t, []string{"charge", "post"}, ran)
}

func TestHandlerEndsInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTill(t, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			w.WriteHeader(http.StatusGatewayTimeout)
		}, &idempotency.HandlerOptions{Timeout: 3 * time.Second})
		begin := time.Now()
		require.Equal(t, http.StatusGatewayTimeout, s.serve(payRequest("x", "a")).Code)
		require.Equal(t, 3*time.Second, time.Since(begin))
	})
}

// From when another may run the handler, this run is to do no more, whatever time it has.
func TestHandlerEndsWithItsClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var cause error
		guardOpts := &idempotency.Options{Lease: 10 * time.Second, NoHeartbeat: true}
		s := newTillOn(t, idempotency.NewMemory(nil), guardOpts, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			cause = context.Cause(r.Context())
			w.WriteHeader(http.StatusServiceUnavailable)
		}, nil)
		begin := time.Now()
		require.Equal(t, http.StatusServiceUnavailable, s.serve(payRequest("x", "a")).Code)
		require.ErrorIs(t, cause, idempotency.ErrLost)
		require.LessOrEqual(t, time.Since(begin), 10*time.Second)
		require.Empty(t, s.log.String())
	})
}

func TestHandlerEndsWithItsClientByOption(t *testing.T) {
	t.Parallel()
	r, hangUp := impatient(t)
	s := newTill(t, func(w http.ResponseWriter, r *http.Request) {
		if hangUp(); r.Context().Err() != nil {
			w.WriteHeader(http.StatusBadGateway)
		}
	}, &idempotency.HandlerOptions{EndWithClient: true})
	require.Equal(t, http.StatusBadGateway, s.serve(r).Code)
	require.Equal(t, http.StatusOK, s.serve(payRequest("x", "a")).Code) // the key is free
	require.EqualValues(t, 2, s.charges.Load())
}

// hangUpStore is a store whose client hangs up just before or after the claim.
type hangUpStore struct {
	idempotency.Store
	hangUp context.CancelFunc
	before bool
}

func (s *hangUpStore) Claim(ctx context.Context, q []idempotency.Request) ([]idempotency.Record, error) {
	if s.before {
		s.hangUp()
	}
	defer s.hangUp()
	return s.Store.Claim(ctx, q)
}

func TestClientThatIsGoneBeforeTheHandlerBeginsAsksForNothing(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{true, false} {
		store := &hangUpStore{Store: idempotency.NewMemory(nil), before: before}
		s := newTillOn(t, store, &idempotency.Options{Wait: -1}, nil, nil)
		client, hangUp := context.WithCancel(t.Context())
		store.hangUp = hangUp
		require.Equal(t, http.StatusServiceUnavailable, s.serve(payRequest("x", "a").WithContext(client)).Code)
		require.Zero(t, s.charges.Load())
		require.Empty(t, s.log.String())
		store.before, store.hangUp = false, func() {}
		require.Equal(t, http.StatusCreated, s.serve(payRequest("x", "a")).Code)
	}
}

// deadWriter is the connection of a client that is gone.
type deadWriter struct {
	httptest.ResponseRecorder
	headers int // how often WriteHeader was called
}

func (w *deadWriter) WriteHeader(int) { w.headers++ }

func (*deadWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A handler that writes until it gets an error, for a client that is gone: it goes on until its time is over.
func TestEndlessResponseEndsWithTheHandlersTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTill(t, func(w http.ResponseWriter, _ *http.Request) {
			for {
				time.Sleep(time.Second)
				if _, err := io.WriteString(w, "0123456789"); err != nil {
					return
				}
			}
		}, &idempotency.HandlerOptions{MaxResponse: 20, Timeout: 10500 * time.Millisecond})
		begin := time.Now()
		var w deadWriter
		s.handler.ServeHTTP(&w, payRequest("x", "a"))
		require.Equal(t, 11*time.Second, time.Since(begin))
		require.Equal(t, 1, w.headers)
		requireRefusal(t, s.serve(payRequest("x", "a")), http.StatusInternalServerError, "response_not_kept")
	})
}

// A client that is there gets what the handler writes, also behind its time: that is no error of the writer's.
func TestWriteBehindTheHandlersTimeArrives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTill(t, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			for range 3 {
				n, err := io.WriteString(w, "0123456789")
				assert.NoError(t, err)
				assert.Equal(t, 10, n)
			}
		}, &idempotency.HandlerOptions{MaxResponse: 10, Timeout: time.Second})
		require.Equal(t, strings.Repeat("0123456789", 3), s.serve(payRequest("x", "a")).Body.String())
	})
}
