// Package problem answers HTTP requests that are refused, after RFC 9457.
package problem

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"

	"github.com/gin-gonic/gin"

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

// Write answers with a problem.
func Write(w http.ResponseWriter, status int, detail string, fields ...Field) {
	body, err := json.Marshal(Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Errors: fields})
	if err != nil {
		panic(err) // strings and an int always encode
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that is gone needs no answer
}

// Decode reads a JSON body of at most limit bytes into a struct, strictly, or
// answers what is wrong with it and returns false.
func Decode(w http.ResponseWriter, body io.Reader, limit int64, into any) bool {
	err := strictjson.Decode(body, limit, into)
	bad, ok := errors.AsType[*strictjson.Error](err)
	switch {
	case err == nil:
		return true
	case errors.Is(err, strictjson.ErrTooLarge):
		w.Header().Set("Connection", "close") // the rest is not read
		Write(w, http.StatusRequestEntityTooLarge, bad.Reason)
	case ok && bad.Field != "":
		Write(w, http.StatusBadRequest, "the body is not what is expected", Field{bad.Field, bad.Reason})
	case ok:
		Write(w, http.StatusBadRequest, bad.Reason)
	default:
		Write(w, http.StatusBadRequest, "the body could not be read")
	}
	return false
}

// Int reads a whole number from least to most out of a query parameter, or
// leaves into as it is where there is none. It returns what is wrong with it.
func Int(r *http.Request, name string, into *int, least, most int) []Field {
	text := r.URL.Query().Get(name)
	if text == "" && !r.URL.Query().Has(name) {
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return []Field{{Field: name, Reason: fmt.Sprintf("must be a whole number from %d to %d", least, most)}}
	}
	*into = n
	return nil
}

// Engine returns a router that answers unknown paths, wrong methods and panics
// with problems. done is told the status of every answer.
func Engine(log *slog.Logger, done func(status int)) *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.HandleMethodNotAllowed, r.RedirectTrailingSlash = true, false
	r.Use(func(c *gin.Context) {
		defer func() {
			if recovered := recover(); recovered != nil {
				log.Error("handler panicked", slog.String("path", c.FullPath()), slog.Any("panic", recovered), slog.String("stack", string(debug.Stack())))
				Write(c.Writer, http.StatusInternalServerError, "an error of the server, which is in its log")
				c.Abort()
			}
			done(c.Writer.Status())
		}()
		c.Next()
	})
	r.NoRoute(func(c *gin.Context) { Write(c.Writer, http.StatusNotFound, "no such path: "+c.Request.URL.Path) })
	r.NoMethod(func(c *gin.Context) {
		Write(c.Writer, http.StatusMethodNotAllowed, c.Request.Method+" is not allowed here, only "+c.Writer.Header().Get("Allow"))
	})
	return r
}
