package ledger

import (
	"fmt"

	"github.com/shopspring/decimal"
)

// MaxBreaks is how many breaks a [Report] lists.
const MaxBreaks = 100

// Report is what [Ledger.Verify] found.
type Report struct {
	Accounts     int64
	Transactions int64 // decided, refused ones included
	Entries      int64
	Breaks       []Break // empty where the ledger adds up; at most [MaxBreaks]

	Seal   Seal  // the last of the hash chain; Number 0 where there is none
	Broken *Seal // the first over something that has been changed since; nil: none
}

// OK tells whether the ledger adds up and its hash chain is whole.
func (r Report) OK() bool { return len(r.Breaks) == 0 && r.Broken == nil }

// Break is a contradiction in a ledger.
type Break struct {
	Account  AccountID // "" where it is not of one account, as a currency's sum
	Currency string    // "" where it is not of one currency

	// What contradicts: an account's "debits", "credits" or "version" and its
	// entries, a currency's "sum" of debits and that of its credits, or what the
	// store found beyond that, in words.
	What string

	Have decimal.Decimal // what the account says; all debits for "sum"
	Want decimal.Decimal // what its entries say; all credits for "sum"
}

func (b Break) String() string {
	what := b.What
	if b.Currency != "" {
		what = b.Currency + " " + what
	}
	if b.Account != "" {
		what = fmt.Sprintf("%s of account %q", what, b.Account)
	}
	return fmt.Sprintf("%s: %s, should be %s", what, b.Have, b.Want)
}

// check adds up a ledger, account by account.
type check struct {
	r    Report
	sums map[string]*sum // by currency
}

type sum struct{ debits, credits decimal.Decimal }

// account compares what an account says with what its entries say.
func (c *check) account(s *State, debits, credits Amount, entries int64) {
	c.r.Accounts++
	c.r.Entries += entries
	total := c.sums[s.Currency]
	if total == nil {
		total = &sum{}
		c.sums[s.Currency] = total
	}
	total.debits = total.debits.Add(s.Debits.Decimal(s.Scale))
	total.credits = total.credits.Add(s.Credits.Decimal(s.Scale))
	c.differ(s, "debits", s.Debits.Decimal(s.Scale), debits.Decimal(s.Scale))
	c.differ(s, "credits", s.Credits.Decimal(s.Scale), credits.Decimal(s.Scale))
	c.differ(s, "version", decimal.New(s.Version, 0), decimal.New(entries, 0))
}

func (c *check) differ(s *State, what string, have, want decimal.Decimal) {
	if !have.Equal(want) && len(c.r.Breaks) < MaxBreaks {
		c.r.Breaks = append(c.r.Breaks, Break{Account: s.ID, Currency: s.Currency, What: what, Have: have, Want: want})
	}
}

func (c *check) report(transactions int64) Report {
	c.r.Transactions = transactions
	for currency, total := range c.sums {
		c.differ(&State{Currency: currency}, "sum", total.debits, total.credits)
	}
	return c.r
}
