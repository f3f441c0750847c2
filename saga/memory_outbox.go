package saga

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// memoryOutbox has what steps have published.
type memoryOutbox struct {
	mu       sync.Mutex // locked behind those of shards
	messages []Message
	lastID   int64
	relaying sync.Mutex
}

func (b *memoryOutbox) add(messages []Message) {
	if len(messages) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, msg := range messages {
		b.lastID++
		msg.ID = b.lastID
		b.messages = append(b.messages, msg)
	}
}

// Relay implements [Outbox].
func (m *Memory) Relay(ctx context.Context, limit int, publish func(context.Context, []Message) error) (int, error) {
	if err := checkLimit(limit); err != nil {
		return 0, err
	}
	b := &m.outbox
	if !b.relaying.TryLock() {
		return 0, nil
	}
	defer b.relaying.Unlock()
	b.mu.Lock()
	msgs := slices.Clone(b.messages[:min(limit, len(b.messages))])
	b.mu.Unlock()
	if len(msgs) == 0 {
		return 0, ctx.Err()
	}
	if err := publish(ctx, msgs); err != nil {
		return 0, fmt.Errorf("saga: relay: %w", err)
	}
	b.mu.Lock()
	b.messages = b.messages[len(msgs):]
	b.mu.Unlock()
	return len(msgs), nil
}
