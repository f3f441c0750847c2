package ledgertest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// testModel posts random batches of all kinds, good and bad, to the store and to
// a model that is a page of decimal arithmetic, and compares all that can be seen.
func testModel(t *testing.T, f *fixture) {
	againstModel(t, f, generator{ends: true}, func([]ledger.Transaction) bool { return false })
}

// testModelWithFaults does so while every other call fails, done or not, and is
// repeated until it is answered. The transactions of a batch that was done
// without an answer are duplicates then, and nothing else is different.
func testModelWithFaults(t *testing.T, f *fixture) {
	seed := rand.Uint64()
	t.Logf("seed of the faults %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	flaky := &Flaky{Store: f.store, Fault: func(int64) Fault { return Fault(max(0, r.IntN(4)-1)) }}
	l, err := ledger.New(flaky, nil)
	if err != nil {
		t.Fatal(err)
	}
	failures := 0
	// With the end of a failed chain behind it, a batch that is repeated finds that it is decided by now.
	againstModel(t, f, generator{ends: false}, func(batch []ledger.Transaction) (failed bool) {
		for {
			calls := flaky.Calls()
			_, err := l.Post(t.Context(), batch)
			if !errors.Is(err, ErrInjected) {
				if err != nil {
					t.Fatal(err)
				}
				return failed || flaky.Calls() > calls
			}
			failed = true
			failures++
		}
	})
	if failures == 0 {
		t.Error("no call failed, so the faults have tested nothing")
	}
}

// againstModel compares the store's answers with the model's. before is called
// with each batch and tells whether it may have posted it already.
func againstModel(t *testing.T, f *fixture, g generator, before func([]ledger.Transaction) bool) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g.Rand = rand.New(rand.NewPCG(seed, 0))
	m := newModel()
	for range 60 {
		var batch []ledger.Transaction
		for range 1 + g.IntN(8) {
			batch = append(batch, g.next()...)
		}
		posted := before(batch)
		got := f.post(t, batch...)
		for i, want := range m.post(batch, got) {
			duplicate := want.Duplicate || posted && !got[i].At.IsZero() // it is recorded
			if got[i].Verdict != want.Verdict || got[i].Posting != want.Posting || got[i].Duplicate != duplicate {
				t.Fatalf("%+v: %+v; the model says %v, posting %d, duplicate %v", batch[i], got[i], want.Verdict, want.Posting, duplicate)
			}
			if want.Verdict == ledger.Posted && !want.Duplicate {
				g.done = append(g.done, batch[i])
			}
		}
		if g.IntN(4) == 0 {
			m.expire(t, f)
		}
		m.compare(t, f)
	}
	m.compareEntries(t, f)
	f.verify(t)
}

// generator makes up transactions.
type generator struct {
	*rand.Rand
	ends bool // of chains come again, alone
	n    int
	sent [][]ledger.Transaction
	done []ledger.Transaction
}

// next returns one transaction or a chain, new or sent before, or the end of one.
func (g *generator) next() (txs []ledger.Transaction) {
	if len(g.sent) > 0 && g.IntN(8) == 0 {
		return g.sent[g.IntN(len(g.sent))]
	}
	if len(g.sent) > 0 && g.ends && g.IntN(8) == 0 {
		last := g.sent[len(g.sent)-1]
		return last[len(last)-1:]
	}
	n := max(1, g.IntN(8)-4)
	for i := range n {
		tx := g.transaction()
		tx.Linked = i < n-1
		txs = append(txs, tx)
	}
	g.sent = append(g.sent, txs)
	return txs
}

