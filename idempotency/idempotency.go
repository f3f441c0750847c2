package idempotency

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/safetill/safetill/internal/absent"
)

// Guard runs work once for each key. It is safe for concurrent use. Make one with [New]; the zero value is not usable.
type Guard struct {
	store        Store
	born         time.Time // what clock counts from
	claimOne     func(context.Context, Request) (Record, error)
	memory       *Memory // the store, where it is one
	lease        time.Duration
	beat         time.Duration // 0: leases are not extended
	ttl          time.Duration
	wait         time.Duration // 0: duplicates do not wait
	writeTimeout time.Duration
	maxResponse  int
	logger       *slog.Logger
	lobby        lobby
	jitter       func(time.Duration) time.Duration
}

// Options of a [Guard]. The zero value means the defaults. Durations are from a millisecond to 100 years.
type Options struct {
	// Lease is how long a key stays taken when its owner falls silent: killed, or cut off from the store. While the
	// work runs it is extended every third of Lease, so it need not be as long as the work.
	// Default: 30 seconds.
	Lease time.Duration
	// NoHeartbeat leaves the lease as it is. The context of the work then ends with the lease, since from then on
	// another may run it. It is always so on a store with a method Concurrent() bool that says no, as in a transaction.
	// Default: false.
	NoHeartbeat bool
	// TTL is how long a result is replayed, and steps are kept.
	// Default: 24 hours.
	TTL time.Duration
	// Wait is how long a duplicate waits for the request that is in flight, in this process or another, to get its
	// result, or to run the work itself when that one fails. Negative: not at all, it gets [ErrInFlight] at once.
	// Default: 10 seconds. Most duplicates are retries of a client whose own patience, or a proxy's, is over after
	// 5 to 30 seconds: a second answer within that saves it the next retry, and later nobody is listening.
	Wait time.Duration
	// WriteTimeout bounds a claim, the write of a release, and of a completion or step with its repeats while the store
	// fails. All but the claim go on after the caller's context has ended.
	// Default: 5 seconds.
	WriteTimeout time.Duration
	// MaxResponse is how many bytes an encoded result may have, of the work or of a step. See [TooLargeError]. At most 64 MiB.
	// Default: 2 MiB.
	MaxResponse int
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
		born:         time.Now(),
		lease:        orDefault(o.Lease, 30*time.Second),
		ttl:          orDefault(o.TTL, 24*time.Hour),
		wait:         max(0, orDefault(o.Wait, 10*time.Second)),
		writeTimeout: orDefault(o.WriteTimeout, 5*time.Second),
		maxResponse:  o.MaxResponse,
		logger:       o.Logger,
		jitter:       halfJitter,
	}
	if g.maxResponse == 0 {
		g.maxResponse = 2 << 20
	}
	if g.logger == nil {
		g.logger = slog.New(slog.DiscardHandler)
	}
	if err := errors.Join(g.faults()...); err != nil {
		return nil, err
	}
	if !o.NoHeartbeat && concurrent(store) {
		g.beat = g.lease / 3
	}
	g.claimOne = answered(store, g.writeTimeout)
	g.memory, _ = store.(*Memory)
	return g, nil
}

