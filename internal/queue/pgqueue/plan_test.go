package pgqueue_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/queue/pgqueue"
)

// read counts the rows of the table that were read in this transaction.
func read(t *testing.T, tx pgx.Tx) (rows int) {
	t.Helper()
	require.NoError(t, tx.QueryRow(t.Context(), `select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
		from pg_stat_xact_user_tables where relid = 'queue_messages'::regclass`).Scan(&rows))
	return rows
}

// Whatever the planner believes about a queue, calls must read what they need and not the whole backlog.
func TestStaleStatisticsDoNotMakeCallsReadTheBacklog(t *testing.T) {
	t.Parallel()
	const backlog = 50_000
	fill := func(queue string, n int) string {
		return fmt.Sprintf(`insert into queue_messages (queue, body) select '%s', 'x' from generate_series(1, %d)`, queue, n)
	}
	claimed := fmt.Sprintf(`insert into queue_messages (queue, body, worker, lease_until)
		select 'q', 'x', 'w' || i %% 10, now() from generate_series(1, %d) as s (i)`, backlog)
	for name, set := range map[string][]string{
		"never analyzed":           {fill("q", backlog)},
		"analyzed":                 {fill("q", backlog), `analyze queue_messages`},
		"analyzed while claimed":   {claimed, `analyze queue_messages`, `delete from queue_messages`, fill("q", backlog)},
		"behind another's backlog": {fill("other", backlog), `analyze queue_messages`, fill("q", 1000)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := migrated(t)
			ctx := t.Context()
			_, err := db.Exec(ctx, "alter table queue_messages set (autovacuum_enabled = off)")
			require.NoError(t, err)
			for _, sql := range set {
				_, err := db.Exec(ctx, sql)
				require.NoError(t, err, sql)
			}
			tx, err := db.Begin(ctx)
			require.NoError(t, err)
			defer tx.Rollback(ctx) //nolint:errcheck // the test is over
			callsReadLittle(t, tx)
		})
	}
}

func callsReadLittle(t *testing.T, tx pgx.Tx) {
	t.Helper()
	ctx := t.Context()
	q, err := pgqueue.New(tx, "q", &pgqueue.Options{Lease: time.Minute})
	require.NoError(t, err)
	for range 8 { // after five the driver's statements get their generic plans
		before := read(t, tx)
		did := func(what string, most int) {
			t.Helper()
			n := read(t, tx)
			require.LessOrEqual(t, n-before, most, what)
			before = n
		}
		msgs, err := q.Claim(ctx, "w", 100)
		require.NoError(t, err)
		require.Len(t, msgs, 100)
		did("claim", 1000)
		_, err = q.Claim(ctx, "w", 0)
		require.NoError(t, err)
		did("renew", 1000)
		require.NoError(t, q.Return(ctx, "w", msgs[:50]...))
		did("return", 1000)
		require.NoError(t, q.Ack(ctx, "w", msgs[50:]...))
		did("ack", 1000)
		_, err = q.Reap(ctx)
		require.NoError(t, err)
		did("reap", 1000)
	}
}
