package pgidem_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
)

// NewStore takes a pool, a connection or a transaction: nothing is sent until the first key is claimed.
func ExampleNewStore() {
	pool, err := pgxpool.New(context.Background(), "postgres://127.0.0.1:5432/shop")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	store, err := pgidem.NewStore(pool, &pgidem.Options{Schema: "payments"})
	if err != nil {
		fmt.Println(err)
		return
	}
	guard, err := idempotency.New(store, nil)
	fmt.Println(guard != nil, err)
	// Output: true <nil>
}
