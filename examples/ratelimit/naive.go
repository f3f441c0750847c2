package main

import (
	"context"
	"sync"
	"time"

	"github.com/safetill/safetill/ratelimit"
)

// naive is what most do: count in the process, and add to the store and read from it every period. Between two reports nothing bounds what
// the processes admit together.
type naive struct {
	store ratelimit.Store
	limit ratelimit.Limit
	every time.Duration

	mu            sync.Mutex
	left, pending int64
}

func (n *naive) Allow(ctx context.Context, key string) (ratelimit.Result, error) {
	return n.AllowN(ctx, key, 1)
}

func (n *naive) AllowN(_ context.Context, _ string, units int64) (ratelimit.Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.left < units {
		return ratelimit.Result{}, nil
	}
	n.left -= units
	n.pending += units
	return ratelimit.Result{Allowed: true, Source: ratelimit.FromLocal}, nil
}

func (n *naive) Peek(context.Context, string) (ratelimit.Result, error) {
	return ratelimit.Result{}, nil
}

func (n *naive) Reset(context.Context, string) error { return nil }

func (n *naive) Run(ctx context.Context) error {
	ticker := time.NewTicker(n.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		n.report(ctx)
	}
}

func (n *naive) report(ctx context.Context) {
	n.mu.Lock()
	sent := n.pending
	n.mu.Unlock()
	op := ratelimit.Op{Kind: ratelimit.Charge, Limit: n.limit, Key: "customer-7", N: sent}
	if sent == 0 {
		op.Kind, op.N = ratelimit.Peek, 1
	}
	reply := n.store.Decide(ctx, []ratelimit.Call{{Ops: []ratelimit.Op{op}}})[0]
	if reply.Err != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending -= sent
	n.left = reply.Outcomes[0].Remaining - n.pending
}
