package main

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/pglock"
	"github.com/safetill/safetill/idempotency/redisidem"
)

// locked lets one payment of an account run at a time. Under the lock it looks again whether the request has been paid, since
// whoever held the lock before may have been its repeat.
//
// The lock keeps others from working in vain; what keeps the books right is the fence. A holder that was stopped for longer
// than its lease comes with a lower token than its successor has written, and changes no row.
type locked struct {
	pool   *pgxpool.Pool
	locker *lock.Locker
	pause  pause
}

func openLock(s *server) (payer, error) {
	store, err := redisidem.NewStore(s.redis[0], &redisidem.Options{Prefix: s.prefix})
	if err != nil {
		return nil, err
	}
	locker, err := lock.New(store, &lock.Options{Lease: s.lease})
	return &locked{s.pool, locker, s.pause}, err
}

func (l *locked) pay(ctx context.Context, p payment) (answer verdict, err error) {
	err = l.locker.Do(ctx, "doublespend", p.account, func(ctx context.Context, held lock.Held) error {
		now, err := look(ctx, l.pool, p)
		if err != nil || now.answer != "" {
			answer = now.answer
			return err
		}
		l.pause(ctx, p)
		answer, err = l.write(ctx, p, now.balance, held.Token)
		return err
	})
	switch {
	case errors.Is(err, lock.ErrHeld), errors.Is(err, lock.ErrLost), errors.Is(err, lock.ErrStale):
		return "", errBusy
	case err != nil:
		return "", err
	}
	return answer, nil
}

func (l *locked) write(ctx context.Context, p payment, balance int64, token idempotency.Token) (verdict, error) {
	answer, left := decide(balance, p)
	return answer, pglock.Written(l.pool.Exec(ctx, `
		WITH debit AS (UPDATE accounts SET balance = $1, fence = $6 WHERE id = $2 AND fence < $6 RETURNING id)
		INSERT INTO payments (request, account, amount, verdict) SELECT $3, id, $4, $5 FROM debit`,
		left, p.account, p.request, p.amount, answer, token))
}

// state is what a payment is decided on.
type state struct {
	balance, version int64
	answer           verdict // of the same request, if it has been decided
}

// row is what look reads from: a pool or a transaction.
type row interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func look(ctx context.Context, db row, p payment) (now state, err error) {
	err = db.QueryRow(ctx, `
		SELECT balance, version, coalesce((SELECT verdict FROM payments WHERE request = $2 LIMIT 1), '') FROM accounts WHERE id = $1`,
		p.account, p.request).Scan(&now.balance, &now.version, &now.answer)
	return now, err
}
