package ledger

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Memory is a [Store] in memory. It keeps every entry, and loses all when the
// process ends. Make one with [NewMemory]; the zero value is not usable.
type Memory struct {
	now func() time.Time

	mu       sync.RWMutex
	accounts map[AccountID]*memoryAccount
	states   map[AccountID]*State // what Apply works on; the same accounts
	decided  map[TransactionID]decided
	targets  map[TransactionID]*Target // those of decided that were referred to
	expiring []TransactionID           // holds that were made with an end
}

type memoryAccount struct {
	state   State
	entries []Recorded
}

type decided struct {
	fingerprint Fingerprint
	outcome     Outcome
	kind        Kind
	postings    []DraftPosting // as they were held or made
	expires     time.Duration
}

// MemoryOptions are the optional settings of [NewMemory].
type MemoryOptions struct {
	Now func() time.Time // Default: time.Now.
}

// NewMemory returns an empty store.
func NewMemory(o *MemoryOptions) *Memory {
	m := &Memory{
		now:      time.Now,
		accounts: map[AccountID]*memoryAccount{},
		states:   map[AccountID]*State{},
		decided:  map[TransactionID]decided{},
		targets:  map[TransactionID]*Target{},
	}
	if o != nil && o.Now != nil {
		m.now = o.Now
	}
	return m
}

// Open is [Store.Open].
func (m *Memory) Open(ctx context.Context, accounts []State) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	fresh := map[AccountID]State{}
	for _, a := range accounts {
		old, ok := fresh[a.ID]
		if have := m.states[a.ID]; have != nil {
			old, ok = *have, true
		}
		if ok && !SameAccountAs(&old, &a) {
			return &AccountExistsError{ID: a.ID}
		}
		if !ok {
			fresh[a.ID] = a
		}
	}
	for id, a := range fresh {
		account := &memoryAccount{state: a}
		m.accounts[id], m.states[id] = account, &account.state
	}
	return nil
}

// SameAccountAs tells whether a and b are one account by all that [Ledger.Open]
// fixes. Stores use it to tell a repeated Open from a contradicting one.
func SameAccountAs(a, b *State) bool {
	floor := func(s *State) Amount {
		if s.Floor == nil {
			return Minor(1) // which no floor can be
		}
		return *s.Floor
	}
	return a.ID == b.ID && a.Currency == b.Currency && a.Scale == b.Scale && a.Normal == b.Normal && floor(a) == floor(b)
}

// Post is [Store.Post].
func (m *Memory) Post(ctx context.Context, drafts []Draft) ([]Outcome, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	outcomes := make([]Outcome, len(drafts))
	book := Book{Accounts: m.states, Target: m.target, Now: m.now()}
	before := func(i int) bool {
		was, ok := m.decided[drafts[i].ID]
		if ok {
			outcomes[i] = book.Again(&drafts[i], was.fingerprint, was.outcome)
		}
		return ok
	}
	book.Decide(drafts, before, func(i int, v Verdict, posting int, lines []Line) {
		outcomes[i] = m.record(&drafts[i], v, posting, lines, book.Now)
	})
	return outcomes, nil
}

func (m *Memory) target(id TransactionID) *Target {
	if t := m.targets[id]; t != nil {
		return t
	}
	d, ok := m.decided[id]
	if !ok {
		return nil
	}
	t := &Target{Kind: d.kind, Verdict: d.outcome.Verdict, Postings: d.postings}
	if d.expires > 0 {
		t.Expires = d.outcome.At.Add(d.expires)
	}
	m.targets[id] = t
	return t
}

// record writes down what was decided.
func (m *Memory) record(d *Draft, v Verdict, posting int, lines []Line, now time.Time) Outcome {
	if v == LinkFailed {
		return Outcome{Verdict: v}
	}
	n := 0
	for i := range lines {
		if lines[i].Kind == LinePosted {
			m.write(d.ID, n, &lines[i], now)
			n++
		}
	}
	was := decided{
		fingerprint: d.Fingerprint, outcome: Outcome{Verdict: v, Posting: posting, At: now},
		kind: d.Kind, postings: d.Postings, expires: d.Expires,
	}
	if d.Kind == KindReverse || d.Kind == KindCapture {
		was.postings = Made(lines)
	}
	m.decided[d.ID] = was
	if v == Posted && d.Expires > 0 {
		m.expiring = append(m.expiring, d.ID)
	}
	return was.outcome
}

