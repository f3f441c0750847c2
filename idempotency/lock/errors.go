package lock

import (
	"errors"
	"fmt"
	"time"

	"github.com/safetill/safetill/idempotency"
)

// Errors that a caller branches on; the same from every locker.
var (
	// ErrHeld: another holds the name ("payment in progress"). It comes as a [*HeldError].
	ErrHeld = errors.New("lock: held by another")
	// ErrLost is the cause with which the context of the work ends when the lock is no longer its: the lease could not be
	// extended in time, or the connection that held it is gone.
	ErrLost = idempotency.ErrLost
	// ErrStale: a write was refused because a later holder has been there. It changed nothing. To try again under the
	// same token is of no use; take the lock anew.
	ErrStale = errors.New("lock: a later holder has written")
)

// HeldError says that another holds the name.
type HeldError struct {
	Name string
	// RetryAfter is how long the present lease has left. It is extended while its holder lives: the name may be free sooner,
	// and not be free then. 0: not known.
	RetryAfter time.Duration
	Cause      error // what the store answered, or why the wait ended; nil where neither is known
}

func (e *HeldError) Error() string {
	if e.RetryAfter == 0 {
		return ErrHeld.Error()
	}
	return fmt.Sprintf("%v, its lease ends in %v", ErrHeld, e.RetryAfter)
}

// Is reports that a HeldError is [ErrHeld].
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// Unwrap returns the Cause.
func (e *HeldError) Unwrap() error { return e.Cause }
