package pgidem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/absent"
	"github.com/safetill/safetill/internal/pg"
)

// ErrUnknown says that the answer to a COMMIT was lost, and that for all of [TxOptions.CommitTimeout] nobody could be asked what
// became of it. Ask again with the same key: [DoTx] then replays the result if it was committed, and runs the work if not.
var ErrUnknown = errors.New("pgidem: not known whether it was committed")

// TxGuard runs work once for each key in one transaction with the record of it: see [DoTx]. It is as safe for concurrent use
// as its DB. Make one with [NewTxGuard]; the zero value is not usable.
type TxGuard struct {
	db            DB
	sql           txStatements
	schema        string
	isolation     pgx.TxIsoLevel
	ttl           time.Duration
	wait          time.Duration // 0: duplicates do not wait
	commitTimeout time.Duration
	attempts      int
	maxResponse   int
	optimistic    bool
	local         *txLocal // shared by what In returns
}

// TxOptions of a [TxGuard]. The zero value means the defaults. Durations are from a millisecond to 100 years, Wait to 24 days.
type TxOptions struct {
	// Schema that holds the table. To be named where the work changes the search_path: the record is written behind it.
	// Default: the first one of the connection's search_path that has it.
	Schema string
	// TTL is how long a result is replayed.
	// Default: 24 hours.
	TTL time.Duration
	// Wait is how long a duplicate waits for the request that is at work, in this process or another, to get its result, or
	// to run the work itself when that one fails. Negative: not at all, it gets [idempotency.ErrInFlight] at once.
	// Default: 10 seconds.
	Wait time.Duration
	// Isolation of the transactions that DoTx begins itself.
	// Default: [pgx.ReadCommitted], whatever the server's default is.
	Isolation pgx.TxIsoLevel
	// Attempts is how often the work is run at most when PostgreSQL asks for a repeat, as after a deadlock. The pause before
	// each grows from some milliseconds to some tenths of a second.
	// Default: 4.
	Attempts int
	// CommitTimeout bounds the COMMIT, which goes on after the caller's context has ended, and once more the search for
	// what became of it when its answer was lost. A COMMIT that waits for a standby (synchronous replication) is made when
	// it ends, on the primary alone, and found there. As long, on top of what is left of Wait, may it take to get a connection
	// and, with that, to look the key up.
	// Default: 5 seconds.
	CommitTimeout time.Duration
	// MaxResponse is how many bytes an encoded result may have. See [idempotency.TooLargeError]. At most 64 MiB.
	// Default: 2 MiB.
	MaxResponse int
	// Optimistic runs the work before the key is looked up; lock, look and record go with COMMIT. That takes a quarter off
	// what a key costs PostgreSQL, where hardly a request is a repeat. The work of a repeat that this process does not
	// know is run, and rolled back for the first result; so is that of a duplicate while another process has the key, and
	// Wait begins only behind it. So it is for work that is all SQL through its transaction. When the work fails, the key
	// is looked up, and the first result, if there is one, is returned in place of the error.
	// Default: the key is locked and looked up with BEGIN.
	Optimistic bool
}

// NewTxGuard returns a guard on the database, which stays the caller's to close, or all faults of the options at once, each
// an [*idempotency.InvalidError]. It runs no statement.
func NewTxGuard(db DB, opts *TxOptions) (*TxGuard, error) {
	var o TxOptions
	if opts != nil {
		o = *opts
	}
	g := &TxGuard{
		db:            db,
		sql:           newTxStatements(pg.Table(o.Schema, "idempotency_records")),
		schema:        o.Schema,
		isolation:     orDefault(o.Isolation, pgx.ReadCommitted),
		ttl:           orDefault(o.TTL, 24*time.Hour),
		wait:          max(0, orDefault(o.Wait, 10*time.Second)),
		commitTimeout: orDefault(o.CommitTimeout, 5*time.Second),
		attempts:      orDefault(o.Attempts, 4),
		maxResponse:   orDefault(o.MaxResponse, 2<<20),
		optimistic:    o.Optimistic,
		local:         newTxLocal(),
	}
	if err := errors.Join(g.faults()...); err != nil {
		return nil, err
	}
	return g, nil
}

func orDefault[T comparable](v, fallback T) T {
	var none T
	if v == none {
		return fallback
	}
	return v
}

func (g *TxGuard) faults() (faults []error) {
	fault := func(bad bool, field, reason string) {
		if bad {
			faults = append(faults, &idempotency.InvalidError{Field: field, Reason: reason})
		}
	}
	const longest = 100 * 365 * 24 * time.Hour // what every store can add to its clock
	span := func(field string, d time.Duration) {
		fault(d < time.Millisecond || d > longest, field, "is not between a millisecond and 100 years")
	}
	fault(absent.Is(g.db), "database", "is nil")
	span("ttl", g.ttl)
	span("commit timeout", g.commitTimeout)
	fault(g.wait > 0 && g.wait < time.Millisecond, "wait", "is shorter than a millisecond")
	fault(g.wait > txLongestWait, "wait", "is longer than 24 days, the longest that PostgreSQL can wait")
	fault(g.attempts < 1, "attempts", "is not positive")
	fault(g.maxResponse < 1 || g.maxResponse > 64<<20, "max response", "is not between 1 byte and 64 MiB")
	switch g.isolation {
	case pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable:
	default:
		fault(true, "isolation", "is not read committed, repeatable read or serializable")
	}
	return faults
}

// In returns the same guard on another DB, such as the caller's transaction: see [DoTx]. It costs nothing.
func (g *TxGuard) In(db DB) *TxGuard {
	bound := *g
	bound.db = given(db)
	return &bound
}

// CheckSchema returns a [*SchemaError] where the table is missing or too old: call it when a server starts. Cost: two round
// trips.
func (g *TxGuard) CheckSchema(ctx context.Context) error {
	return pg.CheckSchema(ctx, g.db, migration(g.schema))
}

// DoTx runs fn unless the key has been completed before, in which case it returns what the first run returned. What fn writes
// through tx, the key and the result are one commit: after a crash at any moment there are all of them or none, so that no
// key is ever stuck and no effect without its key. While another request with the key runs, in this process or another, it
// waits for [TxOptions.Wait].
//
// fn may run more than once, each time in a new transaction after the last one was rolled back: when PostgreSQL asks for
// it (serialization failures, deadlocks), [TxOptions.Attempts] times at most. So what it does other than through tx must
// be harmless to repeat. It uses tx, of which it may begin nested ones, until it returns, and closes the rows that it
// reads, or the COMMIT finds the connection busy. Its methods do not commit it or roll it back. SQL that does is not kept
// from it: DoTx then returns an error that says so, but does not notice where another transaction has been begun behind it, as
// by COMMIT AND CHAIN. Values are encoded like those of [idempotency.Do], and each of the two replays what the other has stored.
//
// A [*idempotency.PermanentError] of fn is committed as the key's result, without what fn has written. Duplicates that were
// waiting by then may run fn before it is stored; the answer that is stored first is everybody's.
//
// On a guard over a transaction of the caller's ([TxGuard.In]) all is part of that, behind a savepoint, and holds if, and
// only if, the caller commits: until then duplicates wait, and a rollback frees the key. An error leaves the transaction usable and
// as it was before the call, unless ctx has ended: the driver then closes the connection. Where PostgreSQL asks for a repeat, only
// the caller can begin again.
//
// Its errors:
//   - [*idempotency.PermanentError]: fn has failed for good, now or, if the result is Replayed, in an earlier run. Together with
//     [idempotency.ErrNotRecorded]: it could not be stored, and a repeat runs fn.
//   - [*idempotency.InFlightError] ([idempotency.ErrInFlight]): the key is still being worked on, or a live claim of Do has it; fn was
//     not run, or was rolled back. Only of a claim is there a lease to tell of: else RetryAfter is a second.
//   - [idempotency.ErrMismatch]: the key was used with another payload.
//   - [*idempotency.InvalidError]: g or fn is nil, or the key is invalid, or holds steps, from which only Do can go on; or the
//     guard is on a connection that is in a transaction.
//   - [*idempotency.TooLargeError], or why the value does not encode: fn was rolled back, and the key is free.
//   - [ErrUnknown]: the work may or may not have been committed.
//   - any other error of fn, as it is: it was rolled back, and the key is free. A panic of fn, or runtime.Goexit, does that too and
//     goes on.
//   - anything else: PostgreSQL failed, or had no connection in time. Nothing was committed. Its method Retryable() bool says whether to begin again may help.
//
// A ctx that ends before the COMMIT is sent rolls back; one that ends later does not keep the COMMIT from being made and heard of.
//
// Cost: no commit and no round trip more than the bare transaction, since the key is locked and looked up with BEGIN, and written
// with COMMIT. It adds some 28 % to PostgreSQL's CPU for a transfer in five lean statements, 21 % where [TxOptions.Optimistic]
// is set, and 13 % to a posting by pgledger: docs/benchmarks.md. A replay takes one round trip where this guard knows the key,
// as one of the last thousands that it has seen; else a second one, which only ends the transaction. Within the caller's
// transaction the savepoint travels with the same statements.
func DoTx[T any](
	ctx context.Context, g *TxGuard, key idempotency.Key, fp idempotency.Fingerprint,
	fn func(ctx context.Context, tx pgx.Tx) (T, error),
) (idempotency.Result[T], error) {
	if err := key.Validate(); err != nil {
		return idempotency.Result[T]{}, err
	}
	if fn == nil {
		return idempotency.Result[T]{}, &idempotency.InvalidError{Field: "work", Reason: "is nil"}
	}
	if g == nil || g.db == nil {
		return idempotency.Result[T]{}, &idempotency.InvalidError{Field: "guard", Reason: "is nil, or was not made by NewTxGuard"}
	}
	var value T
	work := func(ctx context.Context, tx pgx.Tx) (txResult, error) {
		var failure error
		value, failure = fn(ctx, tx)
		if pg.Retryable(failure) { // also where fn calls it permanent: it has judged by what is void
			return txResult{}, failure
		}
		status, response, err := idempotency.EncodeResult(value, failure, g.maxResponse)
		if err != nil {
			return txResult{}, err
		}
		if _, same := any(value).([]byte); same { // the caller's, who may write into it while those who waited read
			response = bytes.Clone(response)
		}
		return txResult{status: status, response: response, refusal: failure}, nil
	}
	result, err := newTxCall(g, key, fp).do(ctx, work)
	switch {
	case err != nil:
		return idempotency.Result[T]{}, err
	case result.replayed:
		return idempotency.DecodeResult[T](result.status, result.response)
	}
	return idempotency.Result[T]{Value: value}, result.refusal
}

// txResult is a result as it is stored.
type txResult struct {
	status   int32
	response []byte
	refusal  error // the PermanentError that it is
	replayed bool  // it is an earlier run's
}

// txWork runs the caller's work.
type txWork func(ctx context.Context, tx pgx.Tx) (txResult, error)

// gaveUp is the last error of what PostgreSQL asked to be repeated.
func gaveUp(err error, attempts int) error {
	err = fmt.Errorf("pgidem: gave up after %d attempts: %w", attempts, err)
	if _, ok := errors.AsType[undone](err); ok {
		return err
	}
	return pg.Classify(err)
}
