package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// books are what a way leaves behind.
type books interface {
	open(ctx context.Context, accounts []string, balance int64) error
	read(ctx context.Context, accounts []string) ([]account, error)
}

// account is what its books say.
type account struct {
	opening, balance int64
	paid             []payout // in the order in which they were recorded
}

type payout struct {
	request string
	amount  int64
}

// audit is what is wrong.
type audit struct {
	payouts    int
	overspends int   // payouts that should not be: of a request that was paid before, or of money that is not there
	made       int64 // what is left and what was paid, beyond what there was
	wrong      int   // accounts of which that is not 0: what one has too much, another may have too little
}

func (a *audit) add(b audit) {
	a.payouts += b.payouts
	a.overspends += b.overspends
	a.made += b.made
	a.wrong += b.wrong
}

func judge(accounts []account) (all audit) {
	for _, a := range accounts {
		seen := make(map[string]bool, len(a.paid))
		var spent int64
		for _, p := range a.paid {
			spent += p.amount
			if seen[p.request] || spent > a.opening {
				all.overspends++
			}
			seen[p.request] = true
		}
		all.payouts += len(a.paid)
		if made := a.balance + spent - a.opening; made != 0 {
			all.made += made
			all.wrong++
		}
	}
	return all
}

// sqlBooks are two tables. Only unique.go adds a unique index on request.
type sqlBooks struct{ pool *pgxpool.Pool }

const sqlTables = `
CREATE TABLE accounts (
    id      text   PRIMARY KEY,
    opening bigint NOT NULL,
    balance bigint NOT NULL,
    version bigint NOT NULL DEFAULT 0,
    fence   bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE payments (
    n       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request text   NOT NULL,
    account text   NOT NULL,
    amount  bigint NOT NULL,
    verdict text   NOT NULL
);
CREATE INDEX payments_request ON payments (request);
CREATE INDEX payments_account ON payments (account);`

func (b sqlBooks) open(ctx context.Context, accounts []string, balance int64) error {
	_, err := b.pool.Exec(ctx, `INSERT INTO accounts (id, opening, balance) SELECT unnest($1::text[]), $2, $2`, accounts, balance)
	return err
}

func (b sqlBooks) read(ctx context.Context, accounts []string) ([]account, error) {
	rows, err := b.pool.Query(ctx, `
		SELECT a.id, a.opening, a.balance, coalesce(p.request, ''), coalesce(p.amount, 0)
		FROM accounts a LEFT JOIN payments p ON p.account = a.id AND p.verdict = 'paid'
		WHERE a.id = ANY ($1) ORDER BY a.id, p.n`, accounts)
	if err != nil {
		return nil, err
	}
	var all []account
	var last, id string
	var a account
	var p payout
	_, err = pgx.ForEachRow(rows, []any{&id, &a.opening, &a.balance, &p.request, &p.amount}, func() error {
		if id != last {
			all, last = append(all, a), id
		}
		if p.request != "" {
			it := &all[len(all)-1]
			it.paid = append(it.paid, p)
		}
		return nil
	})
	return all, err
}

// ledgerBooks are the entries of a ledger.
type ledgerBooks struct{ ledger *ledger.Ledger }

func openLedgerBooks(pool *pgxpool.Pool) (books, error) {
	l, err := openLedger(pool)
	return ledgerBooks{l}, err
}

func (b ledgerBooks) open(ctx context.Context, accounts []string, balance int64) error {
	var open []ledger.Account
	var fund []ledger.Transaction
	for _, name := range accounts {
		id, source := ledger.AccountID(name), outside(name)
		open = append(open,
			ledger.Account{ID: id, Currency: currency, Normal: ledger.Credit, Floor: new(decimal.Zero)},
			ledger.Account{ID: source, Currency: currency, Normal: ledger.Debit})
		fund = append(fund, ledger.Transaction{ID: "fund " + ledger.TransactionID(id), Postings: []ledger.Posting{
			{Debit: source, Credit: id, Amount: decimal.New(balance, -scale), Currency: currency},
		}})
	}
	if err := b.ledger.Open(ctx, open...); err != nil {
		return err
	}
	_, err := b.ledger.Post(ctx, fund)
	return err
}

func (b ledgerBooks) read(ctx context.Context, accounts []string) ([]account, error) {
	report, err := b.ledger.Verify(ctx)
	if err != nil {
		return nil, err
	}
	if len(report.Breaks) > 0 {
		return nil, fmt.Errorf("the ledger does not add up: %v", report.Breaks)
	}
	var all []account
	for _, id := range accounts {
		var a account
		for entry, err := range b.ledger.Entries(ctx, ledger.AccountID(id), 0) {
			if err != nil {
				return nil, err
			}
			a.balance = minor(entry.Balance)
			if entry.Side == ledger.Credit {
				a.opening += minor(entry.Amount)
			} else {
				a.paid = append(a.paid, payout{string(entry.Transaction), minor(entry.Amount)})
			}
		}
		all = append(all, a)
	}
	return all, nil
}

func minor(d decimal.Decimal) int64 { return d.Shift(scale).IntPart() }
