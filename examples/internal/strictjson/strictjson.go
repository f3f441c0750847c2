package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"unicode/utf8"
)

// MaxDepth is the deepest nesting of objects and arrays that is taken.
const MaxDepth = 32

// ErrTooLarge is what the *Error of a body over the limit wraps.
var ErrTooLarge = errors.New("body is too large")

// Error is the refusal of a document: the client's fault, in words fit for it.
type Error struct {
	Field  string // path of the culprit, such as "items[2].amount"; "" for the document itself
	Reason string // such as "must be a string"
	err    error
}

// Error returns the field and the reason.
func (e *Error) Error() string {
	if e.Field == "" {
		return e.Reason
	}
	return e.Field + ": " + e.Reason
}

// Unwrap returns ErrTooLarge, the error of the value's own decoder, or nil.
func (e *Error) Unwrap() error { return e.err }

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Decode reads r to its end, or to one byte past limit, and stores the object
// that it holds in dst, a pointer to a struct, which keeps nothing of the read
// buffer. Errors: *Error for a body that is refused (over limit it wraps
// ErrTooLarge); any other is a failure to read r, or a dst of an unsupported type.
func Decode(r io.Reader, limit int64, dst any) error {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("strictjson: the destination is a %T, not a pointer to a struct", dst)
	}
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	if _, err := buf.ReadFrom(&io.LimitedReader{R: r, N: limit + 1}); err != nil {
		return fmt.Errorf("strictjson: read: %w", err)
	}
	data := buf.Bytes()
	if int64(len(data)) > limit {
		return &Error{Reason: fmt.Sprintf("body is larger than %d bytes", limit), err: ErrTooLarge}
	}
	if !utf8.Valid(data) {
		return &Error{Reason: "invalid UTF-8"}
	}
	if !json.Valid(data) {
		return syntaxError(data)
	}
	w := walker{data: data}
	if w.next() != '{' {
		return &Error{Reason: "must be a JSON object"}
	}
	return w.value(v.Elem(), 0)
}

// syntaxError says what is wrong with data, which json.Valid has refused.
func syntaxError(data []byte) error {
	var first json.RawMessage
	err := json.NewDecoder(bytes.NewReader(data)).Decode(&first)
	switch {
	case err == nil:
		return &Error{Reason: "data after the JSON object"}
	case errors.Is(err, io.EOF): // nothing but white space
		return &Error{Reason: "body is empty"}
	}
	return &Error{Reason: "not valid JSON: " + err.Error(), err: err}
}

// Encode is for what always has a form in JSON: text, amounts, the time of now.
// It panics for anything else.
func Encode(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body
}
