// Package breaker makes calls to a server with a deadline, and stops making them
// while it does not answer.
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
	limit   time.Duration
	failure func(error) bool
}

// Trips is how many failures in a row open a breaker, and Pause how long it then
// waits before it lets one call through to try.
const (
	Trips = 5
	Pause = time.Second
)

// New returns a closed breaker, each of whose calls may take limit. failure tells
// which errors are the server's fault. The library's own default opens on the 6th
// failure in a row and counts a client that hangs up as one: six impatient
// clients would stop all others.
func New(name string, limit time.Duration, failure func(error) bool) *Breaker {
	return &Breaker{limit: limit, failure: failure, breaker: gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         name,
		Timeout:      Pause,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= Trips },
		IsSuccessful: func(err error) bool { return err == nil || !failure(err) },
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) },
	})}
}

// Do calls f, or returns an error without calling it.
func (b *Breaker) Do(ctx context.Context, f func(context.Context) error) error {
	_, err := b.breaker.Execute(func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, b.limit)
		defer cancel()
		return struct{}{}, f(ctx)
	})
	return err
}

// Call is [Breaker.Do] for an f that returns something.
func Call[T any](ctx context.Context, b *Breaker, f func(context.Context) (T, error)) (T, error) {
	var got T
	err := b.Do(ctx, func(ctx context.Context) (err error) {
		got, err = f(ctx)
		return err
	})
	return got, err
}

// State is "closed", "open" or "half-open".
func (b *Breaker) State() string { return b.breaker.State().String() }

// Closed tells whether calls go through.
func (b *Breaker) Closed() bool { return b.breaker.State() == gobreaker.StateClosed }

// Unavailable tells whether err, from Do or Call, says that the server cannot be used
// now: the breaker is open, or the call failed by the server's fault.
func (b *Breaker) Unavailable(err error) bool {
	return errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) || b.failure(err)
}
