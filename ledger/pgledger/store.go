package pgledger

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/internal/absent"
	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/ledger"
)

// DB is what a [Store] runs on: a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Options are the optional settings of a [Store].
type Options struct {
	// Schema holds the ledger's tables. Default: the connection's current
	// schema, by its search_path.
	Schema string

	// Cache is how many accounts the store remembers between posts, some 400 bytes
	// each: a batch on accounts that it remembers is posted in one round trip
	// instead of two, at two thirds of the database's work. What others post
	// meanwhile is noticed. Only a store over a pool or connection has one.
	// Default: 100,000; less than 0: none.
	Cache int
}

// Store is a [ledger.Store] in PostgreSQL. It is safe for concurrent use if its
// DB is. Make one with [NewStore]; the zero value is not usable.
type Store struct {
	db    DB
	sql   statements
	cache *cache // nil: none
}

var _ ledger.Store = (*Store)(nil)

// NewStore returns a store over db, whose schema [Migrate] has made. It does not
// touch the database: where db is nil, every call says so.
func NewStore(db DB, o *Options) *Store {
	if o == nil {
		o = &Options{}
	}
	s := &Store{db: given(db), sql: newStatements(o.Schema)}
	switch s.db.(type) {
	case *pgxpool.Pool, *pgx.Conn:
		if o.Cache >= 0 {
			s.cache = newCache(cmp.Or(o.Cache, defaultCache))
		}
	}
	return s
}

const defaultCache = 100_000

// In returns the same store over another DB: usually the transaction that the
// next calls shall be part of. It costs nothing, and has no cache.
func (s *Store) In(db DB) *Store { return &Store{db: given(db), sql: s.sql} }

// given is db, or one that says of itself that it is nil.
func given(db DB) DB {
	if absent.Is(db) {
		return pg.Missing("pgledger: database")
	}
	return db
}

// Concurrent tells whether the store can do several things at once, as over a pool:
// [ledger.Ledger.Verify] then takes two connections.
func (s *Store) Concurrent() bool {
	_, pool := s.db.(*pgxpool.Pool)
	return pool
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

// fail is an error of the database.
func fail(op string, err error) error {
	return fmt.Errorf("pgledger: %s: %w", op, migration("").Explain(err))
}

func migration(schema string) pg.Migration {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return pg.Migration{Line: "ledger", By: "pgledger.Migrate", Files: sub, Schema: schema}
}
