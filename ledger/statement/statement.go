package statement

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// Statement is what happened on an account in a period.
type Statement struct {
	Account  ledger.AccountID
	Currency string
	Normal   ledger.Side
	From, To time.Time // of the period, as in [Options]; zero where it is open

	Opening decimal.Decimal // before the first entry, on the normal side
	Closing decimal.Decimal // after the last one
	Debits  decimal.Decimal // sum of the period's debits
	Credits decimal.Decimal // and of its credits
	Entries []ledger.Entry  // of the period, oldest first
}

// Options are the optional settings of [Read].
type Options struct {
	From time.Time // first moment of the period. Default: before the first entry.
	To   time.Time // first moment after it. Default: after the last entry.
}

// Read reads an account's statement. An unknown account is an
// [*ledger.UnknownAccountError], a To that is not after From an
// [*ledger.InputError]. Cost: the round trips of [ledger.Ledger.BalanceAt] for each
// end of the period, one where it has no beginning, and those of [ledger.Ledger.Entries].
func Read(ctx context.Context, l *ledger.Ledger, account ledger.AccountID, o *Options) (*Statement, error) {
	if o == nil {
		o = &Options{}
	}
	if !o.From.IsZero() && !o.To.IsZero() && !o.From.Before(o.To) {
		return nil, &ledger.InputError{Field: "Options.To", Reason: "is not after From"}
	}
	opening, err := open(ctx, l, account, o.From)
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	s := &Statement{
		Account: account, Currency: opening.Currency, Normal: opening.Normal, From: o.From, To: o.To, Opening: opening.Posted,
	}
	last := int64(math.MaxInt64)
	if !o.To.IsZero() { // found as the next statement finds its beginning, not by the first entry of a later time
		then, err := l.BalanceAt(ctx, account, o.To.Add(-1))
		if err != nil {
			return nil, fmt.Errorf("statement: %w", err)
		}
		last = then.Version
	}
	b := opening
	for e, err := range l.Entries(ctx, account, opening.Version) {
		if err == nil && e.Version > last {
			break
		}
		if err == nil {
			b, err = b.Add(e)
		}
		if err != nil {
			return nil, fmt.Errorf("statement: %w", err)
		}
		s.Entries = append(s.Entries, e)
	}
	s.Closing, s.Debits, s.Credits = b.Posted, b.Debits, b.Credits
	return s, nil
}

// open returns the balance before from, with no debits and credits yet.
func open(ctx context.Context, l *ledger.Ledger, account ledger.AccountID, from time.Time) (ledger.Balance, error) {
	if from.IsZero() {
		now, err := l.Balances(ctx, account)
		if err != nil {
			return ledger.Balance{}, err
		}
		zero := now[0].Posted.Sub(now[0].Posted) // with the currency's decimal places
		return ledger.Balance{
			Account: account, Currency: now[0].Currency, Normal: now[0].Normal, Posted: zero, Debits: zero, Credits: zero,
		}, nil
	}
	then, err := l.BalanceAt(ctx, account, from.Add(-1))
	if err != nil {
		return ledger.Balance{}, err
	}
	zero := then.Posted.Sub(then.Posted)
	return ledger.Balance{
		Account: account, Currency: then.Currency, Normal: then.Normal, Version: then.Version,
		Posted: then.Posted, Debits: zero, Credits: zero,
	}, nil
}
