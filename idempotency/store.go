package idempotency

import (
	"context"
	"fmt"
	"time"
)

// Store keeps the records. It is implemented by [Memory], redisidem.Store and pgidem.Store; package idemtest holds a
// backend of your own to the same contract.
//
// Every method takes a batch, decides each item atomically and on its own, in the order of the slice, and answers with
// one result for each item, in one round trip to each server however many items there are. Items that are invalid fail
// the whole call with an [*InvalidError] before anything is written.
//
// A non-nil error of the call means that the fate of some items is not known: a Claim may or may not have been taken
// (those items are [Unknown], or the slice is nil), a Complete may or may not have been stored. Complete may be
// repeated until it answers.
//
// Implementations are safe for concurrent use.
type Store interface {
	// Claim tries to win each key. A key that is free, released, abandoned (its lease is over) or expired is won,
	// whatever fingerprint it had, unless it has steps: these have had effects for the payload of that fingerprint, so
	// any other is a [Mismatch] for as long as they are kept. A key that occurs twice in a batch is won by the first.
	Claim(ctx context.Context, requests []Request) ([]Record, error)
	// Complete stores the response of each claim, to be replayed until its TTL has passed. An item is nil or
	// [ErrLost]. An owner whose lease is over may still complete, as long as nobody else has won the key and less than
	// [AbandonedFor] has passed. To complete again with the same token changes nothing and is no error: an owner that
	// does not know whether its first call arrived may repeat it.
	Complete(ctx context.Context, completions []Completion) ([]error, error)
	// Release frees each claimed key at once. An item is nil or [ErrLost]; a completed key is not released.
	Release(ctx context.Context, claims []Claim) ([]error, error)
	// Extend lets the lease of each claim end after its Lease from now and, in the same atomic operation, adds its Step
	// to those of the key. An item is nil or [ErrLost]. A lease that is over may be extended as long as nobody else has
	// won the key and less than [AbandonedFor] has passed. A step whose name the key has already is left as it is: an
	// owner that does not know whether its first call arrived may repeat it. Steps go away with the completion.
	Extend(ctx context.Context, extensions []Extension) ([]error, error)
}

// Sweeper is implemented by stores whose expired records do not go away by themselves.
type Sweeper interface {
	// Sweep removes up to limit records that can no longer matter and returns how many; call it until it returns less
	// than limit, and then again some minutes later. A record may stay for longer than it has to.
	Sweep(ctx context.Context, limit int) (int, error)
}

// AbandonedFor is how long a store remembers a claim after its lease is over or it was released. An owner that was
// merely slow may complete within it, and the next owner's token grows from the remembered one even if the store's
// clock is set back.
const AbandonedFor = time.Hour

// Single is implemented by stores that claim one key for less than a batch of one.
type Single interface {
	// ClaimOne is Claim of one request.
	ClaimOne(ctx context.Context, request Request) (Record, error)
}

// Token is the fencing number of a claim. For one key it grows with every claim that is won, so that a resource which
// remembers the highest token it has seen (a column in the row that is written) can refuse the write of a late owner.
//
// A token is the larger of the store's clock in microseconds since 1970 and the key's last token plus one. A counter
// would be shorter, but it starts again at 1 when the store is flushed, restored from a backup or exchanged for
// another, and then this loses money:
//
//	A claims with token 41 and is paused; the store loses its data; B claims with token 1 and is refused by the
//	resource that has seen 41; A wakes up, writes with token 41 and is let in.
//
// With the clock B's token is above 41 without any memory of A; with the last token plus one it is so too when the
// clock is set back by up to [AbandonedFor].
type Token int64

// Outcome is the answer to a Request.
type Outcome uint8

// The outcomes; the zero value is Unknown.
const (
	Unknown   Outcome = iota // not decided: the store failed before it answered for this item
	Won                      // the caller holds the key and must complete or release it
	Completed                // the work was done before: replay Response
	InFlight                 // another owner holds the key with the same fingerprint
	Mismatch                 // the key is held or completed with another fingerprint
)

