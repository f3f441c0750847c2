package pgidem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/pg"
)

// looks bounds how often a claim looks again after lost races. Each one but the last was lost to a transaction that
// freed the key again before the next look.
const looks = 10

// item is one request on its way through the database.
type item struct {
	at  int    // its place in the call
	key []byte // as it is stored
}

// Claim implements idempotency.Store.
func (s *Store) Claim(ctx context.Context, requests []idempotency.Request) ([]idempotency.Record, error) {
	if err := idempotency.ValidateAll(requests); err != nil {
		return nil, err
	}
	records := make([]idempotency.Record, len(requests))
	items := make([]item, len(requests))
	for i, q := range requests {
		items[i] = item{at: i, key: []byte(q.Key.String())}
	}
	// The order in which rows are locked is the same in every call; repeats of a key stay in their order.
	slices.SortStableFunc(items, func(a, b item) int { return cmp.Compare(string(a.key), string(b.key)) })
	for range looks {
		if len(items) == 0 {
			return records, nil
		}
		if err := s.look(ctx, requests, items, records); err != nil {
			for _, it := range items { // what came before the error was rolled back by it
				records[it.at] = idempotency.Record{}
			}
			if !s.Concurrent() { // in a transaction, so was what an earlier look has won
				clear(records)
			}
			return records, fail("claim", err)
		}
		items = undecided(requests, items, records)
	}
	if len(items) > 0 {
		return records, fmt.Errorf("pgidem: claim: %w", errRaces)
	}
	return records, nil
}

// errRaces: a key was claimed and freed by others again and again.
var errRaces = errors.New("lost ten races in a row")

// look runs the statement once and fills in the records that it decides.
func (s *Store) look(
	ctx context.Context, requests []idempotency.Request, items []item, records []idempotency.Record,
) error {
	keys, prints := make([][]byte, len(items)), make([][]byte, len(items))
	leases, leads := make([]int64, len(items)), make([]bool, len(items))
	for i, it := range items {
		q := &requests[it.at]
		keys[i], prints[i], leases[i] = it.key, q.Fingerprint[:], q.Lease.Microseconds()
		leads[i] = leadsItsKey(items, i)
	}
	return pg.Probe(ctx, s.db, func(rows pgx.Rows) error {
		return readRecords(rows, items, records)
	}, s.sql.claim, keys, prints, leases, leads)
}

func readRecords(rows pgx.Rows, items []item, records []idempotency.Record) error {
	var (
		n               int64
		token, left     *int64
		same, completed *bool
		status          *int32
		response        []byte
		names, results  [][]byte
	)
	fields := []any{&n, &token, &same, &completed, &status, &response, &left, &names, &results}
	_, err := pgx.ForEachRow(rows, fields, func() error {
		r := &records[items[n-1].at]
		switch {
		case token != nil:
			*r = idempotency.Record{Outcome: idempotency.Won, Token: idempotency.Token(*token), Steps: steps(names, results)}
		case same == nil: // undecided
		case !*same:
			*r = idempotency.Record{Outcome: idempotency.Mismatch}
		case *completed:
			*r = idempotency.Record{Outcome: idempotency.Completed, Status: *status, Response: response}
		default:
			*r = idempotency.Record{Outcome: idempotency.InFlight, Remaining: micros(*left)}
		}
		return nil
	})
	return err
}

func steps(names, results [][]byte) []idempotency.StepRecord {
	if len(names) == 0 {
		return nil
	}
	all := make([]idempotency.StepRecord, len(names))
	for i, name := range names {
		all[i] = idempotency.StepRecord{Name: string(name), Result: results[i]}
	}
	return all
}

// undecided answers the repeats of keys that this call has just won and returns the items that have to look again.
func undecided(requests []idempotency.Request, items []item, records []idempotency.Record) []item {
	var again []item
	leader := 0
	for i, it := range items {
		if leadsItsKey(items, i) {
			leader = it.at
		}
		r, first := &records[it.at], &requests[leader]
		switch {
		case r.Outcome != idempotency.Unknown:
		case records[leader].Outcome != idempotency.Won:
			again = append(again, it)
		case requests[it.at].Fingerprint == first.Fingerprint:
			*r = idempotency.Record{Outcome: idempotency.InFlight, Remaining: first.Lease}
		default:
			*r = idempotency.Record{Outcome: idempotency.Mismatch}
		}
	}
	return again
}

// leadsItsKey reports whether an item is the first with its key.
func leadsItsKey(items []item, i int) bool {
	return i == 0 || string(items[i].key) != string(items[i-1].key)
}
