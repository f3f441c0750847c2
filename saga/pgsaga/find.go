package pgsaga

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/saga"
)

// page is how many sagas are read at once.
const page = 100

// Find is [saga.Store.Find]. It reads 100 sagas at a time, a round trip each, two with
// their events, and holds no connection while the caller has them. By ids, by a
// business id, or Stuck ones only, it goes by an index; otherwise it passes over all
// sagas in the order of their ids.
func (s *Store) Find(ctx context.Context, f saga.Filter) iter.Seq2[*saga.Record, error] {
	return func(yield func(*saga.Record, error) bool) {
		after, left := f.After, f.Limit
		for {
			limit := page
			if f.Limit > 0 {
				limit = min(page, left)
			}
			records, err := s.page(ctx, f, after, limit)
			if err != nil {
				yield(nil, fail("find", err))
				return
			}
			for _, r := range records {
				if !yield(r, nil) {
					return
				}
			}
			left -= len(records)
			if len(records) < limit || f.Limit > 0 && left == 0 {
				return
			}
			after = records[len(records)-1].ID
		}
	}
}

// page reads the sagas with the next ids.
func (s *Store) page(ctx context.Context, f saga.Filter, after string, limit int) (records []*saga.Record, err error) {
	where, args := where(f, after, limit)
	sql := s.sql.find
	if f.IDs == nil && (f.BusinessID != "" || onlyStuck(f)) {
		sql = s.sql.findFew
	}
	err = s.probe(ctx, func(rows pgx.Rows) error {
		return eachRecord(rows, func(r *saga.Record, _ claim) { records = append(records, r) })
	}, strings.Replace(sql, "{where}", where, 1), args...)
	if err == nil && f.Events {
		err = s.addEvents(ctx, records)
	}
	return records, err
}

// where makes the conditions of a filter. Those that have an index of their own say so
// in PostgreSQL's terms, whatever the values.
func where(f saga.Filter, after string, limit int) (string, []any) {
	var b strings.Builder
	args := []any{after, limit}
	add := func(sql string, arg any) {
		args = append(args, arg)
		fmt.Fprintf(&b, " AND "+sql, len(args))
	}
	if f.IDs != nil {
		add("s.id = ANY($%d::text[])", f.IDs)
	}
	if f.BusinessID != "" {
		add("s.business_id = $%d AND s.business_id <> ''", f.BusinessID)
	}
	if f.Definition != "" {
		add("s.definition = $%d", f.Definition)
	}
	switch {
	case len(f.Status) == 0:
	case onlyStuck(f):
		b.WriteString(" AND s.status = 'STUCK'")
	default:
		names := make([]string, len(f.Status))
		for i, s := range f.Status {
			names[i] = s.String()
		}
		add("s.status = ANY($%d::text[])", names)
	}
	return b.String(), args
}

func onlyStuck(f saga.Filter) bool {
	return len(f.Status) > 0 && !slices.ContainsFunc(f.Status, func(s saga.Status) bool { return s != saga.Stuck })
}

// addEvents reads the histories.
func (s *Store) addEvents(ctx context.Context, records []*saga.Record) error {
	ids := make([]string, len(records))
	of := make(map[string]*saga.Record, len(records))
	for n, r := range records {
		ids[n], of[r.ID] = r.ID, r
	}
	return s.probe(ctx, func(rows pgx.Rows) error {
		var id string
		var e saga.Event
		_, err := pgx.ForEachRow(rows, []any{&id, &e.At, &e.Kind, &e.Step, &e.Attempt, &e.Actor, &e.Text}, func() error {
			of[id].Events = append(of[id].Events, e)
			return nil
		})
		return err
	}, s.sql.events, ids)
}

// claim is what a claim has found out beside the record.
type claim struct {
	crashed  bool
	due, now time.Time
}

// unreadable are records whose columns are none of ours: of a newer version of this
// package, or changed by hand.
type unreadable struct{ error }

// eachRecord reads rows of recordSQL, behind which may stand what a claim has found
// out, and closes them. Those that cannot be read are passed over, and told of at the
// end as unreadable.
func eachRecord(rows pgx.Rows, f func(*saga.Record, claim)) error {
	defer rows.Close()
	var odd error
	for rows.Next() {
		var r saga.Record
		var c claim
		var plan, status, progress string
		var fingerprint, signals []byte
		var deadline int64
		fields := []any{
			&r.ID, &r.BusinessID, &r.Definition, &r.Version, &plan, &fingerprint, &r.Parent, &status, &r.Undoing, &progress, &r.Failed, &r.Error,
			&r.Crashes, &r.Data, &deadline, &r.Revision, &r.Token, &r.Owner, &r.Created, &r.Updated, &signals, &c.crashed, &c.due, &c.now,
		}
		if err := rows.Scan(fields[:len(rows.FieldDescriptions())]...); err != nil {
			return err
		}
		copy(r.Fingerprint[:], fingerprint)
		r.DeadlineAfter = time.Duration(deadline) * time.Microsecond
		var err error
		r.Signals, err = readSignals(signals)
		err = firstError(err, r.Plan.UnmarshalText([]byte(plan)), r.Status.UnmarshalText([]byte(status)), r.Steps.UnmarshalText([]byte(progress)))
		if err == nil && len(r.Steps) != len(r.Plan) { // who goes through the one would look for the other
			err = fmt.Errorf("progress of %d steps, and a plan of %d", len(r.Steps), len(r.Plan))
		}
		if err != nil {
			odd = errors.Join(odd, fmt.Errorf("%s: %w", r.ID, err))
			continue
		}
		f(&r, c)
	}
	if err := rows.Err(); err != nil || odd == nil {
		return err
	}
	return unreadable{odd}
}
