package queue

import (
	"context"
	"time"
)

// Message is one claimed message.
type Message struct {
	// ID names the message within its queue. It is the backend's choice and stays the same over all claims.
	ID string
	// Body is what was pushed, byte for byte; empty bodies may come back as nil or as an empty slice.
	Body []byte
	// Attempts counts the claims of the message, this one included: 1 the first time. ID and Attempts together fence the
	// claim, so pass messages to Ack and Return as they were claimed.
	Attempts int
}

// Stats counts the messages of a queue.
type Stats struct {
	Ready   int // waiting to be claimed, those given back included
	Claimed int // held by workers, those whose lease has run out but whom nobody reaped included
}

// Queue is a FIFO queue, at least once, safe for use by many goroutines and, with a shared store, many processes.
//
// A worker is any non-empty, printable UTF-8 string that is unique among all live workers of the queue, best with a random
// part. The cost of each method is one round trip unless a backend says otherwise.
type Queue interface {
	// Push appends the bodies in the order of the arguments: all of them or, on an error that precedes the commit, none.
	// With no bodies it does nothing.
	Push(ctx context.Context, bodies ...[]byte) error

	// Claim gives up to n of the oldest ready messages to worker, oldest first, and never waits for more to come. It renews
	// the lease on everything the worker holds. With n <= 0 it claims nothing and only renews.
	// After an error the worker's name may hold messages that nobody knows of: see the package comment.
	Claim(ctx context.Context, worker string, n int) ([]Message, error)

	// Ack removes messages that worker has claimed, for ever. Messages that it no longer holds are left alone.
	Ack(ctx context.Context, worker string, msgs ...Message) error

	// Return puts messages that worker has claimed back to the head of the queue in their old order, whatever the order of
	// the arguments. Messages that it no longer holds are left alone.
	Return(ctx context.Context, worker string, msgs ...Message) error

	// Reap gives back, like Return, all that is held by workers whose lease has run out, and reports how many messages.
	Reap(ctx context.Context) (int, error)

	// Stats counts. Under load the two numbers need not belong to one instant.
	Stats(ctx context.Context) (Stats, error)
}

// Leaser is what a Queue may also implement to tell [Consume] how often its leases want to be renewed.
type Leaser interface {
	// Lease is how long a worker holds its messages without renewing.
	Lease() time.Duration
}
