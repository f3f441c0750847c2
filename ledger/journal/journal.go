package journal

import (
	"fmt"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// Transaction is what was posted together.
type Transaction struct {
	ID       ledger.TransactionID
	At       time.Time // when it was posted, by the store's clock
	Postings []Posting // by their index
}

// Posting moved Amount from Credit to Debit.
type Posting struct {
	Index         int // in the ledger's transaction
	Debit, Credit Account
	Amount        decimal.Decimal // more than 0, with the decimal places of Currency
	Currency      string
}

// Account is one of a posting's two.
type Account struct {
	ID     ledger.AccountID
	Normal ledger.Side
}

// Root is the first part of an account's name in a journal: what kind of account
// it is.
type Root string

// The roots that Beancount knows. hledger knows them too.
const (
	Assets      Root = "Assets"
	Liabilities Root = "Liabilities"
	Equity      Root = "Equity"
	Income      Root = "Income"
	Expenses    Root = "Expenses"
)

// Options are the optional settings of [WriteHledger] and [WriteBeancount].
type Options struct {
	// Root tells what kind of account a is. It is asked once of each.
	// Default: Assets for one that grows by debits, else Liabilities.
	Root func(a Account) Root

	// Location is the time zone in which a time's date is told. Default: UTC.
	Location *time.Location
}

func (o *Options) orDefault() Options {
	var d Options
	if o != nil {
		d = *o
	}
	if d.Root == nil {
		d.Root = rootOf
	}
	if d.Location == nil {
		d.Location = time.UTC
	}
	return d
}

func rootOf(a Account) Root {
	if a.Normal == ledger.Debit {
		return Assets
	}
	return Liabilities
}

// RootError says that Options.Root returned something that is no root.
type RootError struct {
	Account ledger.AccountID
	Root    Root
}

func (e *RootError) Error() string {
	return fmt.Sprintf("journal: Options.Root returned %q for account %q, which is no root", e.Root, e.Account)
}

func (o *Options) root(a Account) (Root, error) {
	switch r := o.Root(a); r {
	case Assets, Liabilities, Equity, Income, Expenses:
		return r, nil
	default:
		return "", &RootError{Account: a.ID, Root: r}
	}
}

// fixed returns d with all its decimal places: 10.50, not 10.5.
func fixed(d decimal.Decimal) string { return d.StringFixed(max(0, -d.Exponent())) }
