package idempotency

import (
	"encoding/binary"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// response is what a handler has answered, as it is kept and replayed.
type response struct {
	status  int
	header  []field // what the handler has changed of the header that it found
	trailer []field
	body    []byte
	omitted bool // it was too large: only the status is kept, so that a repeat does not run again
}

// field is one header field. Without values it keeps a field from being sent that the server or a middleware further
// out would set.
type field struct {
	name   string
	values []string
}

// errUnreadable: a stored response is not one, or of a later version.
var errUnreadable = errors.New("idempotency: stored response is unreadable")

// keptField tells whether a header field of a first response belongs to its replays too.
func keptField(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	// They are about one message on one connection (RFC 9110, section 7.6.1) and its length, which the replay has anew.
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te",
		"Transfer-Encoding", "Upgrade", "Content-Length":
		return false
	case "Date": // when this message was made, not the first one
		return false
	case "Set-Cookie":
		// A session of whoever sent the first request: nothing to keep in a store for a day, nor to hand to whoever of
		// the same scope repeats it.
		return false
	}
	return !strings.HasPrefix(name, http.TrailerPrefix)
}

// changedFields returns the fields that are to be set in a header like before for it to become after.
func changedFields(before, after http.Header) []field {
	hop := connectionOptions(after)
	fields := make([]field, 0, len(after))
	for name, values := range after {
		if old, was := before[name]; was && slices.Equal(old, values) {
			continue
		}
		if keptField(name) && !slices.Contains(hop, name) {
			fields = append(fields, field{name, values})
		}
	}
	for name := range before {
		if _, is := after[name]; !is && keptField(name) {
			fields = append(fields, field{name, nil})
		}
	}
	return fields
}

// connectionOptions returns the names of the fields that Connection declares to be of this connection only.
func connectionOptions(h http.Header) []string { return listElements(h["Connection"]) }

// trailersOf returns the trailer fields of a handler that has returned, by either of the ways of net/http: their names
// declared in the header, or prefixed with http.TrailerPrefix.
func trailersOf(declared []string, h http.Header) []field {
	var fields []field
	for _, name := range listElements(declared) {
		if values, ok := h[name]; ok {
			fields = append(fields, field{name, values})
		}
	}
	for name, values := range h {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			fields = append(fields, field{name, values})
		}
	}
	return fields
}

// listElements returns the canonical header names of comma-separated lists.
func listElements(lists []string) []string {
	var names []string
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.TrimSpace(name); name != "" {
				names = append(names, http.CanonicalHeaderKey(name))
			}
		}
	}
	return names
}

// replay sends the response.
func (r *response) replay(w http.ResponseWriter, marker string) {
	setFields(w.Header(), r.header)
	w.Header()[marker] = []string{"true"}
	r.send(w)
}

// send writes status, body and trailer; the header is set. Both the first response and its replays go through here, so
// that they are framed alike.
func (r *response) send(w http.ResponseWriter) {
	h := w.Header()
	delete(h, "Transfer-Encoding")
	delete(h, "Content-Length")
	if bodyAllowed(r.status) && len(r.trailer) == 0 && len(h["Trailer"]) == 0 { // trailers come after chunks only
		h["Content-Length"] = []string{strconv.Itoa(len(r.body))}
	}
	for _, f := range r.trailer {
		if strings.HasPrefix(f.name, http.TrailerPrefix) { // or net/http takes a short response for one without trailers
			h[f.name] = f.values
		}
	}
	w.WriteHeader(r.status)
	if len(r.body) > 0 {
		_, _ = w.Write(r.body) // a client that is gone will repeat its request
	}
	setFields(h, r.trailer)
}

func setFields(h http.Header, fields []field) {
	for _, f := range fields {
		h[f.name] = f.values
	}
}

// bodyAllowed tells whether a response with this status may have a body.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// The stored form, version 1. Numbers are unsigned varints, a text comes after its length.
//
//	version  a byte, 1
//	omitted  a byte, 0 or 1
//	status
//	head     a text: the number of values of all fields, then the fields of the header, then those of the trailer,
//	         each after their number; a field is its name, the number of its values, and these
//	body     the rest
const responseVersion = 1

// encode returns the stored form.
func (r *response) encode() []byte {
	head := r.head()
	b := make([]byte, 0, 2+2*binary.MaxVarintLen64+len(head)+len(r.body))
	b = append(b, responseVersion, 0)
	if r.omitted {
		b[1] = 1
	}
	b = binary.AppendUvarint(b, uint64(r.status))
	b = appendText(b, head)
	return append(b, r.body...)
}

func (r *response) head() []byte {
	total := 0
	for _, f := range r.header {
		total += len(f.values)
	}
	for _, f := range r.trailer {
		total += len(f.values)
	}
	b := binary.AppendUvarint(nil, uint64(total))
	for _, fields := range [...][]field{r.header, r.trailer} {
		b = binary.AppendUvarint(b, uint64(len(fields)))
		for _, f := range fields {
			b = appendText(b, f.name)
			b = binary.AppendUvarint(b, uint64(len(f.values)))
			for _, v := range f.values {
				b = appendText(b, v)
			}
		}
	}
	return b
}

func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// decodeResponse reads the stored form, or returns errUnreadable. The body of the response is a part of it.
func decodeResponse(b []byte) (response, error) {
	if len(b) < 2 || b[0] != responseVersion || b[1] > 1 {
		return response{}, errUnreadable
	}
	status, n := binary.Uvarint(b[2:])
	if n <= 0 || status < 100 || status > 999 {
		return response{}, errUnreadable
	}
	rest := b[2+n:]
	size, n := binary.Uvarint(rest)
	if n <= 0 || size > uint64(len(rest)-n) {
		return response{}, errUnreadable
	}
	rest = rest[n:]
	r := response{status: int(status), omitted: b[1] == 1, body: rest[size:]}
	err := r.parseHead(string(rest[:size]))
	return r, err
}

// parseHead takes names and values as parts of one string, and all values from one slice.
func (r *response) parseHead(head string) error {
	in := headReader{rest: head}
	values := make([]string, in.count())
	for _, fields := range [...]*[]field{&r.header, &r.trailer} {
		n := in.count()
		if n == 0 {
			continue
		}
		*fields = make([]field, n)
		for i := range *fields {
			f := &(*fields)[i]
			f.name = in.text()
			n := in.count()
			if in.broken || n > len(values) {
				return errUnreadable
			}
			f.values, values = values[:n:n], values[n:]
			for j := range f.values {
				f.values[j] = in.text()
			}
		}
	}
	if in.broken || in.rest != "" || len(values) > 0 {
		return errUnreadable
	}
	return nil
}

// headReader reads numbers and texts off a string until it is broken; then they are 0 and "".
type headReader struct {
	rest   string
	broken bool
}

// count returns a number that is at most the bytes that are left: each thing counted takes one at least.
func (in *headReader) count() int {
	var n uint64
	for i := range min(len(in.rest), binary.MaxVarintLen64) {
		c := in.rest[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			in.rest = in.rest[i+1:]
			if n <= uint64(len(in.rest)) {
				return int(n)
			}
			break
		}
	}
	in.broken, in.rest = true, ""
	return 0
}

func (in *headReader) text() string {
	n := in.count()
	text := in.rest[:n]
	in.rest = in.rest[n:]
	return text
}
