package saga

import (
	"bytes"
	"encoding/json"
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
