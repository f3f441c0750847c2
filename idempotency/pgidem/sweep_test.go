package pgidem_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
)

// sweeps calls Sweep and tells what it wants to be removed by each call.
func sweeps(t *testing.T, store *pgidem.Store, limit int, removed ...int) {
	t.Helper()
	for i, want := range removed {
		n, err := store.Sweep(t.Context(), limit)
		require.NoError(t, err)
		require.Equal(t, want, n, i)
	}
}

func TestSweepTakesOnlyWhatIsForgotten(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	store, batch := newStore(t, pool), requests(30)
	_, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	execTx(t, pool, `UPDATE idempotency_records SET held_until = clock_timestamp() -
		(row_number - 10) * interval '6 minutes' + interval '1 minute'
		FROM (SELECT key AS k, row_number() OVER () FROM idempotency_records) r WHERE key = k`)
	// The rows are held for another 55 minutes to over for nearly 120: those over for more than 60 go.
	sweeps(t, store, 6, 6, 4, 0)
	require.Equal(t, 20, queryTx[int](t, pool, "SELECT count(*) FROM idempotency_records"))
	require.Zero(t, queryTx[int](t, pool, "SELECT count(*) FROM idempotency_records WHERE held_until < clock_timestamp() - interval '1 hour'"))

	execTx(t, pool, "UPDATE idempotency_records SET held_until = held_until - interval '1 day', steps_until = clock_timestamp()")
	sweeps(t, newStore(t, pool), 6, 0) // the steps are remembered
	execTx(t, pool, "UPDATE idempotency_records SET steps_until = clock_timestamp() - interval '61 minutes'")
	sweeps(t, newStore(t, pool), 100, 20, 0)
}

// crowd fills the table with 50,000 records, a hundred of them over, on some thousand pages.
func crowd(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	execTx(t, pool, `INSERT INTO idempotency_records (key, fingerprint, token, completed, claimed_at, held_until, response)
SELECT convert_to('some other key ' || i, 'UTF8'), sha256('x'), 1, true, now() - interval '1 day',
	now() + CASE WHEN i % 500 = 0 THEN interval '-2 hours' ELSE interval '1 hour' END, 'receipt'
FROM generate_series(1, 50000) i`)
	require.Greater(t, queryTx[int](t, pool, "SELECT pg_relation_size('idempotency_records') / 8192"), 3*256)
}

// Each call goes on where the last one has ended, also in a transaction of the caller's, and at the end of the table it
// is over for an hour: what is over by then is not looked for, however often Sweep is called.
func TestSweepWalksThroughTheTableOnceAnHour(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	execTx(t, pool, "ALTER TABLE idempotency_records SET (autovacuum_enabled = off)")
	crowd(t, pool)
	store := newStore(t, pool)
	sweeps(t, store, 1, 1, 1)
	sweeps(t, store, 30, 30, 30)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	sweeps(t, store.In(tx), 30, 30)
	require.NoError(t, tx.Commit(t.Context()))
	read := func() int {
		execTx(t, pool, "SELECT pg_stat_force_next_flush()")
		return queryTx[int](t, pool, "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relid = 'idempotency_records'::regclass")
	}
	sweeps(t, store, 30, 8)
	execTx(t, pool, "UPDATE idempotency_records SET held_until = claimed_at WHERE key = 'some other key 1'")
	before := read()
	sweeps(t, store, 30, 0, 0, 0)
	require.Equal(t, before, read())
	sweeps(t, newStore(t, pool), 30, 1)
	require.Equal(t, 49899, queryTx[int](t, pool, "SELECT count(*) FROM idempotency_records"))
}

// A plan that is made while the table is small would be a scan of all of it, for each of its parts.
func TestSweepReadsThePagesThatItIsAt(t *testing.T) {
	t.Parallel()
	config := migrated(t).Config()
	config.MaxConns = 1 // the plan is kept on it
	pool := openPool(t, config)
	execTx(t, pool, "ALTER TABLE idempotency_records SET (autovacuum_enabled = off)")
	execTx(t, pool, "ANALYZE idempotency_records")
	for range 8 {
		sweeps(t, newStore(t, pool), 1, 0)
	}
	crowd(t, pool)
	scans := func() int {
		execTx(t, pool, "SELECT pg_stat_force_next_flush()")
		return queryTx[int](t, pool, "SELECT seq_scan + idx_scan FROM pg_stat_user_tables WHERE relid = 'idempotency_records'::regclass")
	}
	before := scans()
	sweeps(t, newStore(t, pool), 1000, 100)
	require.Equal(t, before, scans(), "it knows where the rows are")
}

// Who is claiming a key that is over for long is not waited for, and keeps it.
func TestSweepLeavesWhatIsBeingClaimed(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	store, batch := newStore(t, pool), requests(2)
	_, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	execTx(t, pool, "UPDATE idempotency_records SET held_until = clock_timestamp() - interval '2 hours'")
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	records, err := store.In(tx).Claim(t.Context(), batch[:1])
	require.NoError(t, err)
	require.Equal(t, idempotency.Won, records[0].Outcome)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	n, err := store.Sweep(ctx, 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, tx.Commit(t.Context()))
	sweeps(t, newStore(t, pool), 10, 0)
	require.Equal(t, 1, queryTx[int](t, pool, "SELECT count(*) FROM idempotency_records"))
}

// One at a time: two of a store would read the same pages.
func TestSweepBesideAnotherDoesNothing(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	store, batch := newStore(t, pool), requests(1)
	_, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	execTx(t, pool, "UPDATE idempotency_records SET held_until = clock_timestamp() - interval '2 hours'")
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	execTx(t, tx, "LOCK idempotency_records")
	first := make(chan int)
	go func() {
		n, _ := store.Sweep(t.Context(), 10)
		first <- n
	}()
	require.Eventually(t, func() bool {
		return queryTx[int](t, pool, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'idempotency_records'::regclass") > 0
	}, 30*time.Second, time.Millisecond)
	sweeps(t, store, 10, 0)
	require.NoError(t, tx.Rollback(t.Context()))
	require.Equal(t, 1, <-first)
}
