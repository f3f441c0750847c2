package ledger_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, func(testing.TB) ledger.Store { return ledger.NewMemory(nil) })
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
