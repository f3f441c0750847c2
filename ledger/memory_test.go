package ledger_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, func(testing.TB) ledger.Store { return ledger.NewMemory(nil) })
}

// A hold is over at its last moment, for a capture and for who looks for what is over.
func TestMemoryHoldsEndOnTime(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	store := ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { return now }})
	l, _ := newGroup(t, store, nil)
	held := pay("held")
	held.Kind, held.Expires = ledger.KindHold, time.Second
	_, err := l.PostOne(t.Context(), held)
	require.NoError(t, err)
	now = now.Add(time.Second - 1)
	n, err := l.ExpireHolds(t.Context(), 1)
	require.NoError(t, err)
	require.Zero(t, n)
	now = now.Add(1)
	_, err = l.PostOne(t.Context(), ledger.Transaction{ID: "late", Kind: ledger.KindCapture, Of: "held"})
	require.ErrorIs(t, err, ledger.ErrHoldExpired)
	n, err = l.ExpireHolds(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// What a store has told is not changed by what is posted later.
func TestMemoryTellsOfOneMoment(t *testing.T) {
	t.Parallel()
	store := ledger.NewMemory(nil)
	l, _ := newGroup(t, store, nil)
	states, err := store.States(t.Context(), []ledger.AccountID{"shop"})
	require.NoError(t, err)
	before := *states[0]
	_, err = l.PostOne(t.Context(), pay("1"))
	require.NoError(t, err)
	require.Equal(t, before, *states[0])

	page, err := store.Lines(t.Context(), "shop", 0, 10)
	require.NoError(t, err)
	page[0].Amount = ledger.Minor(7)
	_, err = l.PostOne(t.Context(), pay("2"))
	require.NoError(t, err)
	r, err := l.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, r.Breaks)
}

func TestMemoryHearsThatItsCallerHasHungUp(t *testing.T) {
	t.Parallel()
	l, _ := newGroup(t, ledger.NewMemory(nil), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Post(ctx, payAll("1"))
	require.ErrorIs(t, err, context.Canceled)
	_, err = l.Balances(ctx, "shop")
	require.ErrorIs(t, err, context.Canceled)
	_, err = l.Verify(ctx)
	require.ErrorIs(t, err, context.Canceled)
	_, err = l.ExpireHolds(ctx, 1)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, l.Open(ctx, ledger.Account{ID: "new", Currency: "NGN", Normal: ledger.Debit}), context.Canceled)
	_, err = l.Balances(t.Context(), "new")
	require.ErrorIs(t, err, ledger.ErrUnknownAccount)
	r, err := l.Post(t.Context(), payAll("1"))
	require.NoError(t, err)
	require.False(t, r[0].Duplicate)
}

func ExampleNew() {
	ctx := context.Background()
	l, err := ledger.New(ledger.NewMemory(nil), nil)
	if err != nil {
		panic(err)
	}
	err = l.Open(ctx,
		ledger.Account{ID: "clearing", Currency: "NGN", Normal: ledger.Debit},
		ledger.Account{ID: "wallet:ada", Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.Zero)},
	)
	if err != nil {
		panic(err)
	}
	ngn := func(debit, credit ledger.AccountID, amount string) []ledger.Posting {
		return []ledger.Posting{{Debit: debit, Credit: credit, Amount: decimal.RequireFromString(amount), Currency: "NGN"}}
	}
	results, err := l.Post(ctx, []ledger.Transaction{
		{ID: "pay-in", Postings: ngn("clearing", "wallet:ada", "100.00")},
		{ID: "pay-out-1", Postings: ngn("wallet:ada", "clearing", "80.00")},
		{ID: "pay-out-2", Postings: ngn("wallet:ada", "clearing", "80.00")},
		{ID: "pay-in", Postings: ngn("clearing", "wallet:ada", "100.00")},
	})
	if err != nil {
		panic(err)
	}
	for _, r := range results {
		fmt.Println(r.ID, r.Verdict, r.Duplicate)
	}
	b, _ := l.Balances(ctx, "wallet:ada")
	fmt.Println(b[0].Posted, "at version", b[0].Version)
	// Output:
	// pay-in posted false
	// pay-out-1 posted false
	// pay-out-2 insufficient_funds false
	// pay-in posted true
	// 20 at version 2
}
