//go:build unix

package localdb_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
)

const patience = 60 * time.Second

func startPostgres(t *testing.T, o localdb.Options) *localdb.Postgres {
	t.Helper()
	p, err := localdb.StartPostgres(t.Context(), o)
	skipWithout(t, err)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		require.NoError(t, p.Close(ctx))
	})
	return p
}

func startRedis(t *testing.T, o localdb.Options) *localdb.Redis {
	t.Helper()
	r, err := localdb.StartRedis(t.Context(), o)
	skipWithout(t, err)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		require.NoError(t, r.Close(ctx))
	})
	return r
}

func skipWithout(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, localdb.ErrNotInstalled) && os.Getenv("REQUIRE_BACKENDS") != "1" {
		t.Skip(err)
	}
}

// sharedDir is a directory that a server of another user may reach, which t.TempDir is not when the tests run as root.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "safetill-localdb-test-*") //nolint:usetesting // its parents are closed to other users
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// running reports whether pid exists and is not a zombie.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

func connect(t *testing.T, p *localdb.Postgres) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func dial(t *testing.T, r *localdb.Redis) *redis.Client {
	t.Helper()
	opt, err := redis.ParseURL(r.URL())
	require.NoError(t, err)
	c := redis.NewClient(opt)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// As root the server runs as another user, who must be able to reach its directory: an error in words, not in initdb's.
func TestRootIsToldThatADirectoryIsOutOfReach(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("servers run as the caller")
	}
	closed := filepath.Join(t.TempDir(), "closed")
	require.NoError(t, os.Mkdir(closed, 0o700))
	_, err := localdb.StartRedis(t.Context(), localdb.Options{Dir: filepath.Join(closed, "redis")})
	skipWithout(t, err)
	require.ErrorContains(t, err, "may not pass "+closed)
}
