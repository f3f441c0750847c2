package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/safetill/safetill/internal/localdb"
)

// private is a PostgreSQL and three Redis that are thrown away.
type private struct {
	postgresURL string
	redisURLs   []string
	stop        []func(context.Context) error
}

// startServers starts them from the machine's binaries.
func startServers(ctx context.Context) (*private, error) {
	p := &private{}
	postgres, err := localdb.StartPostgres(ctx, localdb.Options{Settings: map[string]string{"max_connections": "400"}})
	if err != nil {
		return nil, explain(err)
	}
	p.postgresURL, p.stop = postgres.URL(), append(p.stop, postgres.Close)
	for range 3 {
		redis, err := localdb.StartRedis(ctx, localdb.Options{})
		if err != nil {
			p.close()
			return nil, explain(err)
		}
		p.redisURLs, p.stop = append(p.redisURLs, redis.URL()), append(p.stop, redis.Close)
	}
	return p, nil
}

func explain(err error) error {
	if errors.Is(err, localdb.ErrNotInstalled) {
		return fmt.Errorf("this needs PostgreSQL 15 or later and Redis 6.2 or later: install both on this machine, "+
			"or name running ones with -postgres and -redis: %w", err)
	}
	return err
}

// close stops them and removes their data.
func (p *private) close() {
	for _, stop := range p.stop {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_ = stop(ctx) // they are thrown away, and end with this process at the latest
		cancel()
	}
}
