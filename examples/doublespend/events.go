package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// events appends: a payment is a transaction of the ledger, whose id is the request, and the balance is the sum of what was appended. The id
// is decided once and for ever, a refusal too, and no account goes below its floor. There is nothing to overwrite.
type events struct {
	post  func(context.Context, []ledger.Transaction) ([]ledger.Result, error)
	run   func(context.Context) error
	pause pause
}

const (
	currency = "NGN"
	scale    = 2 // its decimal places
)

func setUpEvents(ctx context.Context, pool *pgxpool.Pool) error {
	return pgledger.Migrate(ctx, pool, nil)
}

func openLedger(pool *pgxpool.Pool) (*ledger.Ledger, error) {
	return ledger.New(pgledger.NewStore(pool, nil), nil)
}

// openEvents posts each payment in a commit of its own.
func openEvents(s *server) (payer, error) {
	l, err := openLedger(s.pool)
	if err != nil {
		return nil, err
	}
	return &events{post: l.Post, pause: s.pause}, nil
}

// openGroup lets those who come at the same time share one.
func openGroup(s *server) (payer, error) {
	l, err := openLedger(s.pool)
	if err != nil {
		return nil, err
	}
	group, err := ledger.NewGroup(l, nil)
	if err != nil {
		return nil, err
	}
	return &events{post: group.Post, run: group.Run, pause: s.pause}, nil
}

func (e *events) pay(ctx context.Context, p payment) (verdict, error) {
	e.pause(ctx, p)
	results, err := e.post(ctx, []ledger.Transaction{{
		ID: ledger.TransactionID(p.request), Postings: []ledger.Posting{{
			Debit: ledger.AccountID(p.account), Credit: outside(p.account), Amount: decimal.New(p.amount, -scale), Currency: currency,
		}},
	}})
	if err != nil {
		return "", err
	}
	switch r := results[0]; r.Verdict {
	case ledger.Posted:
		return paid, nil
	case ledger.InsufficientFunds:
		return declined, nil
	default:
		return "", fmt.Errorf("the ledger says %v", r.Verdict)
	}
}

// Run is the group's.
func (e *events) Run(ctx context.Context) error {
	if e.run == nil {
		return nil
	}
	return e.run(ctx)
}

// outside is where an account's money comes from and goes to. Each has its own, so that a storm on many accounts meets on none.
func outside(account string) ledger.AccountID { return ledger.AccountID("outside/" + account) }
