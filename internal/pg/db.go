package pg

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is what a backend needs of PostgreSQL. *pgxpool.Pool, *pgx.Conn and pgx.Tx satisfy it, so that a caller can hand over the
// transaction in which its own work happens; Begin in a transaction is a savepoint.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Batcher is a DB that sends several statements in one round trip. All three of the above satisfy it as well.
type Batcher interface {
	DB
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Table quotes a table's name for SQL that is built at run time; schema "" leaves the search_path to decide.
func Table(schema, name string) string {
	if schema == "" {
		return pgx.Identifier{name}.Sanitize()
	}
	return pgx.Identifier{schema, name}.Sanitize()
}

// InTransaction reports whether db is a connection, of a pool or by itself, that somebody has begun a transaction on. Begin would go on in
// it, without a savepoint, and our COMMIT would be that of whoever began it. A pgx.Tx is not meant: its Begin is a savepoint.
func InTransaction(db DB) bool {
	if _, ok := db.(pgx.Tx); ok {
		return false
	}
	conn, ok := db.(*pgx.Conn)
	if !ok {
		held, ok := db.(interface{ Conn() *pgx.Conn }) // a *pgxpool.Conn, or what a caller has made of one
		if !ok {
			return false
		}
		conn = held.Conn()
	}
	return !conn.IsClosed() && conn.PgConn().TxStatus() != 'I'
}
