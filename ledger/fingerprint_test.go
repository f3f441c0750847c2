package ledger_test

import (
	"context"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// keeping is a store that keeps what it is given, and answers that all is posted.
type keeping struct {
	ledger.Store
	drafts []ledger.Draft
}

func (k *keeping) Post(_ context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	k.drafts = append(k.drafts, drafts...)
	return make([]ledger.Outcome, len(drafts)), nil
}

// A repeat with other content must not get the first one's answer: whatever a transaction says, but its id, makes it another one.
func TestEveryPartOfATransactionTellsItFromOthers(t *testing.T) {
	t.Parallel()
	at := func(s string) *decimal.Decimal { return new(decimal.RequireFromString(s)) }
	postings := func(debit, credit ledger.AccountID, amount, currency string) ledger.Transaction {
		return ledger.Transaction{Postings: []ledger.Posting{{Debit: debit, Credit: credit, Amount: *at(amount), Currency: currency}}}
	}
	of := func(kind ledger.Kind, target ledger.TransactionID, p ...ledger.Posting) ledger.Transaction {
		return ledger.Transaction{Kind: kind, Of: target, Postings: p}
	}
	when := func(conditions ...ledger.Condition) ledger.Transaction {
		tx := postings("a", "b", "1", "NGN")
		tx.If = conditions
		return tx
	}
	hold, short, linked := postings("a", "b", "1", "NGN"), postings("a", "b", "1", "NGN"), postings("a", "b", "1", "NGN")
	hold.Kind, short.Kind, short.Expires, linked.Linked = ledger.KindHold, ledger.KindHold, time.Second, true
	linkedWhen := when(ledger.Condition{Account: "a"})
	linkedWhen.Linked = true
	one := hold.Postings[0]
	two := postings("a", "b", "1", "NGN")
	two.Postings = append(two.Postings, one)
	different := []ledger.Transaction{
		postings("a", "b", "1", "NGN"), two, hold, short,
		postings("b", "a", "1", "NGN"), postings("a", "c", "1", "NGN"), postings("c", "b", "1", "NGN"),
		postings("ab", "c", "1", "NGN"), postings("a", "bc", "1", "NGN"), // which run together into one
		postings("a", "b", "1", "GHS"), postings("a", "b", "1", "JPY"), postings("a", "b", "100", "JPY"),
		postings("a", "b", "1.01", "NGN"),
		postings("a", "b", "184467440737095517.16", "NGN"), // 2^64 kobo more than 1
		of(ledger.KindCapture, "x"), of(ledger.KindCapture, "y"), of(ledger.KindCapture, "x", one),
		of(ledger.KindRelease, "x"), of(ledger.KindReverse, "x"),
		when(ledger.Condition{Account: "a"}), when(ledger.Condition{Account: "c"}), when(ledger.Condition{Account: "a"}, ledger.Condition{Account: "a"}),
		when(ledger.Condition{Account: "a", Version: new(int64(1))}), when(ledger.Condition{Account: "a", Version: new(int64(2))}),
		when(ledger.Condition{Account: "a", Available: at("1")}), when(ledger.Condition{Account: "a", Available: at("2")}),
		when(ledger.Condition{Account: "a", Available: at("1"), Version: new(int64(1))}),
		linkedWhen, linked, // the last: a chain with what ends it
		postings("a", "b", "7", "NGN"),
	}
	k := &keeping{Store: ledger.NewMemory(nil)}
	l, err := ledger.New(k, nil)
	require.NoError(t, err)
	for i := range different {
		different[i].ID = ledger.TransactionID(rune('A' + i))
	}
	_, err = l.Post(t.Context(), different)
	require.NoError(t, err)
	require.Len(t, k.drafts, len(different))
	seen := map[ledger.Fingerprint]int{}
	for i, d := range k.drafts {
		before, ok := seen[d.Fingerprint]
		require.False(t, ok, "%+v and %+v", different[before], different[i])
		seen[d.Fingerprint] = i
	}

	// The same in other words is the same.
	k.drafts = nil
	same := []ledger.Transaction{postings("a", "b", "1", "NGN"), postings("a", "b", "1.00", "NGN"), postings("a", "b", "1e0", "NGN")}
	for i := range same {
		same[i].ID = ledger.TransactionID(rune('A' + i))
		same[i].If = []ledger.Condition{{Account: "a", Available: at([]string{"10", "10.0", "1e1"}[i])}}
	}
	_, err = l.Post(t.Context(), same)
	require.NoError(t, err)
	require.Equal(t, k.drafts[0].Fingerprint, k.drafts[1].Fingerprint)
	require.Equal(t, k.drafts[0].Fingerprint, k.drafts[2].Fingerprint)
}
