package ledger

import (
	"context"
	"fmt"
	"iter"
	"math/bits"
	"time"

	"github.com/shopspring/decimal"
)

// PastBalance is an account's balance at a moment.
type PastBalance struct {
	Account  AccountID
	Currency string
	Normal   Side
	Posted   decimal.Decimal // what the normal side had over the other
	Version  int64           // of the last entry at that moment, 0 for none
	At       time.Time       // of that entry; zero for none
}

// BalanceAt returns what an account had at t, by the store's clock: its balance
// after the last entry that was posted at t or before, 0 before the first. An
// unknown account is an [*UnknownAccountError].
//
// The answer for a moment that has only just passed may still change: a batch
// reads the clock before it is committed. Where the store's clock was set back,
// the answer is the balance at one of the moments that had this time, the same
// whatever is posted after t.
//
// Cost: 2 round trips for a t after the last entry, else about log₂ of the
// account's version (20 for a million entries), each of one entry.
func (l *Ledger) BalanceAt(ctx context.Context, account AccountID, t time.Time) (PastBalance, error) {
	fail := func(err error) (PastBalance, error) {
		return PastBalance{}, fmt.Errorf("ledger: balance of %q at %s: %w", account, t.Format(time.RFC3339Nano), err)
	}
	states, err := l.states(ctx, account)
	if err != nil {
		return fail(err)
	}
	s := states[0]
	last, err := l.lastAt(ctx, s, t)
	if err != nil {
		return fail(err)
	}
	return PastBalance{
		Account: s.ID, Currency: s.Currency, Normal: s.Normal,
		Posted: last.Balance.Decimal(s.Scale), Version: last.Version, At: last.At,
	}, nil
}

// lastAt finds the last entry at t or before; the zero Recorded stands for none.
func (l *Ledger) lastAt(ctx context.Context, s *State, t time.Time) (Recorded, error) {
	look := func(version int64) (Recorded, error) {
		page, err := l.store.Lines(ctx, s.ID, version-1, 1)
		if err == nil && (len(page) == 0 || page[0].Version != version) {
			err = &HistoryError{Account: s.ID, Version: version, Reason: "is missing"}
		}
		if err != nil {
			return Recorded{}, err
		}
		return page[0], nil
	}
	if s.Version == 0 {
		return Recorded{}, nil
	}
	if newest, err := look(s.Version); err != nil || !newest.At.After(t) {
		return newest, err
	}
	// The version is put together bit by bit from the highest. Halves would do as well,
	// but where they lie goes by how many entries there are by now:
	//
	//	the clock was set back, so that there were two moments of this time;
	//	one is found, and is where a statement ends;
	//	more is posted, the other one is found, and is where the next statement begins.
	//
	// This way entries after t change nothing.
	var last Recorded
	for bit := int64(1) << (bits.Len64(uint64(s.Version)) - 1); bit > 0; bit /= 2 {
		probe := last.Version + bit
		if probe >= s.Version { // that one is after t
			continue
		}
		r, err := look(probe)
		if err != nil {
			return Recorded{}, err
		}
		if !r.At.After(t) {
			last = r
		}
	}
	return last, nil
}

// HistoryError is an entry that contradicts those before it. [Ledger.Verify]
// finds all of them.
type HistoryError struct {
	Account AccountID
	Version int64
	Reason  string
}

func (e *HistoryError) Error() string {
	return fmt.Sprintf("ledger: entry %d of %q %s", e.Version, e.Account, e.Reason)
}

// Fold hands entries to f one by one, each with what f made of those before it,
// and returns what f made of the last; s is what the first is given. It stops at
// the first error, of the entries or of f, and returns it with what it had.
//
// Entries are a ledger's events, so whatever can be told of an account is a fold
// over [Ledger.Entries]. A state that was kept with the version it was made at is
// a snapshot: to go on from it, begin behind that version.
func Fold[S any](entries iter.Seq2[Entry, error], s S, f func(S, Entry) (S, error)) (S, error) {
	for e, err := range entries {
		if err != nil {
			return s, err
		}
		next, err := f(s, e)
		if err != nil {
			return s, err
		}
		s = next
	}
	return s, nil
}

// Add returns the balance after its account's next entry. Folded over all
// entries, it makes of Balance{Account: …, Currency: …, Normal: …} what
// [Ledger.Balances] returns, but for what is held: holds have no entries, so that
// HeldDebits and HeldCredits stay as they are, and Available moves with Posted.
//
//	b, err := ledger.Fold(l.Entries(ctx, b.Account, b.Version), b, ledger.Balance.Add)
//
// An entry of another account, with a version that is not the next, or with a
// running balance that does not follow is a [*HistoryError].
func (b Balance) Add(e Entry) (Balance, error) {
	fault := func(reason string) (Balance, error) {
		return b, &HistoryError{Account: e.Account, Version: e.Version, Reason: reason}
	}
	if e.Account != b.Account {
		return fault(fmt.Sprintf("is not of %q", b.Account))
	}
	if e.Version != b.Version+1 {
		return fault(fmt.Sprintf("follows entry %d", b.Version))
	}
	after, change := b, e.Amount
	switch e.Side {
	case Debit:
		after.Debits = b.Debits.Add(e.Amount)
	case Credit:
		after.Credits = b.Credits.Add(e.Amount)
	default:
		return fault("has no side")
	}
	if e.Side != b.Normal {
		change = change.Neg()
	}
	after.Posted, after.Available, after.Version = b.Posted.Add(change), b.Available.Add(change), e.Version
	if !after.Posted.Equal(e.Balance) {
		return fault(fmt.Sprintf("leaves %s, should leave %s", e.Balance, after.Posted))
	}
	return after, nil
}
