package pgsaga

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/saga"
)

// TxType is that of pgx.Tx.
func (s *Store) TxType() reflect.Type { return reflect.TypeFor[pgx.Tx]() }

// SaveTx is [saga.Transactor.SaveTx]: two round trips, and those of the work. Of
// w.Record the ID, the Token and the Revision are read before the work is called. The
// transaction is READ COMMITTED, and not for the work to end.
//
// The work of an owner that has lost its saga is not begun and, if that happens
// meanwhile, not committed. The saga is not locked while the work goes on: its lease
// can be renewed, and a signal be delivered.
//
// Where the write was committed by a call whose answer was lost, w.Record is what was
// written then. An error that the work has caused and that shows at the end, such as
// that of a deferred constraint, is not a [*saga.StoreError].
func (s *Store) SaveTx(ctx context.Context, w *saga.Write, work func(ctx context.Context, tx any) error) error {
	w.Err, w.Signals = nil, nil
	if w.Record == nil {
		return refuse("record", "is missing")
	}
	if err := checkID("id", w.Record.ID); err != nil {
		return err
	}
	u, err := s.unit(ctx)
	if err != nil {
		return broken("begin", err)
	}
	defer u.end(ctx)
	t := stepTx{store: s, unit: u, w: w}
	if wanted, err := t.begin(ctx); !wanted || err != nil {
		return err
	}
	if err := t.run(ctx, work); err != nil {
		return err
	}
	return t.commit(ctx)
}

func broken(op string, err error) error { return &saga.StoreError{Cause: fail(op, err)} }

// stepTx is a step in the transaction of its checkpoint.
type stepTx struct {
	store *Store
	unit  *unit
	w     *saga.Write
}

// begin tells whether the step is to be done.
func (t *stepTx) begin(ctx context.Context) (bool, error) {
	have := saga.Record{Token: -1}
	err := t.unit.begin(ctx, func(b *pgx.Batch) {
		b.Queue(scansOff)
		b.Queue(t.store.sql.fence, t.w.Record.ID).Query(func(rows pgx.Rows) error {
			_, err := pgx.ForEachRow(rows, []any{&have.Token, &have.Revision}, func() error { return nil })
			return err
		})
		b.Queue(scansOn)
	})
	switch {
	case err != nil:
		return false, broken("begin", err)
	case have.Token == t.w.Record.Token && have.Revision == t.w.Record.Revision-1:
		return true, nil
	}
	return false, t.before(ctx, t.unit.tx)
}

// before finds out about a write that cannot be done: whether it was done before. The
// record is then what was written, so that its owner can go on from there.
func (t *stepTx) before(ctx context.Context, db DB) error {
	var is item
	var signals []byte
	var found bool
	b := &pgx.Batch{}
	probing(db, b, func() {
		b.Queue(t.store.sql.saved, []string{t.w.Record.ID}).Query(func(rows pgx.Rows) error {
			_, err := pgx.ForEachRow(rows, is.columns(&signals), func() error { found = true; return nil })
			return err
		})
	})
	if err := db.SendBatch(ctx, b).Close(); err != nil {
		return broken("read", err)
	}
	if r := t.w.Record; !found || is.token != r.Token || is.revision != r.Revision {
		t.w.Err = saga.ErrFenced
		return t.w.Err
	}
	var err error
	if t.w.Signals, err = readSignals(signals); err != nil {
		return broken("read", err)
	}
	if err := is.restore(t.w.Record); err != nil {
		return broken("read", err)
	}
	return nil
}

// restore is the contrary of state.
func (i *item) restore(r *saga.Record) error {
	r.Undoing, r.Failed, r.Error, r.Crashes, r.Data, r.Updated = i.undoing, i.failed, i.error, int(i.crashes), []byte(i.data), i.at
	var steps saga.Progress
	if err := firstError(r.Status.UnmarshalText([]byte(i.status)), steps.UnmarshalText([]byte(i.progress))); err != nil {
		return err
	}
	if len(steps) == len(r.Steps) { // in place, as its owner may have kept the slice
		copy(r.Steps, steps)
	} else {
		r.Steps = steps
	}
	return nil
}

var (
	errNotToEnd = errors.New("pgsaga: the transaction is not for the step to end: it is committed with the saga's checkpoint")
	errIgnored  = errors.New("pgsaga: a statement of the step has failed, and the step has not returned its error")
	errReading  = errors.New("pgsaga: the step has left rows open, which are to be closed before the saga's checkpoint is written")
)

// ended is the error of work that has ended its transaction.
type ended struct{ cause error }

func (e ended) Error() string {
	const text = "pgsaga: the step has ended its transaction, which is committed with the saga's checkpoint"
	if e.cause == nil {
		return text
	}
	return text + ": " + e.cause.Error()
}

func (e ended) Unwrap() error { return e.cause }

// MayStand reports whether what the work has done may have been committed.
func (ended) MayStand() bool { return true }

// lent is a transaction as the work gets it.
type lent struct{ pgx.Tx }

func (lent) Commit(context.Context) error   { return errNotToEnd }
func (lent) Rollback(context.Context) error { return errNotToEnd }

// run calls the work, and sees whether its transaction can still be committed.
func (t *stepTx) run(ctx context.Context, work func(ctx context.Context, tx any) error) error {
	err := work(ctx, pgx.Tx(lent{t.unit.tx}))
	conn := t.unit.tx.Conn()
	lost := conn == nil || conn.IsClosed()
	switch {
	case !lost && !conn.PgConn().IsBusy() && conn.PgConn().TxStatus() == 'I':
		return ended{err}
	case err != nil:
		return err
	case lost:
		return broken("step", errors.New("the connection was lost"))
	case conn.PgConn().IsBusy(): // a failure of the store would be repeated for ever
		return errReading
	case conn.PgConn().TxStatus() == 'E':
		return errIgnored
	}
	return nil
}

// commit writes the checkpoint and ends the transaction. If the saga was lost
// meanwhile the statement fails, and PostgreSQL does not read on to the COMMIT.
func (t *stepTx) commit(ctx context.Context) error {
	i, err := newWrite(t.w)
	if err != nil {
		t.w.Err = err
		return err
	}
	i.err = errOpen
	items := []*item{i}
	out := writing{store: t.store, db: t.unit.tx, saves: items}
	sql, columns := t.store.sql.guardedOne, saveColumns(i)
	if len(i.events)+len(i.messages) > 0 {
		sql, columns = t.store.sql.guardedWith, append(savesColumns(items), extraColumns(items)...)
	}
	err = t.unit.commit(ctx, func(b *pgx.Batch) {
		b.Queue(probesOnly)
		b.Queue(sql, columns...).Query(out.written)
	})
	switch {
	case err == nil:
		saved(t.w, i)
		return nil
	case i.err == errOpen && wasLost(err): //nolint:errorlint // it is never wrapped
		t.unit.end(ctx)
		return t.before(ctx, t.store.db)
	case i.err == nil && ofWork(err):
		return fmt.Errorf("pgsaga: commit of the step: %w", err)
	}
	return broken("commit", err)
}

// wasLost tells the error by which the checkpoint says that nothing was written.
func wasLost(err error) bool {
	const divisionByZero = "22012"
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == divisionByZero
}

// ofWork tells failures of the work that show at the end, behind the checkpoint: constraints
// and triggers that are deferred until then. The server has rolled back. They may have any
// code:
//
//	a trigger raises ERRCODE 'ZX001' at the COMMIT; it is taken for an error of the
//	store, and the step is done again every second, for ever.
func ofWork(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.SeverityUnlocalized == "ERROR" && !pg.Retryable(err) && !pg.Unavailable(err)
}
