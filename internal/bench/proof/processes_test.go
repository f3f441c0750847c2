package proof

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// A process remembers an account, and another makes a hold on it, which changes no version:
//
//	A posts 100 to the wallet and remembers it;
//	B holds 60 of them;
//	A posts 54 out of it and 53 into it, in one call. Of the 54 there are only 40: the first has to be refused, whatever comes behind it.
func TestHoldOfAnotherProcess(t *testing.T) {
	t.Parallel()
	for name, linked := range map[string]bool{"Batch": false, "Chain": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newPool(t, testdb.PostgresURL(t), t.Name(), 4)
			a, b := newLedger(t, migrated(t, pool)), newLedger(t, pgledger.NewStore(pool, nil))
			require.NoError(t, a.Open(t.Context(), bank("bank"), wallet("wallet", 0)))
			move := func(id ledger.TransactionID, kind ledger.Kind, debit, credit ledger.AccountID, amount int64) ledger.Transaction {
				return ledger.Transaction{ID: id, Kind: kind, Postings: []ledger.Posting{posting(debit, credit, amount)}}
			}
			for _, id := range []ledger.TransactionID{"fund", "more"} { // the second time it is remembered
				_, err := a.PostOne(t.Context(), move(id, ledger.KindPost, "bank", "wallet", 50))
				require.NoError(t, err)
			}
			_, err := b.PostOne(t.Context(), move("hold", ledger.KindHold, "wallet", "bank", 60))
			require.NoError(t, err)

			txs := []ledger.Transaction{move("out", ledger.KindPost, "wallet", "bank", 54), move("in", ledger.KindPost, "bank", "wallet", 53)}
			txs[0].Linked = linked
			results, err := a.Post(t.Context(), txs)
			require.NoError(t, err)
			require.Equal(t, ledger.InsufficientFunds, results[0].Verdict, "40 are available, and 54 were posted")
			if linked {
				require.Equal(t, ledger.LinkFailed, results[1].Verdict)
			}
		})
	}
}
