package proof

import (
	"time"

	"github.com/safetill/safetill/ledger"
)

// Histories and simulations are of shards: a few accounts and the transactions between them. Nothing refers to another shard, so that a
// history is checked shard by shard.
const (
	shards   = 8
	perShard = 4
)

// floors are the floors of a shard's accounts; the first is a bank and has none.
var floors = [perShard]int64{0, 0, 0, -50}

func shardAccounts(shard int) []ledger.Account {
	g := newRegistry(shard)
	accounts := []ledger.Account{bank(g.names[0])}
	for i := 1; i < perShard; i++ {
		accounts = append(accounts, wallet(g.names[i], floors[i]))
	}
	return accounts
}

var kindNames = [...]string{
	ledger.KindPost: "post", ledger.KindHold: "hold", ledger.KindCapture: "capture", ledger.KindRelease: "release", ledger.KindReverse: "reverse",
}

// tx is a transaction as the models see it. Each content that is sent under an id is one tx.
type tx struct {
	id, content int // its number in the shard, and which of the contents under that it is
	kind        ledger.Kind
	moves       []move
	of          int // an id
	expires     time.Duration
	conditions  []condition
	linked      bool

	sent ledger.Transaction // the same for the ledger; empty for what only the ledger itself sends
}

// move is a posting.
type move struct {
	debit, credit int
	amount        int64
}

func back(m move) move { return move{m.credit, m.debit, m.amount} }

// condition asks for the least that is available on an account, or for its version.
type condition struct {
	account int
	version bool
	asked   int64
}

// registry knows what was sent in a shard.
type registry struct {
	shard    int
	names    [perShard]ledger.AccountID
	contents [][]*tx                      // by id
	at       []time.Time                  // by id: when it was decided
	ids      map[ledger.TransactionID]int // by the ledger's
}

func newRegistry(shard int) registry {
	g := registry{shard: shard, ids: map[ledger.TransactionID]int{}}
	for i := range g.names {
		g.names[i] = ledger.AccountID(txID("s", shard, "/", i))
	}
	return g
}

// add gives a transaction an id. A hold that can expire gets a second one, the next, for its release by the ledger.
func (g *registry) add(t *tx) *tx {
	id := len(g.contents)
	g.contents, g.at = append(g.contents, nil), append(g.at, time.Time{})
	g.enter(id, t)
	g.ids[t.sent.ID] = id
	if t.expires > 0 {
		expiry := &tx{id: id + 1, kind: ledger.KindRelease, of: id}
		g.contents, g.at = append(g.contents, []*tx{expiry}), append(g.at, time.Time{})
	}
	return t
}

// enter adds a content under an id.
func (g *registry) enter(id int, t *tx) *tx {
	t.id, t.content = id, len(g.contents[id])
	g.contents[id] = append(g.contents[id], t)
	t.sent = g.transaction(t)
	return t
}

// expiry returns the ledger's own release of a hold; nil: it cannot expire.
func (g *registry) expiry(hold ledger.TransactionID) *tx {
	id, ok := g.ids[hold]
	if !ok || g.contents[id][0].expires == 0 {
		return nil
	}
	return g.contents[id+1][0]
}

func (g *registry) transaction(t *tx) ledger.Transaction {
	name := func(id int) ledger.TransactionID { return txID("s", g.shard, "-", id) }
	l := ledger.Transaction{ID: name(t.id), Kind: t.kind, Expires: t.expires, Linked: t.linked, Postings: g.postings(t.moves)}
	if t.refers() {
		l.Of = name(t.of)
	}
	for _, c := range t.conditions {
		asked := ledger.Condition{Account: g.names[c.account]}
		if c.version {
			asked.Version = new(c.asked)
		} else {
			asked.Available = new(minor(c.asked))
		}
		l.If = append(l.If, asked)
	}
	return l
}

func (g *registry) postings(moves []move) (postings []ledger.Posting) {
	for _, m := range moves {
		postings = append(postings, posting(g.names[m.debit], g.names[m.credit], m.amount))
	}
	return postings
}

func (t *tx) refers() bool {
	return t.kind == ledger.KindCapture || t.kind == ledger.KindRelease || t.kind == ledger.KindReverse
}

// chains cuts txs up; what is not linked is a chain of one.
func chains(txs []*tx) (chains [][]*tx) {
	for len(txs) > 0 {
		n := 1
		for n < len(txs) && txs[n-1].linked {
			n++
		}
		chains, txs = append(chains, txs[:n]), txs[n:]
	}
	return chains
}
