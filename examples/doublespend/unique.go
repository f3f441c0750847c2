package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A request is paid or declined once, for ever: there is no second row.
const uniqueTables = `CREATE UNIQUE INDEX payments_once ON payments (request)`

// unique lets an index decide who is first. A repeat waits for the first transaction on that index, finds the row, and answers
// from it; the index never forgets, unlike a key with a TTL.
type unique struct {
	pool  *pgxpool.Pool
	pause pause
}

func openUnique(s *server) (payer, error) { return &unique{s.pool, s.pause}, nil }

func (u *unique) pay(ctx context.Context, p payment) (answer verdict, err error) {
	err = pgx.BeginFunc(ctx, u.pool, func(tx pgx.Tx) error {
		first, err := tx.Exec(ctx, `
			INSERT INTO payments (request, account, amount, verdict) VALUES ($1, $2, $3, 'paid') ON CONFLICT (request) DO NOTHING`,
			p.request, p.account, p.amount)
		if err != nil {
			return err
		}
		if first.RowsAffected() == 0 {
			return tx.QueryRow(ctx, `SELECT verdict FROM payments WHERE request = $1`, p.request).Scan(&answer)
		}
		u.pause(ctx, p)
		debit, err := tx.Exec(ctx, `UPDATE accounts SET balance = balance - $2 WHERE id = $1 AND balance >= $2`, p.account, p.amount)
		if err != nil || debit.RowsAffected() == 1 {
			answer = paid
			return err
		}
		answer = declined
		_, err = tx.Exec(ctx, `UPDATE payments SET verdict = 'declined' WHERE request = $1`, p.request)
		return err
	})
	return answer, err
}
