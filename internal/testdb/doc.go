// Package testdb gives tests real PostgreSQL and Redis servers.
//
//	func TestPost(t *testing.T) {
//		t.Parallel()
//		db := testdb.Postgres(t) // a pool whose search_path is a new, empty schema
//		require.NoError(t, pgledger.Migrate(t.Context(), db, nil))
//		…
//	}
//
// Which function:
//
//	Postgres, PostgresURL   one server for the test binary, a schema for each call
//	Redis, RedisURL         one server for the test binary, a numbered database for each call
//	RedisCluster            three masters for the test binary, keys shared by all tests
//	NewPostgres, NewRedis   a server of the test's own, to be killed and started again
//	NewRedisCluster         three masters likewise, to move slots between
//	NewRedisSentinel        a master, a replica and a sentinel likewise
//
// Where the servers come from. SAFETILL_TEST_POSTGRES_URL and SAFETILL_TEST_REDIS_URL name running ones (URLs, not keyword strings; the
// PostgreSQL user may create schemas, the Redis has more databases than tests run at once). Without them a private server is started from
// the machine's binaries at the first call: PATH, and for PostgreSQL also /usr/lib/postgresql/*/bin. Without those the test is skipped,
// or fails where REQUIRE_BACKENDS=1. RedisCluster and all New… always start their own.
//
// What a test may rely on:
//   - Nobody else writes to its schema or its Redis database, which are empty at first; both are removed when the test ends, and so is
//     every connection. Functions may be called from any number of parallel tests and test binaries, several times each.
//   - fsync and synchronous_commit are on, PostgreSQL keeps its other defaults but max_connections (200), Redis has an append-only file
//     synced every second. A test that kills Redis and counts acknowledged writes asks NewRedis for appendfsync always.
//   - The servers end with the test binary, also when that is killed; no process or directory stays behind.
//
// What it may not: that a server is idle (others run on the same one, so times are not comparable), or that a schema's name is the same
// in the next run. Schema names need no quoting.
//
// Cost: the first Postgres of a binary takes 1 to 3 seconds, the first Redis 0.1, RedisCluster 5; every further call a few
// milliseconds; all New… pay the first price each time.
package testdb
