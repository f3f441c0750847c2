package idempotency

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Step runs a part of the work that must not be run again when the work is: its result is stored before Step returns, and
// returned to every later run of the same key and payload without running fn. So work that charges, posts and then
// fails to write a receipt does, when it is repeated, only what is left.
//
//	charge, err := idempotency.Step(ctx, run, "charge", func(ctx context.Context) (Charge, error) { … })
//	posted, err := idempotency.Step(ctx, run, "post", func(ctx context.Context) (Entry, error) { … })
//
// Steps of a run come one after the other, each with a name of its own of 1 to 255 bytes. One within another, two at a
// time, a name that comes twice, and a step after one that could not be recorded, or after the work has returned, are an
// [*InvalidError]; where ctx has ended or the claim is lost, the error is the cause. In either case fn is not run. Only
// success is stored, encoded like a result of [Do]; a name that is not asked for any more is ignored. Steps survive the
// release of the key, a kill and the end of the lease, for at least [Options.TTL]; as long as they do, the key is refused
// to any other payload. They go when the key is completed.
//
// If fn has run but its result could not be stored, the error is [ErrNotRecorded], and the value is returned beside it.
// Return that error; however the work ends, the key is not freed before the lease is over. It also is [ErrLost] where
// another owner has the key. Nor is the key of work that fails while its step still runs. A value that is over
// [Options.MaxResponse] (the error also is a [*TooLargeError]) or does not encode is lost, but not that fn has run: later
// runs get the same error instead of a second effect.
//
// A process that is killed between fn and the store repeats fn, so hand a permanent id on to what fn calls, such as
// [Key.ID] with the step's name.
//
// Cost: one round trip, which also extends the lease; none for a step that is replayed.
func Step[T any](ctx context.Context, run *Run, name string, fn func(ctx context.Context) (T, error)) (T, error) {
	var none T
	switch {
	case run == nil:
		return none, &InvalidError{Field: "run", Reason: "is nil: a request without a key has none"}
	case fn == nil:
		return none, &InvalidError{Field: "step " + strconv.Quote(name), Reason: "is nil"}
	}
	recorded, err := run.enter(ctx, name)
	if err != nil {
		return none, err
	}
	if recorded != nil {
		return decodeStep[T](recorded)
	}
	defer run.exit()
	value, err := fn(ctx)
	if err != nil {
		return value, err
	}
	if err := saveStep(run, name, value); err != nil {
		return value, fmt.Errorf("%w: step %q: %w", ErrNotRecorded, name, err)
	}
	return value, nil
}

// enter begins a step, or returns what an earlier run has recorded of it.
func (r *Run) enter(ctx context.Context, name string) (*StepRecord, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, again := r.asked[name]
	fault := ""
	switch {
	case len(name) == 0 || len(name) > maxPart:
		return nil, invalidLength("step", name)
	case r.closed:
		fault = "comes after the work has returned"
	case again:
		fault = "comes twice"
	case r.step != "":
		fault = "begins before the step " + strconv.Quote(r.step) + " has ended"
	case r.unrecorded:
		fault = "comes after a step that could not be recorded"
	}
	if fault != "" {
		return nil, &InvalidError{Field: "step " + strconv.Quote(name), Reason: fault}
	}
	if r.asked == nil {
		r.asked = make(map[string]struct{})
	}
	r.asked[name] = struct{}{}
	if i := slices.IndexFunc(r.recorded, func(s StepRecord) bool { return s.Name == name }); i >= 0 {
		return &r.recorded[i], nil
	}
	if ctx.Err() != nil { // nothing more is to happen
		return nil, context.Cause(ctx)
	}
	if r.lost != nil { // whatever context it is: another may run the step
		return nil, r.lost
	}
	r.step = name
	return nil, nil
}

func (r *Run) exit() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step = ""
}

// maxStep bounds the response of a step: a store takes maxBytes of a step, and its status is one.
const maxStep = maxBytes - 1

// saveStep stores the result of a step that has run: the status of EncodeResult in a byte, and the response. It returns
// also why that is not the value.
func saveStep[T any](r *Run, name string, value T) error {
	r.setUnrecorded(true) // also if what follows panics
	status, response, problem := EncodeResult(value, nil, min(r.guard.maxResponse, maxStep))
	err := r.saveStep(StepRecord{Name: name, Result: append([]byte{byte(status)}, response...)})
	if err == nil {
		r.setUnrecorded(false)
	}
	return errors.Join(problem, err)
}

func (r *Run) setUnrecorded(unrecorded bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unrecorded = unrecorded
}

func decodeStep[T any](step *StepRecord) (T, error) {
	if len(step.Result) == 0 {
		var none T
		return none, fmt.Errorf("idempotency: the result of step %q has no status", step.Name)
	}
	result, err := DecodeResult[T](int32(step.Result[0]), step.Result[1:])
	if err != nil {
		err = fmt.Errorf("idempotency: step %q: %w", step.Name, err)
	}
	return result.Value, err
}

func (r *Run) saveStep(step StepRecord) error {
	e := Extension{Key: r.key, Token: r.token, Lease: r.guard.lease, Step: step, Keep: r.guard.ttl}
	return r.record(func(ctx context.Context) error {
		sent := r.guard.clock()
		err := single(r.guard.store.Extend(ctx, []Extension{e}))
		if err == nil {
			r.lease.renewed(sent)
		}
		return err
	})
}
