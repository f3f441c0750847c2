package main

import (
	"cmp"
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/examples/internal/connect"
	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// shop has all that an order goes through but the limit.
type shop struct {
	ledger *ledger.Ledger
	once   func(ctx context.Context, key idempotency.Key, body idempotency.Fingerprint, work work) (idempotency.Result[string], error)
	sagas  saga.Store
	close  func()
}

// work is done once for each key, with the ledger that it is given.
type work func(ctx context.Context, l *ledger.Ledger) (string, error)

func open(ctx context.Context, url string) (s *shop, err error) {
	if url == "" {
		s, err = inMemory()
	} else {
		s, err = inPostgres(ctx, url)
	}
	if err != nil {
		return nil, err
	}
	err = s.ledger.Open(ctx,
		ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit},
		ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.Zero)},
		ledger.Account{ID: "shop", Currency: "NGN", Normal: ledger.Credit})
	if err == nil {
		_, err = s.ledger.PostOne(ctx, transfer("deposit", "bank", "ada", "100")) // one id: once, however often this runs
	}
	if err != nil {
		s.close()
	}
	return s, err
}

func inMemory() (*shop, error) {
	l, err := ledger.New(ledger.NewMemory(nil), nil)
	guard, guardErr := idempotency.New(idempotency.NewMemory(nil), nil)
	return &shop{
		ledger: l, sagas: saga.NewMemory(nil), close: func() {},
		once: func(ctx context.Context, key idempotency.Key, body idempotency.Fingerprint, work work) (idempotency.Result[string], error) {
			return idempotency.Do(ctx, guard, key, body, func(ctx context.Context, _ *idempotency.Run) (string, error) { return work(ctx, l) })
		},
	}, cmp.Or(err, guardErr)
}

func inPostgres(ctx context.Context, url string) (*shop, error) {
	pool, err := connect.Postgres(ctx, url, 8)
	if err != nil {
		return nil, err
	}
	store := pgledger.NewStore(pool, nil)
	l, err := ledger.New(store, nil)
	guard, guardErr := pgidem.NewTxGuard(pool, nil)
	if err := cmp.Or(err, guardErr, pgledger.Migrate(ctx, pool, nil), pgidem.Migrate(ctx, pool, nil), pgsaga.Migrate(ctx, pool, nil)); err != nil {
		pool.Close()
		return nil, err
	}
	return &shop{
		ledger: l, sagas: pgsaga.NewStore(pool, nil), close: pool.Close,
		once: func(ctx context.Context, key idempotency.Key, body idempotency.Fingerprint, work work) (idempotency.Result[string], error) {
			return pgidem.DoTx(ctx, guard, key, body, func(ctx context.Context, tx pgx.Tx) (string, error) {
				l, err := ledger.New(store.In(tx), nil)
				if err != nil {
					return "", err
				}
				return work(ctx, l)
			})
		},
	}, nil
}

func transfer(id ledger.TransactionID, debit, credit ledger.AccountID, amount string) ledger.Transaction {
	return ledger.Transaction{ID: id, Postings: []ledger.Posting{
		{Debit: debit, Credit: credit, Amount: decimal.RequireFromString(amount), Currency: "NGN"},
	}}
}

// pay takes the money for an order.
func (s *shop) pay(ctx context.Context, order, amount string) (string, error) {
	key, err := idempotency.NewKey("ada", "pay", order)
	if err != nil {
		return "", err
	}
	result, err := s.once(ctx, key, idempotency.FingerprintOf([]byte(amount)), func(ctx context.Context, l *ledger.Ledger) (string, error) {
		_, err := l.PostOne(ctx, transfer(ledger.TransactionID(key.ID("transfer")), "ada", "shop", amount))
		return "paid " + amount, err
	})
	if result.Replayed {
		result.Value += ", as was answered before"
	}
	return result.Value, err
}
