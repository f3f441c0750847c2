// Package readme_test holds the Go code of the project's README.md, so that it is
// compiled and run.
package readme_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/saga"
)

func Example_ledger() {
	ctx := context.Background()
	l, err := ledger.New(ledger.NewMemory(nil), nil)
	if err != nil {
		panic(err)
	}
	if err := l.Open(ctx,
		ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit},
		ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.Zero)},
		ledger.Account{ID: "shop", Currency: "NGN", Normal: ledger.Credit},
	); err != nil {
		panic(err)
	}

	move := func(id ledger.TransactionID, debit, credit ledger.AccountID, amount string) ledger.Transaction {
		return ledger.Transaction{ID: id, Postings: []ledger.Posting{
			{Debit: debit, Credit: credit, Amount: decimal.RequireFromString(amount), Currency: "NGN"},
		}}
	}
	results, err := l.Post(ctx, []ledger.Transaction{
		move("deposit-1", "bank", "ada", "100"),
		move("order-1", "ada", "shop", "80.50"),
		move("order-2", "ada", "shop", "80.50"), // more than Ada has left
		move("order-1", "ada", "shop", "80.50"), // a repeat moves nothing
	})
	if err != nil {
		panic(err)
	}
	for _, r := range results {
		fmt.Println(r.ID, r.Verdict, r.Duplicate)
	}

	balances, err := l.Balances(ctx, "ada", "shop")
	if err != nil {
		panic(err)
	}
	fmt.Println(balances[0].Posted, balances[1].Posted)
	// Output:
	// deposit-1 posted false
	// order-1 posted false
	// order-2 insufficient_funds false
	// order-1 posted true
	// 19.5 80.5
}

func Example_idempotency() {
	guard, err := idempotency.New(idempotency.NewMemory(nil), nil)
	if err != nil {
		panic(err)
	}
	key, err := idempotency.NewKey("tenant-7", "create-payment", "the client's Idempotency-Key")
	if err != nil {
		panic(err)
	}
	body := idempotency.FingerprintOf([]byte(`{"amount":"80.50"}`))

	for range 2 {
		result, err := idempotency.Do(context.Background(), guard, key, body, func(context.Context, *idempotency.Run) (string, error) {
			fmt.Println("charging the card")
			return "receipt 1", nil
		})
		fmt.Println(result.Value, result.Replayed, err)
	}
	// Output:
	// charging the card
	// receipt 1 false <nil>
	// receipt 1 true <nil>
}

func Example_oneCommit() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("SAFETILL_POSTGRES_URL"))
	if err != nil {
		panic(err)
	}
	if err := errors.Join(pgidem.Migrate(ctx, pool, nil), pgledger.Migrate(ctx, pool, nil)); err != nil {
		panic(err)
	}
	guard, err := pgidem.NewTxGuard(pool, nil)
	if err != nil {
		panic(err)
	}
	key, err := idempotency.NewKey("tenant-7", "create-payment", "the client's Idempotency-Key")
	if err != nil {
		panic(err)
	}
	body := idempotency.FingerprintOf([]byte(`{"amount":"80.50"}`))

	result, err := pgidem.DoTx(ctx, guard, key, body, func(ctx context.Context, tx pgx.Tx) (string, error) {
		l, err := ledger.New(pgledger.NewStore(tx, nil), nil)
		if err != nil {
			return "", err
		}
		_, err = l.PostOne(ctx, ledger.Transaction{ID: ledger.TransactionID(key.ID("transfer")), Postings: []ledger.Posting{
			{Debit: "ada", Credit: "shop", Amount: decimal.RequireFromString("80.50"), Currency: "NGN"},
		}})
		return "receipt 1", err // and whatever else you write through tx
	})
	fmt.Println(result.Value, result.Replayed, err)
}

func Example_limits() {
	limiter, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerMinute(100), nil)
	if err != nil {
		panic(err)
	}
	for range 3 {
		r, err := limiter.All(context.Background(),
			ratelimit.Check{Limit: ratelimit.PerHour(2).Named("user"), Key: "user-7"},
			ratelimit.Check{Limit: ratelimit.PerMinute(60).Named("address").As(ratelimit.SlidingCounter), Key: "192.0.2.1"},
			ratelimit.Check{Limit: ratelimit.PerSecond(1000).Named("everybody"), Key: "all"},
		)
		if err != nil {
			panic(err)
		}
		first := r.Each[r.Tightest()]
		fmt.Println(r.Allowed, first.Remaining, first.RetryAfter.Round(time.Minute))
	}
	// Output:
	// true 1 0s
	// true 0 0s
	// false 0 30m0s
}

func Example_saga() {
	ctx, stop := context.WithCancel(context.Background())
	type order struct{ Reserved, Charged string }
	shipping := saga.MustDefine("order", 1,
		saga.Step("reserve", func(_ context.Context, o *order) error {
			o.Reserved = "shelf 4"
			return nil
		}).Undo(func(_ context.Context, o *order) error {
			fmt.Println("back to", o.Reserved)
			return nil
		}),
		saga.Step("charge", func(ctx context.Context, o *order) error {
			o.Charged = saga.CallFrom(ctx).Key() // for the provider: it charges once for each key
			return nil
		}).Idempotent().Undo(func(_ context.Context, o *order) error {
			fmt.Println("refund", o.Charged)
			return nil
		}),
		saga.Pivot("confirm", func(context.Context, *order) error {
			return saga.Reject(errors.New("the shop has closed"))
		}))
	engine, err := saga.New(saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{shipping}})
	if err != nil {
		panic(err)
	}
	done := make(chan error)
	go func() { done <- engine.Run(ctx) }()

	handle, err := shipping.Start(ctx, engine, "order-42", order{}, nil) // durable from here on
	if err != nil {
		panic(err)
	}
	result, err := handle.Wait(ctx)
	fmt.Println(result.Status, result.Err(), err)

	stop()
	if err := <-done; err != nil {
		panic(err)
	}
	// Output:
	// refund order-42/charge
	// back to shelf 4
	// COMPENSATED saga order-42: COMPENSATED: step confirm: the shop has closed <nil>
}
