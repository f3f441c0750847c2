package main

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
)

// breaker stops calling a server that does not answer.
type breaker struct {
	*gobreaker.CircuitBreaker[struct{}]
	failure func(error) bool
}

const (
	breakerTrips = 5 // failures in a row
	breakerOpen  = time.Second
)

// newBreaker returns a breaker that opens on the 5th failure in a row, and lets
// one call through a second later. failure tells what is the server's fault: a
// client that hung up is not, and neither is a bad statement.
func newBreaker(name string, failure func(error) bool) *breaker {
	return &breaker{failure: failure, CircuitBreaker: gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         name,
		Timeout:      breakerOpen,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerTrips },
		IsSuccessful: func(err error) bool { return err == nil || !failure(err) },
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) },
	})}
}

func (b *breaker) do(f func() error) error {
	_, err := b.Execute(func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// closed tells whether calls go through.
func (b *breaker) closed() bool { return b.State() == gobreaker.StateClosed }

// unavailable tells whether err, from do, says that the server cannot be used now.
func (b *breaker) unavailable(err error) bool {
	return errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) || b.failure(err)
}

// notCanceled is what counts against Redis: every failure but the caller's own.
func notCanceled(err error) bool { return err != nil && !errors.Is(err, context.Canceled) }
