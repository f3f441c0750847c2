package ledger_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// world is a book and what a store would keep beside it.
type world struct {
	book    ledger.Book
	targets map[ledger.TransactionID]*ledger.Target
	r       *rand.Rand
	n       int
}

const accountsOfWorld = 6

func newWorld(seed uint64) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 0)), targets: map[ledger.TransactionID]*ledger.Target{}}
	w.book = ledger.Book{
		Accounts: map[ledger.AccountID]*ledger.State{},
		Target:   func(id ledger.TransactionID) *ledger.Target { return w.targets[id] },
		Now:      time.Unix(1_000_000, 0),
	}
	for i := range accountsOfWorld {
		s := &ledger.State{ID: name(i), Currency: "NGN", Scale: 2, Normal: ledger.Debit}
		if i > 1 {
			s.Normal, s.Floor = ledger.Credit, new(ledger.Minor(int64(-10*(i%2))))
		}
		w.book.Accounts[s.ID] = s
	}
	return w
}

func name(i int) ledger.AccountID { return ledger.AccountID(fmt.Sprint("a", i)) }

// draft makes a random transaction, most of them well meant.
func (w *world) draft() ledger.Draft {
	w.n++
	d := ledger.Draft{ID: ledger.TransactionID(fmt.Sprint("t", w.n)), Linked: w.r.IntN(4) == 0}
	d.Kind = ledger.Kind(w.r.IntN(5))
	if d.Kind >= ledger.KindCapture {
		d.Of = ledger.TransactionID(fmt.Sprint("t", 1+w.r.IntN(w.n)))
		if t := w.targets[d.Of]; d.Kind == ledger.KindCapture && t != nil && w.r.IntN(2) == 0 {
			d.Postings = append(d.Postings, t.Postings...)
			for i := range d.Postings {
				d.Postings[i].Amount = ledger.Minor(1 + w.r.Int64N(30))
			}
		}
		return d
	}
	for range 1 + w.r.IntN(3) {
		from := w.r.IntN(accountsOfWorld)
		to := (from + 1 + w.r.IntN(accountsOfWorld-1)) % accountsOfWorld
		d.Postings = append(d.Postings, ngn(name(from), name(to), 1+w.r.Int64N(30)))
	}
	if d.Kind == ledger.KindHold && w.r.IntN(2) == 0 {
		d.Expires = time.Duration(1+w.r.IntN(20)) * time.Second
	}
	if w.r.IntN(6) == 0 {
		d.If = []ledger.DraftCondition{{Account: name(w.r.IntN(accountsOfWorld)), Version: new(w.r.Int64N(20))}}
	}
	return d
}

// image is all of the world that a refusal must leave as it was.
func (w *world) image() string {
	text := ""
	for i := range accountsOfWorld {
		s := w.book.Accounts[name(i)]
		text += fmt.Sprintln(s.ID, s.Debits, s.Credits, s.HeldDebits, s.HeldCredits, s.Version)
	}
	for i := range w.n {
		if t := w.targets[ledger.TransactionID(fmt.Sprint("t", i+1))]; t != nil {
			text += fmt.Sprint(i+1, t.Closed, " ")
		}
	}
	return text
}

// step decides on a few drafts and writes down what a store would.
func (w *world) step(t *testing.T) {
	t.Helper()
	drafts := make([]ledger.Draft, 1+w.r.IntN(4))
	for i := range drafts {
		drafts[i] = w.draft()
	}
	drafts[len(drafts)-1].Linked = false
	before := w.image()
	posted, decided := 0, 0
	w.book.Decide(drafts, func(int) bool { return false }, func(i int, v ledger.Verdict, _ int, lines []ledger.Line) {
		decided++
		d := &drafts[i]
		if v != ledger.Posted {
			require.Empty(t, lines)
			return
		}
		posted++
		target := &ledger.Target{Kind: d.Kind, Postings: d.Postings}
		if d.Kind == ledger.KindCapture || d.Kind == ledger.KindReverse {
			target.Postings = ledger.Made(lines)
		}
		if d.Expires > 0 {
			target.Expires = w.book.Now.Add(d.Expires)
		}
		w.targets[d.ID] = target
	})
	require.Equal(t, len(drafts), decided)
	if posted == 0 {
		require.Equal(t, before, w.image(), "all refused: %+v", drafts)
	}
	w.book.Now = w.book.Now.Add(time.Second)
}

