package testdb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/internal/localdb"
)

const (
	poolConns  = 16 // of a test's pool
	adminConns = 2  // of the pool that creates and drops schemas
	// closeLimit is how long a test's pool may wait for connections that the test has not given back. The driver takes up to
	// 15 s to give up one whose statement was cancelled before the server had read it.
	closeLimit = 30 * time.Second
)

// postgresServer is the server that the test binary shares, and a pool that makes schemas on it.
type postgresServer struct {
	url   string
	admin *pgxpool.Pool
}

var sharedPostgres = shared[postgresServer]{start: func(ctx context.Context) (postgresServer, error) {
	s := postgresServer{url: os.Getenv(envPostgres)}
	if s.url == "" {
		server, err := localdb.StartPostgres(ctx, localdb.Options{})
		if err != nil {
			return s, err
		}
		s.url = server.URL()
	}
	conf, err := pgxpool.ParseConfig(s.url)
	if err != nil {
		return s, err
	}
	conf.MaxConns = adminConns
	if s.admin, err = pgxpool.NewWithConfig(ctx, conf); err != nil {
		return s, err
	}
	return s, s.admin.Ping(ctx)
}}

// Postgres returns a pool of up to 16 connections on the shared server. The search_path of each is a schema that this call created; it
// is dropped when the test ends, and the pool closed. A test that has then not given its connections back fails. For a pool with other
// settings, or a server program, take PostgresURL.
func Postgres(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	conf, err := pgxpool.ParseConfig(PostgresURL(tb))
	usable(tb, err)
	conf.MaxConns = poolConns
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(tb.Context()), conf)
	usable(tb, err)
	cleanup(tb, "close the pool", func(context.Context) error { return closePool(pool) })
	return pool
}

// PostgresURL returns a connection string for the shared server, whose search_path is a schema that this call created. The schema is
// dropped when the test ends; connections must be closed by then.
func PostgresURL(tb testing.TB) string {
	tb.Helper()
	server := sharedPostgres.of(tb)
	u, err := url.Parse(server.url)
	if err != nil || u.Scheme == "" {
		tb.Fatalf("testdb: %s is not a URL", envPostgres)
	}
	schema := "test_" + strings.ToLower(rand.Text())
	if _, err := server.admin.Exec(tb.Context(), "create schema "+schema); err != nil {
		tb.Fatalf("testdb: create a schema: %v", err)
	}
	cleanup(tb, "drop the schema", func(ctx context.Context) error { return dropSchema(ctx, server.admin, schema) })
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	return u.String()
}

// dropSchema gives up soon on a lock that the test still holds, with a message that says so.
func dropSchema(ctx context.Context, admin *pgxpool.Pool, schema string) error {
	conn, err := admin.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	_, err = conn.Exec(ctx, fmt.Sprintf("set lock_timeout = '%ds'; drop schema %s cascade", int(closeLimit.Seconds()), schema))
	return err
}

// closePool waits for all connections to be given back; the pool's own Close would wait for ever.
func closePool(pool *pgxpool.Pool) error {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		pool.Close()
	}()
	select {
	case <-closed:
		return nil
	case <-time.After(closeLimit):
		return errors.New("the test has not given all connections back")
	}
}

// NewPostgres starts a server that only this test uses, to be killed, stopped and started again. It is closed when the test ends.
// Of the options, one may be given.
func NewPostgres(tb testing.TB, options ...localdb.Options) *localdb.Postgres {
	tb.Helper()
	server, err := localdb.StartPostgres(tb.Context(), first(options))
	usable(tb, err)
	cleanup(tb, "close PostgreSQL", server.Close)
	return server
}

func first(options []localdb.Options) (o localdb.Options) {
	if len(options) > 0 {
		o = options[0]
	}
	return o
}
