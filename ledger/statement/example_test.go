package statement_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/statement"
)

func ExampleRead() {
	ctx := context.Background()
	day := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	l, err := ledger.New(ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { return day }}), nil)
	if err != nil {
		panic(err)
	}
	err = l.Open(ctx,
		ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit},
		ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit},
	)
	if err != nil {
		panic(err)
	}
	for _, id := range []ledger.TransactionID{"january", "february"} {
		pay := []ledger.Posting{{Debit: "bank", Credit: "ada", Amount: decimal.New(100, 0), Currency: "NGN"}}
		if _, err := l.PostOne(ctx, ledger.Transaction{ID: id, Postings: pay}); err != nil {
			panic(err)
		}
		day = day.AddDate(0, 0, 20)
	}
	february := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	s, err := statement.Read(ctx, l, "ada", &statement.Options{From: february, To: february.AddDate(0, 1, 0)})
	if err != nil {
		panic(err)
	}
	fmt.Println(s.Opening, s.Credits, s.Closing, len(s.Entries))
	var page strings.Builder
	fmt.Println(statement.WriteHTML(&page, s, nil), strings.Contains(page.String(), "<svg"))
	// Output:
	// 100 100 200 1
	// <nil> true
}
