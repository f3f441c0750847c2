package pgidem_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/testdb"
)

// The plans that a connection keeps are made while the table is as good as empty, and nothing analyzes it later: what is
// then claimed and completed beside 50,000 other records must still be found by the index of its key, and not by one that
// leads to all that are held.
func TestPlansOfAnEmptyTableDoNotScanAFullOne(t *testing.T) {
	t.Parallel()
	config := testdb.Postgres(t).Config()
	config.MaxConns = 1 // all statements are cached on it
	pool := openPool(t, config)
	require.NoError(t, pgidem.Migrate(t.Context(), pool, nil))
	exec := func(sql string) {
		t.Helper()
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	exec("ALTER TABLE idempotency_records SET (autovacuum_enabled = off)")
	exec("ANALYZE idempotency_records")
	store, err := pgidem.NewStore(pool, nil)
	require.NoError(t, err)
	n := 0
	use := func() {
		n++
		key := idempotency.Key{Scope: "plan", Op: "test", Value: fmt.Sprint(n)}
		records, err := store.Claim(t.Context(), []idempotency.Request{{Key: key, Lease: time.Minute}})
		require.NoError(t, err)
		require.Equal(t, idempotency.Won, records[0].Outcome)
		lost, err := store.Extend(t.Context(), []idempotency.Extension{{Key: key, Token: records[0].Token, Lease: time.Minute}})
		require.NoError(t, err)
		require.NoError(t, lost[0])
		lost, err = store.Complete(t.Context(), []idempotency.Completion{{Key: key, Token: records[0].Token, TTL: time.Hour}})
		require.NoError(t, err)
		require.NoError(t, lost[0])
		lost, err = store.Release(t.Context(), []idempotency.Claim{{Key: key, Token: records[0].Token}})
		require.NoError(t, err)
		require.ErrorIs(t, lost[0], idempotency.ErrLost)
	}
	read := func() (rows int) { // by whatever scan
		t.Helper()
		exec("SELECT pg_stat_force_next_flush()")
		require.NoError(t, pool.QueryRow(t.Context(),
			"SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relid = 'idempotency_records'::regclass").Scan(&rows))
		return rows
	}
	for range 8 { // after five the plans no longer look at the arguments
		use()
	}
	exec(`INSERT INTO idempotency_records (key, fingerprint, token, claimed_at, held_until)
SELECT convert_to('some other key ' || i, 'UTF8'), sha256('x'), 1, now(), now() + interval '1 hour' FROM generate_series(1, 50000) i`)
	before := read()
	for range 8 {
		use()
	}
	require.LessOrEqual(t, read()-before, 8*10)
}

// To plan a statement takes longer than to carry it out. Left to itself, PostgreSQL would do so for each claim, since a plan for these very arguments
// looks better.
func TestNothingIsPlannedAnew(t *testing.T) {
	t.Parallel()
	pool := new(wire).pool(t)
	store, err := pgidem.NewStore(pool, nil)
	require.NoError(t, err)
	do := doOn(t, store)
	guard := newTxGuard(t, pool, nil)
	for n := range 20 {
		do()
		key := idempotency.Key{Scope: "plan", Op: "test", Value: fmt.Sprint(n)}
		for range 2 {
			_, err := pgidem.DoTx(t.Context(), guard, key, idempotency.Fingerprint{}, func(context.Context, pgx.Tx) (string, error) { return "", nil })
			require.NoError(t, err)
		}
		records, err := store.Claim(t.Context(), []idempotency.Request{{Key: idempotency.Key{Scope: "claim", Op: "test", Value: fmt.Sprint(n)}, Lease: time.Minute}})
		require.NoError(t, err)
		_, err = store.Complete(t.Context(), []idempotency.Completion{{Key: key, Token: records[0].Token, TTL: time.Hour}})
		require.NoError(t, err)
	}
	plans := func(kind string) (n int) {
		require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_statements WHERE "+kind+"_plans > 5").Scan(&n))
		return n
	}
	require.Zero(t, plans("custom"))
	require.Positive(t, plans("generic"))
}
