package pgidem

import (
	"bytes"
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/pg"
)

// txFound is what looking a key up has found.
type txFound struct {
	now    time.Time // the server's, when it was locked
	read   time.Time // the local clock then
	locked bool
	record *txRecord // nil: there is none

	scans string // the setting of whoever's transaction it is, before anything was looked up
}

// txRecord is a record of the table.
type txRecord struct {
	same      bool // its payload is the request's
	completed bool
	status    int32
	token     int64
	response  []byte
	left      time.Duration // not positive: it is over
	steps     bool          // it has some, which are still kept
}

// enter queues what locks and looks up the key, or only looks it up.
func (f *txFound) enter(b *pgx.Batch, sql string, c *txCall) {
	args := []any{c.lock}
	if sql == txLookSQL {
		args = nil
	}
	b.Queue(sql, args...).QueryRow(func(row pgx.Row) error {
		var scans string
		err := row.Scan(&f.now, &scans, nil, &f.locked)
		f.scans = cmp.Or(f.scans, scans)
		return err
	})
	b.Queue(c.g.sql.read, c.id).Query(f.scan(c))
}

// wait queues what waits for the lock of the key, for no longer than limit, and looks it up.
func (f *txFound) wait(b *pgx.Batch, c *txCall, limit time.Duration) {
	f.locked = true
	millis := strconv.FormatInt(max(1, min(limit, txLongestWait).Milliseconds()), 10)
	b.Queue(c.g.sql.wait, c.lock, millis).QueryRow(func(row pgx.Row) error { return row.Scan(nil, nil, nil, &f.now, nil) })
	b.Queue(c.g.sql.waited, c.id).Query(f.scan(c))
}

// scan returns what reads the record, after what has read the clock.
func (f *txFound) scan(c *txCall) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		f.read = time.Now()
		var r txRecord
		var fingerprint []byte
		var held time.Time
		var steps *time.Time
		_, err := pgx.ForEachRow(rows, []any{&fingerprint, &r.completed, &r.status, &r.token, &r.response, &held, &steps}, func() error {
			r.same = bytes.Equal(fingerprint, c.fingerprint[:])
			r.left = held.Sub(f.now)
			r.steps = steps != nil && steps.After(f.now)
			f.record = &r
			return nil
		})
		return err
	}
}

// look looks the key up without its lock.
func (f *txFound) look(ctx context.Context, db pg.Batcher, c *txCall) error {
	f.record = nil
	b := &pgx.Batch{}
	f.enter(b, txLookSQL, c)
	return db.SendBatch(ctx, b).Close()
}

// restore puts back a setting that the caller had changed: a lookup leaves the server's default.
func (u *txUnit) restore(ctx context.Context, f *txFound) error {
	if f.scans == "on" {
		return nil
	}
	_, err := u.tx.Exec(ctx, "SET LOCAL enable_seqscan = off")
	return err
}

// takeOver removes a record that is over, and tells whether it was still the same.
func (u *txUnit) takeOver(ctx context.Context, c *txCall, token int64) (done bool, err error) {
	err = pg.Probe(ctx, u.tx, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&done}, func() error { return nil })
		return err
	}, c.g.sql.takeOver, c.id, token)
	return done, err
}

// judge returns what a record answers. neither: the key is free.
func (c *txCall) judge(r *txRecord) (*txResult, error) {
	if r == nil {
		return nil, nil
	}
	switch {
	case r.left <= 0 && !r.steps:
		return nil, nil
	case !r.same:
		return nil, idempotency.ErrMismatch
	case r.left <= 0:
		return nil, &idempotency.InvalidError{Field: "key", Reason: "holds steps of idempotency.Do, from which only Do can go on"}
	case r.completed:
		return &txResult{status: r.status, response: r.response, replayed: true}, nil
	}
	return nil, &idempotency.InFlightError{Key: c.key, RetryAfter: r.left}
}

// look answers from the record that there is, in one round trip, in which nothing is locked. neither: it takes more than that.
func (c *txCall) look(ctx context.Context) (*txResult, error) {
	limited, cancel := c.limited(ctx)
	defer cancel()
	var f txFound
	switch db := c.g.db.(type) {
	case pgx.Tx:
		u := &txUnit{tx: db, callers: true, release: func() {}}
		defer u.end(ctx)
		err := u.begin(limited, db, func(b *pgx.Batch) {
			f.enter(b, txLookSQL, c)
			b.Queue(releaseSavepointSQL)
		})
		if err == nil {
			u.open = false
			err = u.restore(limited, &f)
		}
		if err != nil {
			return nil, nil
		}
	case pg.Batcher: // a statement's transaction ends, and its settings with it; for one that is begun already, acquire has an error
		if pg.InTransaction(db) || f.look(limited, db, c) != nil {
			return nil, nil
		}
	}
	if f.record == nil || !f.record.completed {
		return nil, nil
	}
	return c.judge(f.record)
}
