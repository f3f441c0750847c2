package pg_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/internal/testdb"
)

var (
	_ pg.Batcher = (*pgxpool.Pool)(nil)
	_ pg.Batcher = (*pgx.Conn)(nil)
	_ pg.Batcher = pgx.Tx(nil)
)

const (
	initSQL = "create table till (id bigint primary key);\ninsert into till values (1);\n"
	moreSQL = "alter table till add column note text;\ncreate index till_note on till (note);\n"
)

func files(contents ...string) fs.FS {
	m := fstest.MapFS{}
	for n, sql := range contents {
		m[fmt.Sprintf("%04d_step.sql", n+1)] = &fstest.MapFile{Data: []byte(sql)}
	}
	return m
}

func line(contents ...string) pg.Migration {
	return pg.Migration{Line: "till", Files: files(contents...)}
}

func count(t *testing.T, db pg.DB, table string) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(t.Context(), "select count(*) from "+table).Scan(&n))
	return n
}

func exists(t *testing.T, db pg.DB, table string) (yes bool) {
	t.Helper()
	require.NoError(t, db.QueryRow(t.Context(), "select to_regclass($1) is not null", table).Scan(&yes))
	return yes
}

// schema returns a name that no other test uses, made of the pool's schema, and drops what the test makes of it.
func schema(t *testing.T, db pg.DB, suffix string) string {
	t.Helper()
	var name string
	require.NoError(t, db.QueryRow(t.Context(), "select current_schema()").Scan(&name))
	name += suffix
	t.Cleanup(func() {
		_, err := db.Exec(context.WithoutCancel(t.Context()), "drop schema if exists "+pgx.Identifier{name}.Sanitize()+" cascade")
		require.NoError(t, err)
	})
	return name
}

func TestMigrateAppliesEachFileOnceInOrder(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	require.NoError(t, pg.Migrate(t.Context(), db, line(initSQL)))
	require.NoError(t, pg.Migrate(t.Context(), db, line(initSQL)))
	require.Equal(t, 1, count(t, db, "till"))
	require.Equal(t, 1, count(t, db, "safetill_migrations"))
	require.NoError(t, pg.Migrate(t.Context(), db, line(initSQL, moreSQL)))
	require.Equal(t, 2, count(t, db, "safetill_migrations"))

	other := pg.Migration{Line: "other", Files: files("create table other_thing (n int)")}
	require.NoError(t, pg.Migrate(t.Context(), db, other), "lines share the table of records")
	require.Equal(t, 3, count(t, db, "safetill_migrations"))
}

func TestMigrateSixteenAtOnce(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	for _, schema := range []string{"", schema(t, db, "_made")} {
		m := line(initSQL, moreSQL)
		m.Schema = schema
		errs := make([]error, 16)
		var wg sync.WaitGroup
		for n := range errs {
			wg.Go(func() { errs[n] = pg.Migrate(t.Context(), db, m) })
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		require.Equal(t, 1, count(t, db, pg.Table(schema, "till")))
		require.Equal(t, 2, count(t, db, pg.Table(schema, "safetill_migrations")))
	}
}

func TestMigrateRefusesAChangedFile(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	require.NoError(t, pg.Migrate(t.Context(), db, line(initSQL)))
	err := pg.Migrate(t.Context(), db, line(initSQL+"-- better", moreSQL))
	e, ok := errors.AsType[*pg.ChecksumError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "0001_step.sql", e.Name)
	require.NotEqual(t, e.Recorded, e.Actual)
	require.Equal(t, 1, count(t, db, "safetill_migrations"), "nothing of version 2 was applied")
	require.NoError(t, pg.Migrate(t.Context(), db, line(strings.ReplaceAll(initSQL, "\n", "\r\n"))), "line ends do not count")
}

func TestMigrateRefusesANewerDatabaseAndCheckAcceptsIt(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	require.NoError(t, pg.Migrate(t.Context(), db, line(initSQL, moreSQL)))
	e, ok := errors.AsType[*pg.SchemaError](pg.Migrate(t.Context(), db, line(initSQL)))
	require.True(t, ok)
	require.Equal(t, pg.SchemaError{Line: "till", Have: 2, Want: 1}, *e)
	require.ErrorContains(t, e, "newer")
	require.NoError(t, pg.CheckSchema(t.Context(), db, line(initSQL)))
}

func TestExplainTellsWhatIsNotThere(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	m := line(initSQL, moreSQL)
	m.By = "till.Migrate"
	explained := func(sql string) bool {
		t.Helper()
		_, err := db.Exec(t.Context(), sql)
		require.Error(t, err)
		said := m.Explain(fmt.Errorf("read: %w", err))
		require.ErrorIs(t, said, err)
		e, ok := errors.AsType[*pg.SchemaError](said)
		if ok {
			require.Equal(t, pg.SchemaError{Line: "till", By: "till.Migrate", Want: 2, Cause: e.Cause}, *e)
			require.ErrorContains(t, e, "till.Migrate brings them to version 2: read: ERROR:")
		}
		return ok
	}
	require.True(t, explained("select from till"))
	require.True(t, explained("select from nowhere.till"))
	require.True(t, explained("insert into till values (1)"))
	require.NoError(t, pg.Migrate(t.Context(), db, line(initSQL)))
	require.True(t, explained("select note from till"))
	require.True(t, explained("select till_sum(1)"))
	require.True(t, explained("select nowhere.till_sum(1)"))
	require.True(t, explained("select 1::till_sum"))
	require.False(t, explained("select 1/0"))
	require.False(t, explained("do 'begin perform 1 from elsewhere; end'"), "a function's own statement")
	require.NoError(t, m.Explain(nil))
}

func TestCheckSchemaTellsMissingAndOld(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	want := func(db pg.DB, m pg.Migration, have int) {
		t.Helper()
		e, ok := errors.AsType[*pg.SchemaError](pg.CheckSchema(t.Context(), db, m))
		require.True(t, ok)
		require.Equal(t, pg.SchemaError{Line: "till", Have: have, Want: 2}, *e)
	}
	m, elsewhere := line(initSQL, moreSQL), line(initSQL, moreSQL)
	elsewhere.Schema = `no such "schema"`
	want(db, m, 0)
	want(db, elsewhere, 0)
	require.NoError(t, pg.Migrate(t.Context(), db, line(initSQL)))
	want(db, m, 1)
	want(db, elsewhere, 0)

	tx, err := db.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	want(tx, elsewhere, 0)
	require.NoError(t, pg.Migrate(t.Context(), tx, m), "the check did not abort the transaction")
	require.NoError(t, pg.CheckSchema(t.Context(), tx, m))
}

func TestMigrateIntoASchemaWithOddCharacters(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	m := line(initSQL, moreSQL)
	m.Schema = schema(t, db, ` "Ü".$1'; --`)
	require.NoError(t, pg.Migrate(t.Context(), db, m))
	require.NoError(t, pg.Migrate(t.Context(), db, m))
	require.NoError(t, pg.CheckSchema(t.Context(), db, m))
	require.Equal(t, 1, count(t, db, pg.Table(m.Schema, "till")))
	require.False(t, exists(t, db, "till"), "nothing went to the search_path's schema")
}

func TestMigrateInARolledBackTransactionLeavesNothing(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	m := line(initSQL)
	m.Schema = schema(t, db, "_gone")
	tx, err := db.Begin(t.Context())
	require.NoError(t, err)
	var before, after string
	require.NoError(t, tx.QueryRow(t.Context(), "show search_path").Scan(&before))
	require.NoError(t, pg.Migrate(t.Context(), tx, m))
	require.NoError(t, tx.QueryRow(t.Context(), "show search_path").Scan(&after))
	require.Equal(t, before, after, "the caller's search_path is as it was")
	require.Equal(t, 1, count(t, tx, pg.Table(m.Schema, "till")))
	require.NoError(t, tx.Rollback(t.Context()))
	var left int
	require.NoError(t, db.QueryRow(t.Context(), "select count(*) from pg_namespace where nspname = $1", m.Schema).Scan(&left))
	require.Zero(t, left)
}

// A temporary table of the session comes before every schema unless the search_path says otherwise.
func TestMigrateIsNotMisledByTemporaryTables(t *testing.T) {
	t.Parallel()
	conn, err := testdb.Postgres(t).Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), "create temporary table till (id bigint)")
	require.NoError(t, err)
	require.NoError(t, pg.Migrate(t.Context(), conn.Conn(), line(initSQL, moreSQL)))
	var name string
	require.NoError(t, conn.QueryRow(t.Context(), "select current_schema()").Scan(&name))
	require.Equal(t, 1, count(t, conn.Conn(), pg.Table(name, "till")))
}

func TestMigrateUnderStricterIsolation(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	conn, err := db.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), "set default_transaction_isolation = 'serializable'")
	require.NoError(t, err)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	require.ErrorContains(t, pg.Migrate(t.Context(), tx, line(initSQL)), "must be READ COMMITTED")
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, pg.Migrate(t.Context(), conn.Conn(), line(initSQL)))
}

func TestMigrateLeavesNothingOfAFailure(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	err := pg.Migrate(t.Context(), db, line(initSQL, "create table second (n int); select 1/0"))
	require.ErrorContains(t, err, "0002_step.sql")
	require.ErrorContains(t, err, "22012")
	require.False(t, exists(t, db, "till"))
	require.False(t, exists(t, db, "safetill_migrations"))

	require.ErrorContains(t, pg.Migrate(t.Context(), db, line("create table loose (n int); commit")), "ends the transaction")
	require.NoError(t, pg.Migrate(t.Context(), db, line(initSQL)), "the connections are fit for use")
}

// A program in service may read and write its tables, and create nothing.
func TestMigrateWithNothingToDoNeedsNoRightToCreate(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	m := line(initSQL)
	m.Schema = schema(t, db, "_served")
	require.NoError(t, pg.Migrate(t.Context(), db, m))
	tx, err := db.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	role := pgx.Identifier{m.Schema}.Sanitize()
	_, err = tx.Exec(t.Context(), fmt.Sprintf("create role %[1]s; grant usage on schema %[1]s to %[1]s; grant select on %[2]s to %[1]s; set local role %[1]s",
		role, pg.Table(m.Schema, "safetill_migrations")))
	require.NoError(t, err)
	require.NoError(t, pg.Migrate(t.Context(), tx, m))
	require.NoError(t, pg.CheckSchema(t.Context(), tx, m))
}

func TestMigrateRefusesBadInputWithoutADatabase(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]pg.Migration{
		"line":      {Line: "Bad Line", Files: files(initSQL)},
		"schema":    {Line: "till", Files: files(initSQL), Schema: strings.Repeat("s", 64)},
		"bytes":     {Line: "till", Files: files(initSQL), Schema: "a\x00b"},
		"no files":  {Line: "till"},
		"empty":     {Line: "till", Files: fstest.MapFS{}},
		"gap":       {Line: "till", Files: fstest.MapFS{"0002_x.sql": {}}},
		"twice":     {Line: "till", Files: fstest.MapFS{"0001_x.sql": {}, "0001_y.sql": {}}},
		"file name": {Line: "till", Files: fstest.MapFS{"1.sql": {}}},
	} {
		require.Error(t, pg.Migrate(t.Context(), nil, m), name)
		require.Error(t, pg.CheckSchema(t.Context(), nil, m), name)
	}
}

func TestTableQuotes(t *testing.T) {
	t.Parallel()
	require.Equal(t, `"till"`, pg.Table("", "till"))
	require.Equal(t, `"a ""b"""."till"`, pg.Table(`a "b"`, "till"))
}
