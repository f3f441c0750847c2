package main

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
)

// versioned writes only if nobody has written since it read. A shortage is an answer; a conflict is not: ask again, with what is
// there by then. The request is looked up in what is read, so that a repeat which lost the race finds the first one's answer.
type versioned struct {
	pool  *pgxpool.Pool
	pause pause
}

func openVersion(s *server) (payer, error) { return &versioned{s.pool, s.pause}, nil }

func (v *versioned) pay(ctx context.Context, p payment) (verdict, error) {
	now, err := look(ctx, v.pool, p)
	if err != nil || now.answer != "" {
		return now.answer, err
	}
	v.pause(ctx, p)
	answer, left := decide(now.balance, p)
	tag, err := v.pool.Exec(ctx, `
		WITH debit AS (UPDATE accounts SET balance = $1, version = version + 1 WHERE id = $2 AND version = $6 RETURNING id)
		INSERT INTO payments (request, account, amount, verdict) SELECT $3, id, $4, $5 FROM debit`,
		left, p.account, p.request, p.amount, answer, now.version)
	if err == nil && tag.RowsAffected() == 0 {
		return "", errBusy
	}
	return answer, err
}
