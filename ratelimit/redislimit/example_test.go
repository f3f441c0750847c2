package redislimit_test

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

func ExampleNewStore() {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // where nobody listens: the policy decides
	defer func() { _ = rdb.Close() }()
	store, err := redislimit.NewStore(rdb, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = store.Close() }()
	limiter, err := ratelimit.New(store, ratelimit.PerSecond(100), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := limiter.Allow(context.Background(), "user:7")
	fmt.Println(r.Allowed, r.Source, err)
	// Output: true fail_open <nil>
}
