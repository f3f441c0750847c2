package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/safetill/safetill/idempotency"
)

func ExampleDo() {
	guard, err := idempotency.New(idempotency.NewMemory(nil), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	pay := func(key, body string) {
		k, err := idempotency.NewKey("tenant-7", "create-payment", key)
		if err != nil {
			fmt.Println(err)
			return
		}
		result, err := idempotency.Do(context.Background(), guard, k, idempotency.FingerprintOf([]byte(body)),
			func(context.Context, *idempotency.Run) (string, error) {
				fmt.Println("charging", body)
				return "receipt for " + body, nil
			})
		switch {
		case errors.Is(err, idempotency.ErrMismatch):
			fmt.Println("422: the key belongs to another payment")
		case err != nil:
			fmt.Println(err)
		default:
			fmt.Println(result.Value, result.Replayed)
		}
	}
	pay("k-1", "10.00 EUR")
	pay("k-1", "10.00 EUR")
	pay("k-1", "99.00 EUR")
	pay("", "10.00 EUR")
	// Output:
	// charging 10.00 EUR
	// receipt for 10.00 EUR false
	// receipt for 10.00 EUR true
	// 422: the key belongs to another payment
	// idempotency: value is empty
}

// A batch is one call: here three requests, the third a repeat of the first.
func ExampleNewMemory() {
	store := idempotency.NewMemory(nil)
	request := func(value string) idempotency.Request {
		return idempotency.Request{
			Key:   idempotency.Key{Scope: "tenant-7", Op: "import", Value: value},
			Lease: time.Minute,
		}
	}
	records, err := store.Claim(context.Background(), []idempotency.Request{request("a"), request("b"), request("a")})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range records {
		fmt.Println(r.Outcome)
	}
	// Output:
	// won
	// won
	// in flight
}
