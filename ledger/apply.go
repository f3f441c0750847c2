package ledger

// State is an account as [Apply] decides on it.
type State struct {
	ID       AccountID
	Currency string
	Scale    uint8 // decimal places of Currency
	Normal   Side
	Floor    *Amount // nil: none
	Debits   Amount
	Credits  Amount
	Version  int64
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

// Line is one posting as it was made: what a store writes down.
type Line struct {
	Debit, Credit               *State
	Amount                      Amount
	DebitVersion, CreditVersion int64  // of the account, after this posting
	DebitBalance, CreditBalance Amount // of the account, after this posting
}

// Apply decides on one transaction and makes its postings in accounts. It
// appends a line for each posting to lines and returns them with [Posted]; any
// other verdict leaves accounts and lines as they were. The int is the index of
// the posting that a refusal is about.
//
// It is the one place where the rules of money stand, shared by every store:
// pure, without a clock, and the caller sees to it that nobody else changes the
// accounts meanwhile. Cost: O(postings), no allocation but for the lines.
func Apply(accounts map[AccountID]*State, d *Draft, lines []Line) ([]Line, Verdict, int) {
	made := len(lines)
	for i := range d.Postings {
		line, v := resolve(accounts, &d.Postings[i])
		if v != Posted {
			return lines[:made], v, i
		}
		lines = append(lines, line)
	}
	for i := made; i < len(lines); i++ {
		if !lines[i].post() {
			revert(lines[made:i])
			return lines[:made], BalanceOverflow, i - made
		}
	}
	// The floor is looked at when all postings are made: a transaction is one
	// event, and money that only passes through an account may arrive second.
	for i, line := range lines[made:] {
		if line.Debit.belowFloor() || line.Credit.belowFloor() {
			revert(lines[made:])
			return lines[:made], InsufficientFunds, i
		}
	}
	return lines, Posted, 0
}

// resolve finds a posting's accounts.
func resolve(accounts map[AccountID]*State, p *DraftPosting) (Line, Verdict) {
	debit, credit := accounts[p.Debit], accounts[p.Credit]
	if debit == nil || credit == nil {
		return Line{}, UnknownAccount
	}
	if debit.Currency != p.Currency || credit.Currency != p.Currency {
		return Line{}, CurrencyMismatch
	}
	return Line{Debit: debit, Credit: credit, Amount: p.Amount}, Posted
}

// post makes the posting, or changes nothing and returns false.
func (l *Line) post() bool {
	debits, ok := l.Debit.Debits.Add(l.Amount)
	credits, ok2 := l.Credit.Credits.Add(l.Amount)
	if !ok || !ok2 {
		return false
	}
	l.Debit.Debits, l.Credit.Credits = debits, credits
	l.Debit.Version++
	l.Credit.Version++
	l.DebitVersion, l.CreditVersion = l.Debit.Version, l.Credit.Version
	l.DebitBalance, l.CreditBalance = l.Debit.Balance(), l.Credit.Balance()
	return true
}

func revert(lines []Line) {
	for _, l := range lines {
		l.Debit.Debits, _ = l.Debit.Debits.Sub(l.Amount)
		l.Credit.Credits, _ = l.Credit.Credits.Sub(l.Amount)
		l.Debit.Version--
		l.Credit.Version--
	}
}

func (s *State) belowFloor() bool {
	return s.Floor != nil && s.Balance().Cmp(*s.Floor) < 0
}