func (g *generator) transaction() ledger.Transaction {
	tx := ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("m", g.n))}
	g.n++
	switch k := g.IntN(12); {
	case k < 3:
		tx.Kind, tx.Postings = ledger.KindHold, g.postings()
		tx.Expires = []time.Duration{0, 0, time.Hour, time.Microsecond}[g.IntN(4)]
	case k < 5:
		tx.Kind = ledger.KindCapture
		held := g.target(&tx)
		for _, p := range held {
			if g.IntN(3) > 0 {
				p.Amount = decimal.New(1+g.Int64N(p.Amount.IntPart()+1), 0) // now and then one too much
				tx.Postings = append(tx.Postings, p)
			}
		}
	case k < 6:
		tx.Kind = ledger.KindRelease
		g.target(&tx)
	case k < 7:
		tx.Kind = ledger.KindReverse
		g.target(&tx)
	default:
		tx.Postings = g.postings()
	}
	if g.IntN(8) == 0 {
		c := ledger.Condition{Account: g.account(), Available: new(decimal.New(g.Int64N(30), 0))}
		if g.IntN(2) == 0 {
			c = ledger.Condition{Account: g.account(), Version: new(g.Int64N(5))}
		}
		tx.If = []ledger.Condition{c}
	}
	return tx
}

func (g *generator) postings() (postings []ledger.Posting) {
	for range 1 + g.IntN(3) {
		p := ngn(g.account(), g.account(), fmt.Sprint(g.IntN(40)))
		if g.IntN(30) == 0 {
			p.Amount = decimal.New(1, -3)
		}
		postings = append(postings, p)
	}
	return postings
}

func (g *generator) account() ledger.AccountID {
	switch k := g.IntN(12); {
	case k < wallets:
		return wallet(k)
	case k == 11 && g.IntN(4) == 0:
		return "nobody"
	}
	return "bank"
}

// target makes tx refer to one of the last that fit, mostly, and returns that
// one's postings.
func (g *generator) target(tx *ledger.Transaction) []ledger.Posting {
	fits := g.done
	if g.IntN(10) > 0 {
		fits = slices.DeleteFunc(slices.Clone(fits), func(t ledger.Transaction) bool {
			return (t.Kind == ledger.KindHold) == (tx.Kind == ledger.KindReverse)
		})
	}
	if len(fits) == 0 {
		tx.Of = "nothing"
		return nil
	}
	t := fits[len(fits)-1-g.IntN(min(len(fits), 8))]
	tx.Of = t.ID
	return t.Postings
}

// model is a ledger of the fixture's accounts.
type model struct {
	accounts map[ledger.AccountID]modelAccount
	decided  map[ledger.TransactionID]modelRecord
	closed   map[ledger.TransactionID]bool // captured, released or reversed
}

type modelAccount struct {
	posted, heldDebits, heldCredits decimal.Decimal
	version                         int64
}

type modelRecord struct {
	tx     ledger.Transaction
	result ledger.Result
	made   []ledger.Posting // posted or held
}

func newModel() *model {
	m := &model{
		accounts: map[ledger.AccountID]modelAccount{"bank": {}}, decided: map[ledger.TransactionID]modelRecord{},
		closed: map[ledger.TransactionID]bool{},
	}
	for n := range wallets {
		m.accounts[wallet(n)] = modelAccount{}
	}
	return m
}

// post decides on a batch. Of what the store has answered it takes the time,
// which only the store knows.
func (m *model) post(txs []ledger.Transaction, got []ledger.Result) (want []ledger.Result) {
	for from := 0; from < len(txs); {
		to := from + 1
		for txs[to-1].Linked {
			to++
		}
		want = append(want, m.chain(txs[from:to], got[from:to])...)
		from = to
	}
	return want
}

func (m *model) chain(txs []ledger.Transaction, got []ledger.Result) []ledger.Result {
	want := make([]ledger.Result, len(txs))
	malformed, known, culprit := false, false, -1
	now := time.Time{}
	for i, tx := range txs {
		_, before := m.decided[tx.ID]
		known = known || before
		want[i] = malformation(tx)
		malformed = malformed || want[i].Verdict != ledger.LinkFailed
		if got[i].At.After(now) {
			now = got[i].At
		}
	}
	if malformed { // that needs no state and is not recorded
		return want
	}
	made := make([][]ledger.Posting, len(txs))
	accounts, closed := maps.Clone(m.accounts), maps.Clone(m.closed)
	for i := 0; i < len(txs) && !known && culprit < 0; i++ {
		want[i].Verdict, want[i].Posting, made[i] = m.try(txs[i], now)
		if want[i].Verdict != ledger.Posted {
			m.accounts, m.closed, culprit = accounts, closed, i
		}
	}
	for i, tx := range txs {
		r, before := m.decided[tx.ID]
		switch {
		case before:
			want[i] = r.result
			want[i].Duplicate = true
		case known || culprit >= 0 && culprit != i:
			want[i] = ledger.Result{Verdict: ledger.LinkFailed}
		default:
			want[i].At = got[i].At
			m.decided[tx.ID] = modelRecord{tx: tx, result: want[i], made: made[i]}
		}
	}
	return want
}

