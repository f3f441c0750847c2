package ledger

import (
	"context"
	"testing"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
)

// A group knows of the accounts of its commits under way alone: of all that were ever posted to it would be a leak.
func TestGroupForgetsAccountsWhenTheirCommitsEnd(t *testing.T) {
	t.Parallel()
	l, err := New(NewMemory(nil), nil)
	require.NoError(t, err)
	require.NoError(t, l.Open(t.Context(),
		Account{ID: "bank", Currency: "NGN", Normal: Debit}, Account{ID: "shop", Currency: "NGN", Normal: Credit}))
	g, err := NewGroup(l, nil)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	for _, id := range []TransactionID{"1", "2"} {
		_, err := g.PostOne(t.Context(), Transaction{ID: id, Postings: []Posting{
			{Debit: "bank", Credit: "shop", Amount: decimal.New(1, 0), Currency: "NGN"},
		}})
		require.NoError(t, err)
	}
	stop()
	require.NoError(t, <-ended)
	require.Empty(t, g.traffic.busy)
}