// String returns the outcome in lower case.
func (o Outcome) String() string {
	switch o {
	case Unknown:
		return "unknown"
	case Won:
		return "won"
	case Completed:
		return "completed"
	case InFlight:
		return "in flight"
	case Mismatch:
		return "mismatch"
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// Request asks for one key.
type Request struct {
	Key         Key
	Fingerprint Fingerprint
	Lease       time.Duration // how long the key is held for a silent owner; at least a millisecond
}

// Record is the answer to one Request. Which fields are set depends on Outcome.
type Record struct {
	Outcome   Outcome
	Token     Token         // Won: to complete, extend or release with
	Remaining time.Duration // InFlight: how long the present lease has left, more than 0
	Status    int32         // Completed: as it was completed
	Response  []byte        // Completed: as it was completed; shared, not to be modified
	Steps     []StepRecord  // Won: what earlier owners have recorded, in that order; shared, not to be modified
}

// StepRecord is the result of one step of the work under a key.
type StepRecord struct {
	Name   string // 1 to 255 bytes, any bytes
	Result []byte // in the caller's encoding; not retained
}

// Completion is the result of a claim.
type Completion struct {
	Key      Key
	Token    Token
	Status   int32         // a number of the caller's meaning kept beside Response, such as an HTTP status
	Response []byte        // the result, in the caller's encoding, up to 64 MiB; not retained
	TTL      time.Duration // how long it is replayed, from now on; at least a millisecond
}

// Claim names one won key.
type Claim struct {
	Key   Key
	Token Token
}

// Extension is a claim that is to be held for longer.
type Extension struct {
	Key   Key
	Token Token
	Lease time.Duration // from now on; at least a millisecond
	Step  StepRecord    // to be added to the key; with an empty name: none
	// Keep is how long from now on the steps are kept at least, also when the key is released or abandoned; the longest
	// of its steps' counts. At least a millisecond with a step, else without a meaning.
	Keep time.Duration
}

// Validate returns an [*InvalidError] for the first field that is out of bounds.
func (r Request) Validate() error { return validate(r.Key, 1, "lease", r.Lease) }

// Validate returns an [*InvalidError] for the first field that is out of bounds.
func (c Completion) Validate() error {
	if err := validate(c.Key, c.Token, "ttl", c.TTL); err != nil {
		return err
	}
	return validateBytes("response", c.Response)
}

// Validate returns an [*InvalidError] for the first field that is out of bounds.
func (c Claim) Validate() error { return validate(c.Key, c.Token, "", time.Hour) }

// Validate returns an [*InvalidError] for the first field that is out of bounds.
func (e Extension) Validate() error {
	if err := validate(e.Key, e.Token, "lease", e.Lease); err != nil || e.Step.Name == "" {
		return err
	}
	if len(e.Step.Name) > maxPart {
		return invalidLength("step", e.Step.Name)
	}
	if err := validateSpan("keep", e.Keep); err != nil {
		return err
	}
	return validateBytes("step", e.Step.Result)
}

// maxSpan bounds leases and TTLs: every store can add it to its clock without overflow.
const maxSpan = 100 * 365 * 24 * time.Hour

// maxBytes bounds a response and a step's result: every store can keep it in one value.
const maxBytes = 64 << 20

func validateBytes(field string, b []byte) error {
	if len(b) > maxBytes {
		return &InvalidError{Field: field, Reason: "is longer than 64 MiB"}
	}
	return nil
}

func validate(k Key, t Token, field string, span time.Duration) error {
	if err := k.Validate(); err != nil {
		return err
	}
	if t <= 0 {
		return &InvalidError{Field: "token", Reason: "is not positive"}
	}
	return validateSpan(field, span)
}

func validateSpan(field string, span time.Duration) error {
	switch {
	case span < time.Millisecond:
		return &InvalidError{Field: field, Reason: "is shorter than a millisecond"}
	case span > maxSpan:
		return &InvalidError{Field: field, Reason: "is longer than 100 years"}
	}
	return nil
}

// ValidateAll returns the error of the first invalid item, with its position; stores call it before they write.
func ValidateAll[T interface{ Validate() error }](items []T) error {
	for i := range items {
		if err := items[i].Validate(); err != nil {
			return fmt.Errorf("idempotency: item %d: %w", i, err)
		}
	}
	return nil
}
