package ledgertest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// testModel posts random batches, good and bad, to the store and to a model that
// is a few lines of decimal arithmetic, and compares all that can be seen.
func testModel(t *testing.T, f *fixture) {
	againstModel(t, f, func([]ledger.Transaction) bool { return false })
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
	againstModel(t, f, func(batch []ledger.Transaction) (failed bool) {
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
func againstModel(t *testing.T, f *fixture, before func([]ledger.Transaction) bool) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	m := model{balances: map[ledger.AccountID]decimal.Decimal{"bank": {}}, first: map[ledger.TransactionID]ledger.Verdict{}}
	for n := range wallets {
		m.balances[wallet(n)] = decimal.Zero
	}
	var sent []ledger.Transaction
	for range 60 {
		var batch []ledger.Transaction
		for range 1 + r.IntN(12) {
			tx := randomTransaction(r, len(sent))
			if len(sent) > 0 && r.IntN(8) == 0 {
				tx = sent[r.IntN(len(sent))]
			}
			sent = append(sent, tx)
			batch = append(batch, tx)
		}
		posted := before(batch)
		for i, got := range f.post(t, batch...) {
			want, duplicate := m.post(batch[i])
			duplicate = duplicate || posted && !got.At.IsZero() // it is recorded
			if got.Verdict != want || got.Duplicate != duplicate {
				t.Fatalf("%+v: %v, duplicate %v; the model says %v, %v", batch[i], got.Verdict, got.Duplicate, want, duplicate)
			}
		}
	}
	m.compare(t, f)
}

// compare checks balances and last entries.
func (m *model) compare(t *testing.T, f *fixture) {
	for id, want := range m.balances {
		b, err := f.Balances(t.Context(), id)
		if err != nil || !b[0].Posted.Equal(want) {
			t.Errorf("%s has %v, the model %s (%v)", id, b, want, err)
		}
		last := decimal.Zero
		for e, err := range f.Entries(t.Context(), id, 0) {
			if err != nil {
				t.Fatal(err)
			}
			last = e.Balance
		}
		if !last.Equal(want) {
			t.Errorf("the last entry of %s leaves %s, the model %s", id, last, want)
		}
	}
	f.verify(t)
}

func randomTransaction(r *rand.Rand, n int) ledger.Transaction {
	tx := ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("m", n))}
	account := func() ledger.AccountID {
		switch k := r.IntN(12); {
		case k < wallets:
			return wallet(k)
		case k == 11 && r.IntN(4) == 0:
			return "nobody"
		}
		return "bank"
	}
	for range 1 + r.IntN(3) {
		p := ngn(account(), account(), fmt.Sprint(r.IntN(40)))
		if r.IntN(30) == 0 {
			p.Amount = decimal.New(1, -3)
		}
		tx.Postings = append(tx.Postings, p)
	}
	return tx
}

type model struct {
	balances map[ledger.AccountID]decimal.Decimal
	first    map[ledger.TransactionID]ledger.Verdict
}

func (m *model) post(tx ledger.Transaction) (v ledger.Verdict, duplicate bool) {
	if v, ok := m.first[tx.ID]; ok {
		return v, true
	}
	for _, p := range tx.Postings { // what needs no state is not recorded
		switch {
		case p.Debit == p.Credit:
			return ledger.SameAccount, false
		case p.Amount.IsZero():
			return ledger.InvalidAmount, false
		case p.Amount.Exponent() < -2:
			return ledger.OverScale, false
		}
	}
	v = m.try(tx)
	m.first[tx.ID] = v
	return v, false
}

func (m *model) try(tx ledger.Transaction) ledger.Verdict {
	after := maps.Clone(m.balances)
	for _, p := range tx.Postings {
		for id, side := range map[ledger.AccountID]ledger.Side{p.Debit: ledger.Debit, p.Credit: ledger.Credit} {
			b, ok := after[id]
			if !ok {
				return ledger.UnknownAccount
			}
			if grows := (id == "bank") == (side == ledger.Debit); grows {
				after[id] = b.Add(p.Amount)
			} else {
				after[id] = b.Sub(p.Amount)
			}
		}
	}
	for id, b := range after {
		if id != "bank" && b.IsNegative() {
			return ledger.InsufficientFunds
		}
	}
	m.balances = after
	return ledger.Posted
}
