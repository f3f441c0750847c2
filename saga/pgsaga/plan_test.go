package pgsaga_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/saga"
)

// fill adds sagas that are over, without their indexes' being looked at.
func (f fixture) fill(tb testing.TB, n int) {
	tb.Helper()
	f.exec(tb, `INSERT INTO sagas (id, token, revision, created_at, updated_at, over_at, deadline, version, crashes, undoing, status, fingerprint, definition,
		business_id, parent, plan, progress, failed, error, data)
		SELECT 'over-' || n, 1, 5, now(), now(), now(), 0, 1, 0, false, 'COMPLETED', decode(repeat('00', 32), 'hex'), 'pay',
		'order ' || n, '', 'a:s', 'D1', '', '', '{}' FROM generate_series(1, $1::int) n`, n)
}

// The driver's statements get their plans while the tables are as good as empty, and
// keep them: nothing analyzes the tables later. What is then done beside 100,000 sagas
// that are over must still go by an index, and not by one that leads to all of them.
func TestPlansOfAnEmptyTableDoNotScanAFullOne(t *testing.T) {
	t.Parallel()
	f := openOn(t, newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 1 })) // all statements are cached on it
	for _, table := range []string{"sagas", "saga_events", "saga_outbox"} {
		f.exec(t, "ALTER TABLE "+table+" SET (autovacuum_enabled = off)")
	}
	f.exec(t, "ANALYZE sagas, saga_events, saga_outbox")
	f.exec(t, "CREATE TABLE effects (id text)")
	n := 0
	use := func() {
		n++
		f.useAll(t, fmt.Sprint("live", n))
	}
	for range 8 { // after five the plans no longer look at the arguments
		use()
	}
	f.fill(t, 100_000)
	rows, scans := f.reads(t)
	for range 8 {
		use()
	}
	moreRows, moreScans := f.reads(t) // also those of bitmap scans, which are of no index
	require.Equal(t, scans, moreScans, "sequential scans")
	require.Less(t, moreRows-rows, 4000, "rows that were read by indexes: %s", f.text(t,
		"SELECT string_agg(format('%s %s', indexrelname, idx_tup_fetch), ', ') FROM pg_stat_user_indexes WHERE relid = 'sagas'::regclass"))
}

// To plan a statement takes longer than to carry it out. Left to itself, PostgreSQL would
// do so for many a call, since a plan for these very arguments looks better.
func TestNothingIsPlannedAnew(t *testing.T) {
	t.Parallel()
	f := openOn(t, newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 1 }))
	f.exec(t, "CREATE TABLE effects (id text)")
	for n := range 20 {
		f.useAll(t, fmt.Sprint("live", n))
	}
	const planned = "SELECT coalesce(string_agg(statement, '; '), '') FROM pg_prepared_statements WHERE custom_plans > 5"
	require.Empty(t, f.text(t, planned))
	require.Positive(t, f.count(t, "SELECT count(*) FROM pg_prepared_statements WHERE generic_plans > 5"))
}

// useAll calls everything that shall not depend on how many sagas are over.
func (f fixture) useAll(t *testing.T, id string) {
	t.Helper()
	var creates []*saga.Create
	for n := range 5 {
		creates = append(creates, &saga.Create{Record: begun(fmt.Sprint(id, "-", n), "me"), Lease: time.Minute})
	}
	require.NoError(t, f.Create(t.Context(), creates))
	require.NoError(t, f.Create(t.Context(), creates), "repeated")
	var writes, failing []*saga.Write
	for _, c := range creates {
		writes = append(writes, next(c.Record))
		failing = append(failing, next(writes[len(writes)-1].Record))
		failing[len(failing)-1].Record.Error = "no"
	}
	for range 2 {
		require.NoError(t, f.Save(t.Context(), writes))
	}
	require.NoError(t, f.Save(t.Context(), failing))
	_, err := f.run(t.Context(), id)
	require.NoError(t, err)
	r := f.create(t, id+"+", "me")
	require.NoError(t, f.save(t, next(r)))
	w := next(next(r).Record)
	require.NoError(t, f.SaveTx(t.Context(), w, apply(w, fine)))
	w = next(w.Record)
	w.Events, w.Release = []saga.Event{{Kind: saga.EventRetry}}, true
	require.NoError(t, f.save(t, w))
	require.NoError(t, f.Renew(t.Context(), []*saga.Lease{{ID: id + "-1", Token: 1}}, time.Minute))
	require.NoError(t, f.Deliver(t.Context(), id+"+", "go", []byte("1")))
	require.NoError(t, f.Deliver(t.Context(), id+"+", "go", []byte("1")))
	require.Len(t, f.claim(t, "you", 2, id+"+", "over-7"), 1)
	require.Empty(t, f.claim(t, "you", 2))
	require.NotNil(t, f.find(t, id+"+"))
	for _, filter := range []saga.Filter{{Status: []saga.Status{saga.Stuck}}, {BusinessID: "order " + id}} {
		for _, err := range f.Find(t.Context(), filter) {
			require.NoError(t, err)
		}
	}
	_, err = f.Sweep(t.Context(), time.Hour, 10)
	require.NoError(t, err)
	_, err = f.Relay(t.Context(), 10, func(context.Context, []saga.Message) error { return nil })
	require.NoError(t, err)
}

// reads counts the rows that were fetched by indexes, and the sequential scans. The pool
// has one connection: what that did is counted when it says so.
func (f fixture) reads(t *testing.T) (rows, scans int) {
	t.Helper()
	f.exec(t, "SELECT pg_stat_force_next_flush()")
	const of = " FROM pg_stat_user_tables WHERE relid IN ('sagas'::regclass, 'saga_events'::regclass, 'saga_outbox'::regclass)"
	return f.count(t, "SELECT sum(idx_tup_fetch)::int"+of), f.count(t, "SELECT sum(seq_scan)::int"+of)
}

func (f fixture) text(tb testing.TB, sql string) (s string) {
	tb.Helper()
	require.NoError(tb, f.pool.QueryRow(tb.Context(), sql).Scan(&s))
	return s
}
