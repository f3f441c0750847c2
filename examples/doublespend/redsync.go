package main

import (
	"context"
	"errors"
	"time"

	"github.com/go-redsync/redsync/v4"
	redis "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/jackc/pgx/v5/pgxpool"
)

// redsynced takes its lock on most of several independent Redis masters (Redlock), and so goes on when one of them is lost. It has no
// fencing number, so nothing tells the database that a holder comes late. It also is not extended by itself.
type redsynced struct {
	pool  *pgxpool.Pool
	locks *redsync.Redsync
	lease time.Duration
	scope string
	pause pause
}

func openRedsync(s *server) (payer, error) {
	masters := make([]redis.Pool, len(s.redis))
	for i, rdb := range s.redis {
		masters[i] = goredis.NewPool(rdb)
	}
	return &redsynced{s.pool, redsync.New(masters...), s.lease, s.prefix, s.pause}, nil
}

func (r *redsynced) pay(ctx context.Context, p payment) (answer verdict, err error) {
	held := r.locks.NewMutex(r.scope+p.account, redsync.WithExpiry(r.lease), redsync.WithTries(200),
		redsync.WithRetryDelayFunc(func(tries int) time.Duration { return backoff(tries, 50*time.Millisecond) }))
	if err := held.LockContext(ctx); err != nil {
		if _, taken := errors.AsType[*redsync.ErrTaken](err); taken || errors.Is(err, redsync.ErrFailed) {
			return "", errBusy
		}
		return "", err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, _ = held.UnlockContext(ctx) // what is not unlocked expires
	}()
	now, err := look(ctx, r.pool, p)
	if err != nil || now.answer != "" {
		return now.answer, err
	}
	r.pause(ctx, p)
	answer, left := decide(now.balance, p)
	_, err = r.pool.Exec(ctx, `
		WITH debit AS (UPDATE accounts SET balance = $1 WHERE id = $2 RETURNING id)
		INSERT INTO payments (request, account, amount, verdict) SELECT $3, id, $4, $5 FROM debit`,
		left, p.account, p.request, p.amount, answer)
	return answer, err
}
