package idempotency_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/idempotency/redisidem"
	"github.com/safetill/safetill/internal/testdb"
)

// listen serves a handler over TCP.
func listen(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server
}

// exchange sends a request over a connection of its own and returns every byte of the answer.
func exchange(t *testing.T, server *httptest.Server, key, body string) string {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = fmt.Fprintf(conn, "POST /pay HTTP/1.1\r\nHost: test\r\nConnection: close\r\nIdempotency-Key: %s\r\nContent-Length: %d\r\n\r\n%s",
		key, len(body), body)
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	return string(answer)
}

// answer is what a client reads.
type answer struct {
	status          int
	header, trailer http.Header
	body            string
}

func (a answer) replayed() bool { return a.header.Get(marker) == "true" }

// dial sends a request with the client of net/http.
func dial(ctx context.Context, server *httptest.Server, key, body string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/pay", strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Idempotency-Key", key)
	return roundTrip(server.Client(), r)
}

func roundTrip(client *http.Client, r *http.Request) (answer, error) {
	response, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, response.Trailer, string(body)}, err
}

var (
	dateLine   = regexp.MustCompile(`\r\nDate: [^\r]*`)
	markerLine = "\r\n" + marker + ": true"
)

// A replay has every byte of the first response, but for its date and the marker.
func TestReplayIsEqualOnTheWire(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]http.HandlerFunc{
		"nothing written": func(http.ResponseWriter, *http.Request) {},
		"no body":         func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) },
		"no content": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Etag", `"1"`)
			w.WriteHeader(http.StatusNoContent)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/done?a=b", http.StatusSeeOther) },
		"error":    func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "declined", http.StatusPaymentRequired) },
		"sniffed":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<!doctype html><p>hello") },
		"binary": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte{0, 1, 2, 0xff, 0xfe, '"', '\\', '\n', 0xc3, 0x28})
		},
		"many fields": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Add("Link", "</a>; rel=a")
			w.Header().Add("Link", `</b>; title="ключ, \"x\""`)
			w.Header().Set("Empty", "")
			w.Header()["lower-case"] = []string{"as it is"}
			_, _ = io.WriteString(w, "ok")
		},
		"fields kept off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			_, _ = io.WriteString(w, "what is it")
		},
		"large, in pieces": func(w http.ResponseWriter, _ *http.Request) {
			for i := range 10_000 {
				fmt.Fprintf(w, "%d\n", i)
			}
		},
		"length declared": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "2")
			_, _ = io.WriteString(w, "ok")
		},
		"length declared wrong": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			_, _ = io.WriteString(w, "ok")
		},
		"length declared short": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1")
			_, _ = io.WriteString(w, "ok")
		},
		"chunks declared": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Transfer-Encoding", "chunked")
			_, _ = io.WriteString(w, "ok")
		},
		"header set when too late": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.Header().Set("Late", "1")
			w.WriteHeader(http.StatusTeapot)
		},
		"trailers after a declared length": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "4")
			_, _ = io.WriteString(w, "body")
			w.Header().Set(http.TrailerPrefix+"Sum", "1")
		},
		"trailers": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "Checksum, Absent")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("Checksum", "42")
			w.Header().Set(http.TrailerPrefix+"Undeclared", "43")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTill(t, handler, nil)
			server := listen(t, s.handler)
			first := exchange(t, server, "a", "x")
			require.Contains(t, first, "\r\nDate: ")
			require.NotContains(t, first, marker)
			require.NotContains(t, first, "Late")
			second := exchange(t, server, "a", "x")
			require.Contains(t, second, markerLine)
			require.Equal(t, dateLine.ReplaceAllString(first, ""), dateLine.ReplaceAllString(strings.Replace(second, markerLine, "", 1), ""))
			require.EqualValues(t, 1, s.charges.Load())
			switch name {
			case "trailers":
				require.Contains(t, second, "\r\nChecksum: 42\r\n")
				require.Contains(t, second, "\r\nUndeclared: 43\r\n")
			case "trailers after a declared length":
				require.Contains(t, second, "\r\nSum: 1\r\n")
			}
			if strings.HasPrefix(name, "length") {
				require.Contains(t, second, "\r\nContent-Length: 2\r\n")
			}
		})
	}
}

