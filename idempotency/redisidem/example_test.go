package redisidem_test

import (
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/redisidem"
)

// NewStore takes any client of go-redis: nothing is dialled until the first key is claimed.
func ExampleNewStore() {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
	defer func() { _ = rdb.Close() }()
	store, err := redisidem.NewStore(rdb, &redisidem.Options{Prefix: "payments:"})
	if err != nil {
		fmt.Println(err)
		return
	}
	guard, err := idempotency.New(store, nil)
	fmt.Println(guard != nil, err)
	// Output: true <nil>
}
