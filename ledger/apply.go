package ledger

import "time"

// State is an account as [Book.Apply] decides on it.
type State struct {
	ID          AccountID
	Currency    string
	Scale       uint8 // decimal places of Currency
	Normal      Side
	Floor       *Amount // nil: none
	Debits      Amount  // posted, since the account was opened
	Credits     Amount
	HeldDebits  Amount // reserved by open holds
	HeldCredits Amount
	Version     int64 // how many entries the account has
}

// Balance returns what the normal side has over the other.
func (s *State) Balance() Amount {
	debits, credits := s.Debits, s.Credits
	if s.Normal == Credit {
		debits, credits = credits, debits
	}
	b, _ := debits.Sub(credits) // both are 0…10^38−1, so is the distance
	return b
}

// Available returns the balance less what holds may still take from it. What
// they may bring does not count. It has 38 digits at the most, or is that far
// below 0.
func (s *State) Available() Amount {
	a, ok := s.available()
	if !ok {
		return maxAmount.Neg()
	}
	return a
}

func (s *State) available() (_ Amount, ok bool) {
	held := s.HeldCredits
	if s.Normal == Credit {
		held = s.HeldDebits
	}
	return s.Balance().Sub(held)
}

func (s *State) belowFloor() bool {
	if s.Floor == nil {
		return false
	}
	a, ok := s.available()
	return !ok || a.Cmp(*s.Floor) < 0 // not ok is lower than any floor
}

// Book is what transactions are decided on. The caller sees to it that nobody
// else changes it meanwhile.
type Book struct {
	Accounts map[AccountID]*State

	// Target returns what a transaction's Of names, nil if there is none. It is
	// called for the kinds that have one. Default: nil, there are none.
	Target func(TransactionID) *Target

	Now time.Time // by the store's clock: holds expire by it
}

// Target is an earlier transaction that another one refers to.
type Target struct {
	Kind     Kind
	Verdict  Verdict
	Postings []DraftPosting // as they were held or made
	Expires  time.Time      // of a hold; zero: never
	Closed   bool           // captured, released or reversed
}

// LineKind is what a [Line] does.
type LineKind uint8

// The kinds of lines.
const (
	LinePosted LineKind = iota // an entry on both accounts
	LineHeld                   // an amount reserved
	LineFreed                  // an amount no longer reserved
)

// Line is one effect of a transaction: what a store writes down. Versions and
// balances are those of a posted line, and of the account after it.
type Line struct {
	Kind                        LineKind
	Debit, Credit               *State
	Amount                      Amount
	DebitVersion, CreditVersion int64
	DebitBalance, CreditBalance Amount
}

// Apply decides on one transaction and carries it out in the book. It appends
// its lines to lines and returns them with [Posted]; any other verdict leaves book
// and lines as they were. The int is the index of the posting that a refusal is
// about.
//
// It is the one place where the rules of money stand, shared by every store:
// pure, without a clock of its own. Cost: O(postings), no allocation but for the
// lines.
func (b *Book) Apply(d *Draft, lines []Line) ([]Line, Verdict, int) {
	made := len(lines)
	target, v := b.target(d)
	if v != Posted {
		return lines, v, 0
	}
	lines, v, posting := b.plan(d, target, lines)
	if asked := b.check(d); v == Posted || asked == UnknownAccount && v > UnknownAccount {
		v, posting = asked, 0
	}
	if v != Posted {
		return lines[:made], v, posting
	}
	first := made // the line of the first posting
	for i := made; i < len(lines); i++ {
		if lines[i].Kind == LineFreed {
			first = i + 1
		}
		if !lines[i].apply() {
			revert(lines[made:i])
			return lines[:made], BalanceOverflow, i - first // what is freed comes first, and fits
		}
	}
	// The floor is looked at when all postings are made: a transaction is one
	// event, and money that only passes through an account may arrive second.
	for i := made; i < len(lines); i++ {
		if lines[i].Debit.belowFloor() || lines[i].Credit.belowFloor() {
			revert(lines[made:])
			return lines[:made], InsufficientFunds, max(i-first, 0)
		}
	}
	if target != nil {
		target.Closed = true
	}
	return lines, Posted, 0
}

// Revert takes back what Apply did, of the last transactions first.
func (b *Book) Revert(d *Draft, lines []Line) {
	revert(lines)
	if d.Of != "" {
		b.Target(d.Of).Closed = false
	}
}

// target finds what the transaction refers to, and tells whether it may.
func (b *Book) target(d *Draft) (*Target, Verdict) {
	if d.Of == "" {
		return nil, Posted
	}
	var t *Target
	if b.Target != nil {
		t = b.Target(d.Of)
	}
	holds := d.Kind != KindReverse
	switch {
	case t == nil, t.Verdict != Posted, holds != (t.Kind == KindHold), t.Kind == KindRelease:
		return nil, UnknownTarget
	case t.Closed:
		return nil, TargetClosed
	case d.Kind == KindCapture && !t.Expires.IsZero() && !b.Now.Before(t.Expires):
		return nil, HoldExpired
	}
	return t, Posted
}

