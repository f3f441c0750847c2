package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

// pause is called by every way between what it reads and what it writes: there the storm lets payments meet, and servers freeze.
type pause func(ctx context.Context, p payment)

// server is one of two that take payments: it shares nothing with the other but PostgreSQL and Redis.
type server struct {
	pool   *pgxpool.Pool
	redis  []*redis.Client
	wire   *wire
	lease  time.Duration // of keys and locks
	prefix string        // of keys on Redis
	pause  pause

	payer payer
	stop  context.CancelFunc // what runs
	runs  sync.WaitGroup
}

// place is where a way's servers find their stores.
type place struct {
	postgres string
	redis    []string
	schema   string
}

// settings of a server.
type settings struct {
	conns int
	lease time.Duration
	pause pause
}

func (p place) server(ctx context.Context, w way, o settings) (*server, error) {
	s := &server{wire: &wire{}, lease: o.lease, prefix: p.schema + ":", pause: o.pause}
	var err error
	if s.pool, err = p.pool(ctx, o, s.wire); err != nil {
		return nil, err
	}
	for _, url := range p.redis {
		config, err := redis.ParseURL(url)
		if err != nil {
			s.close()
			return nil, err
		}
		config.Dialer, config.PoolSize = s.wire.dial, o.conns
		s.redis = append(s.redis, redis.NewClient(config))
	}
	if s.payer, err = w.open(s); err != nil {
		s.close()
		return nil, fmt.Errorf("%s: %w", w.name, err)
	}
	ctx, s.stop = context.WithCancel(ctx)
	if r, ok := s.payer.(interface{ Run(context.Context) error }); ok {
		s.runs.Go(func() { _ = r.Run(ctx) })
	}
	return s, nil
}

// pool connects to PostgreSQL through the wire.
func (p place) pool(ctx context.Context, o settings, w *wire) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(p.postgres)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(o.conns)
	config.ConnConfig.DialFunc = w.dial
	set := config.ConnConfig.RuntimeParams
	set["search_path"] = p.schema
	set["enable_seqscan"] = "off" // plans are made while the tables are small, and kept
	// A server that is frozen must not hold its rows for ever.
	set["idle_in_transaction_session_timeout"] = strconv.FormatInt((2 * o.lease).Milliseconds(), 10)
	return pgxpool.NewWithConfig(ctx, config)
}

// close stops what runs and closes what is open.
func (s *server) close() {
	if s.stop != nil {
		s.stop()
		s.runs.Wait()
	}
	for _, rdb := range s.redis {
		_ = rdb.Close()
	}
	s.pool.Close()
}

// servers are the two.
type servers [2]*server

func (p place) servers(ctx context.Context, w way, o [2]settings) (both servers, err error) {
	for i := range both {
		if both[i], err = p.server(ctx, w, o[i]); err != nil {
			both.close()
			return servers{}, err
		}
	}
	return both, nil
}

func (s servers) close() {
	for _, one := range s {
		if one != nil {
			one.close()
		}
	}
}

// trips of both.
func (s servers) trips() int64 { return s[0].wire.trips.Load() + s[1].wire.trips.Load() }

// settle asks until there is an answer, as a client does that is told to come back, and says how often it was told.
func (s *server) settle(ctx context.Context, p payment) (answer verdict, conflicts int, err error) {
	for tries := 0; ; tries++ {
		answer, err = s.payer.pay(ctx, p)
		if !errors.Is(err, errBusy) {
			return answer, tries, err
		}
		select {
		case <-ctx.Done():
			return "", tries, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(backoff(tries, 20*time.Millisecond)):
		}
	}
}
