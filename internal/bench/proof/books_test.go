package proof

import (
	"fmt"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// tell notes what was answered of a batch: what is recorded is the same for ever, and chains are done or not.
func (s *simulation) tell(txs []*tx, results []ledger.Result) error {
	for i, r := range results {
		first, before := s.told[txs[i]]
		if before && first.Verdict != ledger.LinkFailed {
			if r.Verdict != ledger.LinkFailed && (first.Verdict != r.Verdict || first.Posting != r.Posting || !first.At.Equal(r.At)) {
				return fmt.Errorf("%v: told %+v first, then %+v", txs[i], first, r)
			}
			continue
		}
		s.told[txs[i]] = r
		if r.Verdict == ledger.LinkFailed && before {
			continue
		}
		s.Verdicts[r.Verdict]++
		if r.Verdict == ledger.Posted {
			s.Posted[txs[i].kind]++
			s.dealer.made(txs[i])
		}
	}
	for _, chain := range chains(txs) {
		fresh, posted := 0, 0
		for i := range chain {
			r := results[i]
			if r.Verdict == ledger.Posted {
				posted++
			}
			if !r.Duplicate && r.Verdict != ledger.Conflict {
				fresh++
			}
		}
		if fresh == len(chain) && posted > 0 && posted < len(chain) {
			return fmt.Errorf("half a chain: %v: %+v", chain, results[:len(chain)])
		}
		if len(chain) == 1 && results[0].Verdict == ledger.LinkFailed {
			return fmt.Errorf("no chain: %v: %+v", chain[0], results[0])
		}
		results = results[len(chain):]
	}
	return nil
}

// made returns the postings of a transaction that was posted, by what was told.
func (s *simulation) made(t *tx, posted map[int]*tx) (made []move) {
	switch {
	case t.kind == ledger.KindReverse:
		for _, m := range s.made(posted[t.of], posted) {
			made = append(made, back(m))
		}
		return made
	case t.kind == ledger.KindCapture && len(t.moves) == 0:
		return posted[t.of].moves
	case t.kind == ledger.KindHold, t.kind == ledger.KindRelease:
		return nil
	}
	return t.moves
}

// check looks at the books when all is over: what was acknowledged is there once and nothing else is, nothing was captured, released or
// reversed twice, no floor is passed, only open holds hold something, and the sum is 0.
func (s *simulation) check() error {
	posted := map[int]*tx{}
	for _, c := range s.clients {
		for _, txs := range c.batches {
			for _, t := range txs {
				r, ok := s.told[t]
				if !ok {
					return fmt.Errorf("%v was never answered", t)
				}
				if other := posted[t.id]; r.Verdict == ledger.Posted && other != nil && other != t {
					return fmt.Errorf("%v was posted with two contents", t)
				} else if r.Verdict == ledger.Posted {
					posted[t.id] = t
				}
			}
		}
	}
	held, err := s.closings(posted)
	if err != nil {
		return err
	}
	if err := s.expireAll(); err != nil {
		return err
	}
	want := map[ledger.TransactionID]int{} // entries that shall be there
	contents := map[ledger.TransactionID]ledger.Transaction{}
	for _, t := range posted {
		made := s.made(t, posted)
		want[t.sent.ID], contents[t.sent.ID] = 2*len(made), ledger.Transaction{Postings: s.postings(made)}
	}
	sum := decimal.Zero
	for i := range perShard {
		net, err := s.checkAccount(i, want, contents, held[i])
		if err != nil {
			return err
		}
		sum = sum.Add(net)
	}
	for id, n := range want {
		if n != 0 {
			return fmt.Errorf("%d entries of %s are missing", n, id)
		}
	}
	if !sum.IsZero() {
		return fmt.Errorf("all accounts sum up to %s", sum)
	}
	report, err := s.books.Verify(s.ctx)
	if err == nil && !report.OK() {
		err = fmt.Errorf("verify: %v", report.Breaks)
	}
	return err
}

// closings sees that all that was captured, released or reversed was so once, in time, and that there was as much of it. It returns what
// the holds reserve that nobody has closed and that do not expire, as debits and credits by account.
func (s *simulation) closings(posted map[int]*tx) (held [perShard][2]int64, err error) {
	closers := map[int]*tx{}
	for _, t := range posted {
		if !t.refers() {
			continue
		}
		target := posted[t.of]
		if target == nil {
			return held, fmt.Errorf("%v: that was never posted", t)
		}
		if closers[t.of] != nil {
			return held, fmt.Errorf("%v: and %v too", t, closers[t.of])
		}
		closers[t.of] = t
		at, expires := s.told[t].At, s.told[target].At.Add(target.expires)
		if t.kind == ledger.KindCapture && target.expires > 0 && !at.Before(expires) {
			return held, fmt.Errorf("%v at %v, and it was over at %v", t, at, expires)
		}
		if _, ok := part(t.moves, target.moves); t.kind == ledger.KindCapture && !ok {
			return held, fmt.Errorf("%v, and that has %v", t, target)
		}
	}
	for _, t := range posted {
		if t.kind != ledger.KindHold || t.expires > 0 || closers[t.id] != nil {
			continue
		}
		for _, m := range t.moves {
			held[m.debit][0] += m.amount
			held[m.credit][1] += m.amount
		}
	}
	return held, nil
}

// expireAll lets the time pass that any hold has.
func (s *simulation) expireAll() error {
	s.now += int64(2 * time.Hour / simTick)
	for {
		n, err := s.books.ExpireHolds(s.ctx, ledger.MaxBatch)
		s.Expired += int64(n)
		if n == 0 || err != nil {
			return err
		}
	}
}

// checkAccount returns what the account's debits are over its credits.
func (s *simulation) checkAccount(i int, want map[ledger.TransactionID]int, posted map[ledger.TransactionID]ledger.Transaction, held [2]int64) (decimal.Decimal, error) {
	var sum fold
	var last ledger.Entry
	floor := minor(floors[i])
	low := func() error { // at the end of a transaction
		if i > 0 && last.Balance.LessThan(floor) {
			return fmt.Errorf("%s falls to %s with %s", last.Account, last.Balance, last.Transaction)
		}
		return nil
	}
	for e, err := range s.books.Entries(s.ctx, s.names[i], 0) {
		if err != nil {
			return sum.net, err
		}
		if e.Transaction != last.Transaction {
			if err := low(); err != nil {
				return sum.net, err
			}
		}
		tx, ok := posted[e.Transaction]
		if !ok {
			return sum.net, fmt.Errorf("%+v was not acknowledged", e)
		}
		if err := sum.add(e, tx); err != nil {
			return sum.net, err
		}
		want[e.Transaction]--
		last = e
	}
	if err := low(); err != nil {
		return sum.net, err
	}
	balances, err := s.books.Balances(s.ctx, s.names[i])
	if err != nil {
		return sum.net, err
	}
	b := balances[0]
	if cents(b.HeldDebits) != held[0] || cents(b.HeldCredits) != held[1] {
		return sum.net, fmt.Errorf("%+v, but its open holds have %v", b, held)
	}
	if i > 0 && b.Available.LessThan(floor) {
		return sum.net, fmt.Errorf("%+v, and its floor is %s", b, floor)
	}
	return sum.net, sum.is(b)
}
