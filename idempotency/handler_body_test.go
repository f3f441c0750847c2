package idempotency_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

// echo answers with the body of the request.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	_, _ = w.Write(body)
}

func TestMiddlewareBodyLimit(t *testing.T) {
	t.Parallel()
	const limit = 1000
	s := newTill(t, echo, &idempotency.HandlerOptions{MaxBody: limit})
	for _, c := range []struct {
		name string
		size int
		ok   bool
	}{
		{"empty", 0, true},
		{"one", 1, true},
		{"below", limit - 1, true},
		{"at", limit, true},
		{"over", limit + 1, false},
		{"far-over", 50 * limit, false},
	} {
		for _, framing := range []string{"length", "chunked", "slow"} {
			body := strings.Repeat("x", c.size)
			r := payRequest(body, c.name+framing)
			switch framing {
			case "chunked":
				r.ContentLength = -1
			case "slow":
				r.ContentLength = -1
				r.Body = io.NopCloser(iotest.OneByteReader(strings.NewReader(body)))
			}
			w := s.serve(r)
			if !c.ok {
				p := requireRefusal(t, w, http.StatusRequestEntityTooLarge, "body_too_large")
				require.Contains(t, p.Detail, "at most 1000 bytes")
				require.Equal(t, "close", w.Header().Get("Connection"))
				continue
			}
			require.Equal(t, http.StatusOK, w.Code, c.name+framing)
			require.Equal(t, body, w.Body.String(), c.name+framing)
			s.requireReplay(t, payRequest(body, c.name+framing), w)
		}
	}
	require.EqualValues(t, 12, s.charges.Load())
}

// An announced length over the limit is refused before anything is read: a client that expects 100 Continue never sends it.
func TestMiddlewareReadsNothingOfABodyThatIsTooLong(t *testing.T) {
	t.Parallel()
	s := newTill(t, echo, &idempotency.HandlerOptions{MaxBody: 10})
	r := payRequest("", "a")
	r.ContentLength, r.Body = 11, io.NopCloser(iotest.ErrReader(errors.New("was read")))
	requireRefusal(t, s.serve(r), http.StatusRequestEntityTooLarge, "body_too_large")
}

// Nothing of a length that is only announced is taken for true.
func TestMiddlewareAnnouncedLength(t *testing.T) {
	t.Parallel()
	body := bytes.Repeat([]byte("0123456789"), 30_000) // over 64 KiB
	s := newTill(t, echo, nil)
	for _, length := range []int64{int64(len(body)), -1} {
		r := payRequest("", "a")
		r.ContentLength, r.Body = length, io.NopCloser(bytes.NewReader(body))
		require.Equal(t, body, s.serve(r).Body.Bytes())
	}
	require.EqualValues(t, 1, s.charges.Load())
}

func TestMiddlewareUnreadableBody(t *testing.T) {
	t.Parallel()
	s := newTill(t, echo, nil)
	r := payRequest("", "a")
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF)))
	requireRefusal(t, s.serve(r), http.StatusBadRequest, "body_unreadable")

	// A middleware further out that allows less than this one.
	outer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 3)
		s.handler.ServeHTTP(w, r)
	})
	w := httptest.NewRecorder()
	outer.ServeHTTP(w, payRequest("four", "a"))
	requireRefusal(t, w, http.StatusRequestEntityTooLarge, "body_too_large")
	require.Zero(t, s.charges.Load())
}

// A middleware further out has read the body: all bodies would have the same fingerprint, and 99 EUR be answered with
// the receipt of 10.
func TestMiddlewareRefusesABodyThatWasReadBefore(t *testing.T) {
	t.Parallel()
	const form = "application/x-www-form-urlencoded"
	for name, c := range map[string]struct {
		contentType, body string
		length            int64
		read              func(r *http.Request)
	}{
		"form":                          {form, "amount=10", 9, func(r *http.Request) { _ = r.ParseForm() }},
		"form of unknown length":        {form, "amount=10", -1, func(r *http.Request) { _ = r.ParseForm() }},
		"parts of unknown length":       {"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"amount\"\r\n\r\n10\r\n--x--", -1, func(r *http.Request) { _ = r.ParseMultipartForm(100) }},
		"files of unknown length":       {"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"scan\"; filename=\"scan\"\r\n\r\n10\r\n--x--", -1, func(r *http.Request) { _ = r.ParseMultipartForm(100) }},
		"replaced by a body of nothing": {"text/plain", "10", 2, func(r *http.Request) { r.Body = http.NoBody }},
		"replaced by nothing":           {"text/plain", "10", 2, func(r *http.Request) { r.Body = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTill(t, echo, nil)
			r := payRequest(c.body, "a")
			r.ContentLength = c.length
			r.Header.Set("Content-Type", c.contentType)
			c.read(r)
			requireRefusal(t, s.serve(r), http.StatusInternalServerError, "misconfigured")
			require.Contains(t, s.log.String(), "body was read before")
			require.Zero(t, s.charges.Load())
		})
	}
}

// The handler finds the request as it came.
func TestMiddlewareHandsTheRequestOn(t *testing.T) {
	t.Parallel()
	s := newTill(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 && r.Body != http.NoBody {
			panic("no http.NoBody")
		}
		if err := r.ParseMultipartForm(1); err == nil { // to a file
			file, _, err := r.FormFile("receipt")
			if err != nil {
				panic(err)
			}
			name := file.(*os.File).Name()
			_ = file.Close()
			_, _ = io.WriteString(w, name)
			return
		}
		if _, err := io.Copy(w, r.Body); err != nil {
			panic(err)
		}
		_ = r.Body.Close()
		_, _ = io.WriteString(w, r.Trailer.Get("Checksum")+r.Header.Get("Idempotency-Key"))
	}, nil)
	server := listen(t, s.handler)
	post := func(key, contentType string, body io.Reader, trailer http.Header) string {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, body)
		require.NoError(t, err)
		r.Header.Set("Idempotency-Key", key)
		r.Header.Set("Content-Type", contentType)
		r.Trailer = trailer
		a, err := roundTrip(server.Client(), r)
		require.NoError(t, err)
		return a.body
	}
	require.Equal(t, `"a"`, post(`"a"`, "text/plain", nil, nil))
	require.Equal(t, `bodyb`, post(`b`, "text/plain", strings.NewReader("body"), nil))
	// Trailers need chunks, and those a body of a length that is not known.
	require.Equal(t, `body42c`, post(`c`, "text/plain", io.MultiReader(strings.NewReader("body")), http.Header{"Checksum": {"42"}}))

	// The server removes the files of a form when the request is over, also of one that was parsed from a copy.
	form := "--x\r\nContent-Disposition: form-data; name=\"receipt\"; filename=\"r\"\r\n\r\nreceipt\r\n--x--\r\n"
	file := post(`d`, "multipart/form-data; boundary=x", strings.NewReader(form), nil)
	require.Contains(t, file, "multipart-")
	require.Eventually(t, func() bool {
		_, err := os.Stat(file)
		return errors.Is(err, os.ErrNotExist)
	}, 10*time.Second, time.Millisecond)
}
