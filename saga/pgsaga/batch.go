package pgsaga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/saga"
)

// send writes a batch and answers each of its items.
func (s *Store) send(ctx context.Context, items []*item) {
	slices.SortFunc(items, func(a, b *item) int { return strings.Compare(a.id, b.id) }) // the order of the locks
	a := attempts{store: s, patience: bits.Len(uint(len(items))) + 2}
	a.write(ctx, items)
}

// attempts writes a batch and, where that fails, its halves, as long as there is hope
// that the failure is that of some items only: nobody waits in vain for a neighbour
// whose data PostgreSQL refuses.
type attempts struct {
	store    *Store
	failed   int   // statements in a row
	patience int   // how many of those one bad item can cause, and two more
	hopeless error // what all who are left are told
}

func (a *attempts) write(ctx context.Context, items []*item) {
	err := a.hopeless
	if err == nil {
		err = a.store.write(ctx, items)
	}
	if err == nil {
		a.failed = 0
		return
	}
	a.failed++
	if a.hopeless == nil && (a.failed > a.patience || !a.store.ofData(err)) {
		a.hopeless = err
	}
	if len(items) == 1 || a.hopeless != nil {
		for _, i := range items {
			i.err, i.lost = fail("write", err), a.hopeless != nil
		}
		return
	}
	half := len(items) / 2
	a.write(ctx, items[:half])
	a.write(ctx, items[half:])
}

// ofData tells whether an error may be the fault of one item: PostgreSQL is well, and
// has understood the statement. In the caller's transaction nothing can follow it.
func (s *Store) ofData(err error) bool {
	if _, callers := s.db.(pgx.Tx); callers || pg.Unavailable(err) {
		return false
	}
	const cannotBe = "42" // no such table, no right to it
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && !strings.HasPrefix(e.Code, cannotBe)
}

// conflicts is how often a batch is written again when PostgreSQL asks for it: under a
// stricter default isolation than READ COMMITTED a wait for a row ends so.
const conflicts = 10

// write writes items, which are sorted and of different sagas, all or none.
func (s *Store) write(ctx context.Context, items []*item) error {
	return s.repeat(ctx, func() error { return s.try(ctx, items) })
}

// repeat calls f as often as PostgreSQL asks for it.
func (s *Store) repeat(ctx context.Context, f func() error) (err error) {
	for n := range conflicts {
		if err = f(); !s.repeats(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(time.Duration(n+1) * time.Millisecond)):
		}
	}
	return err
}

// repeats tells whether PostgreSQL asks for a statement again. The caller's own
// transaction is his to repeat.
func (s *Store) repeats(err error) bool {
	const serializationFailure, deadlock = "40001", "40P01"
	_, callers := s.db.(pgx.Tx)
	e, ok := errors.AsType[*pgconn.PgError](err)
	return !callers && ok && (e.Code == serializationFailure || e.Code == deadlock)
}

// try is one round trip, and one more for items that were not written.
func (s *Store) try(ctx context.Context, items []*item) error {
	w := writing{store: s, db: s.db, items: items}
	for _, i := range items {
		i.err, i.mine, i.signals = errOpen, false, nil
		if i.birth != nil {
			w.births = append(w.births, i)
		} else {
			w.saves = append(w.saves, i)
		}
	}
	b := &pgx.Batch{}
	w.queue(b)
	if err := s.db.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	return w.look(ctx)
}

// errOpen is the answer to an item that was not written, until it is known why.
var errOpen = errors.New("pgsaga: not written")

// writing is a batch on its way.
type writing struct {
	store         *Store
	db            DB
	items         []*item
	births, saves []*item
}

func (w *writing) queue(b *pgx.Batch) {
	if len(w.births) > 0 {
		sql, columns := w.creating()
		b.Queue(sql, columns...).Query(w.created)
	}
	if len(w.saves) == 0 {
		return
	}
	sql, columns := w.saving()
	if len(w.saves) == 1 && w.store.large.Load() {
		b.Queue(sql, columns...).Query(w.written)
		return
	}
	probing(w.db, b, func() { b.Queue(sql, columns...).Query(w.written) })
}

// creating chooses the cheapest statement that will do.
func (w *writing) creating() (string, []any) {
	first := w.births[0]
	if slices.ContainsFunc(w.births, func(i *item) bool { return !i.alike(first) }) {
		return w.store.sql.createMany, birthsColumns(w.births)
	}
	return w.store.sql.createAlike, alikeColumns(w.births)
}

// saving chooses the cheapest statement that will do.
func (w *writing) saving() (string, []any) {
	sql, plain := &w.store.sql, true
	for _, i := range w.saves {
		if len(i.events)+len(i.messages) > 0 {
			return sql.saveWith, append(savesColumns(w.saves), extraColumns(w.saves)...)
		}
		plain = plain && i.plain()
	}
	switch {
	case len(w.saves) == 1 && plain && w.saves[0].due == keep:
		return sql.saveStep, stepColumns(w.saves[0])
	case len(w.saves) == 1:
		return sql.saveOne, saveColumns(w.saves[0])
	case plain:
		return sql.savePlain, plainColumns(w.saves)
	}
	return sql.saveMany, savesColumns(w.saves)
}

// largeTable is the number of pages of a table from which on PostgreSQL finds a single
// row by its index without being told to; it takes a table that it knows nothing of to
// have as many. Who is alone need not tell it so then, which would be 8 % of a checkpoint.
// What was planned before was planned as it was told.
const largeTable = 10

