package ledger_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

const batchSize = 100

// batches returns n batches of 100 transfers between 1,000 accounts of l, no two with one id.
func batches(tb testing.TB, n int) (*ledger.Ledger, [][]ledger.Transaction) {
	tb.Helper()
	l, err := ledger.New(ledger.NewMemory(nil), nil)
	require.NoError(tb, err)
	var accounts []ledger.Account
	for i := range 1000 {
		accounts = append(accounts, ledger.Account{ID: ledger.AccountID(fmt.Sprint("account:", i)), Currency: "NGN", Normal: ledger.Debit})
	}
	require.NoError(tb, l.Open(context.Background(), accounts...))
	amount := decimal.RequireFromString("100.25")
	list := make([][]ledger.Transaction, n)
	for b := range list {
		list[b] = make([]ledger.Transaction, batchSize)
		for i := range list[b] {
			k := b*batchSize + i
			list[b][i] = ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("transfer:", k)), Postings: []ledger.Posting{
				{Debit: accounts[k%1000].ID, Credit: accounts[(7*k+1)%1000].ID, Amount: amount, Currency: "NGN"},
			}}
			if p := &list[b][i].Postings[0]; p.Debit == p.Credit {
				p.Credit = accounts[(k+1)%1000].ID
			}
		}
	}
	return l, list
}

// Not parallel: AllocsPerRun counts what the whole process allocates.
func TestMemoryPostAllocates(t *testing.T) {
	const runs = 100
	l, list := batches(t, runs+1)
	n := 0
	perBatch := testing.AllocsPerRun(runs, func() {
		results, err := l.Post(t.Context(), list[n])
		if err != nil || results[0].Verdict != ledger.Posted {
			t.Errorf("%v, %v", results, err)
		}
		n++
	})
	perTransaction := perBatch / batchSize
	t.Logf("%.2f allocations a transaction in batches of %d", perTransaction, batchSize)
	require.LessOrEqual(t, perTransaction, 2.0)
}

// BenchmarkMemoryPost posts new transfers in batches of 100, from one caller.
func BenchmarkMemoryPost(b *testing.B) {
	const made = 2000
	l, list := batches(b, made)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		if n == made {
			b.StopTimer()
			l, list = batches(b, made)
			n = 0
			b.StartTimer()
		}
		if _, err := l.Post(b.Context(), list[n]); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(b.N)*batchSize/b.Elapsed().Seconds(), "transfers/s")
}
