package ledger_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
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