// probing queues statements that find their rows by index, whenever they were planned.
func probing(db DB, b *pgx.Batch, statements func()) {
	_, callers := db.(pgx.Tx)
	if callers {
		b.Queue(keepSettings)
	}
	b.Queue(probesOnly)
	statements()
	if callers {
		b.Queue(restoreSettings)
	}
}

// probe runs one statement in one round trip.
func (s *Store) probe(ctx context.Context, scan func(pgx.Rows) error, sql string, args ...any) error {
	b := &pgx.Batch{}
	probing(s.db, b, func() { b.Queue(sql, args...).Query(scan) })
	return s.db.SendBatch(ctx, b).Close()
}

// probeAgain is probe as often as PostgreSQL asks for it; scan begins anew each time.
func (s *Store) probeAgain(ctx context.Context, scan func(pgx.Rows) error, sql string, args ...any) error {
	return s.repeat(ctx, func() error { return s.probe(ctx, scan, sql, args...) })
}

func (w *writing) created(rows pgx.Rows) error {
	var id string
	var at time.Time
	_, err := pgx.ForEachRow(rows, []any{&id, &at}, func() error {
		i := find(w.births, id)
		i.err, i.mine, i.at = nil, i.birth.owner != "", at
		return nil
	})
	return err
}

func (w *writing) written(rows pgx.Rows) error {
	var id string
	var at time.Time
	var signals []byte
	var place pgtype.TID
	_, err := pgx.ForEachRow(rows, []any{&id, &at, &signals, &place}, func() (err error) {
		if place.BlockNumber >= largeTable && !w.store.large.Load() {
			w.store.large.Store(true)
		}
		i := find(w.saves, id)
		i.err, i.at = nil, at
		i.signals, err = readSignals(signals)
		return err
	})
	return err
}

func find(sorted []*item, id string) *item {
	n, _ := slices.BinarySearchFunc(sorted, id, func(i *item, id string) int { return strings.Compare(i.id, id) })
	return sorted[n]
}

// readSignals reads the column.
func readSignals(b []byte) (saga.Signals, error) {
	if b == nil {
		return nil, nil
	}
	var texts map[string]string
	if err := json.Unmarshal(b, &texts); err != nil {
		return nil, fmt.Errorf("signals: %w", err)
	}
	signals := make(saga.Signals, len(texts))
	for name, text := range texts {
		signals[name] = []byte(text)
	}
	return signals, nil
}

// look finds out about the items that were not written. It is a statement of its own
// because it must see what was committed since the first began:
//
//	a call's answer is lost while its statement waits for the disk;
//	the repeat waits for the row, and finds a revision that it does not expect;
//	in its own snapshot the row is as it was before both.
func (w *writing) look(ctx context.Context) error {
	open := func(items []*item) (ids []string) {
		for _, i := range items {
			if i.err == errOpen { //nolint:errorlint // it is never wrapped
				ids = append(ids, i.id)
			}
		}
		return ids
	}
	births, saves := open(w.births), open(w.saves)
	if len(births)+len(saves) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	probing(w.db, b, func() {
		if len(births) > 0 {
			b.Queue(w.store.sql.created, births).Query(w.existing)
		}
		if len(saves) > 0 {
			b.Queue(w.store.sql.saved, saves).Query(w.before)
		}
	})
	if err := w.db.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	for _, i := range w.saves {
		if i.err == errOpen { //nolint:errorlint // it is never wrapped
			i.err = saga.ErrFenced // there is no such saga any more
		}
	}
	for _, i := range w.births {
		if i.err == errOpen { //nolint:errorlint // it is never wrapped
			return errSwept
		}
	}
	return nil
}

// errSwept is retried by whoever created the saga.
var errSwept = &pgconn.PgError{Severity: "ERROR", Code: "40001", Message: "the saga was swept while it was created again"}

// existing answers for sagas that were there.
func (w *writing) existing(rows pgx.Rows) error {
	var id, owner string
	var fingerprint []byte
	var token, revision int64
	var at time.Time
	_, err := pgx.ForEachRow(rows, []any{&id, &fingerprint, &owner, &token, &revision, &at}, func() error {
		i := find(w.births, id)
		if string(fingerprint) != string(i.birth.fingerprint[:]) {
			i.err = saga.ErrConflict
			return nil
		}
		i.err, i.at = nil, at
		i.mine = i.birth.owner != "" && owner == i.birth.owner && token == 1 && revision == 0
		return nil
	})
	return err
}

// before answers for checkpoints that were not written: whether that was done before.
// The revision and the token alone do not tell, since a person may have written too:
//
//	a person reads revision 5, and resolves it: revision 6;
//	another person, who had read revision 5 too, decides otherwise: revision 6.
func (w *writing) before(rows pgx.Rows) error {
	var is item
	var signals []byte
	_, err := pgx.ForEachRow(rows, is.columns(&signals), func() (err error) {
		i := find(w.saves, is.id)
		i.err = saga.ErrFenced
		if i.token == is.token && i.revision == is.revision && i.status == is.status && i.undoing == is.undoing && i.progress == is.progress &&
			i.failed == is.failed && i.error == is.error && i.crashes == is.crashes && i.data == is.data {
			i.err, i.at = nil, is.at
			i.signals, err = readSignals(signals)
		}
		return err
	})
	return err
}

// columns are those of savedSQL.
func (i *item) columns(signals *[]byte) []any {
	return []any{
		&i.id, &i.token, &i.revision, &i.status, &i.undoing, &i.progress, &i.failed, &i.error, &i.crashes, &i.data, &i.at, signals,
	}
}
