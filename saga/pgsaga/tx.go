package pgsaga

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/saga"
)

// TxType is that of pgx.Tx.
func (s *Store) TxType() reflect.Type { return reflect.TypeFor[pgx.Tx]() }

// SaveTx is [saga.Transactor.SaveTx]: two round trips, and those of the work. Of
// w.Record the ID, the Token and the Revision are read before the work is called.
//
// Before the work the saga is locked and looked at, so that the work of an owner that
// has lost its saga is not done, and nobody can claim the saga until this has ended. The
// transaction is READ COMMITTED. The work cannot end it. An error that the work has
// caused, such as that of a deferred constraint, is not a [*saga.StoreError].
func (s *Store) SaveTx(ctx context.Context, w *saga.Write, work func(ctx context.Context, tx any) error) error {
	if w.Record == nil {
		return refuse("record", "is missing")
	}
	if err := checkID("id", w.Record.ID); err != nil {
		return err
	}
	w.Err, w.Signals = nil, nil
	u, err := s.begin(ctx, w)
	if err != nil {
		return broken("begin", err)
	}
	defer u.end(ctx)
	if u.committed || w.Err != nil {
		return nil
	}
	if err := u.run(ctx, work); err != nil {
		return err
	}
	i, err := newWrite(w)
	if err != nil {
		w.Err = err
		return nil
	}
	return u.commit(ctx, s, w, i)
}

func broken(op string, err error) error { return &saga.StoreError{Cause: fail(op, err)} }

// unit is a transaction around one step, or a savepoint in the caller's. On a
// connection of our own BEGIN and COMMIT travel with the first and the last statements:
// two round trips fewer, while a row is locked.
type unit struct {
	conn      *pgx.Conn // nil: tx came as it is
	tx        pgx.Tx
	release   func()
	committed bool // by a call whose answer was lost
	done      bool
}

// rollbackLimit is how long a failed unit may take to free its locks.
const rollbackLimit = 5 * time.Second

// begin begins a unit, and locks the saga.
func (s *Store) begin(ctx context.Context, w *saga.Write) (*unit, error) {
	u := &unit{release: func() {}}
	switch db := s.db.(type) {
	case *pgxpool.Pool:
		conn, err := db.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		u.conn, u.release = conn.Conn(), conn.Release
	case *pgx.Conn:
		u.conn = db
	default:
		tx, err := db.Begin(ctx)
		if err != nil {
			return nil, err
		}
		u.tx = tx
	}
	if err := u.fence(ctx, s, w); err != nil {
		u.end(ctx)
		return nil, err
	}
	return u, nil
}

// fence locks the saga and sees whether the write may be done, or was.
func (u *unit) fence(ctx context.Context, s *Store, w *saga.Write) error {
	b := &pgx.Batch{}
	if u.conn != nil {
		b.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted}) // who waited for the row must see what was done meanwhile
	}
	b.Queue(scansOff)
	w.Err = saga.ErrFenced
	b.Queue(s.sql.fence, w.Record.ID).Query(func(rows pgx.Rows) error {
		var token, revision int64
		var signals []byte
		_, err := pgx.ForEachRow(rows, []any{&token, &revision, &signals}, func() (err error) {
			switch {
			case token != w.Record.Token:
			case revision == w.Record.Revision-1:
				w.Err = nil
			case revision == w.Record.Revision:
				u.committed, w.Err = true, nil
				w.Signals, err = readSignals(signals)
			}
			return err
		})
		return err
	})
	b.Queue(scansOn)
	if u.conn == nil {
		return u.tx.SendBatch(ctx, b).Close()
	}
	results := u.conn.SendBatch(ctx, b)
	u.tx = results.Tx()
	return results.Close()
}

// lent is a transaction as the work gets it.
type lent struct{ pgx.Tx }

var errNotToEnd = errors.New("pgsaga: the transaction is not for the step to end: it is committed with the saga's checkpoint")

func (lent) Commit(context.Context) error   { return errNotToEnd }
func (lent) Rollback(context.Context) error { return errNotToEnd }

var (
	errEnded   = errors.New("pgsaga: the step has ended its transaction, which is committed with the saga's checkpoint")
	errIgnored = errors.New("pgsaga: a statement of the step has failed, and the step has not returned its error")
)

// run calls the work, and sees whether its transaction can still be committed.
func (u *unit) run(ctx context.Context, work func(ctx context.Context, tx any) error) error {
	var tx pgx.Tx = &lent{u.tx}
	if err := work(ctx, tx); err != nil {
		return err
	}
	conn := u.tx.Conn()
	switch {
	case conn == nil || conn.IsClosed():
		return broken("step", errors.New("the connection was lost"))
	case conn.PgConn().TxStatus() == 'I':
		return errEnded
	case conn.PgConn().TxStatus() == 'E':
		return errIgnored
	}
	return nil
}

// commit writes the checkpoint and ends the unit.
func (u *unit) commit(ctx context.Context, s *Store, w *saga.Write, i *item) error {
	out := writing{store: s, db: u.tx, saves: []*item{i}}
	i.err = errOpen
	b := &pgx.Batch{}
	out.queue(b)
	if u.conn != nil {
		b.Queue("COMMIT")
	}
	err := u.tx.SendBatch(ctx, b).Close()
	if err == nil && u.conn == nil {
		err = u.tx.Commit(ctx)
	}
	if err != nil {
		return u.failed(err)
	}
	u.done = true
	if i.err != nil {
		return broken("save", errors.New("the step has changed its own saga's row"))
	}
	w.Signals = i.signals
	return nil
}

// failed tells the store's failures from those of the work that show at the end:
// constraints and triggers that are deferred until then. The server has rolled back.
func (u *unit) failed(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.SeverityUnlocalized == "ERROR" && len(e.Code) == 5 {
		switch e.Code[:2] {
		case "23", "P0":
			return fmt.Errorf("pgsaga: commit of the step: %w", err)
		}
	}
	return broken("commit", pg.CommitSent(err))
}

// end rolls back what is not committed, and gives the connection back. The caller may
// have hung up; the lock must not wait for the connection to be noticed dead.
func (u *unit) end(ctx context.Context) {
	defer u.release()
	if u.done {
		return
	}
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
