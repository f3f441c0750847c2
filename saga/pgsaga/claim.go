package pgsaga

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/saga"
)

// Claim is [saga.Store.Claim]: one round trip, by an index of the sagas that are not
// over. Several callers get different sagas, and do not wait for each other. Sagas that
// cannot be read are an error, with which it returns the others; they are given back, in
// a round trip more, and not due again before the lease is over.
func (s *Store) Claim(ctx context.Context, c saga.Claim) ([]saga.Claimed, error) {
	switch {
	case c.Owner == "":
		return nil, refuse("owner", "is empty")
	case c.Lease < time.Millisecond:
		return nil, refuse("lease", "is less than a millisecond")
	case c.Limit < 1:
		return nil, refuse("limit", "is less than 1")
	}
	if err := checkText("owner", c.Owner); err != nil {
		return nil, err
	}
	sql, args := s.sql.claim, []any{c.Owner, c.Lease.Microseconds(), c.Definitions, c.Limit}
	if c.IDs != nil {
		sql, args = s.sql.claimOf, append(args, c.IDs)
	}
	type aged struct {
		saga.Claimed
		due time.Time
	}
	var all []aged
	var strange unreadable
	err := s.probeAgain(ctx, func(rows pgx.Rows) error {
		all, strange.all = nil, nil
		return eachRecord(rows, func(r *saga.Record, c claim) {
			if c.odd != nil {
				strange.all = append(strange.all, odd{r.ID, r.Token, c})
				return
			}
			all = append(all, aged{saga.Claimed{Record: r, Crashed: c.crashed, Now: c.now}, c.due})
		})
	}, sql, args...)
	if err != nil {
		return nil, fail("claim", err)
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.Record.ID, b.Record.ID)) })
	claimed := make([]saga.Claimed, len(all))
	for n, c := range all {
		claimed[n] = c.Claimed
	}
	if len(strange.all) == 0 {
		return claimed, nil
	}
	return claimed, fail("claim", errors.Join(strange, s.giveBack(ctx, strange.all)))
}

// giveBack lets go of sagas that were claimed and cannot be read, as they were:
//
//	two versions run beside each other, and one does not know a mark that the other
//	writes; it claims the saga, and cannot say that it has let go of it; that is a crash,
//	and the third is a person's business.
//
// One whose owner had died has an owner still, who does not renew the lease: the next is
// to be told.
func (s *Store) giveBack(ctx context.Context, odd []odd) error {
	ids, tokens, crashed := make([]string, len(odd)), make([]int64, len(odd)), make([]bool, len(odd))
	for n, o := range odd {
		ids[n], tokens[n], crashed[n] = o.id, o.token, o.claim.crashed
	}
	return s.probeAgain(ctx, func(pgx.Rows) error { return nil }, s.sql.giveBack, ids, tokens, crashed)
}

// Renew is [saga.Store.Renew]: one round trip. Under a stricter default isolation than
// READ COMMITTED it takes more where sagas are written at the same time.
func (s *Store) Renew(ctx context.Context, leases []*saga.Lease, d time.Duration) error {
	if d < time.Millisecond {
		return refuse("lease", "is less than a millisecond")
	}
	if len(leases) == 0 {
		return nil
	}
	sorted := slices.SortedFunc(slices.Values(leases), func(a, b *saga.Lease) int { return strings.Compare(a.ID, b.ID) })
	return fail("renew", s.renew(ctx, sorted, d))
}

// renew divides leases that it cannot renew at once:
//
//	all sessions are REPEATABLE READ; a thousand leases are renewed by a statement, and
//	one of the sagas writes a checkpoint meanwhile; PostgreSQL refuses the statement,
//	each time; all leases run out, and a thousand steps are in doubt.
func (s *Store) renew(ctx context.Context, sorted []*saga.Lease, d time.Duration) error {
	if len(sorted) == 1 {
		return s.repeat(ctx, func() error { return s.renewAll(ctx, sorted, d) })
	}
	if err := s.renewAll(ctx, sorted, d); !s.repeats(err) {
		return err
	}
	half := len(sorted) / 2
	return firstError(s.renew(ctx, sorted[:half], d), s.renew(ctx, sorted[half:], d))
}

func (s *Store) renewAll(ctx context.Context, sorted []*saga.Lease, d time.Duration) error {
	ids, tokens := make([]string, len(sorted)), make([]int64, len(sorted))
	for n, l := range sorted {
		ids[n], tokens[n] = l.ID, l.Token
	}
	renewed := make(map[string]int64, len(sorted))
	err := s.probe(ctx, func(rows pgx.Rows) error {
		var id string
		var token int64
		_, err := pgx.ForEachRow(rows, []any{&id, &token}, func() error { renewed[id] = token; return nil })
		return err
	}, s.sql.renew, ids, tokens, d.Microseconds())
	if err != nil {
		return err
	}
	for _, l := range sorted {
		l.Err = nil
		if token, ok := renewed[l.ID]; !ok || token != l.Token {
			l.Err = saga.ErrFenced
		}
	}
	return nil
}

// Deliver is [saga.Store.Deliver]: one round trip, and a second where the signal is
// not taken.
func (s *Store) Deliver(ctx context.Context, id, name string, payload []byte) error {
	if err := firstError(checkID("id", id), checkID("signal", name), checkJSON("payload", payload)); err != nil {
		return err
	}
	for {
		taken := false
		err := s.probeAgain(ctx, func(rows pgx.Rows) error {
			taken = rows.Next()
			rows.Close()
			return rows.Err()
		}, s.sql.deliver, id, name, string(payload), saga.MaxSignals)
		if err != nil {
			return fail("deliver", err)
		}
		if taken {
			return nil
		}
		if again, err := s.refused(ctx, id, name, payload); !again {
			return err
		}
	}
}

// refused says why a signal was not taken. again: it would be now.
func (s *Store) refused(ctx context.Context, id, name string, payload []byte) (again bool, err error) {
	var over, full, found bool
	var there *string
	err = s.probe(ctx, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&over, &there, &full}, func() error { found = true; return nil })
		return err
	}, s.sql.delivered, id, name, saga.MaxSignals)
	switch {
	case err != nil:
		return false, fail("deliver", err)
	case !found:
		return false, saga.ErrNotFound
	case there != nil && *there == string(payload): // by a call whose answer was lost
		return false, nil
	case over:
		return false, saga.ErrOver
	case there != nil:
		return false, saga.ErrConflict
	case full:
		return false, saga.ErrTooManySignals
	}
	return true, nil
}
