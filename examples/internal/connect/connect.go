// Package connect opens PostgreSQL and Redis as a server wants them: with every
// wait bounded, and no retries behind a circuit breaker's back.
package connect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

// Postgres returns a pool of at most conns connections. It does not dial.
func Postgres(ctx context.Context, url string, conns int) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(conns)
	config.ConnConfig.ConnectTimeout = 3 * time.Second
	set := config.ConnConfig.RuntimeParams
	// Plans are kept for the life of a connection. Made while the tables are small,
	// they would scan them, and still do so when they have grown.
	set["enable_seqscan"], set["jit"] = "off", "off"
	set["idle_in_transaction_session_timeout"] = "10s" // a server that hangs must not hold its rows
	return pgxpool.NewWithConfig(ctx, config)
}

// Redis returns a client of the server at the URL address that logs through log. It does not dial.
func Redis(address string, log *slog.Logger) (*redis.Client, error) {
	config, err := redis.ParseURL(address)
	if bad, ok := errors.AsType[*url.Error](err); ok {
		err = bad.Err // without the URL, which may have a password
	}
	if err != nil {
		return nil, err
	}
	config.ContextTimeoutEnabled = true // else a deadline is not heeded once a command is sent
	config.DialTimeout, config.ReadTimeout, config.WriteTimeout = time.Second, 2*time.Second, 2*time.Second
	config.MaxRetries, config.DialerRetries = 1, 1 // its default of five dials takes half a second
	redisLog.Do(func() { redis.SetLogger(printer{log}) })
	return redis.NewClient(config), nil
}

var redisLog sync.Once // the client has one logger for all

type printer struct{ log *slog.Logger }

// Printf is what the client calls.
func (p printer) Printf(ctx context.Context, format string, args ...any) {
	p.log.LogAttrs(ctx, slog.LevelDebug, "redis client", slog.String("said", fmt.Sprintf(format, args...)))
}

// ErrNotDurable says that Redis keeps what it is given in memory alone.
var ErrNotDurable = errors.New("appendonly is off in Redis")

// AppendOnly returns what tells whether Redis writes to a file what it is given:
// what nobody else has must be there before it is acknowledged. It asks within
// limit, and never again once the answer was yes. A file that is not synced at
// every write is good enough for it, and for a warning in log.
func AppendOnly(rdb *redis.Client, limit time.Duration, log *slog.Logger) func(context.Context) error {
	var known atomic.Bool
	return func(ctx context.Context) error {
		if known.Load() {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		settings, err := rdb.ConfigGet(ctx, "append*").Result()
		if err != nil {
			return err
		}
		if settings["appendonly"] != "yes" {
			return ErrNotDurable
		}
		if fsync := settings["appendfsync"]; !known.Swap(true) && fsync != "always" {
			log.LogAttrs(ctx, slog.LevelWarn, "Redis syncs its file only now and then: what it alone has is safe from a crash of this process, "+
				"not of Redis or the machine; appendfsync always would do", slog.String("appendfsync", fsync))
		}
		return nil
	}
}
