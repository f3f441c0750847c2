package main

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
)

// none is the counter-example: it reads the balance, decides, and writes what it has calculated. Alone it is right.
//
//	A and B read 100; both find that 80 can be paid; both write 20. 160 are paid out of 100, and the books say 80.
type none struct {
	pool  *pgxpool.Pool
	pause pause
}

func openNone(s *server) (payer, error) { return &none{s.pool, s.pause}, nil }

func (n *none) pay(ctx context.Context, p payment) (verdict, error) {
	var balance int64
	if err := n.pool.QueryRow(ctx, `SELECT balance FROM accounts WHERE id = $1`, p.account).Scan(&balance); err != nil {
		return "", err
	}
	n.pause(ctx, p)
	answer, balance := decide(balance, p)
	_, err := n.pool.Exec(ctx, `
		WITH debit AS (UPDATE accounts SET balance = $1 WHERE id = $2 RETURNING id)
		INSERT INTO payments (request, account, amount, verdict) SELECT $3, id, $4, $5 FROM debit`,
		balance, p.account, p.request, p.amount, answer)
	return answer, err
}

// decide is all there is to decide where nobody else is about.
func decide(balance int64, p payment) (verdict, int64) {
	if balance < p.amount {
		return declined, balance
	}
	return paid, balance - p.amount
}