// malformation is what can be said of a transaction without the others: the first
// verdict that applies, and its first posting. LinkFailed stands for nothing, since
// that is what becomes of one whose neighbour is malformed.
func malformation(tx ledger.Transaction) ledger.Result {
	for _, fault := range []struct {
		verdict ledger.Verdict
		has     func(ledger.Posting) bool
	}{
		{ledger.SameAccount, func(p ledger.Posting) bool { return p.Debit == p.Credit }},
		{ledger.InvalidAmount, func(p ledger.Posting) bool { return p.Amount.IsZero() }},
		{ledger.OverScale, func(p ledger.Posting) bool { return p.Amount.Exponent() < -2 }},
	} {
		if i := slices.IndexFunc(tx.Postings, fault.has); i >= 0 {
			return ledger.Result{Verdict: fault.verdict, Posting: i}
		}
	}
	return ledger.Result{Verdict: ledger.LinkFailed}
}

// try does what the transaction asks for, or nothing, and returns what it has
// posted or held.
func (m *model) try(tx ledger.Transaction, now time.Time) (ledger.Verdict, int, []ledger.Posting) {
	made, freed := tx.Postings, []ledger.Posting(nil)
	if tx.Of != "" {
		target, v := m.target(tx, now)
		if v != ledger.Posted {
			return v, 0, nil
		}
		if tx.Kind == ledger.KindReverse {
			made = reversed(target.made)
		} else {
			freed = target.made
			if i, ok := partOf(made, freed); !ok {
				return ledger.NotHeld, i, nil
			}
			if tx.Kind == ledger.KindCapture && len(made) == 0 {
				made = freed
			}
		}
	}
	if v, posting := m.refuse(tx, made); v != ledger.Posted {
		return v, posting, nil
	}
	before := maps.Clone(m.accounts)
	m.hold(freed, -1)
	if tx.Kind == ledger.KindHold {
		m.hold(made, 1)
	} else {
		m.move(made)
	}
	for i, p := range made {
		if m.low(p.Debit) || m.low(p.Credit) {
			m.accounts = before
			return ledger.InsufficientFunds, i, nil
		}
	}
	if tx.Of != "" {
		m.closed[tx.Of] = true
	}
	return ledger.Posted, 0, made
}

func (m *model) target(tx ledger.Transaction, now time.Time) (modelRecord, ledger.Verdict) {
	r, ok := m.decided[tx.Of]
	switch {
	case !ok || r.result.Verdict != ledger.Posted || r.tx.Kind == ledger.KindRelease || (r.tx.Kind == ledger.KindHold) == (tx.Kind == ledger.KindReverse):
		return r, ledger.UnknownTarget
	case m.closed[tx.Of]:
		return r, ledger.TargetClosed
	case tx.Kind == ledger.KindCapture && r.tx.Expires > 0 && !now.Before(r.result.At.Add(r.tx.Expires)):
		return r, ledger.HoldExpired
	}
	return r, ledger.Posted
}

// partOf tells whether what is captured is some of what is held, in its order.
func partOf(captured, held []ledger.Posting) (int, bool) {
	for i, c := range captured {
		k := slices.IndexFunc(held, func(p ledger.Posting) bool { return p.Debit == c.Debit && p.Credit == c.Credit })
		if k < 0 || c.Amount.GreaterThan(held[k].Amount) {
			return i, false
		}
		held = held[k+1:]
	}
	return 0, true
}

func reversed(postings []ledger.Posting) (back []ledger.Posting) {
	for _, p := range postings {
		p.Debit, p.Credit = p.Credit, p.Debit
		back = append(back, p)
	}
	return back
}

