package ratelimit

import "errors"

// Errors that a caller branches on; the same from every store.
var (
	// ErrInvalid: a limit, key, number or option is out of bounds. It comes as an [*InvalidError]; nothing was charged.
	ErrInvalid = errors.New("ratelimit: invalid")
	// ErrRefused: there is no room within the time that a caller would wait. It comes as a [*RefusedError].
	ErrRefused = errors.New("ratelimit: refused")
)

// InvalidError names the field that is out of bounds. Nothing was charged.
type InvalidError struct {
	Field  string // "key", "n", "limit", "rate", "per", "burst", …
	Reason string // what is wrong, to follow the field's name: "is empty"
}

func (e *InvalidError) Error() string { return "ratelimit: " + e.Field + " " + e.Reason }

// Is reports that an InvalidError is [ErrInvalid].
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(field, reason string) error { return &InvalidError{Field: field, Reason: reason} }

// RefusedError says that there was no room within the time given.
type RefusedError struct{ Result Result }

func (e *RefusedError) Error() string {
	if e.Result.RetryAfter == Never {
		return ErrRefused.Error() + ": more than the limit can ever give"
	}
	return ErrRefused.Error() + ": room in " + e.Result.RetryAfter.String()
}

// Is reports that a RefusedError is [ErrRefused].
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }
