package testdb_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
)

func TestPostgresGivesEachCallASchemaOnEveryConnection(t *testing.T) {
	t.Parallel()
	one, two := testdb.Postgres(t), testdb.Postgres(t)
	seen := map[string]bool{}
	for range 5 { // held together, so that each is a connection of its own
		conn, err := one.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		var schema string
		require.NoError(t, conn.QueryRow(t.Context(), "select current_schema()").Scan(&schema))
		seen[schema] = true
	}
	require.Len(t, seen, 1)
	require.EqualValues(t, 16, one.Config().MaxConns)

	_, err := one.Exec(t.Context(), "create table same (n int)")
	require.NoError(t, err)
	_, err = two.Exec(t.Context(), "create table same (n int)")
	require.NoError(t, err, "the second call has another schema")
}

func TestPostgresDropsTheSchemaAtTheEnd(t *testing.T) {
	t.Parallel()
	var schema string
	t.Run("inner", func(t *testing.T) {
		db := testdb.Postgres(t)
		_, err := db.Exec(t.Context(), "create table kept (n int)")
		require.NoError(t, err)
		require.NoError(t, db.QueryRow(t.Context(), "select current_schema()").Scan(&schema))
	})
	var there bool
	require.NoError(t, testdb.Postgres(t).QueryRow(t.Context(), "select to_regnamespace($1) is not null", schema).Scan(&there))
	require.False(t, there)
}

func TestPostgresURLReachesTheSameKindOfSchema(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), testdb.PostgresURL(t))
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	_, err = conn.Exec(t.Context(), "create table here (n int)")
	require.NoError(t, err)
}

func TestRedisGivesEachCallADatabase(t *testing.T) {
	t.Parallel()
	one, two := testdb.Redis(t), testdb.Redis(t)
	require.NotEqual(t, one.Options().DB, two.Options().DB)
	require.NotZero(t, one.Options().DB)
	require.NoError(t, one.Set(t.Context(), "key", "one", 0).Err())
	require.ErrorIs(t, two.Get(t.Context(), "key").Err(), redis.Nil)
}

func TestRedisFlushesTheDatabaseAtTheEnd(t *testing.T) {
	t.Parallel()
	conf := *testdb.Redis(t).Options()
	t.Run("inner", func(t *testing.T) {
		c := testdb.Redis(t)
		conf.DB = c.Options().DB
		require.NoError(t, c.Set(t.Context(), "left", 1, 0).Err())
	})
	c := redis.NewClient(&conf)
	defer func() { _ = c.Close() }()
	require.ErrorIs(t, c.Get(t.Context(), "left").Err(), redis.Nil)
}

func TestRedisClusterIsSharedByTheBinary(t *testing.T) {
	t.Parallel()
	one, two := testdb.RedisCluster(t), testdb.RedisCluster(t)
	require.NoError(t, one.Set(t.Context(), t.Name(), "here", 0).Err())
	require.Equal(t, "here", two.Get(t.Context(), t.Name()).Val())
}

// The binary runs itself with the environment of somebody whose servers run already, and without binaries on PATH.
func TestURLsInTheEnvironmentWin(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	p := testdb.NewPostgres(t, localdb.Options{Settings: map[string]string{"log_connections": "on"}, Log: &log})
	// The two tests of Redis hold two databases each. Three beside database 0 make them wait for one another; with two, each could hold
	// one and wait for the other's until its limit.
	r := testdb.NewRedis(t, localdb.Options{Settings: map[string]string{"databases": "4"}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.v", "-test.run=^Test(Postgres|Redis)(Gives|Drops|Flushes|URL)")
	cmd.Env = append(os.Environ(), "SAFETILL_TEST_POSTGRES_URL="+p.URL(), "SAFETILL_TEST_REDIS_URL="+r.URL(), "REQUIRE_BACKENDS=1", "PATH=")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, 5, strings.Count(string(out), "\n--- PASS"), string(out))
	require.NoError(t, p.Stop(t.Context()))
	require.Contains(t, log.String(), "connection authorized")
}

func TestNewServersAreTheTestsOwn(t *testing.T) {
	t.Parallel()
	p := testdb.NewPostgres(t)
	require.NoError(t, p.Kill())
	require.NoError(t, p.Start(t.Context()))
	r := testdb.NewRedis(t, localdb.Options{Settings: map[string]string{"appendfsync": "always"}})
	require.NoError(t, r.Kill())
	require.NoError(t, r.Start(t.Context()))
	require.NotEqual(t, p.Pid(), r.Pid())
}
