package ratelimit_test

import (
	"context"
	"fmt"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

func ExampleNew() {
	limiter, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerHour(2), nil)
	if err != nil {
		panic(err)
	}
	for range 3 {
		r, err := limiter.Allow(context.Background(), "user-7")
		if err != nil {
			panic(err)
		}
		fmt.Println(r.Allowed, r.Remaining, r.RetryAfter.Round(time.Minute))
	}
	// Output:
	// true 1 0s
	// true 0 0s
	// false 0 30m0s
}

// A call is held to three limits at once: where one refuses, none is charged.
func ExampleLimiter_All() {
	limiter, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerMinute(1), nil)
	if err != nil {
		panic(err)
	}
	user := ratelimit.PerMinute(2).Named("user")
	address := ratelimit.PerMinute(100).Named("address").As(ratelimit.SlidingCounter)
	everybody := ratelimit.PerHour(1000).Named("everybody")
	for range 3 {
		r, err := limiter.All(context.Background(),
			ratelimit.Check{Limit: user, Key: "user-7"},
			ratelimit.Check{Limit: address, Key: "192.0.2.1"},
			ratelimit.Check{Limit: everybody, Key: "all"},
		)
		if err != nil {
			panic(err)
		}
		fmt.Println(r.Allowed, r.Each[0].Remaining, r.Each[1].Remaining, r.Each[2].Remaining)
	}
	// Output:
	// true 1 99 999
	// true 0 98 998
	// false 0 98 998
}

func ExampleLimiter_Acquire() {
	atWork := ratelimit.Limit{Algorithm: ratelimit.Concurrency, Rate: 1, Per: 30 * time.Second}
	limiter, err := ratelimit.New(ratelimit.NewMemory(nil), atWork, nil)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	first, _ := limiter.Acquire(ctx, "report", 1)
	second, _ := limiter.Acquire(ctx, "report", 1)
	fmt.Println(first.Result.Allowed, second.Result.Allowed)
	_ = first.Release(ctx)
	third, _ := limiter.Acquire(ctx, "report", 1)
	fmt.Println(third.Result.Allowed)
	// Output:
	// true false
	// true
}

func ExampleLimiter_Wait() {
	limiter, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerSecond(100).As(ratelimit.GCRA), nil)
	if err != nil {
		panic(err)
	}
	start := time.Now()
	for range 4 {
		if err := limiter.Wait(context.Background(), "outgoing"); err != nil {
			panic(err)
		}
	}
	fmt.Println(time.Since(start) >= 30*time.Millisecond)
	// Output:
	// true
}
