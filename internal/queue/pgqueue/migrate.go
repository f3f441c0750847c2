package pgqueue

import (
	"context"
	"embed"
	"io/fs"

	"github.com/safetill/safetill/internal/pg"
)

//go:embed migrations/*.sql
var embedded embed.FS

// Migrations returns the numbered SQL files, for those who apply them with a tool of their own.
func Migrations() fs.FS {
	sub, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // only an invalid path fails, and this one is constant
	}
	return sub
}

// MigrateOptions are the options of Migrate.
type MigrateOptions struct {
	// Schema gets the table, and is created if it is missing. Default: the current schema of the connection.
	Schema string
}

// Migrate brings the table to the version of this package, in one transaction. Any number of processes may call it at once,
// and again. opts may be nil. Errors are those of pg.Migrate.
func Migrate(ctx context.Context, db pg.DB, opts *MigrateOptions) error {
	var o MigrateOptions
	if opts != nil {
		o = *opts
	}
	return pg.Migrate(ctx, db, migration(o.Schema))
}

func migration(schema string) pg.Migration {
	return pg.Migration{Line: "queue", By: "pgqueue.Migrate", Files: Migrations(), Schema: schema}
}
