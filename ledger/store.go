package ledger

import (
	"context"
	"time"
)

// Store keeps a ledger. Package ledgertest tests one; users hold a [Ledger].
type Store interface {
	// Open opens the accounts, all or none. An account that is open with the
	// same properties is left as it is; one with others is an
	// [*AccountExistsError].
	Open(ctx context.Context, accounts []State) error

	// Post decides on each draft in order with [Book.Apply] and writes down what was
	// decided, in one commit. The ids are distinct. Outcomes are in the order
	// of the drafts. An error means that nothing is known to be written.
	Post(ctx context.Context, drafts []Draft) ([]Outcome, error)

	// States returns the accounts in the order of ids, nil for an unknown one.
	States(ctx context.Context, ids []AccountID) ([]*State, error)

	// Lines returns up to limit entries of an account with versions above
	// after, in order.
	Lines(ctx context.Context, account AccountID, after int64, limit int) ([]Recorded, error)

	// Verify compares each account with its entries and each currency's debits
	// with its credits, as of one moment.
	Verify(ctx context.Context) (Report, error)
}

// Outcome is what a store decided of one draft.
type Outcome struct {
	Verdict   Verdict
	Posting   int
	Duplicate bool
	At        time.Time
}

// Recorded is an [Entry] in minor units.
type Recorded struct {
	Version     int64
	Transaction TransactionID
	Posting     int
	Side        Side
	Amount      Amount
	Balance     Amount
	Contra      AccountID
	At          time.Time
}
