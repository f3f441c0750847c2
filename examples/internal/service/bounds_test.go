package service

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pipes is a listener whose connections have no buffers.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.done)
	return nil
}

func (*pipes) Addr() net.Addr { return &net.TCPAddr{} }

// droppedWithin tells whether a public server drops a client that sends this, then a
// byte a second if it drips, and reads nothing.
func droppedWithin(limit time.Duration, h http.Handler, sends string, drips bool) bool {
	s := Service{Log: slog.New(slog.DiscardHandler)}
	server, gone := s.public(h), make(chan struct{})
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			close(gone)
		}
	}
	client, ours := net.Pipe()
	listener := &pipes{make(chan net.Conn, 1), make(chan struct{})}
	listener.conns <- ours
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) })
	running.Go(func() {
		_, err := io.WriteString(client, sends)
		for drips && err == nil {
			time.Sleep(time.Second)
			_, err = io.WriteString(client, "x")
		}
	})
	dropped := false
	select {
	case <-gone:
		dropped = true
	case <-time.After(limit):
	}
	_, _ = client.Close(), server.Close()
	<-gone
	running.Wait()
	return dropped
}

// A client that does not read its answer, or sends a byte now and then, is dropped.
func TestASlowClientIsDropped(t *testing.T) {
	t.Parallel()
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, strings.Repeat("much ", 1<<20))
	})
	for name, c := range map[string]struct {
		sends string
		drips bool
	}{
		"does not read":       {sends: "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		"sends nothing":       {},
		"drips its header":    {sends: "GET / HTTP/1.1\r\nX: ", drips: true},
		"drips its body":      {sends: "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", drips: true},
		"stops in its header": {sends: "GET"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				require.True(t, droppedWithin(time.Minute, answer, c.sends, c.drips), "it is served for ever")
			})
		})
	}
}

// A megabyte, which is the default, would be a lot for what needs a few hundred bytes.
func TestALongHeaderIsRefused(t *testing.T) {
	t.Parallel()
	s := Service{Log: slog.New(slog.DiscardHandler)}
	for name, server := range map[string]*http.Server{"public": s.public(http.NotFoundHandler()), "admin": s.http(http.NotFoundHandler())} {
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.Serve(listener) })
		for length, want := range map[int]int{15 << 10: http.StatusNotFound, 17 << 10: http.StatusRequestHeaderFieldsTooLarge} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String(), nil)
			require.NoError(t, err)
			req.Header.Set("Cookie", strings.Repeat("x", length))
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err, name)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, want, resp.StatusCode, name)
		}
		require.NoError(t, server.Close())
		serving.Wait()
	}
}
