package pgidem_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/testdb"
)

func TestDoTxRoundTrips(t *testing.T) {
	t.Parallel()
	pool, tp := tapPool(t, testdb.Postgres(t).Config())
	s := newShop(t, pool, nil)
	trips := func(f func()) int {
		t.Helper()
		for range 2 { // the statements are prepared by then
			tp.arm(nil)
			f()
		}
		n, _ := tp.disarm()
		return n
	}
	n := 0
	fresh := func() string { n++; return fmt.Sprint(n) }
	sell := func(g *pgidem.TxGuard, what string) {
		_, err := s.sellOn(t.Context(), g, what, "", nil)
		require.NoError(t, err)
	}
	bare := trips(func() {
		require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			return tx.QueryRow(t.Context(), "INSERT INTO sales (what) VALUES ($1) RETURNING id", fresh()).Scan(new(int))
		}))
	})
	require.Equal(t, 3, bare)
	require.Equal(t, bare, trips(func() { sell(s.guard, fresh()) }), "a run")
	require.Equal(t, 1, trips(func() { sell(s.guard, fmt.Sprint(n)) }), "a replay of a key that was seen")
	require.Equal(t, 2, trips(func() { sell(newTxGuard(t, pool, nil), fmt.Sprint(n)) }), "a replay by another process; the second ends the transaction")
	require.Equal(t, bare, trips(func() {
		_, err := s.sell(t.Context(), fresh(), "", func(context.Context, pgx.Tx) error { return errors.New("declined") })
		require.EqualError(t, err, "declined")
	}), "a failure")
	require.Equal(t, bare+2, trips(func() {
		_, err := s.sell(t.Context(), fresh(), "", func(context.Context, pgx.Tx) error { return idempotency.Permanent(errors.New("no")) })
		require.EqualError(t, err, "no")
	}), "a refusal is written in a transaction of its own")

	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	g := s.guard.In(tx)
	require.Equal(t, bare, trips(func() { sell(g, fresh()) }), "a run in the caller's transaction, with its savepoint")
	require.Equal(t, 1, trips(func() { sell(g, fmt.Sprint(n)) }), "a replay in the caller's transaction")
	require.NoError(t, tx.Commit(t.Context()))
}

// The bare transaction is one commit, and so is the run. A refused duplicate, and a replay of what another process has made,
// write nothing.
func TestDoTxCommitsOnce(t *testing.T) {
	t.Parallel()
	server := testdb.NewPostgres(t) // of its own: what is counted is the whole database's
	conf, err := pgxpool.ParseConfig(server.URL())
	require.NoError(t, err)
	conf.MaxConns = 1
	pool := openPool(t, conf)
	s := newShop(t, pool, nil)
	execTx(t, pool, "ALTER SYSTEM SET autovacuum = off")
	execTx(t, pool, "SELECT pg_reload_conf()")
	type counts struct{ commits, xids int }
	read := func() (c counts) { // of all up to the flush; each read is as many commits
		execTx(t, pool, "SELECT pg_stat_force_next_flush()")
		c.commits = queryTx[int](t, pool, "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
		c.xids = queryTx[int](t, pool, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int")
		return c
	}
	const n = 50
	measure := func(f func(i int)) counts {
		f(-1) // prepare
		_ = read()
		idle := read()
		before := read()
		for i := range n {
			f(i)
		}
		after := read()
		return counts{after.commits - before.commits - (before.commits - idle.commits), after.xids - before.xids}
	}
	bare := measure(func(int) {
		require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			return tx.QueryRow(t.Context(), "INSERT INTO sales (what) VALUES ('bare') RETURNING id").Scan(new(int))
		}))
	})
	require.Equal(t, counts{n, n}, bare)
	run := measure(func(i int) {
		_, err := s.sell(t.Context(), fmt.Sprint(i), "", nil)
		require.NoError(t, err)
	})
	require.Equal(t, bare, run)
	other := newTxGuard(t, pool, nil)
	replays := measure(func(i int) {
		result, err := s.sellOn(t.Context(), other, fmt.Sprint(i), "", nil)
		require.NoError(t, err)
		require.True(t, result.Replayed)
	})
	require.Equal(t, counts{0, 0}, replays)
}

