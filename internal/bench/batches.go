package main

import (
	"context"
	"sync"
)

// batches hands what waits to writers, all of it at once: nobody waits for company. It is what the contestants without an engine have in common.
type batches[T any] struct {
	wake chan struct{} // holds a token while something waits that no writer has been told of

	mu    sync.Mutex
	queue []T
}

func newBatches[T any]() *batches[T] { return &batches[T]{wake: make(chan struct{}, 1)} }

func (b *batches[T]) put(item T) {
	b.mu.Lock()
	b.queue = append(b.queue, item)
	b.mu.Unlock()
	b.rouse()
}

func (b *batches[T]) rouse() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// serve is a writer: it hands batches to write until ctx ends.
func (b *batches[T]) serve(ctx context.Context, write func([]T)) {
	var batch []T
	for {
		select {
		case <-b.wake:
		case <-ctx.Done():
			return
		}
		b.mu.Lock()
		batch, b.queue = b.queue, batch[:0]
		b.mu.Unlock()
		if len(batch) > 0 {
			write(batch)
		}
	}
}