// sound checks what must hold after any sequence of transactions.
func (w *world) sound(t *testing.T) {
	t.Helper()
	var debits, credits, heldDebits, heldCredits ledger.Amount
	held := map[ledger.AccountID][2]ledger.Amount{}
	for _, target := range w.targets {
		if target.Kind != ledger.KindHold || target.Closed {
			continue
		}
		for _, p := range target.Postings {
			d, c := held[p.Debit], held[p.Credit]
			d[0], _ = d[0].Add(p.Amount)
			c[1], _ = c[1].Add(p.Amount)
			held[p.Debit], held[p.Credit] = d, c
		}
	}
	for id, s := range w.book.Accounts {
		debits, _ = debits.Add(s.Debits)
		credits, _ = credits.Add(s.Credits)
		heldDebits, _ = heldDebits.Add(s.HeldDebits)
		heldCredits, _ = heldCredits.Add(s.HeldCredits)
		require.Equal(t, [2]ledger.Amount{s.HeldDebits, s.HeldCredits}, held[id], "%s holds what its open holds have", id)
		if s.Floor != nil {
			require.GreaterOrEqual(t, s.Available().Cmp(*s.Floor), 0, "%s is above its floor", id)
		}
	}
	require.Equal(t, debits, credits)
	require.Equal(t, heldDebits, heldCredits)
}

// Random holds, captures, releases, reversals, conditions and chains: money is
// neither made nor lost, holds and accounts agree, and a refusal changes nothing.
func TestBookStaysSound(t *testing.T) {
	t.Parallel()
	runs := 500
	if testing.Short() {
		runs = 50
	}
	first := rand.Uint64()
	t.Logf("seeds from %d", first)
	for i := range runs {
		w := newWorld(first + uint64(i))
		for range 30 {
			w.step(t)
		}
		w.sound(t)
		if t.Failed() {
			t.Fatalf("seed %d", first+uint64(i))
		}
	}
}

// What a chain did is undone when a later one of it is refused, the closing of
// a hold included.
func TestChainIsUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(1)
	decide := func(drafts ...ledger.Draft) (verdicts []ledger.Verdict) {
		verdicts = make([]ledger.Verdict, len(drafts))
		w.book.Decide(drafts, func(int) bool { return false }, func(i int, v ledger.Verdict, _ int, _ []ledger.Line) {
			verdicts[i] = v
			if v == ledger.Posted {
				w.n++
				w.targets[drafts[i].ID] = &ledger.Target{Kind: drafts[i].Kind, Postings: drafts[i].Postings}
			}
		})
		return verdicts
	}
	require.Equal(t, []ledger.Verdict{ledger.Posted}, decide(ledger.Draft{ID: "t1", Kind: ledger.KindHold, Postings: []ledger.DraftPosting{ngn("a0", "a2", 5)}}))
	before := w.image()
	require.Equal(t, []ledger.Verdict{ledger.LinkFailed, ledger.LinkFailed, ledger.InsufficientFunds}, decide(
		ledger.Draft{ID: "capture", Kind: ledger.KindCapture, Of: "t1", Linked: true},
		ledger.Draft{ID: "post", Postings: []ledger.DraftPosting{ngn("a0", "a4", 7)}, Linked: true},
		ledger.Draft{ID: "short", Postings: []ledger.DraftPosting{ngn("a4", "a2", 8)}},
	))
	require.Equal(t, before, w.image())
	require.Equal(t, []ledger.Verdict{ledger.Posted}, decide(ledger.Draft{ID: "capture", Kind: ledger.KindCapture, Of: "t1"}))
}

// A hold takes all that can be held, in the place of one that its chain gives up: undone in their order, the two would be held at once.
func TestChainIsUndoneFromItsEnd(t *testing.T) {
	t.Parallel()
	m := newAccounts(t)
	all := ngn("x", "full", 0)
	all.Amount = minor(t, nines)
	given := &ledger.Target{Kind: ledger.KindHold, Postings: []ledger.DraftPosting{all}}
	m["x"].HeldDebits, m["full"].HeldCredits = all.Amount, all.Amount
	before := m.copy()
	b := &ledger.Book{Accounts: m, Target: func(ledger.TransactionID) *ledger.Target { return given }}
	var verdicts []ledger.Verdict
	b.Decide([]ledger.Draft{
		{ID: "give up", Kind: ledger.KindRelease, Of: "given", Linked: true},
		{ID: "hold", Kind: ledger.KindHold, Postings: []ledger.DraftPosting{all}, Linked: true},
		{ID: "short", Postings: []ledger.DraftPosting{ngn("y", "x", 1)}},
	}, func(int) bool { return false }, func(_ int, v ledger.Verdict, _ int, _ []ledger.Line) { verdicts = append(verdicts, v) })
	require.Equal(t, []ledger.Verdict{ledger.LinkFailed, ledger.LinkFailed, ledger.InsufficientFunds}, verdicts)
	require.Equal(t, before, m.copy())
	require.False(t, given.Closed)
}
