package main

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// wire is all connections of one server. It counts their round trips, where they are: something is sent after something was
// received. And it can freeze, as a process does that the system has stopped: nothing is sent until it thaws.
type wire struct {
	trips atomic.Int64

	mu     sync.Mutex
	thawed chan struct{} // closed when the present frost is over; nil without one
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 3 * time.Second}
	conn, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &counted{Conn: conn, wire: w}
	c.answered.Store(true)
	return c, nil
}

func (w *wire) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.thawed = make(chan struct{})
}

func (w *wire) thaw() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.thawed != nil {
		close(w.thawed)
		w.thawed = nil
	}
}

// wait returns when there is no frost.
func (w *wire) wait() {
	w.mu.Lock()
	thawed := w.thawed
	w.mu.Unlock()
	if thawed != nil {
		<-thawed
	}
}

// counted is one connection.
type counted struct {
	net.Conn

	wire     *wire
	answered atomic.Bool
}

func (c *counted) Write(b []byte) (int, error) {
	c.wire.wait()
	if c.answered.Swap(false) {
		c.wire.trips.Add(1)
	}
	return c.Conn.Write(b)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.answered.Store(true)
	}
	return n, err
}