// What a handler without the middleware sends is what it sends with it, for handlers that leave the length to net/http.
func TestFirstResponseIsThatOfTheBareHandler(t *testing.T) {
	t.Parallel()
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Method", r.Method)
		w.Header().Add("Set-Cookie", "a=b")
		w.WriteHeader(http.StatusConflict)
		w.Header().Set("Late", "1")
		_, _ = io.WriteString(w, "body")
	})
	s := newTill(t, bare, nil)
	want := exchange(t, listen(t, bare), "a", "x")
	got := exchange(t, listen(t, s.handler), "a", "x")
	require.Equal(t, sortedLines(want), sortedLines(got))
}

// sortedLines returns the lines of an answer but for its date; where Content-Length comes depends on who sets it.
func sortedLines(answer string) []string {
	lines := strings.Split(dateLine.ReplaceAllString(answer, ""), "\r\n")
	slices.Sort(lines)
	return lines
}

func TestReplayLeavesOut(t *testing.T) {
	t.Parallel()
	s := newTill(t, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Set-Cookie", "session=ada")
		h.Set("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
		h.Set("Connection", "X-Hop, close")
		h.Set("X-Hop", "1")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Upgrade", "h2c")
		h.Set("X-Kept", "1")
	}, nil)
	first := s.serve(payRequest("x", "a"))
	require.Equal(t, "session=ada", first.Header().Get("Set-Cookie"))
	require.Equal(t, "1", first.Header().Get("X-Hop"))
	second := s.serve(payRequest("x", "a"))
	require.Equal(t, http.Header{"X-Kept": {"1"}, "Content-Length": {"0"}, marker: {"true"}}, second.Header())
}

func TestResponseLimit(t *testing.T) {
	t.Parallel()
	const limit = 5000
	var size atomic.Int32
	s := newTill(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Order", "7")
		w.WriteHeader(http.StatusCreated)
		w.Header().Set("Late", "1")
		w.Header().Set(http.TrailerPrefix+"Begun", "1") // before the response is found to be too long
		rest := bytes.Repeat([]byte("x"), int(size.Load()))
		for len(rest) > 0 {
			n, err := w.Write(rest[:min(len(rest), 999)])
			if err != nil {
				panic(err)
			}
			rest = rest[n:]
		}
		w.Header().Set(http.TrailerPrefix+"Sum", "1")
	}, &idempotency.HandlerOptions{MaxResponse: limit})
	server := listen(t, s.handler)
	for _, n := range []int{0, 1, limit - 1, limit} {
		size.Store(int32(n))
		first, err := dial(t.Context(), server, strconv.Itoa(n), "x")
		require.NoError(t, err)
		require.Len(t, first.body, n)
		second, err := dial(t.Context(), server, strconv.Itoa(n), "x")
		require.NoError(t, err)
		require.True(t, second.replayed())
		require.Equal(t, first.body, second.body)
	}
	require.Empty(t, s.log.String())
	for _, n := range []int{limit + 1, 20 * limit} {
		before := s.charges.Load()
		size.Store(int32(n))
		first, err := dial(t.Context(), server, strconv.Itoa(n), "x")
		require.NoError(t, err)
		require.Len(t, first.body, n)
		require.Equal(t, http.StatusCreated, first.status)
		require.Equal(t, "7", first.header.Get("X-Order"))
		require.Empty(t, first.header.Get("Late"))
		require.Equal(t, http.Header{"Begun": {"1"}, "Sum": {"1"}}, first.trailer)
		p := requireRefusal(t, s.serve(payRequest("x", strconv.Itoa(n))), http.StatusInternalServerError, "response_not_kept")
		require.Equal(t, http.StatusCreated, p.FirstStatus)
		require.Equal(t, before+1, s.charges.Load())
	}
	require.Contains(t, s.log.String(), "response not kept")
}

