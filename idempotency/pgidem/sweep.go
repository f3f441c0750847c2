package pgidem

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/pg"
)

const (
	// sweepPages is how much of the table a statement of the sweep reads: 2 MiB, some thousands of rows, which takes milliseconds.
	sweepPages = 256
	// sweepEvery is how long after the begin of a walk the next one begins. A row that was still wanted when it was passed
	// is met again by then.
	sweepEvery = time.Hour
)

// sweep is how far a store has come on its way through the table.
type sweep struct {
	mu    sync.Mutex
	begun time.Time // zero: never
	page  uint32    // the next one
	over  bool
}

// due tells whether there are pages to read, from the first one where it is time for that. mu is held.
func (w *sweep) due() bool {
	if w.begun.IsZero() || w.over && time.Since(w.begun) >= sweepEvery {
		w.begun, w.page, w.over = time.Now(), 0, false
	}
	return !w.over
}

// Sweep implements idempotency.Sweeper. Rows go an hour (idempotency.AbandonedFor) after their lease or TTL is over. It walks
// through the table, and each call goes on where the one before has ended. At the end, it is an hour from the beginning
// of that walk until it returns anything but 0 again: let one process sweep, as often as it likes. Beside another
// Sweep of the same store it does nothing.
//
// Cost: a statement for each 2 MiB of the table, up to those that hold the first limit rows. All of it is read once an hour.
func (s *Store) Sweep(ctx context.Context, limit int) (removed int, err error) {
	if !s.sweep.mu.TryLock() {
		return 0, nil
	}
	defer s.sweep.mu.Unlock()
	for removed < limit && s.sweep.due() {
		n, err := s.sweepOn(ctx, limit-removed)
		removed += n
		if err != nil {
			return removed, fail("sweep", err)
		}
	}
	return removed, nil
}

// sweepOn removes up to limit rows of the next pages, and goes on where that was all.
func (s *Store) sweepOn(ctx context.Context, limit int) (removed int, err error) {
	w := s.sweep
	var due, pages int64
	page := func(n uint32) pgtype.TID { return pgtype.TID{BlockNumber: n, Valid: true} }
	err = pg.Probe(ctx, s.db, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&removed, &due, &pages}, func() error { return nil })
		return err
	}, s.sql.sweep, page(w.page), page(w.page+sweepPages), idempotency.AbandonedFor.Microseconds(), limit)
	if err != nil || due >= int64(limit) {
		return removed, err
	}
	w.page += sweepPages
	w.over = int64(w.page) >= pages
	return removed, nil
}
