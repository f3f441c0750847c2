package main

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/pglock"
)

// lockedTx holds a lock for as long as the transaction that writes: lock and writes end together, so there is no late holder, no
// lease and no fence.
type lockedTx struct {
	pool  *pgxpool.Pool
	pause pause
}

func openLockTx(s *server) (payer, error) { return &lockedTx{s.pool, s.pause}, nil }

func (l *lockedTx) pay(ctx context.Context, p payment) (answer verdict, err error) {
	err = pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		if err := pglock.InTx(ctx, tx, 10*time.Second, "doublespend", p.account); err != nil {
			return err
		}
		now, err := look(ctx, tx, p)
		if err != nil || now.answer != "" {
			answer = now.answer
			return err
		}
		l.pause(ctx, p)
		answer, now.balance = decide(now.balance, p)
		_, err = tx.Exec(ctx, `
			WITH debit AS (UPDATE accounts SET balance = $1 WHERE id = $2 RETURNING id)
			INSERT INTO payments (request, account, amount, verdict) SELECT $3, id, $4, $5 FROM debit`,
			now.balance, p.account, p.request, p.amount, answer)
		return err
	})
	if errors.Is(err, lock.ErrHeld) {
		return "", errBusy
	}
	return answer, err
}
