package pgsaga_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// A change comes as the next file: databases out there have run this one.
func TestShippedMigrationsDoNotChange(t *testing.T) {
	t.Parallel()
	shipped := map[string]string{
		"0001_init.sql": "e743431831b8ce09961fc1bb33378019317138c4889546ec88712600090d36fc",
	}
	files := pgsaga.Migrations()
	names, err := fs.Glob(files, "*")
	require.NoError(t, err)
	require.Len(t, names, len(shipped))
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		require.NoError(t, err)
		sum := sha256.Sum256(text)
		require.Equal(t, shipped[name], hex.EncodeToString(sum[:]), name)
	}
}

// The files alone make the tables, for those who have a migration tool.
func TestAStoreWithoutADatabaseSaysSo(t *testing.T) {
	t.Parallel()
	var pool *pgxpool.Pool // as it is left by who does not look at the error of pgxpool.New
	def := saga.MustDefine("pay", 1, saga.Pivot("pay", func(context.Context, *int) error { return nil }))
	for _, store := range []*pgsaga.Store{pgsaga.NewStore(nil, nil), pgsaga.NewStore(pool, nil)} {
		e, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = def.Start(ctx, e, "o1", 1, nil)
		require.ErrorContains(t, err, "pgsaga: database is nil")
		_, err = e.Admin().Inspect(ctx, "o1")
		require.ErrorContains(t, err, "pgsaga: database is nil")
		require.ErrorContains(t, e.Signal(ctx, "o1", "a", 1), "database is nil")
		require.NoError(t, ctx.Err(), "nobody waits for a database that is nil")
	}
	require.ErrorContains(t, pgsaga.Migrate(t.Context(), pool, nil), "database is nil")
}

func TestMigrationsByAnotherTool(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	f := fixture{pgsaga.NewStore(pool, nil), pool}
	files := pgsaga.Migrations()
	names, err := fs.Glob(files, "*.sql")
	require.NoError(t, err)
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		require.NoError(t, err)
		f.exec(t, string(text))
	}
	f.create(t, "1", "me")
}

func TestSchemaOfAnyName(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	for _, name := range []string{`Odd "name"; -- 'é {from} {record}`, "select"} {
		schema := name + strings.ToLower(rand.Text()[:8])
		t.Cleanup(func() {
			_, err := pool.Exec(context.WithoutCancel(t.Context()), "DROP SCHEMA "+pgx.Identifier{schema}.Sanitize()+" CASCADE")
			require.NoError(t, err)
		})
		f := fixture{pgsaga.NewStore(pool, &pgsaga.Options{Schema: schema}), pool}
		require.ErrorAs(t, f.CheckSchema(t.Context()), new(*pgsaga.SchemaError))
		for range 2 {
			require.NoError(t, pgsaga.Migrate(t.Context(), pool, &pgsaga.MigrateOptions{Schema: schema}))
		}
		require.NoError(t, f.CheckSchema(t.Context()))
		r := f.create(t, "1", "me")
		w := next(r)
		w.Messages, w.Events, w.Release = []saga.Message{{Topic: "t"}}, []saga.Event{{Kind: saga.EventRetry}}, true
		require.NoError(t, f.save(t, w))
		require.NoError(t, f.save(t, w))
		require.NoError(t, f.Deliver(t.Context(), "1", "go", []byte("1")))
		claimed := f.claim(t, "me", 1)
		w = ahead(claimed[0].Record)
		require.NoError(t, f.SaveTx(t.Context(), w, func(context.Context, any) error { return nil }))
		require.NoError(t, f.Renew(t.Context(), []*saga.Lease{{ID: "1", Token: 2}}, time.Minute))
		require.Equal(t, []string{"t"}, f.relay(t, 1))
		require.Len(t, f.find(t, "1").Events, 1)
		_, err := f.Sweep(t.Context(), time.Hour, 1)
		require.NoError(t, err)
	}
	require.Zero(t, (fixture{nil, pool}).count(t, "SELECT count(*) FROM pg_class WHERE relname LIKE 'saga%' AND relnamespace = current_schema()::regnamespace"))
}

// Whoever goes past this package still cannot write down what it could not read.
func TestConstraintsRefuseWhatGoRefuses(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.create(t, "1", "me")
	f.create(t, "2", "me")
	const check, unique, notNull, cannotBe = "23514", "23505", "23502", "22P02"
	for set, code := range map[string]string{
		"id = ''": check, "id = repeat('x', 256)": check, "id = '2'": unique, "status = 'running'": check, "fingerprint = ''": check,
		"token = -1": check, "revision = -1": check, "data = '{'": cannotBe, "data = NULL": notNull, "status = NULL": notNull,
	} {
		_, err := f.pool.Exec(t.Context(), "UPDATE sagas SET "+set+" WHERE id = '1'")
		var e *pgconn.PgError
		require.ErrorAs(t, err, &e, set)
		require.Equal(t, code, e.Code, set)
	}
}

// PostgreSQL evaluates all checks of a table for each row of an update, and plans them
// anew for each statement: a check of one column belongs to a domain.
func TestACheckpointPaysForNoChecksOfOtherColumns(t *testing.T) {
	t.Parallel()
	f := open(t)
	require.Zero(t, f.count(t, "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conrelid = 'sagas'::regclass"))
}

// A checkpoint changes no index, so that it stays in its page (HOT), where there is room
// for those of one saga even if an open transaction of somebody keeps all old versions.
func TestCheckpointsChangeNoIndex(t *testing.T) {
	t.Parallel()
	f := open(t)
	r := f.create(t, "1", "me")
	for range plan {
		w := next(r)
		require.NoError(t, f.save(t, w))
		r = w.Record
	}
	require.Eventually(t, func() bool {
		f.exec(t, "SELECT pg_stat_force_next_flush()")
		return f.count(t, "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'sagas'::regclass") == len(plan)
	}, 20*time.Second, 50*time.Millisecond)
}
