package problem

import "net/http"

// Counted tells done the status of every answer, whoever gives it: the handler, or what
// was put before it.
func Counted(next http.Handler, done func(status int)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &counted{ResponseWriter: w}
		next.ServeHTTP(c, r)
		if c.status == 0 {
			c.status = http.StatusOK // which net/http says for a handler that says nothing
		}
		done(c.status)
	})
}

// counted notes the status of an answer.
type counted struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements [http.ResponseWriter]. Informational answers are not the answer.
func (c *counted) WriteHeader(status int) {
	if c.status == 0 && status >= http.StatusOK {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (c *counted) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	return c.ResponseWriter.Write(p)
}

// Flush sends what is buffered, where that can be done.
func (c *counted) Flush() { _ = http.NewResponseController(c.ResponseWriter).Flush() }

// Unwrap is for http.ResponseController.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }
