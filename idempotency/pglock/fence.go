package pglock

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/internal/pg"
)

// Fence lets transactions of late holders write nothing. It is for locks of any kind, and for writes that have no column to
// compare the token with, such as a ledger's postings:
//
//	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
//		if err := fence.Pass(ctx, tx, "tenant-7", "account/42", held.Token); err != nil {
//			return err
//		}
//		l, err := ledger.New(store.In(tx), nil)
//		…
//	})
//
// Make one with [NewFence]; the zero value is not usable.
type Fence struct{ pass string }

// FenceOptions of a [Fence]. The zero value means the defaults.
type FenceOptions struct {
	// Schema that holds the table.
	// Default: the first one of the connection's search_path that has it.
	Schema string
}

// NewFence returns the fence of the table that [Migrate] has made.
func NewFence(opts *FenceOptions) *Fence {
	var o FenceOptions
	if opts != nil {
		o = *opts
	}
	return &Fence{pass: fill(passSQL, o.Schema)}
}

// passSQL locks the row until the transaction ends, also where it changes nothing:
//
//	A passes with 41 and is about to write; B passes with 42, writes and commits; A writes over it.
//
// With the lock B waits, for as long as A's transaction lasts.
const passSQL = `
INSERT INTO {fences} AS f (key, token) VALUES ($1, $2)
ON CONFLICT (key) DO UPDATE SET token = excluded.token WHERE f.token <= excluded.token`

// Pass lets the transaction go on if no higher token has passed, or been given out by a [Locker], for the name; until it ends,
// others wait here. Otherwise the error is lock.ErrStale: roll back. Scope and name are those of the lock; if one is
// invalid, or tx is nil, a *idempotency.InvalidError. Other errors are the driver's, with a method Retryable() bool. Call it before the writes that it
// guards.
//
// Cost: one round trip.
func (f *Fence) Pass(ctx context.Context, tx pgx.Tx, scope, name string, token idempotency.Token) error {
	claim := idempotency.Claim{Key: idempotency.Key{Scope: scope, Op: op, Value: name}, Token: token}
	if err := claim.Validate(); err != nil {
		return err
	}
	if tx == nil {
		return errNoTx
	}
	tag, err := tx.Exec(ctx, f.pass, []byte(claim.Key.String()), int64(token))
	if err != nil {
		return fmt.Errorf("pglock: fence: %w", pg.Classify(migration("").Explain(err)))
	}
	return Written(tag, nil)
}

// Written makes the late holder's write, which changes no row, an error: lock.ErrStale. It takes what Exec returns of a
// statement whose condition is the fence:
//
//	err := pglock.Written(tx.Exec(ctx,
//		`UPDATE accounts SET balance = $1, fence = $2 WHERE id = $3 AND fence < $2`, balance, held.Token, id))
//
// A row that is not there looks the same, and so does any other condition that does not hold.
func Written(tag pgconn.CommandTag, err error) error {
	if err == nil && tag.RowsAffected() == 0 {
		return lock.ErrStale
	}
	return err
}
