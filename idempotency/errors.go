package idempotency

import (
	"errors"
	"fmt"
	"time"
)

// Errors that a caller branches on; the same from every store.
var (
	// ErrInFlight: another request with this key is running. It comes as an [*InFlightError].
	ErrInFlight = errors.New("idempotency: key is in flight")
	// ErrMismatch: the key has been used with another payload.
	ErrMismatch = errors.New("idempotency: key was used with another payload")
	// ErrLost: the claim is no longer (or never was) the caller's: its lease ended and another took the key, it was
	// released, completed or expired. Nothing was changed. It is also the cause with which the context of the work ends
	// when the lease could not be extended in time.
	ErrLost = errors.New("idempotency: claim is lost")
	// ErrNotRecorded: the work, or a step of it, has run, but its result could not be stored. It wraps the reason.
	ErrNotRecorded = errors.New("idempotency: work has run, its result is not recorded")
	// ErrInvalid: a key, request or option is out of bounds. It comes as an [*InvalidError].
	ErrInvalid = errors.New("idempotency: invalid")
)

// InFlightError says that another request with the same key and payload is running.
type InFlightError struct {
	Key Key
	// RetryAfter is how long the present lease has left. It is extended while its owner lives: ask again sooner to hear
	// of success sooner; a key whose owner is dead is not free before.
	RetryAfter time.Duration
}

func (e *InFlightError) Error() string {
	return fmt.Sprintf("%v, its lease ends in %v", ErrInFlight, e.RetryAfter)
}

// Is reports that an InFlightError is [ErrInFlight].
func (e *InFlightError) Is(target error) bool { return target == ErrInFlight }

// TooLargeError says that the result of the work, or of a step, has more bytes than [Options.MaxResponse]. It was not
// stored, but the work has run.
type TooLargeError struct {
	Size  int `json:"size"`
	Limit int `json:"limit"`
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("idempotency: response of %d bytes is over the limit of %d", e.Size, e.Limit)
}

// InvalidError names the field of a key, request or option that is out of bounds. Nothing was written.
type InvalidError struct {
	Field  string // "scope", "op", "value", "lease", "ttl", "token", …
	Reason string // what is wrong, to follow the field's name: "is empty"
}

func (e *InvalidError) Error() string { return "idempotency: " + e.Field + " " + e.Reason }

// Is reports that an InvalidError is [ErrInvalid].
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }
