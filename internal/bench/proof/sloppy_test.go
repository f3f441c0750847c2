package proof

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/safetill/safetill/ledger"
)

// flaw is what is wrong with a sloppy store.
type flaw int

const (
	noLock          flaw = 1 + iota // others write between its look and its write
	capturesTwice                   // what was captured already
	capturesMore                    // than is held
	capturesLate                    // what has expired
	keepsRest                       // of what is held and not captured
	freeHolds                       // what is held is still there for others
	expiresEarly                    // holds whose time is not over
	reversesTwice                   // what was reversed already
	halfChain                       // stays of one that is refused
	noConditions                    // are looked at
	forgetsRefusals                 // and decides anew
)

// sloppy is a store in memory that makes its mistake at every second opportunity.
type sloppy struct {
	ledger.Store // none: histories call no other method
	flaw         flaw

	mu            sync.Mutex
	opportunities int
	accounts      map[ledger.AccountID]ledger.State
	decided       map[ledger.TransactionID]sloppyRecord
	expiring      []ledger.TransactionID
}

type sloppyRecord struct {
	fingerprint ledger.Fingerprint
	outcome     ledger.Outcome
	target      ledger.Target
	captured    bool
}

func newSloppy(f flaw) *sloppy {
	return &sloppy{flaw: f, accounts: map[ledger.AccountID]ledger.State{}, decided: map[ledger.TransactionID]sloppyRecord{}}
}

func (s *sloppy) Open(_ context.Context, accounts []ledger.State) error {
	for _, a := range accounts {
		s.accounts[a.ID] = a
	}
	return nil
}

func (s *sloppy) States(_ context.Context, ids []ledger.AccountID) (states []*ledger.State, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		states = append(states, new(s.accounts[id]))
	}
	return states, nil
}

// errs tells that now is the time to make the mistake f.
func (s *sloppy) errs(f flaw) bool {
	if s.flaw != f {
		return false
	}
	s.opportunities++
	return s.opportunities%2 == 0
}

