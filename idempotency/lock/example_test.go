package lock_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
)

// One payment of an account at a time; the second is told so at once.
func ExampleNew() {
	ctx := context.Background()
	locker, err := lock.New(idempotency.NewMemory(nil), &lock.Options{Wait: -1})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = locker.Do(ctx, "tenant-7", "account/42", func(ctx context.Context, _ lock.Held) error {
		err := locker.Do(ctx, "tenant-7", "account/42", func(context.Context, lock.Held) error { return nil })
		fmt.Println("payment in progress:", errors.Is(err, lock.ErrHeld))
		return nil
	})
	fmt.Println(err)
	// Output:
	// payment in progress: true
	// <nil>
}

// What was read before the lock was won is old: the request is looked up again under it.
func ExampleLocker_Do() {
	ctx := context.Background()
	locker, err := lock.New(idempotency.NewMemory(nil), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	paid := map[string]bool{} // a table with the request's id as its primary key
	fence := idempotency.Token(0)
	pay := func(request string) error {
		if paid[request] {
			return nil
		}
		return locker.Do(ctx, "tenant-7", "account/42", func(_ context.Context, held lock.Held) error {
			if paid[request] { // by whoever held the lock before
				return nil
			}
			if held.Token <= fence { // UPDATE … WHERE fence < $1 changed no row
				return lock.ErrStale
			}
			fence, paid[request] = held.Token, true
			fmt.Println("paid", request)
			return nil
		})
	}
	fmt.Println(pay("request-1"), pay("request-1"))
	// Output:
	// paid request-1
	// <nil> <nil>
}
