package ledger

import (
	"time"

	"github.com/shopspring/decimal"
)

// AccountID names an account: 1 to 128 bytes of UTF-8 without control
// characters, chosen by the client.
type AccountID string

// Side is one of the two sides of an account.
type Side uint8

// The two sides. An asset or expense account grows on the [Debit] side, a
// liability, equity or income account on the [Credit] side.
const (
	Debit Side = iota + 1
	Credit
)

func (s Side) String() string {
	switch s {
	case Debit:
		return "debit"
	case Credit:
		return "credit"
	}
	return "invalid side"
}

// Account is what [Ledger.Open] opens. None of it can change afterwards.
type Account struct {
	ID       AccountID
	Currency string // ISO 4217 code, or one of Options.Currencies
	Normal   Side   // the side on which the balance grows

	// Floor is the least that a transaction may leave available, on the account's
	// normal side: 0 for "never overdrawn", −500 for an overdraft of 500. What is
	// held counts as gone.
	// It cannot be positive, since an account starts at 0.
	// Default: nil, no floor.
	Floor *decimal.Decimal
}

// Balance is an account's balance as of its last entry.
type Balance struct {
	Account  AccountID
	Currency string
	Normal   Side
	Debits   decimal.Decimal // sum of all debits
	Credits  decimal.Decimal // sum of all credits
	Posted   decimal.Decimal // what the normal side has over the other

	HeldDebits  decimal.Decimal // what open holds may still debit
	HeldCredits decimal.Decimal // what they may still credit
	Available   decimal.Decimal // Posted, less what holds may take from it

	Version int64 // how many entries the account has
}

// Entry is one side of a posting: what an account's statement lists.
type Entry struct {
	Account     AccountID
	Version     int64 // 1 for the account's first entry, without gaps
	Transaction TransactionID
	Posting     int // index in the transaction's postings
	Side        Side
	Amount      decimal.Decimal
	Balance     decimal.Decimal // on the normal side, after this entry
	Contra      AccountID       // the posting's other account
	At          time.Time       // when it was posted, by the store's clock
}
