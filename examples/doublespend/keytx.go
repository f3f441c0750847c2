package main

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
)

// keyTx is key with the record in the debit's own transaction: both are committed or neither is, so that no crash leaves one of
// them, and a key is never taken by a server that is dead.
type keyTx struct {
	guard *pgidem.TxGuard
	pause pause
}

func setUpKeyTx(ctx context.Context, pool *pgxpool.Pool) error { return pgidem.Migrate(ctx, pool, nil) }

func openKeyTx(s *server) (payer, error) {
	guard, err := pgidem.NewTxGuard(s.pool, nil)
	return &keyTx{guard, s.pause}, err
}

func (k *keyTx) pay(ctx context.Context, p payment) (verdict, error) {
	result, err := pgidem.DoTx(ctx, k.guard, p.key(), p.fingerprint(), func(ctx context.Context, tx pgx.Tx) (verdict, error) {
		k.pause(ctx, p)
		return debit(ctx, tx, p)
	})
	if errors.Is(err, idempotency.ErrInFlight) {
		return "", errBusy
	}
	return result.Value, err
}

// database is a pool or a transaction.
type database interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// debit takes the amount if it is there, and records the payment, in one statement: the condition is looked at when the row is
// locked, so that of two at a time the second sees what the first has left.
func debit(ctx context.Context, db database, p payment) (verdict, error) {
	tag, err := db.Exec(ctx, `
		WITH debit AS (UPDATE accounts SET balance = balance - $2 WHERE id = $1 AND balance >= $2 RETURNING id)
		INSERT INTO payments (request, account, amount, verdict) SELECT $3, id, $2, 'paid' FROM debit`,
		p.account, p.amount, p.request)
	if err != nil {
		return "", err
	}
	if tag.RowsAffected() == 0 {
		return declined, nil
	}
	return paid, nil
}
