package ledger_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
)

// brokenChain is refused because of its first: there is nothing in the shop.
func brokenChain() []ledger.Transaction {
	txs := payAll("broke", "good")
	p := &txs[0].Postings[0]
	p.Debit, p.Credit, txs[0].Linked = "shop", "bank", true
	return txs
}

func told(results []ledger.Result) (texts []string) {
	for _, r := range results {
		texts = append(texts, fmt.Sprint(r.Verdict, " ", r.Duplicate))
	}
	return texts
}

// What failed with its chain is not recorded. Sent once more behind the chain, alone, it heard that its chain had failed, of which it has
// none.
func TestAloneBehindItsChain(t *testing.T) {
	t.Parallel()
	l, _ := newGroup(t, ledger.NewMemory(nil), nil)
	results, err := l.Post(t.Context(), append(brokenChain(), payAll("good", "good")...))
	require.NoError(t, err)
	require.Equal(t, []string{"insufficient_funds false", "link_failed false", "posted false", "posted true"}, told(results))
	require.Equal(t, results[2].At, results[3].At)

	again, err := l.Post(t.Context(), brokenChain())
	require.NoError(t, err)
	require.Equal(t, []string{"insufficient_funds true", "posted true"}, told(again))
	b, err := l.Balances(t.Context(), "shop")
	require.NoError(t, err)
	require.EqualValues(t, 1, b[0].Version)
}

// The first of a chain comes again behind it, alone, and what is behind that spends what it brings.
func TestAloneBehindAChainThatItBegan(t *testing.T) {
	t.Parallel()
	l, _ := newGroup(t, ledger.NewMemory(nil), nil)
	txs := payAll("good", "broke", "good", "spends it")
	for _, i := range []int{1, 3} { // out of the shop
		p := &txs[i].Postings[0]
		p.Debit, p.Credit = "shop", "bank"
	}
	txs[0].Linked = true
	txs[1].Postings[0].Amount = txs[1].Postings[0].Amount.Mul(decimal.New(2, 0))
	results, err := l.Post(t.Context(), txs)
	require.NoError(t, err)
	require.Equal(t, []string{"link_failed false", "insufficient_funds false", "posted false", "posted false"}, told(results))
}

// The same of two callers who share a commit: the second hears what it would have heard alone.
func TestGroupAloneBehindItsChain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, g := newGroup(t, ledger.NewMemory(nil), &ledger.GroupOptions{Window: time.Second})
		stop := running(t, g)
		var wg sync.WaitGroup
		post := func(txs []ledger.Transaction, want ...string) {
			wg.Go(func() {
				results, err := g.Post(t.Context(), txs)
				if err != nil || fmt.Sprint(told(results)) != fmt.Sprint(want) {
					t.Errorf("%v, want %v (%v)", told(results), want, err)
				}
			})
			synctest.Wait() // it is in the queue
		}
		post(brokenChain(), "insufficient_funds false", "link_failed false")
		post(payAll("good"), "posted false")
		wg.Wait()
		stop()
	})
}

// A store that fails when it has posted the first of a call's batches: no result is known.
func TestAFailureBehindTheFirstBatchIsTheCalls(t *testing.T) {
	t.Parallel()
	store := ledger.NewMemory(nil)
	newGroup(t, store, nil)
	other := pay("good")
	other.Postings[0].Amount = decimal.New(2, 0)
	for name, behind := range map[string][]ledger.Transaction{
		"behind a chain": append(brokenChain(), pay("good")),
		"other content":  {pay("good"), other},
	} {
		l, err := ledger.New(&ledgertest.Flaky{Store: store, Fault: func(call int64) ledgertest.Fault {
			if call == 2 {
				return ledgertest.NotDone
			}
			return ledgertest.Healthy
		}}, nil)
		require.NoError(t, err)
		results, err := l.Post(t.Context(), behind)
		require.ErrorIs(t, err, ledgertest.ErrInjected, name)
		require.Nil(t, results, name)
	}
}

// counting gives other outcomes than it was given drafts.
type counting struct {
	ledger.Store
	n int
}

func (c counting) Post(context.Context, []ledger.Draft) ([]ledger.Outcome, error) {
	return make([]ledger.Outcome, c.n), nil
}

// Whose outcome is whose, nobody can tell.
func TestAStoreThatAnswersForOthers(t *testing.T) {
	t.Parallel()
	for n, text := range map[int]string{1: "1 outcomes for 2", 3: "3 outcomes for 2"} {
		l, err := ledger.New(counting{ledger.NewMemory(nil), n}, nil)
		require.NoError(t, err)
		results, err := l.Post(t.Context(), payAll("1", "2"))
		require.ErrorContains(t, err, text)
		require.Nil(t, results)
	}
}

// distinct is a store that takes each id once in a batch, as a Store may.
type distinct struct {
	ledger.Store
	tb testing.TB
}

func (d distinct) Post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	seen := map[ledger.TransactionID]bool{}
	for i := range drafts {
		if id := drafts[i].ID; seen[id] {
			d.tb.Errorf("%q twice in a batch", id)
		} else {
			seen[id] = true
		}
	}
	return d.Store.Post(ctx, drafts)
}

// Whatever a call repeats, and wherever: a batch has each id once.
func TestABatchHasEachIDOnce(t *testing.T) {
	t.Parallel()
	chain := func(ids ...string) []ledger.Transaction {
		txs := payAll(ids...)
		for i := range txs[:len(txs)-1] {
			txs[i].Linked = true
		}
		return txs
	}
	for i, call := range [][][]ledger.Transaction{
		{payAll("a", "a", "a")},
		{payAll("a"), chain("a", "b")},
		{payAll("a"), chain("b", "a")},
		{payAll("a"), chain("b", "a", "c")},
		{chain("a", "b"), chain("a", "b")},
		{chain("a", "b"), chain("b", "c")},
		{chain("a", "b"), payAll("a", "b", "a")},
		{chain("a", "b"), payAll("c"), chain("c", "a"), payAll("a", "c")},
	} {
		l, _ := newGroup(t, distinct{ledger.NewMemory(nil), t}, nil)
		txs := slices.Concat(call...)
		results, err := l.Post(t.Context(), txs)
		require.NoError(t, err)
		require.Len(t, results, len(txs), "call %d", i)
		r, err := l.Verify(t.Context())
		require.NoError(t, err)
		require.True(t, r.OK())
	}
}
