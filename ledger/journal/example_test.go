package journal_test

import (
	"context"
	"os"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/journal"
)

func ExampleWriteHledger() {
	ctx := context.Background()
	day := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	l, err := ledger.New(ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { return day }}), nil)
	if err != nil {
		panic(err)
	}
	err = l.Open(ctx,
		ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit},
		ledger.Account{ID: "wallet:ada", Currency: "NGN", Normal: ledger.Credit},
	)
	if err != nil {
		panic(err)
	}
	payIn := []ledger.Posting{{Debit: "bank", Credit: "wallet:ada", Amount: decimal.New(100, 0), Currency: "NGN"}}
	if _, err := l.PostOne(ctx, ledger.Transaction{ID: "pay-in", Postings: payIn}); err != nil {
		panic(err)
	}
	if err := journal.WriteHledger(os.Stdout, journal.Read(ctx, l, "bank", "wallet:ada"), nil); err != nil {
		panic(err)
	}
	// Output:
	// decimal-mark .
	//
	// commodity 1000.00 NGN
	//
	// account Assets:bank
	//
	// account Liabilities:wallet:ada
	//
	// 2026-01-31 * (pay-in)  ; time:2026-01-31T12:00:00Z
	//   Assets:bank  100.00 NGN
	//   Liabilities:wallet:ada  -100.00 NGN
}
