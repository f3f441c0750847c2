package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/safetill/safetill/examples/internal/breaker"
	"github.com/safetill/safetill/examples/internal/connect"
	"github.com/safetill/safetill/examples/internal/limits"
	"github.com/safetill/safetill/examples/internal/private"
	"github.com/safetill/safetill/examples/internal/receivables"
	"github.com/safetill/safetill/examples/internal/service"
	"github.com/safetill/safetill/examples/internal/settlement"
	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/idempotency/redisidem"
	"github.com/safetill/safetill/internal/join"
	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/internal/queue"
	"github.com/safetill/safetill/internal/queue/redisqueue"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

// queueLease is how long a silent worker keeps what it has claimed.
const queueLease = 15 * time.Second

// server is everything that runs.
type server struct {
	*api
	o        *options
	counters ratelimit.Store
	closers  []func() // in the order of opening
}

// newServer opens the stores that the options ask for.
func newServer(ctx context.Context, o *options, log *slog.Logger) (_ *server, err error) {
	s := &server{o: o, counters: ratelimit.NewMemory(nil), api: &api{accepter: &accepter{
		db: breaker.New("database", callLimit, pg.Unavailable), redis: breaker.New("redis", callLimit, func(err error) bool { return err != nil }),
		durable: func(context.Context) error { return errors.New("no Redis") },
		wake:    new(queue.Waker), missed: make(chan struct{}, 1), m: newMetrics(), log: log,
	}}}
	o.settling.Log, o.settling.Accounts = log, settlement.Accounts{From: receivables.Clearing, To: "bank", Currency: receivables.Currency}
	s.joiner = join.New(&join.Options{Size: batchSize}, s.accept)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if o.data != "" {
		own, err := private.Start(ctx, o.data)
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, func() { _ = own.Close() }) // killed if it does not stop, which loses nothing
		o.postgres, o.redis, o.migrate = own.PostgresURL, own.RedisURL, true
		log.Info("private servers are up", slog.String("postgres", o.postgres), slog.String("redis", o.redis))
	}
	if o.postgres == "" {
		err = s.openMemory()
	} else {
		err = s.openServers(ctx)
	}
	if err == nil {
		err = s.protect()
	}
	if err == nil {
		s.gate, err = limits.New(s.counters, &o.limits, log)
	}
	if err != nil {
		return nil, err
	}
	s.m.Breaker("database", s.db)
	s.m.Breaker("redis", s.redis)
	s.m.Queue("posting", s.queue)
	s.m.Queue("spill", s.spill)
	if seeds := o.postgres == "" || o.migrate; seeds && o.seed > 0 {
		if _, err := seed(ctx, s.store, o.seed); err != nil {
			return nil, fmt.Errorf("seed customers: %w", err)
		}
	}
	return s, nil
}

func (s *server) close() {
	for _, stop := range slices.Backward(s.closers) {
		stop()
	}
	s.closers = nil
}

func (s *server) openMemory() (err error) {
	if s.ledger, err = ledger.New(ledger.NewMemory(nil), nil); err != nil {
		return err
	}
	if s.queue, err = queue.NewMemory(nil); err != nil {
		return err
	}
	s.store, s.keys, s.settling = newMemoryStore(s.ledger), idempotency.NewMemory(nil), s.o.settling.InMemory(s.ledger)
	s.health.Watch("memory", func(context.Context) error { return nil })
	s.log.Warn("everything is in memory and gone when this process ends; -data DIR or -postgres URL keeps it")
	return nil
}

// openServers connects to PostgreSQL and, if there is one, Redis.
func (s *server) openServers(ctx context.Context) error {
	pool, err := connect.Postgres(ctx, s.o.postgres, s.o.pgConns)
	if err != nil {
		return fmt.Errorf("-postgres: %w", err)
	}
	s.closers = append(s.closers, pool.Close)
	start, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	keys, err := pgidem.NewStore(pool, nil)
	if err != nil {
		return err
	}
	err = errors.Join(prepare(start, pool, keys, s.o.migrate), settlement.Prepare(start, pool, s.o.migrate))
	_, old := errors.AsType[*pg.SchemaError](err)
	switch {
	case old:
		return fmt.Errorf("%w (-migrate brings the schema up to date)", err)
	case pg.Unavailable(err) && s.o.redis != "" && !s.o.migrate:
		s.log.Warn("PostgreSQL does not answer: payments wait on Redis until it does", slog.Any("error", err))
	case err != nil:
		return err
	}
	s.store, s.keys, s.settling = newPGStore(pool), keys, s.o.settling.InPostgres(pool)
	s.health.Watch("postgres", pool.Ping)
	s.m.Postgres(pool)
	if s.ledger, err = ledger.New(pgledger.NewStore(pool, nil), nil); err != nil {
		return err
	}
	if s.o.redis == "" {
		s.log.Info("no Redis: workers poll PostgreSQL, and an outage of it refuses payments")
		return nil
	}
	return s.openRedis(start)
}

func (s *server) openRedis(ctx context.Context) error {
	rdb, err := connect.Redis(s.o.redis, s.log)
	if err != nil {
		return fmt.Errorf("-redis: %w", err)
	}
	s.closers = append(s.closers, func() { _ = rdb.Close() })
	leased := &redisqueue.Options{Lease: queueLease}
	if s.cache, err = redisidem.NewStore(rdb, nil); err != nil {
		return err
	}
	if s.queue, err = redisqueue.New(rdb, "payments", leased); err != nil {
		return err
	}
	if s.spill, err = redisqueue.New(rdb, "spill", leased); err != nil {
		return err
	}
	counters, err := redislimit.NewStore(rdb, nil)
	if err != nil {
		return err
	}
	s.counters, s.closers = counters, append(s.closers, func() { _ = counters.Close() })
	s.durable = connect.AppendOnly(rdb, callLimit, s.log)
	s.health.Watch("redis", func(ctx context.Context) error {
		err := rdb.Ping(ctx).Err()
		if err == nil && s.durable(ctx) != nil {
			err = service.ErrNotAlone
		}
		return err
	})
	s.m.Redis(rdb)
	if err := s.durable(ctx); err != nil {
		s.log.Warn("payments are refused while PostgreSQL is down", slog.Any("error", err))
	}
	return nil
}

// serve runs until ctx ends and then finishes what was taken in.
func (s *server) serve(ctx context.Context) error {
	return service.Run(ctx, service.Service{
		Addr: s.o.addr, AdminAddr: s.o.adminAddr, Public: s.public(), Admin: s.admin(),
		Unready: s.health.Drain,
		Stages: []func(context.Context) error{
			s.joiner.Run, func(ctx context.Context) error { return s.work(ctx, s.o.workers) }, s.group.Run, s.settling.Run,
			service.Every(time.Minute, s.log, "sweep of keys", service.InBatches(1000, s.keys.Sweep)),
		},
		Log: s.log,
	})
}
