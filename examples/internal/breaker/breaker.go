// Package breaker stops calling a server that does not answer.
package breaker

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Breaker lets calls through while they work.
type Breaker struct {
	breaker *gobreaker.CircuitBreaker[struct{}]
	failure func(error) bool
}

// Trips is how many failures in a row open a breaker, and Pause how long it then
// waits before it lets one call through to try.
const (
	Trips = 5
	Pause = time.Second
)

// New returns a closed breaker. failure tells which errors are the server's
// fault. The library's own default opens on the 6th failure in a row and counts
// a client that hangs up as one: six impatient clients would stop all others.
func New(name string, failure func(error) bool) *Breaker {
	return &Breaker{failure: failure, breaker: gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         name,
		Timeout:      Pause,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= Trips },
		IsSuccessful: func(err error) bool { return err == nil || !failure(err) },
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) },
	})}
}

// Do calls f, or returns an error without calling it.
func (b *Breaker) Do(f func() error) error {
	_, err := b.breaker.Execute(func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// State is "closed", "open" or "half-open".
func (b *Breaker) State() string { return b.breaker.State().String() }

// Closed tells whether calls go through.
func (b *Breaker) Closed() bool { return b.breaker.State() == gobreaker.StateClosed }

// Unavailable tells whether err, from Do, says that the server cannot be used
// now: the breaker is open, or the call failed by the server's fault.
func (b *Breaker) Unavailable(err error) bool {
	return errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) || b.failure(err)
}
