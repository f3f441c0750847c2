package ratelimit

import "context"

// Decider decides on calls by key: what [Limiter], [Hybrid], [Leased] and [Owned] have in common. Their guarantees differ, and are said there:
//
//	           questions to the store   admits more than the limit   needs
//	Limiter    one a check              never                        a store
//	Hybrid     1 of 10 to 10,000        MaxOver, at most             a store, Run, the number of processes
//	Leased     1 of 10 to 10,000        never; a burst is smaller    a store, Run, the number of processes
//	Owned      none; one to a peer      only when owners change      the list of processes
type Decider interface {
	// Allow charges one unit to key if there is room for it.
	Allow(ctx context.Context, key string) (Result, error)
	// AllowN charges n units to key if there is room for all of them.
	AllowN(ctx context.Context, key string, n int64) (Result, error)
	// Peek tells what Allow would answer, and charges nothing.
	Peek(ctx context.Context, key string) (Result, error)
	// Reset forgets what key has used.
	Reset(ctx context.Context, key string) error
}
