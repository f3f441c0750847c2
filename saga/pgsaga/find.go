package pgsaga

import (
	"context"
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
// sagas in the order of their ids. Sagas that cannot be read are an error with a method
// Unreadable() []string, their ids, behind the others; of a hundred it is the end.
func (s *Store) Find(ctx context.Context, f saga.Filter) iter.Seq2[*saga.Record, error] {
	return func(yield func(*saga.Record, error) bool) {
		after, left := f.After, f.Limit
		var odd unreadable
		for {
			limit := page
			if f.Limit > 0 {
				limit = min(page, left)
			}
			p, err := s.page(ctx, f, after, limit)
			if err != nil {
				yield(nil, fail("find", err))
				return
			}
			for _, r := range p.records {
				if !yield(r, nil) {
					return
				}
			}
			odd.all = append(odd.all, p.odd...)
			left -= len(p.records)
			if p.rows < limit || f.Limit > 0 && left == 0 || len(odd.all) >= page {
				if len(odd.all) > 0 {
					yield(nil, fail("find", odd))
				}
				return
			}
			after = p.last
		}
	}
}

// found is a page.
type found struct {
	records []*saga.Record
	odd     []odd
	rows    int
	last    string // id
}

// page reads the sagas with the next ids.
func (s *Store) page(ctx context.Context, f saga.Filter, after string, limit int) (p found, err error) {
	where, args := where(f, after, limit)
	sql := s.sql.find
	if f.IDs == nil && (f.BusinessID != "" || onlyStuck(f)) {
		sql = s.sql.findFew
	}
	err = s.probe(ctx, func(rows pgx.Rows) error {
		return eachRecord(rows, func(r *saga.Record, c claim) {
			p.rows, p.last = p.rows+1, r.ID
			if c.odd != nil {
				p.odd = append(p.odd, odd{r.ID, r.Token, c})
				return
			}
			p.records = append(p.records, r)
		})
	}, strings.Replace(sql, "{where}", where, 1), args...)
	if err == nil && f.Events {
		err = s.addEvents(ctx, p.records)
	}
	return p, err
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

// claim is what is found out beside the record, but for odd by a claim only.
type claim struct {
	crashed  bool
	due, now time.Time
	odd      error // why the record cannot be read
}

// odd is a record whose columns are none of ours: of a newer version of this package, or
// changed by hand.
type odd struct {
	id    string
	token int64
	claim claim
}

// unreadable is the error of those that there are.
type unreadable struct{ all []odd }

func (u unreadable) Error() string {
	texts := make([]string, len(u.all))
	for n, o := range u.all {
		texts[n] = o.id + ": " + o.claim.odd.Error()
	}
	return strings.Join(texts, "\n")
}

// Unreadable returns the ids of sagas that cannot be read.
func (u unreadable) Unreadable() []string {
	ids := make([]string, len(u.all))
	for n, o := range u.all {
		ids[n] = o.id
	}
	return ids
}

// eachRecord reads rows of recordSQL, behind which may stand what a claim has found
// out, and closes them. Of one that cannot be read the claim says so, and only the id
// and the token are to be used.
func eachRecord(rows pgx.Rows, f func(*saga.Record, claim)) error {
	defer rows.Close()
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
		c.odd = err
		f(&r, c)
	}
	return rows.Err()
}
