package saga

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

type coder struct {
	buf bytes.Buffer
	enc *json.Encoder
}

var coders = sync.Pool{New: func() any {
	c := &coder{}
	c.enc = json.NewEncoder(&c.buf)
	return c
}}

func printable(s string) bool {
	for _, c := range s {
		if unicode.IsControl(c) {
			return false
		}
	}
	return utf8.ValidString(s)
}

// flat reports whether values of type t are equal only if they hold the same: they
// have nothing behind a pointer.
func flat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct:
		for field := range t.Fields() {
			if !flat(field.Type) {
				return false
			}
		}
		return true
	case reflect.Array:
		return flat(t.Elem())
	case reflect.Bool, reflect.String:
		return true
	default:
		return t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64
	}
}

// object reports whether values of type t may be objects in JSON.
func object(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct, reflect.Map, reflect.Interface:
		return true
	case reflect.Pointer:
		return object(t.Elem())
	default:
		return reflect.PointerTo(t).Implements(reflect.TypeFor[json.Marshaler]()) // as those of t are
	}
}

// exact reports whether JSON gives back every value of the flat type t whose strings
// are UTF-8: each field has a name of its own, and none is written by code of the
// caller's.
func exact(t reflect.Type) bool {
	if reflect.PointerTo(t).NumMethod() > 0 {
		return false
	}
	switch t.Kind() {
	case reflect.Struct:
		names := map[string]bool{}
		for field := range t.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			name = strings.ToLower(cmp.Or(name, field.Name)) // as it is read
			if !field.IsExported() || field.Anonymous || !named(name) || name == "-" || names[name] || !exact(field.Type) {
				return false
			}
			names[name] = true
		}
		return true
	case reflect.Array:
		return exact(t.Elem())
	default:
		return true
	}
}

// reading is the *T that is read from rec.Data, nil if that is to be read.
func (r *run) reading() any {
	if !r.program.exact || bytes.Contains(r.rec.Data, []byte(`\ufffd`)) { // which may have been no UTF-8
		return nil
	}
	return r.kept
}

// encoded is told that rec.Data is what data is.
func (r *run) encoded() {
	if r.program.same == nil {
		return
	}
	if r.kept == nil {
		r.kept = r.program.empty()
	}
	r.program.keep(r.kept, r.data)
}

// encode brings rec.Data up to date. Most steps leave the data alone, which is seen
// without making JSON of it, where the type allows.
func (r *run) encode() error {
	if r.kept != nil && r.program.same(r.data, r.kept) {
		return nil
	}
	body, err := encode(r.data, r.rec.Data)
	if err != nil {
		return fmt.Errorf("data %w", err)
	}
	r.rec.Data = body
	r.encoded()
	return nil
}

// encode returns data as JSON: last itself if nothing has changed, so that a step
// that leaves the data alone costs no memory. What a store could not keep is refused here,
// where it is known what has happened:
//
//	a step charges, and puts the provider's answer into the data as it came, which is no
//	UTF-8; PostgreSQL does not take the checkpoint, and the saga is let go of; the next
//	owner knows nothing of the charge but that it may have been made.
func encode(data any, last []byte) ([]byte, error) {
	c := coders.Get().(*coder)
	defer coders.Put(c)
	c.buf.Reset()
	if err := c.enc.Encode(data); err != nil {
		return nil, fmt.Errorf("does not marshal: %w", err)
	}
	body := bytes.TrimSuffix(c.buf.Bytes(), []byte("\n"))
	if len(body) > maxData {
		return nil, fmt.Errorf("is %d bytes of JSON, more than %d", len(body), maxData)
	}
	if bytes.Equal(body, last) {
		return last, nil
	}
	if !utf8.Valid(body) { // of a json.RawMessage, or of code of the caller's
		return nil, errors.New("is JSON with bytes that are not UTF-8")
	}
	return bytes.Clone(body), nil
}
