package ledger_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

func ExampleNewGroup() {
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
	group, err := ledger.NewGroup(l, nil)
	if err != nil {
		panic(err)
	}
	running, stop := context.WithCancel(ctx)
	var server, callers sync.WaitGroup
	server.Go(func() { _ = group.Run(running) })

	for n := range 1000 { // each on its own, as the handlers of requests are
		callers.Go(func() {
			_, err := group.PostOne(ctx, ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("pay-in-", n)), Postings: []ledger.Posting{
				{Debit: "clearing", Credit: "wallet:ada", Amount: decimal.New(100, -2), Currency: "NGN"},
			}})
			if err != nil {
				panic(err)
			}
		})
	}
	callers.Wait()
	stop()
	server.Wait()

	b, err := l.Balances(ctx, "wallet:ada")
	fmt.Println(b[0].Posted, b[0].Version, err)
	// Output:
	// 1000 1000 <nil>
}
