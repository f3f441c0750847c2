package pgqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/safetill/safetill/internal/queue"
)

// DB is what *pgxpool.Pool, *pgx.Conn and pgx.Tx have in common.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Options are the options of New.
type Options struct {
	// Schema is where Migrate has put the table. Default: the search_path of the connection.
	Schema string
	// Lease is how long a worker holds its messages without renewing, in whole microseconds. Default: 30 s.
	Lease time.Duration
}

// Queue is a queue.Queue in a table of PostgreSQL.
type Queue struct {
	db    DB
	name  string
	lease time.Duration
	sql   statements
}

var _ queue.Queue = (*Queue)(nil)

// New returns the queue of that name, one of any number in the table. It does not talk to PostgreSQL; db stays the caller's
// to close. opts may be nil. It fails on a nil db, a name that is empty or no text for PostgreSQL, and a lease below 1 µs.
func New(db DB, name string, opts *Options) (*Queue, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.Lease = cmp.Or(o.Lease, queue.DefaultLease)
	var errs []error
	if db == nil {
		errs = append(errs, errors.New("pgqueue: the database is nil"))
	}
	if name == "" || strings.ContainsRune(name, 0) || !utf8.ValidString(name) {
		errs = append(errs, fmt.Errorf("pgqueue: name %q is empty or no text for PostgreSQL", name))
	}
	if o.Lease < time.Microsecond {
		errs = append(errs, fmt.Errorf("pgqueue: Options.Lease %v is below 1 µs", o.Lease))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Queue{db: db, name: name, lease: o.Lease, sql: statementsFor(o.Schema)}, nil
}

// In returns the same queue bound to another DB, most usefully to the caller's transaction: what it pushes there is in the
// queue if, and only if, that transaction commits.
func (q *Queue) In(db DB) *Queue {
	bound := *q
	bound.db = db
	return &bound
}

// Lease implements queue.Leaser.
func (q *Queue) Lease() time.Duration { return q.lease }

// Push implements queue.Queue: one statement.
func (q *Queue) Push(ctx context.Context, bodies ...[]byte) error {
	if len(bodies) == 0 {
		return nil
	}
	present := make([][]byte, len(bodies)) // a nil slice would be a NULL
	for i, b := range bodies {
		present[i] = b
		if b == nil {
			present[i] = []byte{}
		}
	}
	if _, err := q.db.Exec(ctx, q.sql.push, q.name, present); err != nil {
		return fmt.Errorf("pgqueue: push: %w", err)
	}
	return nil
}

// Claim implements queue.Queue: one statement.
func (q *Queue) Claim(ctx context.Context, worker string, n int) ([]queue.Message, error) {
	rows, err := q.db.Query(ctx, q.sql.claim, q.name, worker, max(n, 0), q.lease.Microseconds())
	if err != nil {
		return nil, fmt.Errorf("pgqueue: claim: %w", err)
	}
	msgs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (queue.Message, error) {
		var id int64
		var m queue.Message
		err := row.Scan(&id, &m.Body, &m.Attempts)
		m.ID = strconv.FormatInt(id, 10)
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("pgqueue: claim: %w", err)
	}
	return msgs, nil
}

// Ack implements queue.Queue: one statement.
func (q *Queue) Ack(ctx context.Context, worker string, msgs ...queue.Message) error {
	return q.release(ctx, "ack", q.sql.ack, worker, msgs)
}

// Return implements queue.Queue: one statement that carries no bodies.
func (q *Queue) Return(ctx context.Context, worker string, msgs ...queue.Message) error {
	return q.release(ctx, "return", q.sql.giveBack, worker, msgs)
}

func (q *Queue) release(ctx context.Context, what, sql, worker string, msgs []queue.Message) error {
	ids, attempts := make([]int64, 0, len(msgs)), make([]int32, 0, len(msgs))
	for _, m := range msgs {
		id, err := strconv.ParseInt(m.ID, 10, 64)
		if err != nil {
			continue // not from this queue, so not held
		}
		ids, attempts = append(ids, id), append(attempts, int32(m.Attempts))
	}
	if len(ids) == 0 {
		return nil
	}
	if _, err := q.db.Exec(ctx, sql, q.name, worker, ids, attempts); err != nil {
		return fmt.Errorf("pgqueue: %s: %w", what, err)
	}
	return nil
}

// Reap implements queue.Queue: one statement that reads all that is claimed.
func (q *Queue) Reap(ctx context.Context) (int, error) {
	var n int
	if err := q.db.QueryRow(ctx, q.sql.reap, q.name).Scan(&n); err != nil {
		return 0, fmt.Errorf("pgqueue: reap: %w", err)
	}
	return n, nil
}

// Stats implements queue.Queue: one statement that reads every message of the queue; both numbers are of one instant.
func (q *Queue) Stats(ctx context.Context) (queue.Stats, error) {
	var s queue.Stats
	if err := q.db.QueryRow(ctx, q.sql.stats, q.name).Scan(&s.Ready, &s.Claimed); err != nil {
		return queue.Stats{}, fmt.Errorf("pgqueue: stats: %w", err)
	}
	return s, nil
}
