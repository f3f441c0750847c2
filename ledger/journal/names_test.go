package journal_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/journal"
)

// Any id comes back from any format, and no two are one in it.
func FuzzIDs(f *testing.F) {
	for _, id := range odd {
		f.Add(string(id), "bank")
	}
	f.Fuzz(func(t *testing.T, account, transaction string) {
		l := newLedger(t)
		if l.Open(t.Context(), ledger.Account{ID: ledger.AccountID(account), Currency: "NGN", Normal: ledger.Debit},
			ledger.Account{ID: ledger.AccountID(transaction), Currency: "NGN", Normal: ledger.Credit}) != nil {
			return // no ids, or one
		}
		tx := journal.Transaction{ID: ledger.TransactionID(transaction), At: time.Unix(0, 0), Postings: []journal.Posting{{
			Debit: journal.Account{ID: ledger.AccountID(account)}, Credit: journal.Account{ID: "other"}, Amount: decimal.New(100, -2), Currency: "NGN",
		}}}
		for name, format := range formats {
			var b bytes.Buffer
			require.NoError(t, format.write(&b, func(yield func(journal.Transaction, error) bool) { yield(tx, nil) }))
			require.Equal(t, []line{{transaction, account, "1.00", "NGN"}, {transaction, "other", "-1.00", "NGN"}}, format.read(t, b.String()), name)
		}
	})
}