func (s *sloppy) ExpiredHolds(_ context.Context, limit int) (ids []ledger.TransactionID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.expiring {
		t := s.decided[id].target
		if len(ids) < limit && !t.Closed && (!time.Now().Before(t.Expires) || s.errs(expiresEarly)) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *sloppy) Post(_ context.Context, drafts []ledger.Draft) (outcomes []ledger.Outcome, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().Truncate(time.Microsecond)
	for len(drafts) > 0 {
		n := 1
		for n < len(drafts) && drafts[n-1].Linked {
			n++
		}
		if n > 1 && s.errs(halfChain) {
			outcomes = append(outcomes, s.half(drafts[:n], now)...)
		} else {
			outcomes = append(outcomes, s.chain(drafts[:n], now)...)
		}
		drafts = drafts[n:]
	}
	return outcomes, nil
}

// half does what it can of a chain, and says that it has not.
func (s *sloppy) half(drafts []ledger.Draft, now time.Time) (outcomes []ledger.Outcome) {
	for i := range drafts {
		o := s.chain(drafts[i:i+1], now)[0]
		outcomes = append(outcomes, o)
		if o.Verdict == ledger.Posted {
			continue
		}
		for k := range i {
			delete(s.decided, drafts[k].ID)
			outcomes[k] = ledger.Outcome{Verdict: ledger.LinkFailed}
		}
		return append(outcomes, slices.Repeat([]ledger.Outcome{{Verdict: ledger.LinkFailed}}, len(drafts)-i-1)...)
	}
	return outcomes
}

// chain looks, decides, and writes.
func (s *sloppy) chain(drafts []ledger.Draft, now time.Time) []ledger.Outcome {
	outcomes := make([]ledger.Outcome, len(drafts))
	book := ledger.Book{Accounts: map[ledger.AccountID]*ledger.State{}, Now: now}
	for id, a := range s.accounts {
		book.Accounts[id] = new(a)
	}
	targets := map[ledger.TransactionID]*ledger.Target{}
	book.Target = func(id ledger.TransactionID) *ledger.Target { return targets[id] }
	changed, known := slices.Clone(drafts), make([]bool, len(drafts))
	for i := range changed {
		d := &changed[i]
		if was, ok := s.decided[d.Of]; ok {
			targets[d.Of] = new(was.target)
		}
		was, ok := s.decided[d.ID]
		if known[i] = ok; ok {
			outcomes[i] = book.Again(d, was.fingerprint, was.outcome)
		} else if len(drafts) == 1 {
			s.mistake(d, &book, targets[d.Of])
		}
	}
	if s.flaw == noLock {
		s.mu.Unlock()
		time.Sleep(100 * time.Microsecond)
		s.mu.Lock()
	}
	book.Decide(changed, func(i int) bool { return known[i] }, func(i int, v ledger.Verdict, posting int, lines []ledger.Line) {
		outcomes[i] = ledger.Outcome{Verdict: v, Posting: posting}
		if v != ledger.LinkFailed {
			outcomes[i].At = now
			s.write(&drafts[i], outcomes[i], lines)
		}
	})
	return outcomes
}

// mistake changes what a draft is decided on.
func (s *sloppy) mistake(d *ledger.Draft, book *ledger.Book, t *ledger.Target) {
	if len(d.If) > 0 && s.errs(noConditions) {
		d.If = nil
	}
	if d.Kind == ledger.KindPost && s.errs(freeHolds) {
		for _, a := range book.Accounts {
			if a.Floor != nil {
				floor, _ := a.Floor.Sub(a.HeldDebits)
				a.Floor = &floor
			}
		}
	}
	switch {
	case t == nil:
	case d.Kind == ledger.KindReverse && t.Closed:
		t.Closed = !s.errs(reversesTwice)
	case d.Kind != ledger.KindCapture || t.Kind != ledger.KindHold:
	case s.decided[d.Of].captured && s.errs(capturesTwice):
		if len(d.Postings) == 0 {
			d.Postings = t.Postings
		}
		d.Kind, d.Of = ledger.KindPost, ""
	case !t.Closed && !t.Expires.IsZero() && !book.Now.Before(t.Expires) && s.errs(capturesLate):
		t.Expires = time.Time{}
	case len(d.Postings) == 0 || t.Closed || t.Postings[0].Debit != d.Postings[0].Debit || t.Postings[0].Credit != d.Postings[0].Credit:
	case s.flaw == capturesMore && d.Postings[0].Amount.Cmp(t.Postings[0].Amount) > 0,
		s.flaw == keepsRest && d.Postings[0].Amount.Cmp(t.Postings[0].Amount) < 0:
		t.Postings = slices.Clone(t.Postings)
		t.Postings[0].Amount = d.Postings[0].Amount
	}
}

func (s *sloppy) write(d *ledger.Draft, o ledger.Outcome, lines []ledger.Line) {
	for _, l := range lines {
		for _, a := range []*ledger.State{l.Debit, l.Credit} {
			after := *a
			after.Floor = s.accounts[a.ID].Floor
			s.accounts[a.ID] = after
		}
	}
	if o.Verdict != ledger.Posted && s.errs(forgetsRefusals) {
		return
	}
	r := sloppyRecord{fingerprint: d.Fingerprint, outcome: o, target: ledger.Target{Kind: d.Kind, Verdict: o.Verdict, Postings: d.Postings}}
	if d.Kind == ledger.KindCapture || d.Kind == ledger.KindReverse {
		r.target.Postings = ledger.Made(lines)
	}
	if d.Expires > 0 {
		r.target.Expires = o.At.Add(d.Expires)
	}
	if d.Expires > 0 && o.Verdict == ledger.Posted {
		s.expiring = append(s.expiring, d.ID)
	}
	s.decided[d.ID] = r
	if was, ok := s.decided[d.Of]; ok && o.Verdict == ledger.Posted {
		was.target.Closed, was.captured = true, d.Kind == ledger.KindCapture
		s.decided[d.Of] = was
	}
}