// The plans that a connection keeps are made while the table is as good as empty, and nothing analyzes it later.
func TestDoTxPlansOfAnEmptyTableDoNotScanAFullOne(t *testing.T) {
	t.Parallel()
	conf := testdb.Postgres(t).Config()
	conf.MaxConns = 1 // all statements are cached on it
	pool := openPool(t, conf)
	s := newShop(t, pool, nil)
	execTx(t, pool, "ALTER TABLE idempotency_records SET (autovacuum_enabled = off)")
	execTx(t, pool, "ANALYZE idempotency_records")
	n := 0
	use := func() {
		n++
		what := fmt.Sprint("plan ", n)
		for range 2 { // run, look up as seen
			_, err := s.sell(t.Context(), what, "", nil)
			require.NoError(t, err)
		}
		_, err := s.sellOn(t.Context(), newTxGuard(t, pool, nil), what, "", nil) // replay
		require.NoError(t, err)
		execTx(t, pool, "UPDATE idempotency_records SET held_until = clock_timestamp() WHERE key = $1", pgx.QueryExecModeExec, []byte(txKey(what).String()))
		_, err = s.sell(t.Context(), what, "", nil) // take over
		require.NoError(t, err)
	}
	read := func() int {
		execTx(t, pool, "SELECT pg_stat_force_next_flush()")
		return queryTx[int](t, pool, "SELECT seq_scan + seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relid = 'idempotency_records'::regclass")
	}
	for range 8 { // after five the plans no longer look at the arguments
		use()
	}
	execTx(t, pool, `INSERT INTO idempotency_records (key, fingerprint, token, claimed_at, held_until)
SELECT convert_to('some other key ' || i, 'UTF8'), sha256('x'), 1, now(), now() + interval '1 hour' FROM generate_series(1, 50000) i`)
	before := read()
	for range 8 {
		use()
	}
	require.Less(t, read()-before, 200)
}

// Those who wait in one process need one connection, however many they are.
func TestDoTxDuplicatesOfAProcessShareAConnection(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	enter, leave := make(chan struct{}), make(chan struct{})
	holder := newTxGuard(t, s.pool, nil)
	done := make(chan error, 101)
	go func() {
		_, err := s.sellOn(t.Context(), holder, "a", "", func(context.Context, pgx.Tx) error { close(enter); <-leave; return nil })
		done <- err
	}()
	<-enter
	for range 100 {
		go func() {
			_, err := s.sell(t.Context(), "a", "", nil)
			done <- err
		}()
	}
	s.waiting(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), txPatience)
	defer cancel()
	_, err := s.sell(ctx, "another key", "", nil)
	require.NoError(t, err)
	require.LessOrEqual(t, s.pool.Stat().AcquiredConns(), int32(2))
	close(leave)
	for range 101 {
		require.NoError(t, <-done)
	}
	s.sold(t, "a", 1)
	require.EqualValues(t, 2, s.runs.Load())
}

func TestDoTxStopsWaitingForAKilledHolderAtOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	enter := make(chan uint32, 1)
	holder := newTxGuard(t, s.pool, nil)
	go func() {
		_, _ = s.sellOn(t.Context(), holder, "a", "", func(ctx context.Context, tx pgx.Tx) error {
			enter <- tx.Conn().PgConn().PID()
			_, err := tx.Exec(ctx, "SELECT pg_sleep(60)")
			return err
		})
	}()
	pid := <-enter
	done := make(chan error, 1)
	go func() {
		_, err := s.sell(t.Context(), "a", "", nil)
		done <- err
	}()
	s.waiting(t, 1)
	killed := time.Now()
	execTx(t, s.pool, "SELECT pg_terminate_backend($1)", int(pid))
	require.NoError(t, <-done)
	require.Less(t, time.Since(killed), atOnce)
	s.sold(t, "a", 1)
}
