package pgqueue_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/queue"
	"github.com/safetill/safetill/internal/queue/pgqueue"
	"github.com/safetill/safetill/internal/queue/queuetest"
	"github.com/safetill/safetill/internal/testdb"
)

const (
	crashURL  = "SAFETILL_PGQUEUE_CRASH_URL"
	crashName = "crash"
)

func TestMain(m *testing.M) {
	queuetest.CrashWorker(func(ctx context.Context) (queue.Queue, error) {
		db, err := pgxpool.New(ctx, os.Getenv(crashURL))
		if err != nil {
			return nil, err
		}
		return pgqueue.New(db, crashName, &pgqueue.Options{Lease: queuetest.CrashLease})
	})
	os.Exit(m.Run())
}

func migrated(t testing.TB) *pgxpool.Pool {
	t.Helper()
	db := testdb.Postgres(t)
	require.NoError(t, pgqueue.Migrate(t.Context(), db, nil))
	return db
}

func open(t testing.TB, db pgqueue.DB, lease time.Duration) *pgqueue.Queue {
	t.Helper()
	q, err := pgqueue.New(db, t.Name()+"/"+rand.Text(), &pgqueue.Options{Lease: lease})
	require.NoError(t, err)
	return q
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	db := migrated(t) // one table for all of the suite's queues, which must not see each other
	queuetest.Run(t, func(t testing.TB, lease time.Duration) queue.Queue { return open(t, db, lease) })
}

func TestKilledWorkersLoseNothing(t *testing.T) {
	t.Parallel()
	url := testdb.PostgresURL(t)
	db, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(db.Close)
	require.NoError(t, pgqueue.Migrate(t.Context(), db, nil))
	q, err := pgqueue.New(db, crashName, &pgqueue.Options{Lease: queuetest.CrashLease})
	require.NoError(t, err)
	queuetest.Crash(t, q, 3000, crashURL+"="+url)
}

// PostgreSQL is killed while messages are pushed and consumed: every push that was acknowledged is handled.
func TestKilledPostgresKeepsAcknowledgedPushes(t *testing.T) {
	t.Parallel()
	srv := testdb.NewPostgres(t)
	db, err := pgxpool.New(t.Context(), srv.URL())
	require.NoError(t, err)
	t.Cleanup(db.Close)
	require.NoError(t, pgqueue.Migrate(t.Context(), db, nil))
	queuetest.KillServer(t, open(t, db, time.Second), 1000, func(ctx context.Context) error {
		return errors.Join(srv.Kill(), srv.Start(ctx))
	})
}

func TestNewReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := pgqueue.New(nil, "a\x00b", &pgqueue.Options{Lease: time.Nanosecond})
	for _, want := range []string{"database", "name", "Lease"} {
		require.ErrorContains(t, err, want)
	}
}

func TestMigrateIsRepeatableInASchemaOfItsOwn(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	schema := `Odd "name" ` + rand.Text()
	t.Cleanup(func() {
		_, err := db.Exec(context.Background(), "drop schema "+pgx.Identifier{schema}.Sanitize()+" cascade")
		require.NoError(t, err)
	})
	for range 2 {
		require.NoError(t, pgqueue.Migrate(t.Context(), db, &pgqueue.MigrateOptions{Schema: schema}))
	}
	q, err := pgqueue.New(db, "q", &pgqueue.Options{Schema: schema})
	require.NoError(t, err)
	require.NoError(t, q.Push(t.Context(), []byte("a")))
	msgs, err := q.Claim(t.Context(), "w", 2)
	require.NoError(t, err)
	require.Len(t, msgs, 1)
}

func TestShippedMigrationsNeverChange(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"0001_queue.sql": "20a0d71f49f15996e2330806822762fe92833dd9817091c8d2ae4d5f7863ec97",
	}
	got := map[string]string{}
	names, err := fs.Glob(pgqueue.Migrations(), "*")
	require.NoError(t, err)
	for _, name := range names {
		text, err := fs.ReadFile(pgqueue.Migrations(), name)
		require.NoError(t, err)
		sum := sha256.Sum256(text)
		got[name] = hex.EncodeToString(sum[:])
	}
	require.Equal(t, want, got)
}

func TestPushJoinsTheTransaction(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	q := open(t, db, time.Minute)
	ctx := t.Context()
	for _, commit := range []bool{false, true} {
		tx, err := db.Begin(ctx)
		require.NoError(t, err)
		require.NoError(t, q.In(tx).Push(ctx, []byte("1"), []byte("2")))
		msgs, err := q.Claim(ctx, "w", 9)
		require.NoError(t, err)
		require.Empty(t, msgs, "nobody sees it before the commit")
		if !commit {
			require.NoError(t, tx.Rollback(ctx))
			continue
		}
		require.NoError(t, tx.Commit(ctx))
	}
	msgs, err := q.Claim(ctx, "w", 9)
	require.NoError(t, err)
	require.Len(t, msgs, 2)
}

// A claim that is under way elsewhere is passed over, not waited for.
func TestClaimDoesNotWaitForAnother(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	q := open(t, db, time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, q.Push(ctx, []byte("1"), []byte("2"), []byte("3")))
	tx, err := db.Begin(ctx)
	require.NoError(t, err)
	_, err = q.In(tx).Claim(ctx, "slow", 1)
	require.NoError(t, err)
	msgs, err := q.Claim(ctx, "quick", 1)
	require.NoError(t, err)
	require.Equal(t, "2", string(msgs[0].Body))
	require.NoError(t, tx.Rollback(ctx))
	msgs, err = q.Claim(ctx, "quick", 9)
	require.NoError(t, err)
	require.Len(t, msgs, 2)
	require.Equal(t, "1", string(msgs[0].Body), "what the rollback gave back is the oldest again")
}

func TestIdlePollsTakeNoTransactionID(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	q := open(t, db, time.Minute)
	ctx := t.Context()
	tx, err := db.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(ctx) //nolint:errcheck // the test is over
	_, err = q.In(tx).Claim(ctx, "w", 100)
	require.NoError(t, err)
	_, err = q.In(tx).Reap(ctx)
	require.NoError(t, err)
	var id *string
	require.NoError(t, tx.QueryRow(ctx, "select pg_current_xact_id_if_assigned()::text").Scan(&id))
	require.Nil(t, id)
}