// The Guard's limit is for header and body together; the first client gets all of it.
func TestGuardLimit(t *testing.T) {
	t.Parallel()
	const stored = 1 + 1 + 2 + 1 + 8 + 4 // version, omitted, status, length of the head, head, body
	for _, c := range []struct {
		limit int
		kept  bool
	}{{stored - 1, false}, {stored, true}, {stored + 1, true}} {
		s := newTillOn(t, idempotency.NewMemory(nil), &idempotency.Options{MaxResponse: c.limit},
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X", "v")
				_, _ = io.WriteString(w, "body")
			}, nil)
		first := s.serve(payRequest("x", "a"))
		require.Equal(t, "v", first.Header().Get("X"))
		require.Equal(t, "body", first.Body.String())
		if c.kept {
			s.requireReplay(t, payRequest("x", "a"), first)
			continue
		}
		require.Contains(t, s.log.String(), "response not kept")
		p := requireRefusal(t, s.serve(payRequest("x", "a")), http.StatusInternalServerError, "response_not_kept")
		require.Equal(t, http.StatusOK, p.FirstStatus)
	}
}

// A handler that wants to stream is told that it cannot, by each of the ways to ask; deadlines are no streaming.
func TestStreamingIsRefused(t *testing.T) {
	t.Parallel()
	s := newTill(t, func(w http.ResponseWriter, _ *http.Request) {
		c := http.NewResponseController(w)
		_, isFlusher := w.(http.Flusher)
		_, _, hijack := c.Hijack()
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintln(w, "flusher:", isFlusher)
		fmt.Fprintln(w, "flush:", c.Flush())
		fmt.Fprintln(w, "hijack:", hijack)
		fmt.Fprintln(w, "deadline:", c.SetWriteDeadline(time.Now().Add(time.Minute)))
	}, nil)
	a, err := dial(t.Context(), listen(t, s.handler), "a", "x")
	require.NoError(t, err)
	const why = "idempotency: a response that is to be replayed is sent as a whole: feature not supported"
	require.Equal(t, "flusher: false\nflush: "+why+"\nhijack: "+why+"\ndeadline: <nil>\n", a.body)

	s = newTill(t, func(w http.ResponseWriter, _ *http.Request) {
		if http.NewResponseController(w).Flush() != nil {
			panic("cannot stream without a key either")
		}
	}, &idempotency.HandlerOptions{Required: func(*http.Request) bool { return false }})
	s.serve(payRequest("x"))
	err = http.NewResponseController(httptest.NewRecorder()).SetReadDeadline(time.Time{})
	require.ErrorIs(t, err, http.ErrNotSupported)
}

// Informational responses arrive while the handler runs, and are not repeated.
func TestInformationalResponses(t *testing.T) {
	t.Parallel()
	arrived := make(chan int, 10)
	s := newTill(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		if <-arrived != http.StatusEarlyHints {
			panic("not the early hints")
		}
		w.Header().Del("Link")
		w.WriteHeader(http.StatusAccepted)
		w.WriteHeader(http.StatusProcessing) // too late
	}, nil)
	server := listen(t, s.handler)
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if h.Get("Link") != "" {
				arrived <- code
			}
			return nil
		},
	})
	for range 2 {
		a, err := dial(ctx, server, "a", "x")
		require.NoError(t, err)
		require.Equal(t, http.StatusAccepted, a.status)
		require.NotContains(t, a.header, "Link")
	}
	require.Empty(t, arrived)
	require.EqualValues(t, 1, s.charges.Load())
}

func TestNoBodyWhereThereMayBeNone(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusNoContent, http.StatusNotModified} {
		s := newTill(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			if _, err := io.WriteString(w, "x"); err != http.ErrBodyNotAllowed { //nolint:errorlint // the value itself, as net/http has it
				panic(err)
			}
		}, nil)
		first := s.serve(payRequest("x", "a"))
		require.Empty(t, first.Header())
		s.requireReplay(t, payRequest("x", "a"), first)
	}
}

