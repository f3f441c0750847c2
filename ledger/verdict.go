package ledger

import (
	"errors"
	"fmt"
)

// Verdict is what was decided of a transaction. Where several would apply, the
// first in the order of the constants below is given, and within one verdict
// the first posting that it applies to.
type Verdict uint8

// The verdicts. Those of the first group need only the transaction, and those of
// the second its neighbours or an earlier one of its id; neither is recorded. The
// last group needs the ledger's state, and is recorded under the transaction's id
// for ever. The numbers are stored: they never change.
const (
	Posted Verdict = 0 // done, whatever the kind asked for

	InvalidID       Verdict = 1 // an id is empty, over 128 bytes, not UTF-8, or has a control character
	InvalidPostings Verdict = 2 // no postings, more than MaxPostings, or some where the kind has none
	SameAccount     Verdict = 3 // a posting debits and credits one account
	UnknownCurrency Verdict = 4 // neither ISO 4217 nor one of Options.Currencies
	InvalidAmount   Verdict = 5 // 0 or negative
	OverScale       Verdict = 6 // more decimals than the currency has
	Overflow        Verdict = 7 // more than 38 digits
	InvalidKind     Verdict = 8 // no such kind, Of or Expires where it has none, or a chain without an end

	LinkFailed Verdict = 9  // another transaction of its chain was refused
	Conflict   Verdict = 10 // the id is taken by a transaction with other content

	UnknownTarget     Verdict = 11 // Of is no such hold, or nothing that was posted
	TargetClosed      Verdict = 12 // the hold is captured or released, the posting reversed
	HoldExpired       Verdict = 13 // the hold's time is over
	NotHeld           Verdict = 14 // a capture of more, or from other accounts, than the hold has
	UnknownAccount    Verdict = 15 // no such account
	CurrencyMismatch  Verdict = 16 // an account is in another currency than the posting, or with other decimal places
	ConditionFailed   Verdict = 17 // one of If does not hold
	BalanceOverflow   Verdict = 18 // an account's total would pass 38 digits
	InsufficientFunds Verdict = 19 // what is available would pass an account's floor
)

// What [VerdictError] is, for errors.Is: one for each refusal.
var (
	ErrInvalidID         = errors.New("ledger: invalid id")
	ErrInvalidPostings   = errors.New("ledger: no postings, or too many")
	ErrSameAccount       = errors.New("ledger: debit and credit are one account")
	ErrUnknownCurrency   = errors.New("ledger: unknown currency")
	ErrInvalidAmount     = errors.New("ledger: amount must be more than 0")
	ErrInvalidKind       = errors.New("ledger: invalid kind, target, expiry or chain")
	ErrLinkFailed        = errors.New("ledger: another transaction of the chain was refused")
	ErrConflict          = errors.New("ledger: id is taken by other content")
	ErrUnknownTarget     = errors.New("ledger: unknown hold or transaction")
	ErrTargetClosed      = errors.New("ledger: captured, released or reversed before")
	ErrHoldExpired       = errors.New("ledger: hold has expired")
	ErrNotHeld           = errors.New("ledger: more than is held, or from other accounts")
	ErrConditionFailed   = errors.New("ledger: condition does not hold")
	ErrUnknownAccount    = errors.New("ledger: unknown account")
	ErrCurrencyMismatch  = errors.New("ledger: currency mismatch")
	ErrBalanceOverflow   = errors.New("ledger: balance would have more than 38 digits")
	ErrInsufficientFunds = errors.New("ledger: insufficient funds")
)

var verdicts = [...]struct {
	name string
	err  error
}{
	Posted:            {"posted", nil},
	InvalidID:         {"invalid_id", ErrInvalidID},
	InvalidPostings:   {"invalid_postings", ErrInvalidPostings},
	SameAccount:       {"same_account", ErrSameAccount},
	UnknownCurrency:   {"unknown_currency", ErrUnknownCurrency},
	InvalidAmount:     {"invalid_amount", ErrInvalidAmount},
	OverScale:         {"over_scale", ErrOverScale},
	Overflow:          {"overflow", ErrOverflow},
	InvalidKind:       {"invalid_kind", ErrInvalidKind},
	LinkFailed:        {"link_failed", ErrLinkFailed},
	Conflict:          {"conflict", ErrConflict},
	UnknownTarget:     {"unknown_target", ErrUnknownTarget},
	TargetClosed:      {"target_closed", ErrTargetClosed},
	HoldExpired:       {"hold_expired", ErrHoldExpired},
	NotHeld:           {"not_held", ErrNotHeld},
	ConditionFailed:   {"condition_failed", ErrConditionFailed},
	UnknownAccount:    {"unknown_account", ErrUnknownAccount},
	CurrencyMismatch:  {"currency_mismatch", ErrCurrencyMismatch},
	BalanceOverflow:   {"balance_overflow", ErrBalanceOverflow},
	InsufficientFunds: {"insufficient_funds", ErrInsufficientFunds},
}

// String returns the verdict's name in snake case.
func (v Verdict) String() string {
	if int(v) < len(verdicts) {
		return verdicts[v].name
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// VerdictError is a refusal as an error. It is the Err… of its verdict.
type VerdictError struct {
	ID      TransactionID
	Verdict Verdict
	Posting int
	Fault   *InputError // nil where the transaction is well formed
}

func (e *VerdictError) Error() string {
	why := e.Verdict.String()
	if err := e.Unwrap(); err != nil {
		why = err.Error()
	}
	if e.Fault != nil {
		return fmt.Sprintf("transaction %q: %s: %s %s", e.ID, why, e.Fault.Field, e.Fault.Reason)
	}
	if !e.ofPosting() {
		return fmt.Sprintf("transaction %q: %s", e.ID, why)
	}
	return fmt.Sprintf("transaction %q, posting %d: %s", e.ID, e.Posting, why)
}

// ofPosting tells whether the refusal is about one posting, and not about the transaction.
func (e *VerdictError) ofPosting() bool {
	switch e.Verdict {
	case InvalidID, InvalidPostings, InvalidKind, LinkFailed, Conflict, UnknownTarget, TargetClosed, HoldExpired, ConditionFailed:
		return false
	default:
		return true
	}
}

// Unwrap returns the sentinel of the verdict.
func (e *VerdictError) Unwrap() error {
	if int(e.Verdict) < len(verdicts) {
		return verdicts[e.Verdict].err
	}
	return nil
}

// InputError is bad input. Nothing was written.
type InputError struct {
	Field  string // for example "Account.Currency"
	Reason string
}

func (e *InputError) Error() string { return "ledger: " + e.Field + " " + e.Reason }

// AccountExistsError says that an account was opened before with other
// properties, which stay.
type AccountExistsError struct{ ID AccountID }

func (e *AccountExistsError) Error() string {
	return fmt.Sprintf("ledger: account %q is open with other properties", e.ID)
}

// UnknownAccountError names an account that is not open. It is [ErrUnknownAccount].
type UnknownAccountError struct{ ID AccountID }

func (e *UnknownAccountError) Error() string { return fmt.Sprintf("%v %q", ErrUnknownAccount, e.ID) }

// Unwrap returns [ErrUnknownAccount].
func (e *UnknownAccountError) Unwrap() error { return ErrUnknownAccount }
