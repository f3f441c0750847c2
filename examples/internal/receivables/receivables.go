// Package receivables keeps on a ledger what customers owe. A customer owes for a
// financed asset: their account is a receivable, which a payment credits against
// the clearing account. It has no floor, because money that a bank says has been
// paid has been paid: what is paid beyond the debt stands on the same account, as
// the customer's credit.
package receivables

import (
	"context"
	"errors"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// Accounts of the ledger, beside the customers' own.
const (
	Clearing = ledger.AccountID("clearing")        // what the banks have collected for us
	Financed = ledger.AccountID("financed-assets") // what the customers have bought
)

// Currency is what all accounts are in.
const Currency = "NGN"

// AssetValue is what each customer owes at first.
var AssetValue = decimal.New(1_000_000, 0)

// Account is the account of a customer.
func Account(customer string) ledger.AccountID { return ledger.AccountID("customer:" + customer) }

// Open opens the accounts of customers and books what they owe. Doing so again
// does nothing.
func Open(ctx context.Context, l *ledger.Ledger, customers []string) error {
	accounts := []ledger.Account{
		{ID: Clearing, Currency: Currency, Normal: ledger.Debit},
		{ID: Financed, Currency: Currency, Normal: ledger.Credit},
	}
	var debts []ledger.Transaction
	for _, id := range customers {
		accounts = append(accounts, ledger.Account{ID: Account(id), Currency: Currency, Normal: ledger.Debit})
		debts = append(debts, ledger.Transaction{ID: ledger.TransactionID("financed:" + id), Postings: []ledger.Posting{
			{Debit: Account(id), Credit: Financed, Amount: AssetValue, Currency: Currency},
		}})
	}
	if err := l.Open(ctx, accounts...); err != nil {
		return err
	}
	results, err := l.Post(ctx, debts)
	for _, r := range results {
		err = errors.Join(err, r.Err())
	}
	return err
}

// Payment is what a customer has paid, to be posted.
func Payment(id ledger.TransactionID, customer string, amount decimal.Decimal) ledger.Transaction {
	return ledger.Transaction{ID: id, Postings: []ledger.Posting{
		{Debit: Clearing, Credit: Account(customer), Amount: amount, Currency: Currency},
	}}
}

// Balance is what a customer owes. What was paid beyond the debt is credit.
type Balance struct {
	Customer    string          `json:"customer_id"`
	Currency    string          `json:"currency"`
	Outstanding decimal.Decimal `json:"outstanding_balance"`
	Credit      decimal.Decimal `json:"credit_balance"`
	Paid        decimal.Decimal `json:"total_paid"`
	Version     int64           `json:"version"`
}

// Balances returns those of customers, in their order.
func Balances(ctx context.Context, l *ledger.Ledger, customers ...string) ([]Balance, error) {
	accounts := make([]ledger.AccountID, len(customers))
	for i, id := range customers {
		accounts[i] = Account(id)
	}
	balances, err := l.Balances(ctx, accounts...)
	found := make([]Balance, len(balances))
	for i, b := range balances {
		found[i] = Balance{
			Customer: customers[i], Currency: b.Currency, Paid: b.Credits, Version: b.Version,
			Outstanding: decimal.Max(b.Posted, decimal.Zero), Credit: decimal.Max(b.Posted.Neg(), decimal.Zero),
		}
	}
	return found, err
}
