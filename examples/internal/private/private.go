// Package private gives a program a PostgreSQL and a Redis of its own, from the
// machine's binaries: a durable single machine without containers.
package private

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/safetill/safetill/internal/localdb"
)

// Servers are a running PostgreSQL and Redis.
type Servers struct {
	PostgresURL, RedisURL string
	postgres              *localdb.Postgres
	redis                 *localdb.Redis
}

// Start starts both with their data in dir, and waits for those that an earlier
// process left there to be gone. Redis syncs every write, so that what only it
// has survives a crash of the machine.
func Start(ctx context.Context, dir string) (*Servers, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Servers{}
	if s.postgres, err = localdb.StartPostgres(ctx, localdb.Options{Dir: filepath.Join(dir, "postgres")}); err != nil {
		return nil, err
	}
	s.redis, err = localdb.StartRedis(ctx, localdb.Options{
		Dir: filepath.Join(dir, "redis"), Settings: map[string]string{"appendfsync": "always"},
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.PostgresURL, s.RedisURL = s.postgres.URL(), s.redis.URL()
	return s, nil
}

// Close stops both, within 3 seconds each; their data stays.
func (s *Servers) Close() error {
	stop := func(close func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		return close(ctx)
	}
	var err error
	if s.redis != nil {
		err = stop(s.redis.Close)
	}
	return errors.Join(err, stop(s.postgres.Close))
}
