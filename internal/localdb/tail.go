package localdb

import (
	"io"
	"strings"
	"sync"
)

const tailSize = 8 << 10

// tail keeps the end of a server's log for error messages and passes everything on.
type tail struct {
	to io.Writer

	mu  sync.Mutex
	buf []byte
}

// Write never fails: a log that cannot be written must not stop the reader that keeps the server's pipe empty.
func (t *tail) Write(p []byte) (int, error) {
	if t.to != nil {
		_, _ = t.to.Write(p)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
