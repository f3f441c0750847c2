package pgsaga

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/safetill/safetill/internal/absent"
	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/saga"
)

// DB is what a [Store] runs on: a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Begin(ctx context.Context) (pgx.Tx, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Options are the optional settings of a [Store].
type Options struct {
	// Schema holds the tables. Default: the connection's current schema, by its
	// search_path.
	Schema string

	// Timeout bounds the writing of what several callers have brought, which no
	// context of one of them ends. Default: 30 s.
	Timeout time.Duration
}

// Store is a [saga.Store] in PostgreSQL, with all that a store may offer. It is safe
// for concurrent use if its DB is. Make one with [NewStore]; the zero value is not usable.
type Store struct {
	db    DB
	sql   statements
	group group
	large atomic.Bool // the table of sagas is, see largeTable
}

var (
	_ saga.Store      = (*Store)(nil)
	_ saga.Transactor = (*Store)(nil)
	_ saga.Outbox     = (*Store)(nil)
	_ saga.Sweeper    = (*Store)(nil)
)

const defaultTimeout = 30 * time.Second

// NewStore returns a store over db, whose schema [Migrate] has made. It does not
// touch the database, and starts nothing: where db is nil, every call says so.
func NewStore(db DB, o *Options) *Store {
	if o == nil {
		o = &Options{}
	}
	if absent.Is(db) {
		db = pg.Missing("pgsaga: database")
	}
	s := &Store{db: db, sql: newStatements(o.Schema)}
	s.group.send, s.group.timeout = s.send, cmp.Or(max(o.Timeout, 0), defaultTimeout)
	return s
}

//go:embed migrations/*.sql
var files embed.FS

// MigrateOptions are the optional settings of [Migrate].
type MigrateOptions struct {
	Schema string // as in Options; created if it is missing
}

// Migrate brings the schema up to date. It is safe to run from many processes at
// once, and does nothing where there is nothing to do. A database that is newer
// than this program is a [*SchemaError]. In a transaction of the caller's, which must
// be READ COMMITTED, it is a part of that.
func Migrate(ctx context.Context, db DB, o *MigrateOptions) error {
	var schema string
	if o != nil {
		schema = o.Schema
	}
	return pg.Migrate(ctx, db, migration(schema))
}

// Migrations returns the numbered SQL files, for a migration tool of your own. [Migrate]
// and CheckSchema know only of what Migrate has applied: with another tool call neither.
func Migrations() fs.FS { return migration("").Files }

// SchemaError says that the tables are missing, or at another version than this package needs.
type SchemaError = pg.SchemaError

// CheckSchema returns a [*SchemaError] where the tables are missing or older than
// this package needs: call it when a server starts. Cost: two round trips.
func (s *Store) CheckSchema(ctx context.Context) error {
	return pg.CheckSchema(ctx, s.db, migration(s.sql.schema))
}

func migration(schema string) pg.Migration {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return pg.Migration{Line: "saga", By: "pgsaga.Migrate", Files: sub, Schema: schema}
}

// failure is an error of the database. What this store writes may be written again
// with the same effect, so a lost answer is as good a reason to repeat as a conflict.
type failure struct{ error }

func fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return failure{fmt.Errorf("pgsaga: %s: %w", op, migration("").Explain(err))}
}

// Retryable reports whether the same call may well succeed later.
func (f failure) Retryable() bool { return pg.Retryable(f.error) || pg.Unavailable(f.error) }

func (f failure) Unwrap() error { return f.error }
