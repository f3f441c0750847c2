package journal_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// newLedger returns a ledger whose clock goes on by an hour with each batch.
func newLedger(tb testing.TB) *ledger.Ledger {
	tb.Helper()
	now := time.Date(2026, 1, 31, 22, 30, 0, 0, time.UTC)
	store := ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time {
		now = now.Add(time.Hour)
		return now
	}})
	l, err := ledger.New(store, &ledger.Options{Currencies: map[string]uint8{"1INCH": 18, "P": 0}})
	require.NoError(tb, err)
	return l
}

func move(debit, credit ledger.AccountID, amount, currency string) ledger.Posting {
	return ledger.Posting{Debit: debit, Credit: credit, Amount: decimal.RequireFromString(amount), Currency: currency}
}

func post(tb testing.TB, l *ledger.Ledger, txs ...ledger.Transaction) {
	tb.Helper()
	results, err := l.Post(tb.Context(), txs)
	require.NoError(tb, err)
	for _, r := range results {
		require.NoError(tb, r.Err())
	}
}

// odd are ids that some format could stumble over.
var odd = []ledger.AccountID{
	"wallet:ada", "wallet:Ada", ":lead", "trail:", "a::b", " two  spaces ", `q"uote\`, "semi;colon", "(paren)", "[bracket]", "*star", "! flag",
	"=cmd()", "+1", "-1", "@at", "'quoted", "comma,comma", "emoji 🏦", "été", "非", "x_1", "X", "0--a", "0", "%41", "a%3Ab", "#hash", "\u00a0", "a\u2028b",
}

// oddLedger has postings on accounts and transactions with odd ids.
func oddLedger(tb testing.TB) (*ledger.Ledger, []ledger.AccountID) {
	tb.Helper()
	l := newLedger(tb)
	accounts := []ledger.Account{{ID: "bank", Currency: "NGN", Normal: ledger.Debit}}
	for _, id := range odd {
		accounts = append(accounts, ledger.Account{ID: id, Currency: "NGN", Normal: ledger.Credit})
	}
	ids := []ledger.AccountID{"bank"}
	for _, c := range []string{"JPY", "KWD", "1INCH", "P"} {
		for _, side := range []ledger.Side{ledger.Debit, ledger.Credit} {
			id := ledger.AccountID(fmt.Sprintf("%s:%v", c, side))
			accounts = append(accounts, ledger.Account{ID: id, Currency: c, Normal: side})
			ids = append(ids, id)
		}
	}
	require.NoError(tb, l.Open(tb.Context(), accounts...))
	for _, id := range odd {
		post(tb, l, ledger.Transaction{ID: ledger.TransactionID(id), Postings: []ledger.Posting{move("bank", id, "1234.5", "NGN")}})
	}
	post(tb, l,
		ledger.Transaction{ID: "all", Postings: []ledger.Posting{
			move("JPY:debit", "JPY:credit", "5000", "JPY"), move("KWD:debit", "KWD:credit", "1.005", "KWD"),
			move("1INCH:debit", "1INCH:credit", "0.000000000000000001", "1INCH"), move("P:credit", "P:debit", "7", "P"),
			move("wallet:ada", "wallet:Ada", "0.01", "NGN"),
		}},
		ledger.Transaction{ID: "again", Postings: []ledger.Posting{
			move("1INCH:debit", "1INCH:credit", "12345678901234567890.000000000000000001", "1INCH"),
		}},
	)
	return l, append(ids, odd...)
}

// randomLedger has random postings between n accounts in NGN, some of them captured or reversed.
func randomLedger(tb testing.TB, n int) (*ledger.Ledger, []ledger.AccountID) {
	tb.Helper()
	seed := rand.Uint64()
	tb.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	l := newLedger(tb)
	var ids []ledger.AccountID
	for i := range n {
		ids = append(ids, ledger.AccountID(fmt.Sprint("account:", i)))
		require.NoError(tb, l.Open(tb.Context(), ledger.Account{ID: ids[i], Currency: "NGN", Normal: ledger.Side(1 + i%2)}))
	}
	for batch := range 150 {
		txs := make([]ledger.Transaction, 1+r.IntN(20))
		for i := range txs {
			txs[i].ID = ledger.TransactionID(fmt.Sprint("tx", batch, "-", i))
			if i == 0 { // what is held is captured in the next batch, and reversed in the one after
				txs[i].Kind = []ledger.Kind{ledger.KindHold, ledger.KindCapture, ledger.KindReverse}[batch%3]
			}
			if txs[i].Kind > ledger.KindHold {
				txs[i].Of = ledger.TransactionID(fmt.Sprint("tx", batch-1, "-", 0))
				continue
			}
			for range 1 + r.IntN(4) {
				from := r.IntN(n)
				txs[i].Postings = append(txs[i].Postings,
					move(ids[from], ids[(from+1+r.IntN(n-1))%n], decimal.New(1+r.Int64N(1e6), -2).String(), "NGN"))
			}
		}
		post(tb, l, txs...)
	}
	return l, ids
}
