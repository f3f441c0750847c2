package pg

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Missing is the DB of a store that was made without one, by a constructor that has no error: every call fails with it. It is the name
// of what is nil.
type Missing string

func (m Missing) Error() string { return string(m) + " is nil" }

// Exec fails.
func (m Missing) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, m
}

// Query fails.
func (m Missing) Query(context.Context, string, ...any) (pgx.Rows, error) { return nil, m }

// QueryRow returns a row that fails.
func (m Missing) QueryRow(context.Context, string, ...any) pgx.Row { return missingRow{m} }

// Begin fails.
func (m Missing) Begin(context.Context) (pgx.Tx, error) { return nil, m }

// SendBatch returns results that fail.
func (m Missing) SendBatch(_ context.Context, b *pgx.Batch) pgx.BatchResults {
	return pgx.FailedBatchResults(b, m)
}

type missingRow struct{ err error }

func (r missingRow) Scan(...any) error { return r.err }
