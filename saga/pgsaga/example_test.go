package pgsaga_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// NewStore takes a pool: nothing is sent until a saga is started.
func ExampleNewStore() {
	pool, err := pgxpool.New(context.Background(), "postgres://127.0.0.1:5432/shop")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	type Order struct{ Stock int }
	order := saga.MustDefine("order", 1,
		saga.StepTx("reserve", func(ctx context.Context, tx pgx.Tx, o *Order) error {
			return tx.QueryRow(ctx, "UPDATE stock SET left = left - 1 RETURNING left").Scan(&o.Stock)
		}).Undo(func(ctx context.Context, tx pgx.Tx, _ *Order) error {
			_, err := tx.Exec(ctx, "UPDATE stock SET left = left + 1")
			return err
		}),
	)
	engine, err := saga.New(pgsaga.NewStore(pool, &pgsaga.Options{Schema: "payments"}), &saga.Options{
		Definitions: []saga.Registered{order},
	})
	fmt.Println(engine != nil, err)
	// Output: true <nil>
}
