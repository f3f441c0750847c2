package pglock

import (
	"context"
	"embed"
	"io/fs"

	"github.com/safetill/safetill/internal/pg"
)

//go:embed migrations/*.sql
var embedded embed.FS

// Migrations returns the numbered SQL files, for a migration tool of your own. [Migrate] and CheckSchema know only of what
// Migrate has applied: with another tool call neither.
func Migrations() fs.FS {
	files, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // only an invalid path fails, and this one is constant
	}
	return files
}

// MigrateOptions of [Migrate]. The zero value means the defaults.
type MigrateOptions struct {
	// Schema gets the table and is created if it is missing.
	// Default: the current schema of the connection.
	Schema string
}

// Migrate brings the table up to date, in one transaction, or in the caller's, READ COMMITTED, if db is one. It may be called by any number
// of processes at once and does nothing where there is nothing to do. A database that is newer than this program is
// a [*SchemaError].
func Migrate(ctx context.Context, db DB, opts *MigrateOptions) error {
	var o MigrateOptions
	if opts != nil {
		o = *opts
	}
	return pg.Migrate(ctx, db, migration(o.Schema))
}

func migration(schema string) pg.Migration {
	return pg.Migration{Line: "lock", By: "pglock.Migrate", Files: Migrations(), Schema: schema}
}

// SchemaError says that the table is missing, or at another version than this package needs.
type SchemaError = pg.SchemaError

// CheckSchema returns a [*SchemaError] where the table is missing or too old: call it when a server starts. Cost: two round
// trips.
func (l *Locker) CheckSchema(ctx context.Context) error {
	return pg.CheckSchema(ctx, l.pool, migration(l.schema))
}
