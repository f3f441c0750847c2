package pgsaga

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/internal/pg"
)

// unit is one transaction of ours, or a savepoint in the caller's. On a connection of
// our own its BEGIN and COMMIT travel with the first and the last statements: two round
// trips fewer.
type unit struct {
	db      DB
	conn    *pgx.Conn // nil: db begins
	tx      pgx.Tx
	open    bool // there is something to roll back
	release func()
}

// rollbackLimit is how long a failed unit may take to free its locks.
const rollbackLimit = 5 * time.Second

var errInTransaction = errors.New("the connection is in a transaction, and not that transaction")

// unit returns one that has not begun. On a connection on which the caller has begun,
// our COMMIT would be the caller's.
func (s *Store) unit(ctx context.Context) (*unit, error) {
	if pg.InTransaction(s.db) {
		return nil, errInTransaction
	}
	switch db := s.db.(type) {
	case *pgxpool.Pool:
		conn, err := db.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		return &unit{conn: conn.Conn(), release: conn.Release}, nil
	case *pgx.Conn:
		return &unit{conn: db, release: func() {}}, nil
	}
	return &unit{db: s.db, release: func() {}}, nil
}

// begin sends the statements that begin the unit.
func (u *unit) begin(ctx context.Context, statements func(*pgx.Batch)) (err error) {
	b := &pgx.Batch{}
	if u.conn == nil {
		if u.tx, err = u.db.Begin(ctx); err != nil {
			return err
		}
		u.open = true
		statements(b)
		return u.tx.SendBatch(ctx, b).Close()
	}
	b.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted}) // whatever the default: who waited for a row must see what was done meanwhile
	statements(b)
	u.open = true
	results := u.conn.SendBatch(ctx, b)
	u.tx = results.Tx()
	return results.Close()
}

// commit sends the statements that end the unit, and commits. A statement that fails
// keeps PostgreSQL from reading on to the COMMIT.
func (u *unit) commit(ctx context.Context, statements func(*pgx.Batch)) error {
	b := &pgx.Batch{}
	if u.conn == nil {
		b.Queue(keepSettings)
		statements(b)
		b.Queue(restoreSettings)
		if err := u.tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		err := u.tx.Commit(ctx)
		u.open = err != nil
		return pg.CommitSent(err)
	}
	statements(b)
	b.Queue("COMMIT")
	err := u.conn.SendBatch(ctx, b).Close()
	u.open = err != nil
	return pg.CommitSent(err)
}

// end rolls back what is not committed, and gives the connection back. The caller may
// have hung up; locks must not wait for the connection to be noticed dead. It may be
// called again.
func (u *unit) end(ctx context.Context) {
	u.rollback(ctx)
	u.release()
	u.release = func() {}
}

func (u *unit) rollback(ctx context.Context) {
	if !u.open {
		return
	}
	u.open = false
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackLimit)
	defer cancel()
	if u.conn == nil {
		_ = u.tx.Rollback(ctx) // the first error counts
		return
	}
	if u.conn.IsClosed() || u.conn.PgConn().TxStatus() == 'I' {
		return
	}
	if _, err := u.conn.Exec(ctx, "ROLLBACK"); err != nil {
		_ = u.conn.Close(ctx) // an open transaction must not go back to a pool
	}
}
