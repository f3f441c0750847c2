package idempotency

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// safeMethod tells whether requests with a method have no effect that a repeat could double (RFC 9110, section 9.2.1).
// What they read is to be read anew each time.
func safeMethod(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, "":
		return true
	}
	return false
}

// guarded is a request that has been read.
type guarded struct {
	key         Key
	fingerprint Fingerprint
	body        []byte
}

// read returns a request with a valid key and its body, or why it is refused. The key is checked first: a request
// without one costs nothing.
func (m *middleware) read(w http.ResponseWriter, r *http.Request, lines []string) (q guarded, _ *Refusal) {
	if len(lines) == 0 {
		return q, keyMissing.because("This operation needs an Idempotency-Key header, so that to repeat it is harmless.", nil)
	}
	value, err := ParseKey(lines)
	if fault, ok := errors.AsType[*InvalidError](err); ok {
		return q, keyInvalid.because("The header "+fault.Field+" "+fault.Reason+".", err)
	}
	q.key = Key{Scope: m.opts.Scope(r), Op: m.opts.Op(r), Value: value}
	if err := q.key.Validate(); err != nil {
		return q, misconfigured.because("The server cannot tell whose key this is.", err)
	}
	body, refusal := m.readBody(w, r)
	if refusal != nil {
		return q, refusal
	}
	q.body, q.fingerprint = body, m.opts.Fingerprint(r, body)
	return q, nil
}

// readBody reads the body to its end, or not at all if its announced length is too much.
func (m *middleware) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *Refusal) {
	tooLarge := func(err error) *Refusal {
		return bodyTooLarge.because(fmt.Sprintf("A body that comes with an Idempotency-Key has at most %d bytes.", m.opts.MaxBody), err)
	}
	if r.ContentLength > int64(m.opts.MaxBody) {
		return nil, tooLarge(&http.MaxBytesError{Limit: int64(m.opts.MaxBody)})
	}
	var body []byte
	var err error
	if r.Body != nil && r.Body != http.NoBody {
		body, err = readAll(http.MaxBytesReader(w, r.Body, int64(m.opts.MaxBody)), r.ContentLength)
	}
	switch _, long := errors.AsType[*http.MaxBytesError](err); {
	case long:
		return nil, tooLarge(err)
	case err != nil:
		return nil, bodyUnreadable.because("The body could not be read to its end.", err)
	case len(body) == 0 && hadBody(r):
		// With the fingerprint of an empty body, a key used again with another payload would be answered with a replay.
		return nil, misconfigured.because("The server has lost the body of the request.",
			&InvalidError{Field: "body", Reason: "was read before it got to the idempotency middleware"})
	}
	return body, nil
}

// hadBody tells whether a request whose body is empty by now came with one. That of a body of unknown length shows only
// where it was read as a form.
func hadBody(r *http.Request) bool {
	return r.ContentLength > 0 || len(r.PostForm) > 0 || r.MultipartForm != nil
}

// readAll is io.ReadAll for a body whose length is known, or -1. Of a length that is only announced it takes 64 KiB
// for true; the memory for more is there when the bytes are.
func readAll(r io.Reader, length int64) ([]byte, error) {
	b := make([]byte, 0, min(max(length, 511), 64<<10)+1) // one more, to read the end into
	for {
		b = slices.Grow(b, 1)
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// routeOf is the default of HandlerOptions.Op.
func routeOf(r *http.Request) string {
	route := r.Pattern
	if route == "" {
		route = r.URL.Path
	}
	if !strings.HasPrefix(route, r.Method+" ") {
		route = r.Method + " " + route
	}
	if len(route) > maxPart {
		sum := sha256.Sum256([]byte(route))
		route = "sha256 " + hex.EncodeToString(sum[:])
	}
	return route
}

// requestFingerprint is the default of HandlerOptions.Fingerprint. It equals FingerprintOf of its parts, but copies no
// body.
func requestFingerprint(r *http.Request, body []byte) Fingerprint {
	b := make([]byte, 0, 512)
	for _, part := range [...]string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("Content-Type")} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(part)))
		b = append(b, part...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(len(body)))
	h := sha256.New()
	h.Write(b)
	h.Write(body)
	return Fingerprint(h.Sum(b[:0]))
}

// requestBody is a body that was read, to be read again.
type requestBody struct{ bytes.Reader }

func (*requestBody) Close() error { return nil }

func newRequestBody(b []byte) io.ReadCloser {
	if len(b) == 0 {
		return http.NoBody
	}
	body := &requestBody{}
	body.Reset(b)
	return body
}