func (g *Guard) faults() []error {
	var faults []error
	if absent.Is(g.store) {
		faults = append(faults, &InvalidError{Field: "store", Reason: "is nil"})
	}
	faults = append(faults,
		validateSpan("lease", g.lease), validateSpan("ttl", g.ttl), validateSpan("write timeout", g.writeTimeout))
	if g.wait > 0 {
		faults = append(faults, validateSpan("wait", g.wait))
	}
	if g.maxResponse < 0 || g.maxResponse > maxBytes {
		faults = append(faults, &InvalidError{Field: "max response", Reason: "is not between 1 byte and 64 MiB"})
	}
	return faults
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

// concurrent tells whether a lease may be extended beside the work. A store in a transaction of the caller's may not be asked
// by two goroutines at once:
//
//	the work takes longer than a third of the lease, and writes through the transaction that its claim is in;
//	the heartbeat sends on the same connection: one of the two finds it busy, or both write into the driver's maps.
func concurrent(store Store) bool {
	c, ok := store.(interface{ Concurrent() bool })
	return !ok || c.Concurrent()
}

// clock is the monotonic clock. It costs half of time.Now, which a replay would notice.
func (g *Guard) clock() time.Duration { return time.Since(g.born) }

// halfJitter returns from half of d to d, so that those who wait for the same do not return as one.
func halfJitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// answered returns how to claim one key of a store that may not answer: it is frozen, or its host is gone. The caller's
// context may have no deadline, as those of net/http have none, and each request would wait for as long as its client does.
func answered(store Store, timeout time.Duration) func(context.Context, Request) (Record, error) {
	claim := batchOfOne(store)
	if _, ok := store.(*Memory); ok { // it always answers
		return claim
	}
	return func(ctx context.Context, q Request) (Record, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return claim(ctx, q)
	}
}

// batchOfOne returns how to claim one key.
func batchOfOne(store Store) func(context.Context, Request) (Record, error) {
	if s, ok := store.(Single); ok {
		return s.ClaimOne
	}
	return func(ctx context.Context, q Request) (Record, error) {
		records, err := store.Claim(ctx, []Request{q})
		if err != nil {
			return Record{}, err
		}
		if len(records) != 1 {
			return Record{}, fmt.Errorf("the store answered one request with %d records", len(records))
		}
		return records[0], nil
	}
}

// Result is what [Do] returns.
type Result[T any] struct {
	Value    T
	Replayed bool // what is returned comes from an earlier run: the work was not run now
}

// Do runs fn unless the key has been completed before, in which case it returns what the first run returned. While another
// request with the key runs, it waits for [Options.Wait]. A T that is []byte or string is kept as it is, any other as
// encoding/json writes it. Where ctx has ended before fn begins, that is the error.
//
// fn gets ctx with a cancel of its own: it also ends, with the cause [ErrLost], when another may run the work, because the
// lease could not be extended in time. fn should then stop; that what it does all the same has no effect is up to the
// resource, which compares [Run.Token].
//
// Its errors:
//   - [*PermanentError]: fn has failed for good, now or, if Result is Replayed, in an earlier run.
//   - [*InFlightError] ([ErrInFlight]): another request with the key is still running; fn was not run. Where ctx has ended
//     while waiting, the error is its cause too.
//   - [ErrMismatch]: the key was used with another payload; fn was not run.
//   - [*InvalidError]: the key is invalid, or g or fn is nil.
//   - [ErrNotRecorded]: fn has run and Result holds its value, but it was not stored. Either the store failed for the whole
//     of [Options.WriteTimeout], or (it also is [ErrLost]) the lease ended and another owner took the key: the claim
//     is not released, a repeat gets ErrInFlight until the lease is over and then runs fn again. Or the value is over
//     [Options.MaxResponse] (it also is a [*TooLargeError]) or does not encode: that it has run is stored, and repeats get
//     the same error, Replayed and without the value, instead of a second run.
//   - any other error of fn: the key is free again, unless a [Step] could not be recorded, or still runs. If the claim was
//     lost meanwhile, it also is ErrLost. A panic of fn, or runtime.Goexit, does the same and goes on.
//   - [ErrLost] alone: the claim was answered so late that its lease was over; fn was not run.
//   - anything else: the store failed, or the stored value does not decode into T; fn was not run.
//
// Cost: one round trip for a replay or refusal, two for a run and one more for each third of the lease that it takes.
func Do[T any](
	ctx context.Context, g *Guard, key Key, fp Fingerprint, fn func(ctx context.Context, run *Run) (T, error),
) (Result[T], error) {
	if fn == nil {
		return Result[T]{}, &InvalidError{Field: "work", Reason: "is nil"}
	}
	if g != nil && g.memory != nil && ctx.Err() == nil { // a clock is a fifth of a replay: that of the lease is not needed for one
		if status, response, ok := g.memory.replay(key, &fp); ok {
			return DecodeResult[T](status, response)
		}
	}
	if g == nil || g.store == nil {
		return Result[T]{}, &InvalidError{Field: "guard", Reason: "is nil, or was not made by New"}
	}
	won, err := g.admit(ctx, &Request{Key: key, Fingerprint: fp, Lease: g.lease})
	if err != nil {
		return Result[T]{}, err
	}
	if won.record.Outcome == Completed {
		return DecodeResult[T](won.record.Status, won.record.Response)
	}
	return execute(g.begin(ctx, key, fp, &won), fn)
}

// execute runs the work under a claim.
func execute[T any](run *Run, fn func(context.Context, *Run) (T, error)) (Result[T], error) {
	defer run.end()
	// Freed by a deferred call without recover: a panic keeps its own stack, and runtime.Goexit frees the key too.
	free := true
	defer func() {
		if free && !run.close() { // of a step that is not recorded the next run would have the effect again
			run.release()
		}
	}()
	if err := run.ctx.Err(); err != nil { // whoever asked is gone, and nothing has happened yet
		return Result[T]{}, fmt.Errorf("idempotency: before the work: %w", context.Cause(run.ctx))
	}
	value, failure := fn(run.ctx, run)
	run.close()
	if _, permanent := errors.AsType[*PermanentError](failure); failure != nil && !permanent {
		return Result[T]{}, run.failed(failure)
	}
	// From here on the effect has happened: whatever fails now, the key must not be freed. Freed, a repeat would run
	// the work a second time.
	free = false
	err := complete(run, value, failure)
	switch {
	case err == nil:
		err = failure
	case failure != nil:
		err = fmt.Errorf("%w: %w: %w", ErrNotRecorded, err, failure)
	default:
		err = fmt.Errorf("%w: %w", ErrNotRecorded, err)
	}
	return Result[T]{Value: value}, err
}

// complete stores what the work has returned, or that it cannot be stored.
func complete[T any](run *Run, value T, failure error) error {
	status, response, problem := EncodeResult(value, failure, run.guard.maxResponse)
	err := run.complete(status, response)
	return errors.Join(problem, err)
}

// claim returns a record that is Won, Completed or InFlight, or an error.
func (g *Guard) claim(ctx context.Context, q *Request) (Record, error) {
	record, err := g.claimOne(ctx, *q)
	if invalid, ok := errors.AsType[*InvalidError](err); ok { // of a batch that the caller knows nothing of
		return Record{}, invalid
	}
	if err != nil {
		return Record{}, fmt.Errorf("idempotency: claim: %w", err)
	}
	switch record.Outcome {
	case Won, Completed, InFlight:
		return record, nil
	case Mismatch:
		return Record{}, ErrMismatch
	default:
		return Record{}, fmt.Errorf("idempotency: claim: the store answered %v", record.Outcome)
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
