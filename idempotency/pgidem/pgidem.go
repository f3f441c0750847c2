package pgidem

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/absent"
	"github.com/safetill/safetill/internal/pg"
)

// DB runs statements: *pgxpool.Pool, *pgx.Conn and pgx.Tx.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Store keeps records in the table idempotency_records. It implements idempotency.Store and idempotency.Sweeper, and
// is as safe for concurrent use as its DB. Make one with [NewStore]; the zero value is not usable.
type Store struct {
	db     DB
	schema string
	sql    statements
	sweep  *sweep // shared by what In returns
}

// Options of a [Store]. The zero value means the defaults.
type Options struct {
	// Schema that holds the table.
	// Default: the first one of the connection's search_path that has it.
	Schema string
}

// NewStore returns a store on the database, which stays the caller's to close. It runs no statement. The error is an
// idempotency.ErrInvalid.
func NewStore(db DB, opts *Options) (*Store, error) {
	if absent.Is(db) {
		return nil, &idempotency.InvalidError{Field: "database", Reason: "is nil"}
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	sql := newStatements(pg.Table(o.Schema, "idempotency_records"))
	return &Store{db: db, schema: o.Schema, sql: sql, sweep: new(sweep)}, nil
}

// In returns the same store on another DB, such as the caller's transaction: what is claimed and completed there holds if,
// and only if, that transaction commits. An idempotency.Guard on it does not extend its lease, which has to be as long as the
// work: see [Store.Concurrent].
func (s *Store) In(db DB) *Store {
	bound := *s
	bound.db = given(db)
	return &bound
}

// Concurrent tells whether the store can do several things at once, as over a pool. Over a transaction or a single connection
// it cannot, since that is the work's too.
func (s *Store) Concurrent() bool {
	switch s.db.(type) {
	case pgx.Tx, *pgx.Conn, *pgxpool.Conn:
		return false
	}
	return true
}

// given is db, or one that says of itself that it is nil.
func given(db DB) DB {
	if absent.Is(db) {
		return pg.Missing("pgidem: database")
	}
	return db
}

// Complete implements idempotency.Store.
func (s *Store) Complete(ctx context.Context, completions []idempotency.Completion) ([]error, error) {
	if err := idempotency.ValidateAll(completions); err != nil {
		return nil, err
	}
	n := len(completions)
	keys, tokens := make([][]byte, n), make([]int64, n)
	ttls, statuses, responses := make([]int64, n), make([]int32, n), make([][]byte, n)
	for i, c := range completions {
		keys[i], tokens[i] = []byte(c.Key.String()), int64(c.Token)
		ttls[i], statuses[i], responses[i] = c.TTL.Microseconds(), c.Status, c.Response
	}
	return s.each(ctx, "complete", n, s.sql.complete, keys, tokens, ttls, statuses, responses)
}

// Release implements idempotency.Store.
func (s *Store) Release(ctx context.Context, claims []idempotency.Claim) ([]error, error) {
	if err := idempotency.ValidateAll(claims); err != nil {
		return nil, err
	}
	n := len(claims)
	keys, tokens := make([][]byte, n), make([]int64, n)
	for i, c := range claims {
		keys[i], tokens[i] = []byte(c.Key.String()), int64(c.Token)
	}
	return s.each(ctx, "release", n, s.sql.release, keys, tokens)
}

// Extend implements idempotency.Store.
func (s *Store) Extend(ctx context.Context, extensions []idempotency.Extension) ([]error, error) {
	if err := idempotency.ValidateAll(extensions); err != nil {
		return nil, err
	}
	n := len(extensions)
	keys, tokens, leases := make([][]byte, n), make([]int64, n), make([]int64, n)
	names, results, keeps := make([][]byte, n), make([][]byte, n), make([]int64, n)
	for i, e := range extensions {
		keys[i], tokens[i], leases[i] = []byte(e.Key.String()), int64(e.Token), e.Lease.Microseconds()
		names[i], keeps[i] = []byte(e.Step.Name), e.Keep.Microseconds()
		if results[i] = e.Step.Result; results[i] == nil {
			results[i] = []byte{} // nil is NULL, which is no result
		}
	}
	return s.each(ctx, "extend", n, s.sql.extend, keys, tokens, leases, names, results, keeps)
}

// each runs a statement that returns the numbers, from 1, of the items that it has done; the others are lost.
func (s *Store) each(ctx context.Context, op string, items int, sql string, args ...any) ([]error, error) {
	if items == 0 {
		return nil, nil
	}
	results := slices.Repeat([]error{idempotency.ErrLost}, items)
	err := pg.Probe(ctx, s.db, func(rows pgx.Rows) error {
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&n}, func() error {
			results[n-1] = nil
			return nil
		})
		return err
	}, sql, args...)
	if err != nil {
		return nil, fail(op, err)
	}
	return results, nil
}

// fail is an error of the database.
func fail(op string, err error) error {
	return fmt.Errorf("pgidem: %s: %w", op, migration("").Explain(err))
}

// micros is a count of microseconds as a positive duration.
func micros(n int64) time.Duration { return time.Duration(max(n, 1)) * time.Microsecond }
