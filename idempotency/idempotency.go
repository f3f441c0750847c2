package idempotency

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Guard runs work once for each key. It is safe for concurrent use.
type Guard struct {
	store        Store
	lease        time.Duration
	ttl          time.Duration
	writeTimeout time.Duration
	logger       *slog.Logger
}

// Options of a [Guard]. The zero value means the defaults.
type Options struct {
	// Lease is how long a key stays taken when its owner falls silent. It must be longer than the work can take.
	// Default: 30 seconds.
	Lease time.Duration
	// TTL is how long a result is replayed.
	// Default: 24 hours.
	TTL time.Duration
	// WriteTimeout bounds the write of a release, and of a completion with its repeats while the store fails. Both go on
	// after the caller's context has ended.
	// Default: 5 seconds.
	WriteTimeout time.Duration
	// Logger is told of releases that failed.
	// Default: nothing is logged.
	Logger *slog.Logger
}

// New returns a Guard on the store, or all faults of the options at once, each an [*InvalidError]. It does not call the
// store.
func New(store Store, opts *Options) (*Guard, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	g := &Guard{
		store:        store,
		lease:        orDefault(o.Lease, 30*time.Second),
		ttl:          orDefault(o.TTL, 24*time.Hour),
		writeTimeout: orDefault(o.WriteTimeout, 5*time.Second),
		logger:       o.Logger,
	}
	if g.logger == nil {
		g.logger = slog.New(slog.DiscardHandler)
	}
	var faults []error
	if store == nil {
		faults = append(faults, &InvalidError{Field: "store", Reason: "is nil"})
	}
	faults = append(faults,
		validateSpan("lease", g.lease), validateSpan("ttl", g.ttl), validateSpan("write timeout", g.writeTimeout))
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return g, nil
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

// Result is what [Do] returns.
type Result[T any] struct {
	Value    T
	Replayed bool // the value comes from an earlier run: the work was not run now
}

// Do runs fn unless the key has been completed before, in which case the stored value is returned. Values are kept as
// encoding/json writes them. fn gets ctx as it is.
//
// Its errors:
//   - [*InFlightError] ([ErrInFlight]): another request with the key is running; fn was not run.
//   - [ErrMismatch]: the key was used with another payload; fn was not run.
//   - [*InvalidError]: the key is invalid; fn was not run.
//   - [ErrNotRecorded]: fn has succeeded and Result holds its value, but it was not stored, because the store failed
//     for the whole of [Options.WriteTimeout], the value does not encode, or (it also is [ErrLost]) the lease ended and another owner took the key. The claim is
//     not released. A repeat gets ErrInFlight until the lease is over, then it runs fn again.
//   - the error of fn, as it is: the key is free again. A panic of fn frees the key too and goes on.
//   - anything else: the store failed, or the stored value does not decode into T; fn was not run.
//
// Cost: one round trip for a replay or refusal, two for a run.
func Do[T any](
	ctx context.Context, g *Guard, key Key, fp Fingerprint, fn func(ctx context.Context, run *Run) (T, error),
) (Result[T], error) {
	record, err := g.claim(ctx, key, fp)
	if err != nil {
		return Result[T]{}, err
	}
	if record.Outcome == Completed {
		return replay[T](record)
	}

	claim := Claim{Key: key, Token: record.Token}
	// Freed by a deferred call without recover: a panic keeps its own stack, and runtime.Goexit frees the key too.
	free := true
	defer func() {
		if free {
			g.release(ctx, claim)
		}
	}()
	value, err := fn(ctx, &Run{claim: claim})
	if err != nil {
		return Result[T]{}, err
	}
	// From here on the effect has happened: whatever fails now, the key must not be freed. Freed, a repeat would run
	// the work a second time.
	free = false
	if err := g.complete(ctx, claim, value); err != nil {
		return Result[T]{Value: value}, fmt.Errorf("%w: %w", ErrNotRecorded, err)
	}
	return Result[T]{Value: value}, nil
}

func replay[T any](record Record) (Result[T], error) {
	result := Result[T]{Replayed: true}
	if err := json.Unmarshal(record.Response, &result.Value); err != nil {
		return Result[T]{}, fmt.Errorf("idempotency: decode the stored result into %T: %w", result.Value, err)
	}
	return result, nil
}

// claim returns a record that is Won or Completed, or an error.
func (g *Guard) claim(ctx context.Context, key Key, fp Fingerprint) (Record, error) {
	records, err := g.store.Claim(ctx, []Request{{Key: key, Fingerprint: fp, Lease: g.lease}})
	if err != nil {
		return Record{}, fmt.Errorf("idempotency: claim: %w", err)
	}
	if len(records) != 1 {
		return Record{}, fmt.Errorf("idempotency: claim: the store answered one request with %d records", len(records))
	}
	switch record := records[0]; record.Outcome {
	case Won, Completed:
		return record, nil
	case InFlight:
		return Record{}, &InFlightError{Key: key, RetryAfter: record.Remaining}
	case Mismatch:
		return Record{}, ErrMismatch
	default:
		return Record{}, fmt.Errorf("idempotency: claim: the store answered %v", record.Outcome)
	}
}

// complete stores the value under a deadline of its own. Under ctx this would charge twice: the client hangs up while
// the provider is charging; the completion is refused because its context has ended; the lease runs out; the client's
// retry wins the key and charges again.
func (g *Guard) complete(ctx context.Context, claim Claim, value any) error {
	response, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.writeTimeout)
	defer cancel()
	return g.record(ctx, Completion{Key: claim.Key, Token: claim.Token, Response: response, TTL: g.ttl})
}

// record repeats a completion that the store failed to write until the deadline: a store that restarts must not cost a
// result whose effect has happened. It may have been written by a call that reported failure; to write it again is harmless.
func (g *Guard) record(ctx context.Context, c Completion) error {
	var failure error
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		items, err := g.store.Complete(ctx, []Completion{c})
		if err == nil {
			return single(items, nil)
		}
		if failure == nil || !errors.Is(err, context.DeadlineExceeded) { // why it failed, rather than that time ran out
			failure = err
		}
		select {
		case <-ctx.Done():
			return failure
		case <-time.After(pause/2 + rand.N(pause/2)): // jitter, so that those who waited do not return as one
		}
	}
}

// release frees the key under a deadline of its own. A release that fails is only a delay, until the lease is over, so
// it is logged, and the caller gets the error of the work.
func (g *Guard) release(ctx context.Context, claim Claim) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.writeTimeout)
	defer cancel()
	lost, err := g.store.Release(ctx, []Claim{claim})
	if err := single(lost, err); err != nil {
		g.logger.LogAttrs(ctx, slog.LevelWarn, "idempotency: claim not released, its key stays taken until the lease is over",
			slog.String("op", claim.Key.Op), slog.Any("error", err))
	}
}

// single returns the verdict on the only item of a call.
func single(items []error, err error) error {
	if err != nil {
		return err
	}
	if len(items) != 1 {
		return fmt.Errorf("the store answered one item with %d results", len(items))
	}
	return items[0]
}
