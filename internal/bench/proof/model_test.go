package proof

import (
	"fmt"
	"hash/maphash"

	"github.com/anishathalye/porcupine"

	"github.com/safetill/safetill/ledger"
)

// Histories are of groups of accounts. Transactions stay in their group, and so do their ids: a history is checked group by group.
const (
	groups   = 8
	perGroup = 4
)

// floors are the floors of a group's accounts; the first is a bank and has none.
var floors = [perGroup]int64{0, 0, 0, -50}

// call is one operation of a client: a transaction, or a look at balances where reads is not empty.
type call struct {
	group   int
	id      int  // of the transaction in its group
	content byte // which of the contents that are sent under the id, 0 or 1
	moves   []move
	reads   []int
}

// move is a posting between accounts of one group.
type move struct {
	debit, credit int
	amount        int64
}

type answer struct {
	unknown   bool // an error: it may have happened, at any time from the call on, or never
	verdict   ledger.Verdict
	posting   int
	duplicate bool
	seen      [perGroup]seen // of reads, in their order
}

type seen struct{ posted, version int64 }

// state is a group of accounts and what was decided in it. It can be compared with ==.
type state struct {
	accounts [perGroup]seen
	decided  string // by id: 0 while it is free, else a code
}

// code packs what was decided into a byte that is not 0.
func code(content byte, v ledger.Verdict, posting int) byte {
	c := 1 + content<<1 + byte(posting)<<2
	if v == ledger.Posted {
		c |= 1 << 6
	}
	return c
}

// post is the sequential ledger that histories are compared with. Like the real one it looks at floors after the last posting.
func (s state) post(c *call) (state, answer) {
	was := byte(0)
	if c.id < len(s.decided) {
		was = s.decided[c.id]
	}
	if was != 0 {
		for _, v := range []ledger.Verdict{ledger.Posted, ledger.InsufficientFunds} {
			for p := range c.moves {
				if was == code(c.content, v, p) {
					return s, answer{verdict: v, posting: p, duplicate: true}
				}
			}
		}
		return s, answer{verdict: ledger.Conflict}
	}
	a := answer{verdict: ledger.Posted}
	after := s.accounts
	for _, m := range c.moves {
		after[m.debit].move(m.debit == 0, m.amount)
		after[m.credit].move(m.credit != 0, m.amount)
	}
	for p, m := range c.moves {
		if low(&after, m.debit) || low(&after, m.credit) {
			a.verdict, a.posting = ledger.InsufficientFunds, p
			break
		}
	}
	if a.verdict == ledger.Posted {
		s.accounts = after
	}
	decided := make([]byte, max(c.id+1, len(s.decided)))
	copy(decided, s.decided)
	decided[c.id] = code(c.content, a.verdict, a.posting)
	s.decided = string(decided)
	return s, a
}

func (s *seen) move(grows bool, amount int64) {
	if !grows {
		amount = -amount
	}
	s.posted += amount
	s.version++
}

func low(accounts *[perGroup]seen, i int) bool { return i != 0 && accounts[i].posted < floors[i] }

func (s state) read(c *call) (a answer) {
	for i, account := range c.reads {
		a.seen[i] = s.accounts[account]
	}
	return a
}

// strict is what histories are compared with.
var strict = model(func(got, want answer) bool { return got == want })

var hashSeed = maphash.MakeSeed()

// model makes a model for porcupine. An operation without an answer never returns: that it may be put behind all others stands for
// its not having happened.
func model(equal func(got, want answer) bool) porcupine.Model {
	return porcupine.Model{
		Partition: partition,
		Init:      func() any { return state{} },
		Step: func(s, input, output any) (bool, any) {
			before, c, got := s.(state), input.(*call), output.(answer)
			if len(c.reads) > 0 {
				return equal(got, before.read(c)), before
			}
			after, want := before.post(c)
			return got.unknown || equal(got, want), after
		},
		Equal: func(a, b any) bool { return a.(state) == b.(state) },
		Hash:  func(s any) uint64 { return maphash.Comparable(hashSeed, s.(state)) },
		DescribeOperation: func(input, output any) string {
			return fmt.Sprintf("%+v: %+v", *input.(*call), output)
		},
	}
}

func partition(history []porcupine.Operation) [][]porcupine.Operation {
	parts := make([][]porcupine.Operation, groups)
	for _, op := range history {
		g := op.Input.(*call).group
		parts[g] = append(parts[g], op)
	}
	return parts
}
