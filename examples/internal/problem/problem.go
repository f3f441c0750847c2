// Package problem answers HTTP requests that are refused, after RFC 9457. A
// [Problem] is an error, so that what finds a fault only returns it: a parser, a
// handler made by [Handle], or the domain below them. [Engine] writes the answer.
package problem

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/safetill/safetill/examples/internal/strictjson"
)

// Field is one field of a request that is wrong.
type Field struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// Problem is the body of such an answer.
type Problem struct {
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Detail string  `json:"detail"`
	Errors []Field `json:"errors,omitempty"` // the fields that are wrong
}

// New returns a problem. Each is equal to itself alone, for errors.Is.
func New(status int, detail string, fields ...Field) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Errors: fields}
}

// Error is the detail and the fields.
func (p *Problem) Error() string {
	text := []string{p.Detail}
	for _, f := range p.Errors {
		text = append(text, f.Field+" "+f.Reason)
	}
	return strings.Join(text, ": ")
}

// write answers with the problem.
func (p *Problem) write(w http.ResponseWriter) {
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and an int always encode
	}
	if p.Status == http.StatusRequestEntityTooLarge {
		w.Header().Set("Connection", "close") // the rest is not read
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // a client that is gone needs no answer
}

// Decode reads a JSON body of at most limit bytes into a struct, strictly, or
// returns a problem.
func Decode(body io.Reader, limit int64, into any) error {
	err := strictjson.Decode(body, limit, into)
	bad, ok := errors.AsType[*strictjson.Error](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, strictjson.ErrTooLarge):
		return New(http.StatusRequestEntityTooLarge, bad.Reason)
	case ok && bad.Field != "":
		return New(http.StatusBadRequest, "the body is not what is expected", Field{bad.Field, bad.Reason})
	case ok:
		return New(http.StatusBadRequest, bad.Reason)
	}
	return New(http.StatusBadRequest, "the body could not be read")
}
