package saga

import (
	"errors"
	"fmt"
)

var (
	// ErrConflict means that the id was used for something else: a saga with
	// other data or of another definition, a signal with another payload.
	ErrConflict = errors.New("saga: id is taken by other input")
	// ErrFenced means that the saga has another owner, or was changed by somebody
	// else: nothing was written.
	ErrFenced = errors.New("saga: fenced off by a newer owner or revision")
	// ErrNotFound means that there is no saga with that id.
	ErrNotFound = errors.New("saga: not found")
	// ErrOver means that the saga is over: nothing was written.
	ErrOver = errors.New("saga: is over")
	// ErrTooManySignals means that the saga has [MaxSignals] of other names: nothing
	// was written.
	ErrTooManySignals = errors.New("saga: has as many signals as it can keep")
	// ErrUnknownDefinition means that the engine was not given the definition.
	ErrUnknownDefinition = errors.New("saga: definition is not registered")
)

// InputError names a field that was refused before anything was written.
type InputError struct {
	Field  string
	Reason string
}

func (e *InputError) Error() string { return fmt.Sprintf("saga: %s %s", e.Field, e.Reason) }

// rejection is the "no" of a business rule.
type rejection struct{ cause error }

func (e *rejection) Error() string { return e.cause.Error() }
func (e *rejection) Unwrap() error { return e.cause }

// Reject marks err as the "no" of a business rule, such as a card that is
// declined: the step has not taken effect, is not repeated, and the saga is
// compensated. Reject(nil) is nil.
func Reject(err error) error {
	if err == nil {
		return nil
	}
	return &rejection{err}
}

// doubt is an error after which nobody knows.
type doubt struct{ cause error }

func (e *doubt) Error() string { return e.cause.Error() }
func (e *doubt) Unwrap() error { return e.cause }

// InDoubt marks err as one after which the step may have taken effect or not. A
// context's end and a net.Error that says Timeout() need no mark. Of it and [Reject] the
// outermost counts, and of errors that are joined a doubt. InDoubt(nil) is nil.
func InDoubt(err error) error {
	if err == nil {
		return nil
	}
	return &doubt{err}
}
