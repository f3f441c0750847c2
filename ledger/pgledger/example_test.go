package pgledger_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// NewStore takes a pool, a connection or a transaction: nothing is sent until the ledger is used.
func ExampleNewStore() {
	pool, err := pgxpool.New(context.Background(), "postgres://127.0.0.1:5432/shop")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	l, err := ledger.New(pgledger.NewStore(pool, &pgledger.Options{Schema: "payments"}), nil)
	fmt.Println(l != nil, err)
	// Output: true <nil>
}

// An order and its money are committed together, or neither is. This needs a server, so it is compiled and not run.
func ExampleStore_In() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://127.0.0.1:5432/shop")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	store := pgledger.NewStore(pool, nil)

	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE orders SET paid = true WHERE id = 42"); err != nil {
			return err
		}
		l, err := ledger.New(store.In(tx), nil)
		if err != nil {
			return err
		}
		_, err = l.PostOne(ctx, ledger.Transaction{ID: "order:42", Postings: []ledger.Posting{
			{Debit: "clearing", Credit: "sales", Amount: decimal.RequireFromString("10.00"), Currency: "NGN"},
		}})
		return err // a refusal rolls back the order too
	})
	if err != nil {
		fmt.Println(err)
	}
}
