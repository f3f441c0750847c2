package proof

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"

	"github.com/safetill/safetill/ledger"
)

// call is one operation of a client on a shard: transactions, or a look at balances where reads is not empty.
type call struct {
	*registry
	txs   []*tx
	reads []int

	alone  bool // not through a group: see [dealer.again]
	expiry bool // the part of an ExpireHolds that is the shard's
}

type answer struct {
	unknown bool // an error: it may have happened, at any time from the call on, or never
	grouped bool // through a group, which may have tried twice
	results []result
	seen    []seen // of reads, in their order
}

// state is a shard and what was decided in it. It can be compared with ==.
type state struct {
	accounts [perShard]account
	decided  string
}

func (s state) clerk(c *call) clerk {
	return clerk{registry: c.registry, accounts: s.accounts, decided: []byte(s.decided)}
}

func (s state) post(c *call) (state, answer) {
	var room [4]result
	k := s.clerk(c)
	results := k.post(c.txs, room[:0])
	return state{k.accounts, string(k.decided)}, answer{results: results}
}

func (s state) read(c *call) (a answer) {
	k := clerk{accounts: s.accounts}
	for _, i := range c.reads {
		a.seen = append(a.seen, seen{s.accounts[i], k.available(i)})
	}
	return a
}

// equal compares an answer with the model's. Whose transaction a group has posted twice, since the first time failed after it was done,
// hears that it is a duplicate.
func equal(got, want answer) bool {
	return slices.Equal(got.seen, want.seen) && slices.EqualFunc(got.results, want.results, func(g, w result) bool {
		if got.grouped && g.duplicate && w.verdict != ledger.LinkFailed && w.verdict != ledger.Conflict {
			w.duplicate = true
		}
		return g == w
	})
}

// inTime tells that ExpireHolds has released no hold before its time was over.
func (c *call) inTime(results []result) bool {
	for i, r := range results {
		if c.expiry && r.verdict == ledger.Posted && !c.late(c.txs[i]) {
			return false
		}
	}
	return true
}

// strict is what histories are compared with.
var strict = model(equal)

var hashSeed = maphash.MakeSeed()

// model makes a model for porcupine. An operation without an answer never returns: that it may be put behind all others stands for
// its not having happened.
//
// The model has no clock. When an id was decided is part of the history, as it was answered: whether a capture came in time follows.
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
			return got.unknown || equal(got, want) && c.inTime(got.results), after
		},
		Equal: func(a, b any) bool { return a.(state) == b.(state) },
		Hash:  func(s any) uint64 { return maphash.Comparable(hashSeed, s.(state)) },
		DescribeOperation: func(input, output any) string {
			return fmt.Sprintf("%v: %+v", input.(*call), output)
		},
	}
}

func partition(history []porcupine.Operation) [][]porcupine.Operation {
	parts := make([][]porcupine.Operation, shards)
	for _, op := range history {
		s := op.Input.(*call).shard
		parts[s] = append(parts[s], op)
	}
	return parts
}

func (c *call) String() string {
	if len(c.reads) > 0 {
		return fmt.Sprintf("shard %d, read %v", c.shard, c.reads)
	}
	var text []string
	for _, t := range c.txs {
		text = append(text, t.String())
	}
	return fmt.Sprintf("shard %d, %s", c.shard, strings.Join(text, "; "))
}

func (t *tx) String() string {
	text := fmt.Sprintf("%d.%d %s %v", t.id, t.content, kindNames[t.kind], t.moves)
	if t.refers() {
		text += fmt.Sprint(" of ", t.of)
	}
	if t.expires > 0 {
		text += fmt.Sprint(" expires ", t.expires)
	}
	if len(t.conditions) > 0 {
		text += fmt.Sprintf(" if %+v", t.conditions)
	}
	if t.linked {
		text += " linked"
	}
	return text
}
