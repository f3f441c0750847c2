package ledgertest_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
)

// The second call of the store commits and loses its answer; the repeat gets it.
func ExampleFlaky() {
	ctx := context.Background()
	store := &ledgertest.Flaky{Store: ledger.NewMemory(nil), Fault: func(n int64) ledgertest.Fault {
		if n == 2 {
			return ledgertest.DoneNotSaid
		}
		return ledgertest.Healthy
	}}
	l, err := ledger.New(store, nil)
	if err != nil {
		panic(err)
	}
	err = l.Open(ctx,
		ledger.Account{ID: "clearing", Currency: "NGN", Normal: ledger.Debit}, ledger.Account{ID: "sales", Currency: "NGN", Normal: ledger.Credit})
	if err != nil {
		panic(err)
	}
	sale := ledger.Transaction{ID: "sale", Postings: []ledger.Posting{
		{Debit: "clearing", Credit: "sales", Amount: decimal.New(10, 0), Currency: "NGN"},
	}}
	_, err = l.PostOne(ctx, sale)
	fmt.Println(errors.Is(err, ledgertest.ErrInjected))
	r, err := l.PostOne(ctx, sale)
	fmt.Println(r.Verdict, r.Duplicate, err)
	// Output:
	// true
	// posted true <nil>
}
