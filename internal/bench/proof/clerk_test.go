package proof

import (
	"bytes"

	"github.com/safetill/safetill/ledger"
)

// clerk is the ledger that the real one is compared with: one shard, one transaction after the other, the rules written down a second
// time.
type clerk struct {
	*registry
	accounts [perShard]account
	decided  []byte // two an id, see code
}

type account struct{ posted, heldDebits, heldCredits, version int64 }

// seen is what Balances tells of an account.
type seen struct {
	account
	available int64
}

type result struct {
	verdict   ledger.Verdict
	posting   int
	duplicate bool
}

func (c *clerk) available(i int) int64 {
	a := &c.accounts[i]
	if i == 0 {
		return a.posted - a.heldCredits
	}
	return a.posted - a.heldDebits
}

func (c *clerk) low(i int) bool { return i != 0 && c.available(i) < floors[i] }

// What was decided of an id takes two bytes: the content, counted from 1, with a bit for a hold or posting that something has closed,
// then verdict and posting.
const closed = 1 << 7

func code(t *tx, v ledger.Verdict, posting int) (byte, byte) {
	return byte(1 + t.content), byte(v)<<2 | byte(posting)
}

// was returns what was decided of an id, and the content that it was decided of; nil: nothing.
func (c *clerk) was(id int) (*tx, result) {
	if 2*id >= len(c.decided) || c.decided[2*id] == 0 {
		return nil, result{}
	}
	b := c.decided[2*id+1]
	return c.contents[id][c.decided[2*id]&^closed-1], result{verdict: ledger.Verdict(b >> 2), posting: int(b & 3), duplicate: true}
}

func (c *clerk) record(t *tx, v ledger.Verdict, posting int) result {
	if short := 2*len(c.contents) - len(c.decided); short > 0 {
		c.decided = append(c.decided, make([]byte, short)...)
	}
	c.decided[2*t.id], c.decided[2*t.id+1] = code(t, v, posting)
	return result{verdict: v, posting: posting}
}

// post decides on transactions in order, chains as wholes.
func (c *clerk) post(txs []*tx, results []result) []result {
	for _, chain := range chains(txs) {
		results = c.chain(chain, results)
	}
	return results
}

func (c *clerk) chain(txs []*tx, results []result) []result {
	known := false
	for _, t := range txs {
		decided, _ := c.was(t.id)
		known = known || decided != nil
	}
	culprit, verdict, posting := -1, ledger.Posted, 0
	if !known {
		accounts, decided := c.accounts, bytes.Clone(c.decided)
		for i, t := range txs {
			if verdict, posting = c.apply(t); verdict != ledger.Posted {
				c.accounts, c.decided = accounts, decided
				culprit = i
				break
			}
		}
	}
	for i, t := range txs {
		switch decided, r := c.was(t.id); {
		case decided == t:
			results = append(results, r)
		case decided != nil:
			results = append(results, result{verdict: ledger.Conflict})
		case known || culprit >= 0 && culprit != i:
			results = append(results, result{verdict: ledger.LinkFailed})
		default:
			results = append(results, c.record(t, verdict, posting))
		}
	}
	return results
}

// apply does what one transaction asks for, or nothing. Like the real ledger it looks at floors after the last posting.
func (c *clerk) apply(t *tx) (ledger.Verdict, int) {
	var hold *tx
	made := t.moves
	if t.refers() {
		target, v := c.target(t)
		if v != ledger.Posted {
			return v, 0
		}
		switch t.kind {
		case ledger.KindReverse:
			made = c.made(t)
		case ledger.KindCapture:
			if i, ok := part(t.moves, target.moves); !ok {
				return ledger.NotHeld, i
			}
			hold, made = target, c.made(t)
		default:
			hold = target
		}
	}
	for _, a := range t.conditions {
		if a.version && c.accounts[a.account].version != a.asked || !a.version && c.available(a.account) < a.asked {
			return ledger.ConditionFailed, 0
		}
	}
	before := c.accounts
	if hold != nil {
		for _, m := range hold.moves {
			c.hold(m, -1)
		}
	}
	for _, m := range made {
		if t.kind == ledger.KindHold {
			c.hold(m, 1)
		} else {
			c.move(m)
		}
	}
	for i, m := range made {
		if c.low(m.debit) || c.low(m.credit) {
			c.accounts = before
			return ledger.InsufficientFunds, i
		}
	}
	if t.refers() {
		c.decided[2*t.of] |= closed
	}
	return ledger.Posted, 0
}

func (c *clerk) hold(m move, times int64) {
	c.accounts[m.debit].heldDebits += times * m.amount
	c.accounts[m.credit].heldCredits += times * m.amount
}

func (c *clerk) move(m move) {
	for _, i := range [...]int{m.debit, m.credit} {
		amount := m.amount
		if (i == 0) != (i == m.debit) { // a bank grows by debits, a wallet by credits
			amount = -amount
		}
		c.accounts[i].posted += amount
		c.accounts[i].version++
	}
}

// late tells that t was decided when the time of the hold that it is of was over.
func (g *registry) late(t *tx) bool {
	return !g.at[t.id].Before(g.at[t.of].Add(g.contents[t.of][0].expires))
}

// target finds what t refers to.
func (c *clerk) target(t *tx) (*tx, ledger.Verdict) {
	target, r := c.was(t.of)
	switch {
	case target == nil, r.verdict != ledger.Posted, target.kind == ledger.KindRelease,
		(target.kind == ledger.KindHold) != (t.kind != ledger.KindReverse):
		return nil, ledger.UnknownTarget
	case c.decided[2*t.of]&closed != 0:
		return nil, ledger.TargetClosed
	case t.kind == ledger.KindCapture && target.expires > 0 && c.late(t):
		return nil, ledger.HoldExpired
	}
	return target, ledger.Posted
}

// made returns the postings that a transaction makes or has made.
func (c *clerk) made(t *tx) []move {
	switch {
	case t.kind == ledger.KindReverse:
		target, _ := c.was(t.of)
		var made []move
		for _, m := range c.made(target) {
			made = append(made, back(m))
		}
		return made
	case t.kind == ledger.KindCapture && len(t.moves) == 0:
		hold, _ := c.was(t.of)
		return hold.moves
	}
	return t.moves
}

// part tells whether what is captured is some of what is held, in its order.
func part(captured, held []move) (int, bool) {
	for i, m := range captured {
		for len(held) > 0 && (held[0].debit != m.debit || held[0].credit != m.credit) {
			held = held[1:]
		}
		if len(held) == 0 || m.amount > held[0].amount {
			return i, false
		}
		held = held[1:]
	}
	return 0, true
}
