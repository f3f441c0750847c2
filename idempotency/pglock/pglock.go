package pglock

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/internal/pg"
)

// op is that of package lock: the keys of the table are the same, so that a Fence has the row of a Locker.
const op = "safetill/lock"

// DB runs statements: *pgxpool.Pool, *pgx.Conn and pgx.Tx.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Locker takes locks that last as long as a connection. It is safe for concurrent use. Make one with [New]; the zero value is not
// usable.
type Locker struct {
	pool                      *pgxpool.Pool
	lease, wait, writeTimeout time.Duration
	logger                    *slog.Logger
	schema, token             string
	line                      line
}

// Options of a [Locker]. The zero value means the defaults.
type Options struct {
	// Lease is how long a name stays taken when its holder falls silent: paused, or cut off from the server. The server hears
	// of it every third of Lease. From a millisecond to 24 days; below some seconds a busy machine loses locks for nothing.
	// Default: 30 seconds.
	Lease time.Duration
	// Wait is how long Do waits for a name that is taken, and for a connection; to 24 days. At the server no longer than its
	// statement_timeout. Negative: not at all for the name, Do returns lock.ErrHeld at once.
	// Default: 10 seconds.
	Wait time.Duration
	// WriteTimeout bounds the release of a lock, which happens also when the caller's context has ended, what a server takes to
	// answer beyond the waiting, and with a negative Wait the wait for a connection.
	// Default: 5 seconds.
	WriteTimeout time.Duration
	// Logger is told of releases that failed: the connection is then closed, which releases too.
	// Default: nothing is logged.
	Logger *slog.Logger
	// Schema that holds the table.
	// Default: the first one of the connection's search_path that has it.
	Schema string
}

// maxSpan is what PostgreSQL's settings hold, in milliseconds.
const maxSpan = 24 * 24 * time.Hour

// New returns a Locker on the pool, which stays the caller's to close, or all faults of the options at once, each an
// idempotency.ErrInvalid. It runs no statement.
func New(pool *pgxpool.Pool, opts *Options) (*Locker, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	l := &Locker{
		pool: pool, lease: orDefault(o.Lease, 30*time.Second), wait: max(0, orDefault(o.Wait, 10*time.Second)),
		writeTimeout: orDefault(o.WriteTimeout, 5*time.Second), logger: o.Logger,
		schema: o.Schema, token: fill(tokenSQL, o.Schema),
	}
	if l.logger == nil {
		l.logger = slog.New(slog.DiscardHandler)
	}
	var faults []error
	if pool == nil {
		faults = append(faults, &idempotency.InvalidError{Field: "pool", Reason: "is nil"})
	}
	for field, span := range map[string]time.Duration{
		"lease": l.lease, "write timeout": l.writeTimeout, "wait": max(l.wait, time.Millisecond),
	} {
		if span < time.Millisecond || span > maxSpan {
			faults = append(faults, &idempotency.InvalidError{Field: field, Reason: "is not between a millisecond and 24 days"})
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return l, nil
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

// Do runs fn while it holds the name, of 1 to 255 bytes; equal names in different scopes, of as many bytes, are different locks. fn
// gets ctx with a cancel of its own: it also ends when the connection is lost, with the cause lock.ErrLost.
//
// Its errors are those of lock.Locker.Do. A *lock.HeldError does not know how long the lock is held.
//
// Cost: three round trips on one connection, and one more for each third of the lease that fn takes. Waiting costs nothing.
func (l *Locker) Do(ctx context.Context, scope, name string, fn func(ctx context.Context, held lock.Held) error) error {
	key, err := idempotency.NewKey(scope, op, name)
	if err != nil {
		return err
	}
	if fn == nil {
		return &idempotency.InvalidError{Field: "work", Reason: "is nil"}
	}
	s, err := l.open(ctx, key)
	if err != nil {
		return err
	}
	defer s.close()
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	held, lose := context.WithCancelCause(context.Background()) // of its own: work ends with the client too, for another cause
	defer lose(nil)
	s.watch(func(cause error) {
		lose(cause)
		cancel(cause)
	})
	failure := fn(work, lock.Held{Token: s.token})
	return outcome(failure, context.Cause(held))
}

// outcome is what Do returns when the work returned failure and its context ended with cause, if it did.
func outcome(failure, cause error) error {
	switch {
	case !errors.Is(cause, lock.ErrLost) || errors.Is(failure, lock.ErrLost):
		return failure
	case failure == nil:
		return cause
	}
	return fmt.Errorf("%w: %w", cause, failure)
}

// hash is the number by which PostgreSQL knows a lock: the first 64 bits of the SHA-256 of idempotency.Key.String.
func hash(key idempotency.Key) int64 {
	sum := sha256.Sum256([]byte(key.String()))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// millis is a span as PostgreSQL's settings want it, at least 1: 0 would mean for ever.
func millis(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }

// fill puts the table's name in.
func fill(sql, schema string) string {
	return strings.ReplaceAll(sql, "{fences}", pg.Table(schema, "lock_fences"))
}
