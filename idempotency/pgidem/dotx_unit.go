package pgidem

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/pg"
)

// txUnit is a transaction of ours, or a savepoint in the caller's.
type txUnit struct {
	conn    *pgx.Conn // whose BEGIN and COMMIT travel with other statements; nil: tx came as it is
	tx      pgx.Tx
	level   pgx.TxIsoLevel
	callers bool // a savepoint
	open    bool // there is something to roll back
	release func()
}

// The name may be in use further out: a key's work may run other keys in its transaction. The innermost is meant.
const (
	savepointSQL        = "SAVEPOINT safetill_key"
	releaseSavepointSQL = "RELEASE SAVEPOINT safetill_key"
	undoSavepointSQL    = "ROLLBACK TO SAVEPOINT safetill_key; RELEASE SAVEPOINT safetill_key"
)

// txRollbackLimit is how long a failed unit may take to free its locks.
const txRollbackLimit = 5 * time.Second

// errEnded: the work has sent COMMIT or ROLLBACK as text.
var errEnded = errors.New("pgidem: the work has ended the transaction, which is for DoTx to end; whether it was committed depends on how")

// errReading: nothing can be sent on the connection, and what the driver says of that would be a reason to run the work again.
var errReading = errors.New("pgidem: the work has left rows open, which are to be closed before it returns")

// acquire returns a unit that has not begun.
func (g *TxGuard) acquire(ctx context.Context) (*txUnit, error) {
	// PostgreSQL only warns of a BEGIN within a transaction:
	//
	//	the caller begins on the connection and books; DoTx, on the same, commits what both have written;
	//	the caller rolls back, and the booking stays.
	if pg.InTransaction(g.db) {
		return nil, &idempotency.InvalidError{Field: "database", Reason: "is a connection in a transaction, and not that transaction: see TxGuard.In"}
	}
	u := &txUnit{level: g.isolation, release: func() {}}
	switch db := g.db.(type) {
	case *pgxpool.Pool:
		conn, err := db.Acquire(ctx)
		if err != nil {
			return nil, fmt.Errorf("acquire a connection: %w", err)
		}
		u.conn, u.release = conn.Conn(), conn.Release
	case *pgx.Conn:
		u.conn = db
	case pgx.Tx:
		u.tx, u.callers = db, true
	}
	return u, nil
}

// begin sends the statements with which a unit begins.
func (u *txUnit) begin(ctx context.Context, db DB, statements func(*pgx.Batch)) (err error) {
	b := &pgx.Batch{}
	switch {
	case u.conn != nil:
		b.BeginTx(pgx.TxOptions{IsoLevel: u.level})
	case u.callers:
		// Only a savepoint that was made is rolled back to: one further out may have its name.
		b.Queue(savepointSQL).Exec(func(pgconn.CommandTag) error { u.open = true; return nil })
	default:
		if u.tx, err = beginOn(ctx, db, u.level); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		u.open = true
	}
	statements(b)
	if u.conn == nil {
		return u.tx.SendBatch(ctx, b).Close()
	}
	u.open = true
	results := u.conn.SendBatch(ctx, b)
	u.tx = results.Tx()
	return results.Close()
}

// beginOn begins on a DB of the caller's own making.
func beginOn(ctx context.Context, db DB, level pgx.TxIsoLevel) (pgx.Tx, error) {
	if d, ok := db.(interface {
		BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
	}); ok {
		return d.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
	}
	return db.Begin(ctx)
}

// snapshot tells whether all statements of the unit see one snapshot, taken before the key was locked.
func (u *txUnit) snapshot() bool { return !u.callers && u.level != pgx.ReadCommitted }

// lent is a transaction as the work gets it.
type lent struct{ pgx.Tx }

var errNotToEnd = errors.New("pgidem: the transaction is not for the work to end: DoTx does, when it returns")

func (lent) Commit(context.Context) error   { return errNotToEnd }
func (lent) Rollback(context.Context) error { return errNotToEnd }

