package lock_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/lock/locktest"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/idempotency/pglock"
	"github.com/safetill/safetill/idempotency/redisidem"
	"github.com/safetill/safetill/internal/testdb"
)

// servers are what a locker and the work that it protects run on, in any process.
type servers struct{ Postgres, Redis string }

func testServers(tb testing.TB) servers {
	tb.Helper()
	return servers{Postgres: testdb.PostgresURL(tb), Redis: testdb.RedisURL(tb)}
}

// pool connects to PostgreSQL, with the tables that the tests need.
func (s servers) pool(ctx context.Context) (*pgxpool.Pool, error) {
	pool, err := pgxpool.New(ctx, s.Postgres)
	if err != nil {
		return nil, err
	}
	_, err = pool.Exec(ctx, `
		SELECT pg_advisory_xact_lock(42);
		CREATE TABLE IF NOT EXISTS accounts (id int PRIMARY KEY, balance bigint NOT NULL, fence bigint NOT NULL DEFAULT 0);
		INSERT INTO accounts VALUES (42, 100) ON CONFLICT DO NOTHING`)
	for _, migrate := range []func() error{
		func() error { return err },
		func() error { return pgidem.Migrate(ctx, pool, nil) },
		func() error { return pglock.Migrate(ctx, pool, nil) },
	} {
		if err := migrate(); err != nil {
			pool.Close()
			return nil, err
		}
	}
	return pool, nil
}

// backend is a kind of lock.
type backend string

const (
	onRedis      backend = "redis"      // a lease there
	onPostgres   backend = "postgres"   // a lease there
	onConnection backend = "connection" // package pglock
)

var backends = []backend{onRedis, onPostgres, onConnection}

// open returns a locker and what closes it.
func (b backend) open(ctx context.Context, s servers, o lock.Options) (locktest.Locker, func(), error) {
	if b == onRedis {
		config, err := redis.ParseURL(s.Redis)
		if err != nil {
			return nil, nil, err
		}
		rdb := redis.NewClient(config)
		store, err := redisidem.NewStore(rdb, nil)
		if err != nil {
			return nil, nil, err
		}
		l, err := lock.New(store, &o)
		return l, func() { _ = rdb.Close() }, err
	}
	pool, err := s.pool(ctx)
	if err != nil {
		return nil, nil, err
	}
	if b == onConnection {
		l, err := pglock.New(pool, &pglock.Options{Lease: o.Lease, Wait: o.Wait})
		return l, pool.Close, err
	}
	store, err := pgidem.NewStore(pool, nil)
	if err != nil {
		return nil, nil, err
	}
	l, err := lock.New(store, &o)
	return l, pool.Close, err
}

func (b backend) locker(tb testing.TB, s servers, o lock.Options) locktest.Locker {
	tb.Helper()
	l, closeIt, err := b.open(tb.Context(), s, o)
	require.NoError(tb, err)
	tb.Cleanup(closeIt)
	return l
}

// each runs a test on every kind of lock.
func each(t *testing.T, test func(*testing.T, backend)) {
	t.Parallel()
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			test(t, b)
		})
	}
}
