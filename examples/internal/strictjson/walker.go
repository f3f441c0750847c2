package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
)

// walker goes once over data, which json.Valid has accepted: it need not look
// for syntax errors, only find where values begin and end.
type walker struct {
	data []byte
	pos  int
}

// next skips white space, commas and colons, and returns the first byte of the token there.
func (w *walker) next() byte {
	for strings.IndexByte(" \t\r\n,:", w.data[w.pos]) >= 0 {
		w.pos++
	}
	return w.data[w.pos]
}

var (
	stringType = reflect.TypeFor[string]()
	jsonType   = reflect.TypeFor[json.Unmarshaler]()
	textType   = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// value stores the next value in v.
func (w *walker) value(v reflect.Value, depth int) error {
	c, t := w.next(), v.Type()
	switch {
	case c == 'n':
		return &Error{Reason: "must not be null"}
	case depth == MaxDepth && (c == '{' || c == '['):
		return &Error{Reason: fmt.Sprintf("more than %d levels deep", MaxDepth)}
	case t == stringType && c == '"':
		text, err := w.text()
		v.SetString(string(text))
		return err
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		return w.value(v.Elem(), depth)
	case reflect.PointerTo(t).Implements(jsonType) || reflect.PointerTo(t).Implements(textType):
		return w.scalar(v, c, "is not valid")
	}
	switch t.Kind() {
	case reflect.Struct:
		if c == '{' {
			return w.object(v, depth+1)
		}
		return &Error{Reason: "must be an object"}
	case reflect.Slice:
		if c == '[' {
			return w.array(v, depth+1)
		}
		return &Error{Reason: "must be an array"}
	case reflect.String:
		return w.scalar(v, c, "must be a string")
	case reflect.Bool:
		return w.scalar(v, c, "must be true or false")
	case reflect.Float32, reflect.Float64:
		return w.scalar(v, c, "must be a number in range")
	case reflect.Map, reflect.Interface, reflect.Array, reflect.Func, reflect.Chan:
		return fmt.Errorf("strictjson: type %s is not supported", t)
	default:
		return w.scalar(v, c, "must be a whole number in range")
	}
}

// scalar hands a string, number or boolean to encoding/json.
func (w *walker) scalar(v reflect.Value, c byte, reason string) error {
	start := w.pos
	switch c {
	case '{', '[':
		return &Error{Reason: reason}
	case '"':
		if _, err := w.text(); err != nil {
			return err
		}
	default:
		w.pos += bytes.IndexAny(w.data[start:], " \t\r\n,]}")
	}
	if err := json.Unmarshal(w.data[start:w.pos], v.Addr().Interface()); err != nil {
		return &Error{Reason: reason, err: err}
	}
	return nil
}

// text returns the content of the string that begins here, valid until data changes.
func (w *walker) text() ([]byte, error) {
	start, plain := w.pos, true
	for w.pos++; w.data[w.pos] != '"'; w.pos++ {
		if w.data[w.pos] == '\\' {
			plain = false
			w.pos++
		}
	}
	w.pos++
	raw := w.data[start:w.pos]
	if plain {
		return raw[1 : len(raw)-1], nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	// Two references that differ only in a lone surrogate would become one.
	if err != nil || strings.Count(s, "\uFFFD") > bytes.Count(raw, []byte("\uFFFD")) {
		return nil, &Error{Reason: "has an escape that is no character", err: err}
	}
	return []byte(s), nil
}

// array stores the elements of an array in the slice v.
func (w *walker) array(v reflect.Value, depth int) error {
	w.pos++
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	for n := 0; w.next() != ']'; n++ {
		v.Grow(1)
		v.SetLen(n + 1)
		if err := w.value(v.Index(n), depth); err != nil {
			return within(fmt.Sprintf("[%d]", n), err)
		}
	}
	w.pos++
	return nil
}

// object stores the members of an object in the struct v.
func (w *walker) object(v reflect.Value, depth int) error {
	names, err := namesOf(v.Type())
	if err != nil {
		return err
	}
	var seen uint64
	w.pos++
	for w.next() != '}' {
		key, err := w.text()
		if err != nil {
			return err
		}
		i, ok := names[string(key)]
		switch {
		case !ok:
			return within(string(key[:min(len(key), 64)]), names.miss(string(key)))
		case seen&(1<<i) != 0:
			return within(string(key), &Error{Reason: "key appears twice"})
		}
		seen |= 1 << i
		if err := w.value(v.Field(i), depth); err != nil {
			return within(string(key), err)
		}
	}
	w.pos++
	return nil
}

// within puts the name of a field or an index in front of the path of a refusal.
func within(outer string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		if e.Field != "" && e.Field[0] != '[' {
			outer += "."
		}
		e.Field = strings.ToValidUTF8(outer, "") + e.Field
	}
	return err
}

// names maps the JSON names of a struct's fields to their numbers.
type names map[string]int

var cache sync.Map // reflect.Type → names

// namesOf reads the json tags of t, and refuses what would make encoding/json
// see other fields.
func namesOf(t reflect.Type) (names, error) {
	if all, ok := cache.Load(t); ok {
		return all.(names), nil
	}
	all := names{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		if f.Anonymous || i > 63 || option == "string" {
			return nil, fmt.Errorf("strictjson: %s.%s: embedded, quoted and more than 64 fields are not supported", t, f.Name)
		}
		if f.IsExported() && f.Tag.Get("json") != "-" {
			all[name] = i
		}
	}
	cache.Store(t, all)
	return all, nil
}

// miss is the refusal of a key that is no field's name.
func (n names) miss(key string) *Error {
	for name := range n {
		if strings.EqualFold(name, key) {
			return &Error{Reason: fmt.Sprintf("unknown key; the field is spelled %q", name)}
		}
	}
	return &Error{Reason: "unknown key"}
}
