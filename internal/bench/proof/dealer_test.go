package proof

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/safetill/safetill/ledger"
)

// dealer makes up the transactions of a shard.
type dealer struct {
	registry
	shorts []time.Duration // how long holds last that expire soon
	holds  []int           // ids of what may be captured or released
	posts  []int           // ids of what may be reversed

	seen   [perShard]seen // of each account, the last that somebody has read: conditions ask for that or a little more
	around int64          // how much more
	most   int64          // of what is moved from wallets

	pair  bool // what is being dealt is two that are not linked
	first *tx  // of what is being dealt

	// chainExpiring tells that a chain may capture what expires soon.
	chainExpiring bool
}

// recent is how many of the last are mostly chosen from, so that several clients are after the same.
const recent = 8

func pick[T any](r *rand.Rand, from []T) T { return from[len(from)-1-r.IntN(min(len(from), recent))] }

// few returns one transaction, or a chain of up to three, or two that are not linked.
func (d *dealer) few(r *rand.Rand) []*tx {
	n, linked := 1, false
	switch k := r.IntN(100); {
	case k < 20:
		n, linked = 2+r.IntN(2), true
	case k < 26:
		n = 2
	}
	// Two that are not linked share a commit, but not a moment: the first does not find a hold that is committed meanwhile, and the second
	// is seen after that. So that they can be one operation, they refer to nothing that others have under way.
	d.pair, d.first = n > 1 && !linked, nil
	var txs []*tx
	for i := range n {
		txs = append(txs, d.deal(r, linked && i < n-1, linked))
		d.first = txs[0]
	}
	return txs
}

// deal makes one transaction, of which linked says whether the next belongs to its chain and chained whether it has one.
func (d *dealer) deal(r *rand.Rand, linked, chained bool) *tx {
	t := &tx{linked: linked}
	switch k := r.IntN(100); {
	case k < 25:
		t.kind, t.moves = ledger.KindHold, d.moves(r)
		switch e := r.IntN(10); {
		case e < 3:
			t.expires = d.shorts[r.IntN(len(d.shorts))]
		case e < 4:
			t.expires = time.Hour // which nobody waits for
		}
	case k < 46 && len(d.holds) > 0:
		t.kind, t.of = ledger.KindCapture, d.target(r, d.holds)
		t.moves = d.capture(r, t.of)
		if chained && !d.chainExpiring && t.of != nobody && d.contents[t.of][0].expires > 0 {
			t.kind, t.moves = ledger.KindRelease, nil
		}
	case k < 54 && len(d.holds) > 0:
		t.kind, t.of = ledger.KindRelease, d.target(r, d.holds)
	case k < 66 && len(d.posts) > 0:
		t.kind, t.of = ledger.KindReverse, d.target(r, d.posts)
	default:
		t.moves = d.moves(r)
	}
	if r.IntN(8) == 0 {
		for range 1 + r.IntN(2) {
			t.conditions = append(t.conditions, d.condition(r))
		}
	}
	return d.add(t)
}

// made tells the dealer what others can refer to.
func (d *dealer) made(t *tx) {
	switch t.kind {
	case ledger.KindHold:
		d.holds = append(d.holds, t.id)
	case ledger.KindRelease:
	default:
		d.posts = append(d.posts, t.id)
	}
}

func (d *dealer) moves(r *rand.Rand) (moves []move) {
	for range 1 + r.IntN(2) {
		m := move{debit: r.IntN(perShard), amount: 1 + r.Int64N(d.most)}
		m.credit = (m.debit + 1 + r.IntN(perShard-1)) % perShard
		if r.IntN(3) == 0 { // money comes in
			m = move{0, 1 + r.IntN(perShard-1), 1 + r.Int64N(60)}
		}
		moves = append(moves, m)
	}
	return moves
}

// nobody is an id that no transaction has.
const nobody = 1 << 20

// target is mostly one of the last.
func (d *dealer) target(r *rand.Rand, ids []int) int {
	switch k := r.IntN(32); {
	case k == 0:
		return nobody
	case k == 1:
		return ids[r.IntN(len(ids))]
	case k < 6 && d.first != nil:
		return d.first.id
	case k < 6 && d.pair:
	case k == 2:
		return r.IntN(len(d.contents)) // of any kind
	case k < 6:
		return len(d.contents) - 1 - r.IntN(min(len(d.contents), recent)) // under way, if it is a hold at all
	}
	return pick(r, ids)
}

// capture is all of a hold, some of it, or more than it has.
func (d *dealer) capture(r *rand.Rand, hold int) (moves []move) {
	if hold == nobody || r.IntN(3) == 0 {
		return nil
	}
	for _, m := range d.contents[hold][0].moves {
		if len(moves) > 0 && r.IntN(2) == 0 {
			continue
		}
		m.amount = 1 + r.Int64N(m.amount)
		switch r.IntN(16) {
		case 0:
			m.amount += 60 // more than any hold has
		case 1:
			m = back(m)
		}
		moves = append(moves, m)
	}
	return moves
}

func (d *dealer) condition(r *rand.Rand) condition {
	i := r.IntN(perShard)
	if r.IntN(2) == 0 {
		return condition{i, true, d.seen[i].version + max(0, r.Int64N(2*d.around)-d.around)}
	}
	return condition{i, false, d.seen[i].available + r.Int64N(10*d.around) - 5*d.around}
}

// again returns what was sent before: as it was, with other content under one of its ids, or of a chain a single one, alone. Whether
// that was refused only with its chain depends on how often the chain was tried, so it is for what no group may try twice.
func (d *dealer) again(r *rand.Rand, txs []*tx, alone bool) []*tx {
	k := r.IntN(len(txs))
	switch {
	case r.IntN(3) > 0:
		return txs
	case alone && r.IntN(2) == 0:
		return []*tx{d.content(txs[k].id, func(t *tx) bool { return !t.linked }, func() tx {
			t := *txs[k]
			t.linked = false
			return t
		})}
	}
	linked := txs[k].linked
	txs = slices.Clone(txs)
	txs[k] = d.content(txs[k].id, func(t *tx) bool { return t != txs[k] && t.linked == linked }, func() tx {
		t := *txs[k]
		if len(t.moves) > 0 {
			t.moves = slices.Clone(t.moves)
			t.moves[0].amount++
		} else {
			t.conditions = append(slices.Clip(t.conditions), condition{0, true, 0})
		}
		return t
	})
	return txs
}

// content returns a content of an id that fits, or makes one.
func (d *dealer) content(id int, fits func(*tx) bool, other func() tx) *tx {
	if i := slices.IndexFunc(d.contents[id], fits); i >= 0 {
		return d.contents[id][i]
	}
	return d.enter(id, new(other()))
}
