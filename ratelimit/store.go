package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// Store keeps what was used of limits, and the clock by which they refill. A memory store is beside it ([NewMemory]); ratelimittest
// is the test of any other.
type Store interface {
	// Decide carries out calls, each by itself, and returns a reply for each, in their order. It is the only write: a store is one
	// atomic operation.
	//
	// The takes of one call are admitted all or none: where one is refused nothing is charged, and the outcomes of the others say what
	// they would have been. All other kinds are carried out in any case. A call of invalid ops (see [Call.Validate]) is answered with
	// the error and not carried out.
	//
	// A reply with an error may have been carried out or not: repeating it may charge twice.
	//
	// It returns when ctx ends: whoever asks has no other bound on how long it takes.
	Decide(ctx context.Context, calls []Call) []Reply
}

// Call is what is decided as a whole.
type Call struct{ Ops []Op }

// Reply is the answer to a [Call].
type Reply struct {
	Outcomes []Outcome // one for each op, in their order; nil with an error
	Err      error
}

// MaxOps is how many ops a call may have, MaxKey how many bytes a key.
const (
	MaxOps = 32
	MaxKey = 512
)

// Kind is what an [Op] does.
type Kind uint8

const (
	// Take charges N units if there is room for them.
	Take Kind = iota
	// Charge charges N units whether there is room or not: something has happened already. What is used never counts for more than twice
	// the capacity.
	Charge
	// Peek writes nothing and says what a Take of N would be answered.
	Peek
	// Return gives back N units of what was charged at At: of a bucket any, of the others those that still count.
	Return
	// Reset forgets what was used.
	Reset
	kinds int = iota
)

// Op is one step of a [Call].
type Op struct {
	Kind  Kind
	Limit Limit
	Key   string // whose: 1 to MaxKey bytes
	N     int64  // units, at least 1 but for a Reset; over the limit's capacity a Take is refused for ever
	// Min, of a Take, makes it take as much as there is, at least Min and at most N. 0 means all of N.
	Min int64
	// Ahead, of a Take from a bucket, lets it use what comes back within this time; Outcome.Wait is when that will be. At most the time
	// that an empty bucket takes to fill is of use. Of a Return to a bucket it is the Outcome.Reset of the Take, or 0: then only so much is given back as
	// leaves those who have taken ahead since, and wait, a bucket that is empty but for what is theirs.
	Ahead time.Duration
	// At, of a Return, is the Outcome.At of the Take.
	At int64
	// Holder is who takes or returns a place of a Concurrency limit, and required for that. A holder who takes again extends the lease and
	// is not counted twice.
	Holder string
}

// Outcome is what became of an [Op].
type Outcome struct {
	// Allowed tells whether a Take was charged, or would be by a Peek. Others are always allowed.
	Allowed bool
	// Charged is how many units were, at most N.
	Charged int64
	// Remaining is what is left afterwards; after a Charge, and where the limit was lowered, it can be negative.
	Remaining int64
	// Wait is after what time the same op is admitted if nobody else comes, rounded up to a microsecond: [Never] for more than the
	// capacity. Of an op that is allowed it is 0, but for what was taken ahead; of what was refused ahead, it is when the units are there.
	Wait time.Duration
	// Reset is after what time all is as if nothing had been used.
	Reset time.Duration
	// At is when it was decided, in microseconds since the Unix epoch by the store's clock.
	At int64
}

// due is when a bucket to which is returned was to be full, in µs since the Unix epoch; 0 if that is not told.
func (o *Op) due() int64 {
	if o.Ahead == 0 {
		return 0
	}
	return min(max(o.At, 0), maxExact) + o.Ahead.Microseconds()
}

// Never is the wait for what can never be.
const Never = time.Duration(math.MaxInt64)

// Validate returns all faults at once, each an [*InvalidError], or nil.
func (c *Call) Validate() error { return c.validate("ops") }

// validate is [Call.Validate], with the name that its caller has for the ops.
func (c *Call) validate(ops string) error {
	if len(c.Ops) == 0 || len(c.Ops) > MaxOps {
		return invalid(ops, fmt.Sprintf("are not 1 to %d: %d", MaxOps, len(c.Ops)))
	}
	var faults []error
	for i := range c.Ops {
		op := &c.Ops[i]
		faults = append(faults, op.Validate())
		for j := range i {
			if o := &c.Ops[j]; o.Key == op.Key && o.Limit.Normal().Name == op.Limit.Normal().Name {
				faults = append(faults, invalid(ops, "have one counter twice, of a limit and key: name the limits apart: "+op.Limit.Normal().Name))
			}
		}
	}
	return errors.Join(faults...)
}

// Validate returns all faults at once, each an [*InvalidError], or nil.
func (o *Op) Validate() error {
	if _, known := plans.byLimit.Load(o.Limit); !known { // not planOf: of the limits that it remembers there are only so many
		if err := o.Limit.Validate(); err != nil {
			return err
		}
	}
	return o.validate()
}

// validate looks at all but the limit.
func (o *Op) validate() error {
	if uint(len(o.Key)-1) < MaxKey && o.N > 0 && o.Kind <= Peek && o.Min == 0 && o.Ahead == 0 && o.Limit.Algorithm != Concurrency {
		return nil
	}
	var faults []error
	refuse := func(bad bool, field, reason string) {
		if bad {
			faults = append(faults, invalid(field, reason))
		}
	}
	refuse(int(o.Kind) >= kinds, "kind", "is unknown")
	refuse(o.Key == "", "key", "is empty")
	refuse(len(o.Key) > MaxKey, "key", fmt.Sprintf("has over %d bytes: %d", MaxKey, len(o.Key)))
	refuse(o.N < 1 && o.Kind != Reset, "n", fmt.Sprintf("is not at least 1: %d", o.N))
	refuse(o.N < 0 && o.Kind == Reset, "n", fmt.Sprintf("is negative: %d", o.N))
	refuse(o.Min < 0 || o.Min > max(o.N, 0), "min", "is not 0 to n")
	refuse(o.Ahead < 0, "ahead", "is negative")
	refuse(o.Ahead > 0 && !o.Limit.Algorithm.bucket(), "ahead", "is for buckets, not for "+o.Limit.Algorithm.String())
	holds := o.Limit.Algorithm == Concurrency && (o.Kind == Take || o.Kind == Return)
	refuse(holds && (o.Holder == "" || len(o.Holder) > MaxKey), "holder", fmt.Sprintf("is not of 1 to %d bytes", MaxKey))
	refuse(o.Limit.Algorithm == Concurrency && o.Kind == Charge, "kind", "charge is not for concurrency")
	refuse(o.Limit.Algorithm == Concurrency && o.Min > 0, "min", "is not for concurrency")
	return errors.Join(faults...)
}
