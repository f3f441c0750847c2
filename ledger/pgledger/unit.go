package pgledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/internal/pg"
)

// unit is one transaction of ours, or a savepoint in the caller's. BEGIN and COMMIT
// on a connection of our own, and the savepoint's begin and end, travel with the
// first and the last statements: two round trips fewer, one of them while rows are
// locked.
type unit struct {
	conn     *pgx.Conn // nil: tx
	tx       pgx.Tx
	callers  bool // a savepoint in tx
	open     bool // there is something to roll back
	snapshot bool // the caller's transaction sees one snapshot only
	release  func()
}

// A batch's statements are a few index probes each, and their plans are cached
// for as long as the connection lives. Planned while the tables are new and
// small they would be sequential scans, or go through a table by its index, and
// stay so for the minutes until PostgreSQL analyzes what has grown meanwhile: 12 ms
// a batch instead of 0.1. And where PostgreSQL thinks that it can do better with the
// arguments it plans anew for each batch, which takes longer than to write some rows.
//
// These settings leave one plan. It goes by the parameters in their order, which is
// that of the locks. They end with the transaction; in the caller's they are put back.
var plans = pg.PlannerFor("ledger", "enable_seqscan", "off", "enable_mergejoin", "off", "enable_hashjoin", "off", "plan_cache_mode", "force_generic_plan")

var (
	onePlan     = "SELECT " + plans.Set
	onePlanNow  = "SELECT current_setting('transaction_isolation') NOT LIKE 'read %', " + plans.Keep + ", " + plans.Set
	plansAsWere = "SELECT " + plans.Restore
)

// The name may be in use further out; the innermost is meant.
const (
	savepoint        = "SAVEPOINT safetill_ledger"
	releaseSavepoint = "RELEASE SAVEPOINT safetill_ledger"
	undoSavepoint    = "ROLLBACK TO SAVEPOINT safetill_ledger; RELEASE SAVEPOINT safetill_ledger"
)

// rollbackLimit is how long a failed unit may take to free its locks.
const rollbackLimit = 5 * time.Second

var errInTransaction = errors.New("the connection is in a transaction: make the store over that")

// idle tells whether we may begin a transaction. On a connection that is in one,
// our COMMIT or ROLLBACK would be the caller's.
func (s *Store) idle() error {
	if pg.InTransaction(s.db) {
		return errInTransaction
	}
	return nil
}

func (s *Store) begin(ctx context.Context) (*unit, error) {
	switch db := s.db.(type) {
	case *pgxpool.Pool:
		conn, err := db.Acquire(ctx)
		if err != nil {
			return nil, fmt.Errorf("acquire a connection: %w", err)
		}
		return &unit{conn: conn.Conn(), release: conn.Release}, nil
	case *pgx.Conn:
		if err := s.idle(); err != nil {
			return nil, err
		}
		return &unit{conn: db, release: func() {}}, nil
	}
	if err := s.idle(); err != nil {
		return nil, err
	}
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	return &unit{tx: tx, open: true, release: func() {}}, nil
}

// first sends the statements that begin the unit.
func (u *unit) first(ctx context.Context, schema string, statements func(*pgx.Batch)) error {
	b := &pgx.Batch{}
	if u.conn != nil {
		b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED") // whatever the default: who waited for a lock must see what was done meanwhile
		b.Queue(onePlan)
		statements(b)
		u.open = true
		return u.conn.SendBatch(ctx, b).Close()
	}
	if u.callers && !u.open { // only a savepoint that was made is rolled back to: one further out may have its name
		b.Queue(savepoint).Exec(func(pgconn.CommandTag) error { u.open = true; return nil })
	}
	b.Queue(onePlanNow).QueryRow(func(row pgx.Row) error {
		return row.Scan(&u.snapshot, nil, nil, nil, nil, nil, nil, nil, nil)
	})
	statements(b)
	err := u.tx.SendBatch(ctx, b).Close()
	if err == nil && u.callers {
		nowPrepared(u.tx.Conn(), schema)
	}
	return err
}

// save makes the savepoint by itself, as text.
func (u *unit) save(ctx context.Context) error {
	if _, err := u.tx.Exec(ctx, savepoint); err != nil {
		return fmt.Errorf("savepoint: %w", err)
	}
	u.open = true
	return nil
}

// prepared tells whether the connection knows the statements of first. Those that it
// does not know are prepared before anything of the batch is done:
//
//	somebody has locked a table, and the caller's transaction has a lock_timeout;
//	to prepare a statement waits for that lock, and fails;
//	the savepoint is not made yet, and the caller's transaction is lost.
//
// So the savepoint goes ahead where the connection is new: one round trip more.
func prepared(conn *pgx.Conn, schema string) bool {
	return conn != nil && conn.PgConn().CustomData()[preparedKey+schema] != nil
}

func nowPrepared(conn *pgx.Conn, schema string) {
	if conn == nil { // a transaction of the caller's own making
		return
	}
	known := conn.PgConn().CustomData()
	if known[preparedKey+schema] == nil && conn.Config().DefaultQueryExecMode != pgx.QueryExecModeDescribeExec { // which asks each time
		known[preparedKey+schema] = true
	}
}

const preparedKey = "safetill: the ledger's statements in schema "

// only sends a unit of a single round trip, on a connection of our own.
func (u *unit) only(ctx context.Context, statements func(*pgx.Batch)) error {
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	b.Queue(onePlan)
	u.open = true
	return u.commit(ctx, b, statements)
}

func (u *unit) commit(ctx context.Context, b *pgx.Batch, statements func(*pgx.Batch)) error {
	statements(b)
	b.Queue("COMMIT")
	if err := u.conn.SendBatch(ctx, b).Close(); err != nil {
		return pg.CommitSent(err)
	}
	u.open = false
	return nil
}

// last sends the statements that end the unit, and commits. A statement that
// fails keeps PostgreSQL from reading on to the COMMIT.
func (u *unit) last(ctx context.Context, statements func(*pgx.Batch)) error {
	b := &pgx.Batch{}
	if u.conn != nil {
		return u.commit(ctx, b, statements)
	}
	statements(b)
	b.Queue(plansAsWere)
	if u.callers {
		b.Queue(releaseSavepoint)
	}
	if err := u.tx.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	if u.callers {
		u.open = false
		return nil
	}
	if err := u.tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// end rolls back what is not committed. The caller may have hung up; the locks
// must not wait for the connection to be noticed dead.
func (u *unit) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackLimit)
	defer cancel()
	switch {
	case !u.open:
	case u.callers:
		_, _ = u.tx.Exec(ctx, undoSavepoint) // the first error counts; as text: what has failed takes no statement that is to be prepared
	case u.conn == nil:
		_ = u.tx.Rollback(ctx) // after a commit this does nothing
	case !u.conn.IsClosed():
		if _, err := u.conn.Exec(ctx, "ROLLBACK"); err != nil {
			_ = u.conn.Close(ctx) // an open transaction must not go back to a pool
		}
	}
	u.release()
}