// refuse looks for unknown accounts and at conditions.
func (m *model) refuse(tx ledger.Transaction, made []ledger.Posting) (v ledger.Verdict, posting int) {
	unknown := func(id ledger.AccountID) bool {
		_, ok := m.accounts[id]
		return !ok
	}
	if i := slices.IndexFunc(made, func(p ledger.Posting) bool { return unknown(p.Debit) || unknown(p.Credit) }); i >= 0 {
		return ledger.UnknownAccount, i
	}
	for _, c := range tx.If {
		switch {
		case unknown(c.Account):
			return ledger.UnknownAccount, 0
		case c.Version != nil && m.accounts[c.Account].version != *c.Version, c.Available != nil && m.available(c.Account).LessThan(*c.Available):
			v = ledger.ConditionFailed
		}
	}
	return v, 0
}

func (m *model) available(id ledger.AccountID) decimal.Decimal {
	a := m.accounts[id]
	if id == "bank" {
		return a.posted.Sub(a.heldCredits)
	}
	return a.posted.Sub(a.heldDebits)
}

func (m *model) low(id ledger.AccountID) bool { return id != "bank" && m.available(id).IsNegative() }

func (m *model) hold(postings []ledger.Posting, sign int64) {
	for _, p := range postings {
		amount := p.Amount.Mul(decimal.New(sign, 0))
		debit := m.accounts[p.Debit]
		debit.heldDebits = debit.heldDebits.Add(amount)
		m.accounts[p.Debit] = debit
		credit := m.accounts[p.Credit]
		credit.heldCredits = credit.heldCredits.Add(amount)
		m.accounts[p.Credit] = credit
	}
}

func (m *model) move(postings []ledger.Posting) {
	for _, p := range postings {
		for id, grows := range map[ledger.AccountID]bool{p.Debit: p.Debit == "bank", p.Credit: p.Credit != "bank"} {
			a, amount := m.accounts[id], p.Amount
			if !grows {
				amount = amount.Neg()
			}
			a.posted = a.posted.Add(amount)
			a.version++
			m.accounts[id] = a
		}
	}
}

// expire has all holds released that expire at once, and no others.
func (m *model) expire(t *testing.T, f *fixture) {
	if _, ok := f.store.(ledger.Expirer); !ok {
		return
	}
	want := 0
	for id, r := range m.decided {
		if r.tx.Expires == time.Microsecond && r.result.Verdict == ledger.Posted && !m.closed[id] {
			m.closed[id] = true
			m.hold(r.made, -1)
			want++
		}
	}
	begin := time.Now()
	for n := -1; n < want; { // a microsecond may last, where the store's clock is a coarse one
		released, err := f.ExpireHolds(t.Context(), ledger.MaxBatch)
		n = max(0, n) + released
		if err != nil || n > want || time.Since(begin) > 10*time.Second {
			t.Fatalf("%d holds have expired, want %d (%v)", n, want, err)
		}
	}
}

// compare checks balances.
func (m *model) compare(t *testing.T, f *fixture) {
	ids := slices.Sorted(maps.Keys(m.accounts))
	balances, err := f.Balances(t.Context(), ids...)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		b, want := balances[i], m.accounts[id]
		if !b.Posted.Equal(want.posted) || !b.Available.Equal(m.available(id)) || b.Version != want.version ||
			!b.HeldDebits.Equal(want.heldDebits) || !b.HeldCredits.Equal(want.heldCredits) {
			t.Fatalf("%s has %+v, the model %+v", id, b, want)
		}
	}
}

// compareEntries checks how many entries accounts have, and the last.
func (m *model) compareEntries(t *testing.T, f *fixture) {
	for id, want := range m.accounts {
		last := ledger.Entry{}
		for e, err := range f.Entries(t.Context(), id, 0) {
			if err != nil {
				t.Fatal(err)
			}
			last = e
		}
		if !last.Balance.Equal(want.posted) || last.Version != want.version {
			t.Errorf("the last entry of %s is %+v, the model has %+v", id, last, want)
		}
	}
}
