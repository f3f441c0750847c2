package sagatest_test

import (
	"context"
	"sync"
	"testing"

	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/sagatest"
)

// counted is a Memory whose transactions count.
type counted struct {
	*saga.Memory

	mu sync.Mutex
	n  map[string]int
}

func (c *counted) Effect(_ context.Context, tx any, id string) error {
	tx.(*saga.MemoryTx).OnCommit(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.n[id]++
	})
	return nil
}

func (c *counted) Effects(_ context.Context, id string) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[id], nil
}

func (c *counted) InTx(_ context.Context, work func(tx any) error) error {
	tx := c.Begin()
	if err := work(tx); err != nil {
		return err
	}
	return c.Commit(tx)
}

func TestMemory(t *testing.T) {
	t.Parallel()
	sagatest.Run(t, func(testing.TB) saga.Store { return &counted{Memory: saga.NewMemory(nil), n: map[string]int{}} })
}

// plain hides what a Memory can do beyond a Store.
type plain struct{ saga.Store }

func TestAStoreWithoutExtras(t *testing.T) {
	t.Parallel()
	sagatest.Run(t, func(testing.TB) saga.Store { return plain{saga.NewMemory(nil)} })
}

func TestEngine(t *testing.T) {
	t.Parallel()
	sagatest.RunEngine(t, memory, 0)
}
