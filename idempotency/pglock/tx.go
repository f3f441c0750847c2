package pglock

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/internal/pg"
)

// The limit of the caller's own is kept beside it, and put back when the locks are won; where they are not, the savepoint does so.
const (
	ownLimitSQL = `SELECT set_config('pglock.lock_timeout', current_setting('lock_timeout'), true), set_config('lock_timeout', $1, true)`
	oldLimitSQL = `SELECT set_config('lock_timeout', current_setting('pglock.lock_timeout'), true)`
	txLockSQL   = `SELECT pg_advisory_xact_lock($1)`
)

var errNoTx = &idempotency.InvalidError{Field: "tx", Reason: "is nil"}

// InTx locks names of the scope for the rest of the transaction: nobody else has them, by InTx or a [Locker], before it ends. Names
// that the transaction has locked already are locked.
//
// It waits for each at most for wait, or a millisecond if that is less, and no longer than statement_timeout; a *lock.HeldError (lock.ErrHeld), of no name in particular
// where there are several, then leaves the transaction as it was before. An invalid name, or a nil tx, is a *idempotency.InvalidError. Any other
// error is the driver's, with a method Retryable() bool; PostgreSQL breaks a deadlock of transactions that call InTx more than
// once.
//
// Look up what the lock protects after InTx, in a transaction that is READ COMMITTED: under REPEATABLE READ it would be read as of
// a moment before the lock was won, unless InTx is its first statement.
//
// Cost: one round trip, and one more if the name is held.
func InTx(ctx context.Context, tx pgx.Tx, wait time.Duration, scope string, names ...string) error {
	hashes := make([]int64, len(names))
	for i, name := range names {
		key, err := idempotency.NewKey(scope, op, name)
		if err != nil {
			return err
		}
		hashes[i] = hash(key)
	}
	if tx == nil {
		return errNoTx
	}
	slices.Sort(hashes) // one order for all
	b := &pgx.Batch{}
	b.Queue(`SAVEPOINT pglock`)
	b.Queue(ownLimitSQL, millis(min(wait, maxSpan)))
	for _, h := range slices.Compact(hashes) {
		b.Queue(txLockSQL, h)
	}
	b.Queue(oldLimitSQL)
	b.Queue(`RELEASE SAVEPOINT pglock`)
	err := tx.SendBatch(ctx, b).Close()
	if err == nil {
		return nil
	}
	if !isTimeout(err) {
		return fmt.Errorf("pglock: %w", pg.Classify(err))
	}
	if _, err := tx.Exec(ctx, `ROLLBACK TO SAVEPOINT pglock`); err != nil {
		return fmt.Errorf("pglock: %w", pg.Classify(err))
	}
	return &lock.HeldError{Name: strings.Join(names, ", "), Cause: err}
}