// What a middleware further out sets is its own: it sets it on a replay too. What the handler makes of it is the
// response's.
func TestMiddlewareOrder(t *testing.T) {
	t.Parallel()
	s := newTill(t, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Add("Vary", "Origin")
		h.Set("X-Seen", h.Get("X-Request-Id"))
		h.Del("X-Frame-Options")
		_, _ = io.WriteString(w, "ok")
	}, nil)
	n := 0
	outer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		h := w.Header()
		h.Set("X-Request-Id", strconv.Itoa(n))
		h.Set("Vary", "Accept-Encoding")
		h.Set("X-Frame-Options", "DENY")
		if r.Header.Get("Authorization") != "good" { // a replay does not come past authentication
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		s.handler.ServeHTTP(w, r)
	})
	server := listen(t, outer)
	send := func(authorization string) answer {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, http.NoBody)
		require.NoError(t, err)
		r.Header = http.Header{"Idempotency-Key": {"a"}, "Authorization": {authorization}}
		a, err := roundTrip(server.Client(), r)
		require.NoError(t, err)
		return a
	}
	for i := 1; i <= 2; i++ {
		h := send("good").header
		require.Equal(t, strconv.Itoa(i), h.Get("X-Request-Id"))
		require.Equal(t, "1", h.Get("X-Seen"))
		require.Equal(t, []string{"Accept-Encoding", "Origin"}, h.Values("Vary"))
		require.NotContains(t, h, "X-Frame-Options")
	}
	require.Equal(t, http.StatusUnauthorized, send("bad").status)
}

// A timeout further out answers the client; the handler runs to its end, and the repeat gets its response.
func TestTimeoutFurtherOut(t *testing.T) {
	t.Parallel()
	timedOut := make(chan struct{})
	s := newTill(t, func(w http.ResponseWriter, r *http.Request) {
		<-timedOut
		if r.Context().Err() != nil {
			panic("cut off")
		}
		w.WriteHeader(http.StatusCreated)
	}, nil)
	server := listen(t, http.TimeoutHandler(s.handler, 50*time.Millisecond, "timeout"))
	a, err := dial(t.Context(), server, "a", "x")
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, a.status)
	close(timedOut)
	require.Equal(t, http.StatusCreated, untilServed(t, server, "a", "x").status)
	require.EqualValues(t, 1, s.charges.Load())
}

// The handler is a proxy, which flushes what it gets and panics where it cannot write.
func TestProxyBehindTheMiddleware(t *testing.T) {
	t.Parallel()
	upstream := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.Copy(w, r.Body)
		_ = http.NewResponseController(w).Flush()
		w.Header().Set("Sum", "1")
	}))
	target, err := url.Parse(upstream.URL)
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, FlushInterval: -1}
	s := newTill(t, proxy.ServeHTTP, nil)
	server := listen(t, s.handler)
	for i := range 2 {
		a, err := dial(t.Context(), server, "a", "body")
		require.NoError(t, err)
		require.Equal(t, http.StatusCreated, a.status)
		require.Equal(t, "body", a.body)
		require.Equal(t, http.Header{"Sum": {"1"}}, a.trailer)
		require.Equal(t, i == 1, a.replayed())
	}
}

// untilServed repeats a request until it is no longer refused.
func untilServed(t *testing.T, server *httptest.Server, key, body string) (a answer) {
	t.Helper()
	require.Eventually(t, func() bool {
		var err error
		a, err = dial(t.Context(), server, key, body)
		return err == nil && a.status < 400
	}, 30*time.Second, 5*time.Millisecond)
	return a
}

// storesOverHTTP opens each store that the middleware is tried on.
var storesOverHTTP = map[string]func(t *testing.T) idempotency.Store{
	"memory": func(*testing.T) idempotency.Store { return idempotency.NewMemory(nil) },
	"redis": func(t *testing.T) idempotency.Store {
		store, err := redisidem.NewStore(testdb.Redis(t), nil)
		require.NoError(t, err)
		return store
	},
	"postgres": func(t *testing.T) idempotency.Store {
		pool := testdb.Postgres(t)
		require.NoError(t, pgidem.Migrate(t.Context(), pool, nil))
		store, err := pgidem.NewStore(pool, nil)
		require.NoError(t, err)
		return store
	},
}

