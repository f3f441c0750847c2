package testdb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/safetill/safetill/internal/localdb"
)

const (
	// claimLease outlives the longest test, so that a killed test binary blocks its databases for no longer than this.
	claimLease = 20 * time.Minute
	// claimLimit is how long a test waits for a free database.
	claimLimit = time.Minute
)

// redisServer is the server that the test binary shares. Database 0 holds nothing but the claims on the others.
type redisServer struct {
	url       string
	claims    *redis.Client
	databases int
}

var sharedRedis = shared[redisServer]{start: func(ctx context.Context) (redisServer, error) {
	s := redisServer{url: os.Getenv(envRedis)}
	if s.url == "" {
		server, err := localdb.StartRedis(ctx, localdb.Options{})
		if err != nil {
			return s, err
		}
		s.url = server.URL()
	}
	conf, err := databaseOptions(s.url, 0)
	if err != nil {
		return s, err
	}
	s.claims = redis.NewClient(conf)
	settings, err := s.claims.ConfigGet(ctx, "databases").Result()
	if err != nil {
		return s, err
	}
	s.databases, err = strconv.Atoi(settings["databases"])
	return s, err
}}

// Redis returns a client of a database on the shared server that is empty and this call's own. It is flushed when the test ends, and
// the client closed.
func Redis(tb testing.TB) *redis.Client {
	tb.Helper()
	conf, err := redis.ParseURL(RedisURL(tb))
	usable(tb, err)
	client := redis.NewClient(conf)
	cleanup(tb, "close the client", func(context.Context) error { return closeClient(client.Close) })
	return client
}

// RedisURL returns a connection string for a database on the shared server that is empty and this call's own. It is flushed when the
// test ends.
func RedisURL(tb testing.TB) string {
	tb.Helper()
	server := sharedRedis.of(tb)
	n := server.claim(tb)
	conf, err := databaseOptions(server.url, n)
	usable(tb, err)
	flush := func(ctx context.Context) error {
		client := redis.NewClient(conf)
		defer func() { _ = client.Close() }()
		return client.FlushDB(ctx).Err()
	}
	if err := flush(tb.Context()); err != nil {
		tb.Fatalf("testdb: flush database %d: %v", n, err)
	}
	cleanup(tb, "flush the database", flush) // runs before the claim is given back
	return databaseURL(server.url, n)
}

// claim reserves a database by a key in database 0, since several test binaries may share a server. The key holds a token, so that a
// test which outlived its lease does not give back what has become another's.
func (s redisServer) claim(tb testing.TB) int {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), claimLimit)
	defer cancel()
	token := rand.Text()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		for n := 1; n < s.databases; n++ {
			key := fmt.Sprintf("safetill:testdb:%d", n)
			err := s.claims.SetArgs(ctx, key, token, redis.SetArgs{Mode: "NX", TTL: claimLease}).Err()
			if err == nil {
				cleanup(tb, "give the database back", func(ctx context.Context) error {
					const script = `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`
					return s.claims.Eval(ctx, script, []string{key}, token).Err()
				})
				return n
			}
			if !errors.Is(err, redis.Nil) {
				tb.Fatalf("testdb: claim a Redis database: %v", err)
			}
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("testdb: all %d databases of the Redis are in use", s.databases)
		case <-tick.C:
		}
	}
}

func databaseOptions(server string, n int) (*redis.Options, error) {
	return redis.ParseURL(databaseURL(server, n))
}

// databaseURL replaces the database number in a URL; what is no URL comes back as it is, for ParseURL to refuse.
func databaseURL(server string, n int) string {
	u, err := url.Parse(server)
	if err != nil {
		return server
	}
	u.Path = "/" + strconv.Itoa(n)
	return u.String()
}

// closeClient lets a test close its client itself.
func closeClient(closing func() error) error {
	if err := closing(); !errors.Is(err, redis.ErrClosed) {
		return err
	}
	return nil
}

// NewRedis starts a server that only this test uses, to be killed, stopped and started again. It is closed when the test ends.
// Of the options, one may be given.
func NewRedis(tb testing.TB, options ...localdb.Options) *localdb.Redis {
	tb.Helper()
	server, err := localdb.StartRedis(tb.Context(), first(options))
	usable(tb, err)
	cleanup(tb, "close Redis", server.Close)
	return server
}

var sharedCluster = shared[*localdb.RedisCluster]{start: func(ctx context.Context) (*localdb.RedisCluster, error) {
	return localdb.StartRedisCluster(ctx, localdb.Options{})
}}

// RedisCluster returns a client of a cluster of three masters, always the test binary's own and empty when the first test asks. A
// cluster has one database only, so tests share its keys: a test puts something of its own, as t.Name(), into each, and never flushes.
// The client is closed when the test ends.
func RedisCluster(tb testing.TB) *redis.ClusterClient {
	tb.Helper()
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: sharedCluster.of(tb).Addrs()})
	cleanup(tb, "close the client", func(context.Context) error { return closeClient(client.Close) })
	return client
}

// NewRedisSentinel starts a master, a replica and a sentinel that only this test uses, to kill the master. They are closed when the test ends.
func NewRedisSentinel(tb testing.TB) *localdb.RedisSentinel {
	tb.Helper()
	watched, err := localdb.StartRedisSentinel(tb.Context(), localdb.Options{})
	usable(tb, err)
	cleanup(tb, "close the sentinel and its servers", watched.Close)
	return watched
}

// NewRedisCluster starts a cluster of three masters that only this test uses, to move slots between them. It is closed when the test ends.
func NewRedisCluster(tb testing.TB) *localdb.RedisCluster {
	tb.Helper()
	cluster, err := localdb.StartRedisCluster(tb.Context(), localdb.Options{})
	usable(tb, err)
	cleanup(tb, "close the cluster", cluster.Close)
	return cluster
}