// plan appends the lines that the transaction would make.
func (b *Book) plan(d *Draft, t *Target, lines []Line) ([]Line, Verdict, int) {
	switch d.Kind {
	case KindHold:
		return b.resolve(LineHeld, d.Postings, true, lines)
	case KindRelease:
		return b.resolve(LineFreed, t.Postings, false, lines)
	case KindReverse:
		made := len(lines)
		lines, v, i := b.resolve(LinePosted, t.Postings, false, lines)
		for k := made; k < len(lines); k++ {
			lines[k].Debit, lines[k].Credit = lines[k].Credit, lines[k].Debit
		}
		return lines, v, i
	case KindCapture:
		if i, ok := within(d.Postings, t.Postings); !ok {
			return lines, NotHeld, i
		}
		lines, v, i := b.resolve(LineFreed, t.Postings, false, lines)
		if v != Posted {
			return lines, v, i
		}
		if len(d.Postings) == 0 {
			return b.resolve(LinePosted, t.Postings, false, lines)
		}
		return b.resolve(LinePosted, d.Postings, true, lines)
	default:
		return b.resolve(LinePosted, d.Postings, true, lines)
	}
}

// resolve finds the postings' accounts. The amounts of a draft's own postings are
// in the minor units of who made it, and need not be those of the accounts:
//
//	accounts are opened in GOLD with 2 decimal places;
//	a process that was told 3 posts 1.000 GOLD, which are 1000 units to it;
//	to the accounts these are 10.00.
//
// A target's amounts are the accounts'.
func (b *Book) resolve(kind LineKind, postings []DraftPosting, own bool, lines []Line) ([]Line, Verdict, int) {
	mismatch := -1
	for i := range postings {
		p := &postings[i]
		debit, credit := b.Accounts[p.Debit], b.Accounts[p.Credit]
		switch {
		case debit == nil || credit == nil:
			return lines, UnknownAccount, i
		case mismatch < 0 && (debit.Currency != p.Currency || credit.Currency != p.Currency ||
			own && (debit.Scale != p.Scale || credit.Scale != p.Scale)):
			mismatch = i
		}
		lines = append(lines, Line{Kind: kind, Debit: debit, Credit: credit, Amount: p.Amount})
	}
	if mismatch >= 0 {
		return lines, CurrencyMismatch, mismatch
	}
	return lines, Posted, 0
}

// within tells whether what is captured is part of what is held, in its order.
func within(captured, held []DraftPosting) (int, bool) {
	for i, c := range captured {
		for len(held) > 0 && (held[0].Debit != c.Debit || held[0].Credit != c.Credit || held[0].Currency != c.Currency) {
			held = held[1:]
		}
		if len(held) == 0 || c.Amount.Cmp(held[0].Amount) > 0 {
			return i, false
		}
		held = held[1:]
	}
	return 0, true
}

// check looks at the conditions.
func (b *Book) check(d *Draft) Verdict {
	v := Posted
	for _, c := range d.If {
		s := b.Accounts[c.Account]
		switch {
		case s == nil:
			return UnknownAccount
		case c.Version != nil && *c.Version != s.Version,
			c.Available != nil && s.Available().Decimal(s.Scale).LessThan(*c.Available):
			v = ConditionFailed
		}
	}
	return v
}

// apply makes the line, or changes nothing and returns false.
func (l *Line) apply() bool {
	if l.Kind == LineFreed {
		l.Debit.HeldDebits, _ = l.Debit.HeldDebits.Sub(l.Amount)
		l.Credit.HeldCredits, _ = l.Credit.HeldCredits.Sub(l.Amount)
		return true
	}
	toDebit, toCredit := &l.Debit.Debits, &l.Credit.Credits
	if l.Kind == LineHeld {
		toDebit, toCredit = &l.Debit.HeldDebits, &l.Credit.HeldCredits
	}
	debits, ok := toDebit.Add(l.Amount)
	credits, ok2 := toCredit.Add(l.Amount)
	if !ok || !ok2 {
		return false
	}
	*toDebit, *toCredit = debits, credits
	if l.Kind == LinePosted {
		l.Debit.Version++
		l.Credit.Version++
		l.DebitVersion, l.CreditVersion = l.Debit.Version, l.Credit.Version
		l.DebitBalance, l.CreditBalance = l.Debit.Balance(), l.Credit.Balance()
	}
	return true
}

func revert(lines []Line) {
	for _, l := range lines {
		switch l.Kind {
		case LinePosted:
			l.Debit.Debits, _ = l.Debit.Debits.Sub(l.Amount)
			l.Credit.Credits, _ = l.Credit.Credits.Sub(l.Amount)
			l.Debit.Version--
			l.Credit.Version--
		case LineHeld:
			l.Debit.HeldDebits, _ = l.Debit.HeldDebits.Sub(l.Amount)
			l.Credit.HeldCredits, _ = l.Credit.HeldCredits.Sub(l.Amount)
		case LineFreed: // it was there before, so it fits
			l.Debit.HeldDebits, _ = l.Debit.HeldDebits.Add(l.Amount)
			l.Credit.HeldCredits, _ = l.Credit.HeldCredits.Add(l.Amount)
		}
	}
}