// The client hangs up while the provider charges, and tries again. Two charges come about so: the call of the provider
// is cut off with the request's context, and what was charged is taken for an error; or the completion is written with
// that context, and the key is free when its lease is over.
func TestHangUpWhileCharging(t *testing.T) {
	t.Parallel()
	for name, open := range storesOverHTTP {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var charges atomic.Int32
			charging := make(chan struct{})
			s := newTillOn(t, open(t), &idempotency.Options{Wait: -1}, func(w http.ResponseWriter, r *http.Request) {
				close(charging) // a second run panics
				<-r.Context().Value(clientKey{}).(context.Context).Done()
				charges.Add(1)
				if r.Context().Err() != nil {
					http.Error(w, "the provider did not answer", http.StatusBadGateway)
					return
				}
				w.WriteHeader(http.StatusCreated)
				_, _ = io.WriteString(w, "receipt")
			}, nil)
			server := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), clientKey{}, r.Context())))
			}))

			client, hangUp := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				<-charging
				hangUp()
			})
			_, err := dial(client, server, "a", "10 EUR")
			require.ErrorIs(t, err, context.Canceled)
			wg.Wait()

			a := untilServed(t, server, "a", "10 EUR")
			require.True(t, a.replayed())
			require.Equal(t, http.StatusCreated, a.status)
			require.Equal(t, "receipt", a.body)
			require.EqualValues(t, 1, charges.Load())
			require.EqualValues(t, 1, s.charges.Load())
		})
	}
}

// clientKey is the key of the context that ends when the client hangs up.
type clientKey struct{}

// The client is gone and the response over the limit: what cannot be written is no error of the handler.
func TestHangUpWhileALargeResponseIsPassedOn(t *testing.T) {
	t.Parallel()
	begun, gone := make(chan struct{}), make(chan struct{})
	s := newTill(t, func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-gone
		for range 1000 {
			if _, err := w.Write(make([]byte, 10_000)); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
	}, &idempotency.HandlerOptions{MaxResponse: 100})
	server := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stop := context.AfterFunc(r.Context(), func() { close(gone) })
		defer stop()
		s.handler.ServeHTTP(w, r)
	}))
	client, hangUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		<-begun
		hangUp()
	})
	_, err := dial(client, server, "a", "x")
	require.ErrorIs(t, err, context.Canceled)
	wg.Wait()
	var w *httptest.ResponseRecorder
	require.Eventually(t, func() bool {
		w = s.serve(payRequest("x", "a"))
		return w.Code != http.StatusConflict
	}, 30*time.Second, 5*time.Millisecond)
	requireRefusal(t, w, http.StatusInternalServerError, "response_not_kept")
	require.EqualValues(t, 1, s.charges.Load())
}

func TestHundredDuplicatesOverHTTP(t *testing.T) {
	t.Parallel()
	for name, open := range storesOverHTTP {
		t.Run(name+" waiting", func(t *testing.T) {
			t.Parallel()
			require.EqualValues(t, 99, hundredDuplicates(t, open(t), 20*time.Second))
		})
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.LessOrEqual(t, hundredDuplicates(t, open(t), -1), int32(99))
		})
	}
}

// hundredDuplicates sends a request a hundred times at once and returns how many got a replay; the others but one were
// refused.
func hundredDuplicates(t *testing.T, store idempotency.Store, wait time.Duration) int32 {
	t.Helper()
	s := newTillOn(t, store, &idempotency.Options{Wait: wait}, nil, nil)
	server := listen(t, s.handler)
	server.Client().Transport.(*http.Transport).MaxConnsPerHost = 100
	var wg sync.WaitGroup
	var replays, refused atomic.Int32
	for range 100 {
		wg.Go(func() {
			a, err := dial(t.Context(), server, "a", "x")
			switch {
			case err != nil:
				t.Error(err)
			case a.status == http.StatusConflict && a.header.Get("Retry-After") != "":
				refused.Add(1)
			case a.status == http.StatusCreated && a.body == `{"id":1}`:
				if a.replayed() {
					replays.Add(1)
				}
			default:
				t.Error(a)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 99, replays.Load()+refused.Load())
	require.EqualValues(t, 1, s.charges.Load())
	a := untilServed(t, server, "a", "x")
	require.True(t, a.replayed())
	require.Equal(t, `{"id":1}`, a.body)
	return replays.Load()
}
