package lock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/safetill/safetill/idempotency"
)

// op keeps locks apart from the keys in the same store.
const op = "safetill/lock"

// Locker takes locks by name. It is safe for concurrent use. Make one with [New]; the zero value is not usable.
type Locker struct{ guard *idempotency.Guard }

// Options of a [Locker]. The zero value means the defaults.
type Options struct {
	// Lease is how long a name stays taken when its holder falls silent: killed, paused, or cut off from the store. It is
	// extended every third of Lease, so it need not be as long as the work. At least a millisecond; below some seconds
	// a busy machine loses locks for nothing.
	// Default: 30 seconds.
	Lease time.Duration
	// Wait is how long Do waits for a name that is taken. Negative: not at all, it returns [ErrHeld] at once.
	// Default: 10 seconds.
	Wait time.Duration
	// WriteTimeout bounds each question whether the name is free, and the release of a lock, which is written also when the
	// caller's context has ended.
	// Default: 5 seconds.
	WriteTimeout time.Duration
	// Logger is told of releases that failed.
	// Default: nothing is logged.
	Logger *slog.Logger
}

// Held is a lock that is held.
type Held struct {
	// Token is its fencing number: higher than that of every earlier holder of the name.
	Token idempotency.Token
}

// New returns a Locker on the store, or all faults of the options at once, each an [*idempotency.InvalidError]. It does not
// call the store.
func New(store idempotency.Store, opts *Options) (*Locker, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	guard, err := idempotency.New(store, &idempotency.Options{
		Lease: o.Lease, Wait: o.Wait, WriteTimeout: o.WriteTimeout, Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &Locker{guard}, nil
}

// Do runs fn while it holds the name, of 1 to 255 bytes; equal names in different scopes (a tenant, say), of as many bytes, are
// different locks. fn gets ctx with a cancel of its own: it also ends when the lock is lost, with the cause
// [ErrLost].
//
// Its errors:
//   - [*HeldError] ([ErrHeld]): another holds the name; fn was not run. Where ctx has ended while waiting, the error is its
//     cause too.
//   - [*idempotency.InvalidError]: scope or name is invalid, or fn is nil.
//   - the error of fn. Where the lock was lost while fn ran, it also is ErrLost; that alone where fn returned nil, since what
//     fn did may be in another holder's way.
//   - anything else: the store failed; fn was not run.
//
// nil does not mean that the lock was held to the end: a holder that was paused may return before it notices. Only the fence
// tells.
//
// Cost: two round trips, and one more for each third of the lease that fn takes. Waiting asks the store every 5
// to 500 milliseconds, once for all that wait in this Locker.
func (l *Locker) Do(ctx context.Context, scope, name string, fn func(ctx context.Context, held Held) error) error {
	if fn == nil {
		return &idempotency.InvalidError{Field: "work", Reason: "is nil"}
	}
	var w work
	key := idempotency.Key{Scope: scope, Op: op, Value: name}
	_, err := idempotency.Do(ctx, l.guard, key, fingerprint, func(ctx context.Context, run *idempotency.Run) (struct{}, error) {
		w.ran = true
		w.failure = fn(ctx, Held{Token: run.Token()})
		w.cause = context.Cause(run.Detached()) // ctx has another cause where the client hung up before
		// Always the same failure, so that the name is freed and nothing kept: an error of fn's may be
		// permanent to idempotency.Do, when it comes from a Do within.
		return struct{}{}, errFree
	})
	if !w.ran {
		return refused(name, err)
	}
	return outcome(w.failure, w.cause)
}

// work is what came of fn.
type work struct {
	ran            bool
	failure, cause error
}

var (
	errFree     = errors.New("lock: work is done")
	fingerprint = idempotency.FingerprintOf([]byte(op))
)

// refused returns why the work was not run.
func refused(name string, err error) error {
	if held, ok := errors.AsType[*idempotency.InFlightError](err); ok {
		return &HeldError{Name: name, RetryAfter: held.RetryAfter, Cause: err}
	}
	if err == nil || errors.Is(err, idempotency.ErrMismatch) {
		return fmt.Errorf("lock: %q in the store is not a lock: somebody uses the operation %q for keys", name, op)
	}
	return err
}

// outcome is what Do returns when the work returned failure and its context ended with cause, if it did.
func outcome(failure, cause error) error {
	switch {
	case !errors.Is(cause, ErrLost) || errors.Is(failure, ErrLost):
		return failure
	case failure == nil:
		return cause
	}
	return fmt.Errorf("%w: %w", cause, failure)
}