// ExpiredHolds is [Expirer.ExpiredHolds]. Cost: O(open holds that can expire).
func (m *Memory) ExpiredHolds(ctx context.Context, limit int) ([]TransactionID, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.expiring = slices.DeleteFunc(m.expiring, func(id TransactionID) bool { return m.target(id).Closed })
	var expired []TransactionID
	for _, id := range m.expiring {
		if len(expired) < limit && !now.Before(m.target(id).Expires) {
			expired = append(expired, id)
		}
	}
	return expired, nil
}

// Made returns the postings that lines made.
func Made(lines []Line) []DraftPosting {
	var made []DraftPosting
	for _, l := range lines {
		if l.Kind == LinePosted {
			made = append(made, DraftPosting{Debit: l.Debit.ID, Credit: l.Credit.ID, Amount: l.Amount, Currency: l.Debit.Currency})
		}
	}
	return made
}

// Again returns the outcome of a draft whose id was decided on before: the first
// outcome, or [Conflict] where the content was another. Its accounts are in the book, as
// a fingerprint is of minor units, and does not say whose:
//
//	accounts are opened in GOLD with 2 decimal places, and 1.00 GOLD is posted: 100 units;
//	a process that was told 3 posts 0.100 GOLD by the same id, which are 100 units to it, and would hear that it is posted.
func (b *Book) Again(d *Draft, first Fingerprint, o Outcome) Outcome {
	if d.Fingerprint != first {
		return Outcome{Verdict: Conflict}
	}
	for i := range d.Postings {
		p := &d.Postings[i]
		if s := b.Accounts[p.Debit]; o.Verdict == Posted && s != nil && s.Scale != p.Scale {
			return Outcome{Verdict: Conflict}
		}
	}
	o.Duplicate = true
	return o
}

func (m *Memory) write(id TransactionID, posting int, l *Line, now time.Time) {
	r := Recorded{Transaction: id, Posting: posting, Amount: l.Amount, At: now}
	debit, credit := m.accounts[l.Debit.ID], m.accounts[l.Credit.ID]

	r.Version, r.Side, r.Balance, r.Contra = l.DebitVersion, Debit, l.DebitBalance, l.Credit.ID
	debit.entries = append(debit.entries, r)
	r.Version, r.Side, r.Balance, r.Contra = l.CreditVersion, Credit, l.CreditBalance, l.Debit.ID
	credit.entries = append(credit.entries, r)
}

// States is [Store.States].
func (m *Memory) States(ctx context.Context, ids []AccountID) ([]*State, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	states := make([]*State, len(ids))
	for i, id := range ids {
		if s := m.states[id]; s != nil {
			states[i] = new(*s)
		}
	}
	return states, nil
}

// Lines is [Store.Lines].
func (m *Memory) Lines(ctx context.Context, account AccountID, after int64, limit int) ([]Recorded, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	a := m.accounts[account]
	if a == nil || after >= int64(len(a.entries)) {
		return nil, nil
	}
	page := a.entries[max(after, 0):]
	return append([]Recorded(nil), page[:min(limit, len(page))]...), nil
}

// Verify is [Store.Verify]. Who posts waits for it.
func (m *Memory) Verify(ctx context.Context) (Report, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := check{sums: map[string]*sum{}}
	held := m.held()
	for id, a := range m.accounts {
		if err := ctx.Err(); err != nil {
			return Report{}, err
		}
		var debits, credits Amount
		for _, e := range a.entries {
			if e.Side == Debit {
				debits, _ = debits.Add(e.Amount)
			} else {
				credits, _ = credits.Add(e.Amount)
			}
		}
		c.account(&a.state, debits, credits, int64(len(a.entries)))
		c.differ(&a.state, "held debits", a.state.HeldDebits.Decimal(a.state.Scale), held[id].HeldDebits.Decimal(a.state.Scale))
		c.differ(&a.state, "held credits", a.state.HeldCredits.Decimal(a.state.Scale), held[id].HeldCredits.Decimal(a.state.Scale))
	}
	return c.report(int64(len(m.decided))), nil
}

// held adds up the open holds by account.
func (m *Memory) held() map[AccountID]State {
	sums := map[AccountID]State{}
	for id, d := range m.decided {
		if t := m.targets[id]; d.kind != KindHold || d.outcome.Verdict != Posted || t != nil && t.Closed {
			continue
		}
		for _, p := range d.postings {
			debit, credit := sums[p.Debit], sums[p.Credit]
			debit.HeldDebits, _ = debit.HeldDebits.Add(p.Amount)
			credit.HeldCredits, _ = credit.HeldCredits.Add(p.Amount)
			sums[p.Debit], sums[p.Credit] = debit, credit
		}
	}
	return sums
}
