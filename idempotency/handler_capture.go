package idempotency

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"net/http"
)

// errStreaming is what a handler gets that wants to stream, or to take the connection.
var errStreaming = fmt.Errorf("idempotency: a response that is to be replayed is sent as a whole: %w", http.ErrNotSupported)

// capture holds back what a handler answers until it is recorded. The handler works on the header of the writer beneath
// and so sees, and may change, what middlewares further out have set.
type capture struct {
	w       http.ResponseWriter
	expired func() error // not nil when the handler's time is over
	limit   int          // bytes of a body that is kept

	before http.Header // the header as the handler found it
	after  http.Header // the header as of WriteHeader; what is changed later is not sent, but for trailers
	status int         // 0 until WriteHeader
	body   []byte
	over   bool // the body is over the limit, and has been sent as far as it goes

	omitted bool // what is recorded has neither header nor body
}

func newCapture(w http.ResponseWriter, expired func() error, limit int) *capture {
	return &capture{w: w, expired: expired, limit: limit, before: w.Header().Clone()}
}

// Header implements http.ResponseWriter.
func (c *capture) Header() http.Header { return c.w.Header() }

// WriteHeader implements http.ResponseWriter. Informational responses are sent at once; replays do not repeat them.
func (c *capture) WriteHeader(status int) {
	switch {
	case c.status != 0: // the first one counts
	case status < 200 && status != http.StatusSwitchingProtocols: // or no status: the panic is net/http's
		c.w.WriteHeader(status)
	default:
		c.status, c.after = status, c.w.Header().Clone()
	}
}

// Write implements http.ResponseWriter.
func (c *capture) Write(p []byte) (int, error) { return writeTo(c, p) }

// WriteString implements io.StringWriter.
func (c *capture) WriteString(s string) (int, error) { return writeTo(c, s) }

func writeTo[T string | []byte](c *capture, p T) (int, error) {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	if !bodyAllowed(c.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if !c.over && len(p) <= c.limit-len(c.body) {
		c.body = append(c.body, p...)
		return len(p), nil
	}
	if !c.over {
		c.passOn()
	}
	// That the client is gone must not look like a failure of the work: a handler that panics or answers 500 because it
	// could not write would free the key after the effect. Only when its time is over is it told, so that it ends.
	if _, err := c.w.Write([]byte(p)); err != nil && c.expired() != nil {
		return 0, err
	}
	return len(p), nil
}

// passOn sends what was held back: the response is too large to be kept, but its first client gets it.
func (c *capture) passOn() {
	c.over = true
	trailer := c.restore()
	c.w.WriteHeader(c.status)
	_, _ = c.w.Write(c.body)
	c.body = nil
	setFields(c.w.Header(), trailer)
}

// restore makes the header what it was at WriteHeader, and returns the trailers that have been set since.
func (c *capture) restore() []field {
	h := c.w.Header()
	trailer := trailersOf(c.after["Trailer"], h)
	clear(h)
	maps.Copy(h, c.after)
	return trailer
}

// FlushError refuses to stream; http.ResponseController calls it. http.Flusher is not implemented, so that handlers that
// ask for it by a type assertion are told too.
func (c *capture) FlushError() error { return errStreaming }

// Hijack refuses to hand out the connection.
func (c *capture) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errStreaming }

// Unwrap lets http.ResponseController reach the deadlines of the connection.
func (c *capture) Unwrap() http.ResponseWriter { return c.w }

// record is called when the handler has returned. It returns what is to be stored, of limit bytes at most, if that is to be
// had: over it, and of a body that is not there any more, only the status.
func (c *capture) record(limit int) []byte {
	if !c.over {
		r := response{
			status: c.status, header: changedFields(c.before, c.after),
			trailer: trailersOf(c.after["Trailer"], c.w.Header()), body: c.body,
		}
		if stored := r.encode(); len(stored) <= limit {
			return stored
		}
	}
	c.omitted = true
	r := response{status: c.status, omitted: true}
	return r.encode()
}

// send sends the response that was held back.
func (c *capture) send() {
	if c.over {
		return
	}
	r := response{status: c.status, trailer: c.restore(), body: c.body}
	r.send(c.w)
}
