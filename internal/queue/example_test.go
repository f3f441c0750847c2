package queue_test

import (
	"context"
	"fmt"

	"github.com/safetill/safetill/internal/queue"
)

func ExampleConsume() {
	q, err := queue.NewMemory(nil)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wake queue.Waker
	if err := q.Push(ctx, []byte("first"), []byte("second")); err != nil {
		panic(err)
	}
	wake.Wake() // no worker has to wait for its next poll

	err = queue.Consume(ctx, q, &queue.ConsumeOptions{Workers: 1, Wake: &wake}, func(_ context.Context, msgs []queue.Message) error {
		for _, m := range msgs {
			fmt.Printf("%s, attempt %d\n", m.Body, m.Attempts)
		}
		cancel() // an end for the example; this batch is acknowledged before Consume returns
		return nil
	})
	fmt.Println(err)
	stats, err := q.Stats(context.Background())
	fmt.Println(stats, err)
	// Output:
	// first, attempt 1
	// second, attempt 1
	// <nil>
	// {0 0} <nil>
}