// closedTx fails every call with pgx.ErrTxClosed: the connection belongs to others by then.
var closedTx = func() pgx.Tx {
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{})
	return pgx.FailedBatchResults(b, pgx.ErrTxClosed).Tx()
}()

// run lends the transaction to the work, and tells where that has ended it:
//
//	the work books, sends COMMIT as text, and fails; nothing is left to roll back, and no key is recorded;
//	the caller hears only of the failure, or PostgreSQL asks for a repeat: the booking is made again.
func (u *txUnit) run(ctx context.Context, work txWork) (txResult, error) {
	tx := &lent{u.tx}
	defer func() { tx.Tx = closedTx }()
	result, err := work(ctx, tx)
	switch conn := u.tx.Conn(); {
	case conn == nil || conn.IsClosed():
		return result, err
	case err == nil && conn.PgConn().IsBusy():
		return txResult{}, errReading
	case conn.PgConn().TxStatus() != 'I':
		return result, err
	}
	if err == nil {
		err = result.refusal
	}
	if err == nil {
		return txResult{}, errEnded
	}
	return txResult{}, fmt.Errorf("%w; then: %s", errEnded, err.Error()) // in the chain it might say that to begin again is safe
}

// end rolls back what is not committed, and gives the connection back. The caller may have hung up; the lock must not wait
// for the connection to be noticed dead.
func (u *txUnit) end(ctx context.Context) {
	_ = u.rollback(ctx) // a connection on which it fails is closed
	u.release()
	u.release = func() {}
}

// rollback ends the transaction. The unit may begin again.
func (u *txUnit) rollback(ctx context.Context) error {
	if !u.open {
		return nil
	}
	u.open = false
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), txRollbackLimit)
	defer cancel()
	switch {
	case u.callers:
		_, err := u.tx.Exec(ctx, undoSavepointSQL) // as text: what has failed takes no statement that is to be prepared
		return err
	case u.conn == nil:
		return u.tx.Rollback(ctx)
	case u.conn.IsClosed() || u.conn.PgConn().TxStatus() == 'I':
		return nil
	}
	_, err := u.conn.Exec(ctx, "ROLLBACK")
	if err != nil {
		_ = u.conn.Close(ctx) // an open transaction must not go back to a pool
	}
	return err
}

// fate is what became of a transaction that was to be committed.
type fate int

const (
	fateUnknown fate = iota
	fateDone
	fateUndone
)

// commit sends the statements that end a unit, and commits. A statement that fails keeps PostgreSQL from reading on to
// the COMMIT.
func (u *txUnit) commit(ctx context.Context, statements func(*pgx.Batch)) (fate, error) {
	b := &pgx.Batch{}
	statements(b)
	if u.conn != nil {
		if u.conn.IsClosed() {
			return fateUndone, undone{errors.New("the connection was lost before")}
		}
		b.Queue("COMMIT")
		err := u.conn.SendBatch(ctx, b).Close()
		u.open = err != nil
		return u.fate(err), err
	}
	if u.callers {
		b.Queue(releaseSavepointSQL)
	}
	if err := u.tx.SendBatch(ctx, b).Close(); err != nil {
		return fateUndone, err
	}
	if u.callers {
		u.open = false
		return fateDone, nil
	}
	err := u.tx.Commit(ctx)
	u.open = err != nil
	return u.fate(err), err
}

// fate judges by the error of a COMMIT. The server has rolled back where it says so by an ERROR, or where it still is in the
// transaction. A FATAL error, such as that it was told to stop, may come after the commit; and class 08 is of connections: a pooler
// (Odyssey) answers so, by an ERROR, when it has lost the server behind the COMMIT.
func (u *txUnit) fate(err error) fate {
	if err == nil {
		return fateDone
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, pgx.ErrTxCommitRollback), ok && e.SeverityUnlocalized == "ERROR" && !strings.HasPrefix(e.Code, "08"):
		return fateUndone
	case u.conn != nil && !u.conn.IsClosed() && u.conn.PgConn().TxStatus() != 'I':
		return fateUndone
	}
	return fateUnknown
}
