package ledger_test

import (
	"context"
	"fmt"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

func ExampleNewMemory() {
	ctx := context.Background()
	store := ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { return time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC) }})
	l, err := ledger.New(store, &ledger.Options{Currencies: map[string]uint8{"ETH": 18}})
	if err != nil {
		panic(err)
	}
	err = l.Open(ctx,
		ledger.Account{ID: "vault", Currency: "ETH", Normal: ledger.Debit},
		ledger.Account{ID: "ada", Currency: "ETH", Normal: ledger.Credit, Floor: new(decimal.Zero)},
	)
	if err != nil {
		panic(err)
	}
	wei := decimal.RequireFromString("0.000000000000000001")
	deposit := []ledger.Posting{{Debit: "vault", Credit: "ada", Amount: wei, Currency: "ETH"}}
	if _, err := l.PostOne(ctx, ledger.Transaction{ID: "deposit", Postings: deposit}); err != nil {
		panic(err)
	}
	for e, err := range l.Entries(ctx, "ada", 0) {
		fmt.Println(e.Version, e.Side, e.Amount, e.At.Format(time.DateTime), err)
	}
	r, err := l.Verify(ctx)
	fmt.Println(r.OK(), r.Entries, err)
	// Output:
	// 1 credit 0.000000000000000001 2026-01-31 12:00:00 <nil>
	// true 2 <nil>
}

func ExampleAmountOf() {
	for _, s := range []string{"10000", "0.5", "0.505"} {
		fmt.Println(ledger.AmountOf(decimal.RequireFromString(s), 2))
	}
	// Output:
	// 1000000 <nil>
	// 50 <nil>
	// 0 ledger: more decimal places than the currency has
}

func ExampleParseMinor() {
	a, _ := ledger.ParseMinor("-150")
	b, ok := a.Add(ledger.Minor(50))
	fmt.Println(b, ok, b.Decimal(2))
	_, err := ledger.ParseMinor("1e3")
	fmt.Println(err)
	// Output:
	// -100 true -1
	// ledger: "1e3" is not a whole number of minor units
}
