package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/safetill/safetill/idempotency"
)

// The receipt cannot be written at first. What has been charged is not charged again.
func ExampleStep() {
	guard, err := idempotency.New(idempotency.NewMemory(nil), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	printer := errors.New("out of paper")
	pay := func(ctx context.Context, run *idempotency.Run) (string, error) {
		charge, err := idempotency.Step(ctx, run, "charge", func(context.Context) (string, error) {
			fmt.Println("charging the card")
			return "ch-1", nil
		})
		if err != nil {
			return "", err
		}
		return idempotency.Step(ctx, run, "receipt", func(context.Context) (string, error) {
			fmt.Println("printing a receipt for", charge)
			return "receipt for " + charge, printer
		})
	}
	key := idempotency.Key{Scope: "tenant-7", Op: "create-payment", Value: "k-1"}
	for range 2 {
		result, err := idempotency.Do(context.Background(), guard, key, idempotency.FingerprintOf([]byte("80.50")), pay)
		fmt.Println(result.Value, err)
		printer = nil
	}
	// Output:
	// charging the card
	// printing a receipt for ch-1
	//  out of paper
	// printing a receipt for ch-1
	// receipt for ch-1 <nil>
}

// A card that was declined is declined for whoever repeats the request; a provider that was busy is asked again.
func ExamplePermanent() {
	guard, err := idempotency.New(idempotency.NewMemory(nil), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	answers := []error{errors.New("503: busy"), &idempotency.PermanentError{Code: "card_declined", Message: "the card was declined"}}
	key := idempotency.Key{Scope: "tenant-7", Op: "create-payment", Value: "k-1"}
	for range 3 {
		result, err := idempotency.Do(context.Background(), guard, key, idempotency.FingerprintOf([]byte("80.50")),
			func(context.Context, *idempotency.Run) (string, error) {
				answer := answers[0]
				answers = answers[1:]
				return "", answer
			})
		declined, ok := errors.AsType[*idempotency.PermanentError](err)
		fmt.Println(err, result.Replayed, ok && declined.Code == "card_declined")
	}
	// Output:
	// 503: busy false false
	// the card was declined false true
	// the card was declined true true
}

// Requests without a key: equal ones within ten seconds, or rather within one of the tens of seconds that the clock is cut into,
// are one.
func ExampleDerivedKey() {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	key := func(at time.Time, body string) idempotency.Key {
		k, err := idempotency.DerivedKey("tenant-7", "create-payment", at, 10*time.Second, []byte("ada"), []byte(body))
		if err != nil {
			panic(err)
		}
		return k
	}
	coffee := key(noon, "a coffee")
	fmt.Println(coffee == key(noon.Add(9*time.Second), "a coffee"))
	fmt.Println(coffee == key(noon.Add(-time.Nanosecond), "a coffee"))
	fmt.Println(coffee == key(noon, "a tea"))
	// Output:
	// true
	// false
	// false
}

// The id of what is done under a key is the same for ever, and fits where providers and ledgers take one.
func ExampleKey_ID() {
	key := idempotency.Key{Scope: "tenant-7", Op: "create-payment", Value: "k-1"}
	fmt.Println(key.ID("charge"))
	fmt.Println(len(key.ID()), key.ID() == key.ID("charge"))
	// Output:
	// kEhwSk3JL-1x7m4JrI1piYd_qviVmc1xUykkURLhYSBU
	// 44 false
}
