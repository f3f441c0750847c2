package queue

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// DefaultLease is the lease of every backend whose options name none.
const DefaultLease = 30 * time.Second

// MemoryOptions are the options of NewMemory.
type MemoryOptions struct {
	// Lease is how long a worker holds its messages without renewing. Default: 30 s.
	Lease time.Duration
	// Now is the clock of the leases. Default: time.Now.
	Now func() time.Time
}

// Memory is a Queue in the memory of one process. It outlives its workers, but not its process.
type Memory struct {
	lease time.Duration
	now   func() time.Time

	mu    sync.Mutex
	seq   uint64
	back  []memoryItem // given back, sorted; every one is older than all of ready, since ready is claimed from its head
	ready []memoryItem // never claimed, in push order
	held  map[string]*memoryWorker
}

type memoryItem struct {
	seq      uint64
	attempts int
	body     []byte
}

type memoryWorker struct {
	expires time.Time
	items   map[uint64]memoryItem
}

// NewMemory returns an empty queue. opts may be nil. It fails only for a negative lease.
func NewMemory(opts *MemoryOptions) (*Memory, error) {
	var o MemoryOptions
	if opts != nil {
		o = *opts
	}
	if o.Lease < 0 {
		return nil, fmt.Errorf("queue: MemoryOptions.Lease %v is negative", o.Lease)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Memory{lease: cmp.Or(o.Lease, DefaultLease), now: o.Now, held: map[string]*memoryWorker{}}, nil
}

// Lease implements Leaser.
func (m *Memory) Lease() time.Duration { return m.lease }

// Push implements Queue. The bodies are copied.
func (m *Memory) Push(ctx context.Context, bodies ...[]byte) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("queue: push: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range bodies {
		m.seq++
		m.ready = append(m.ready, memoryItem{seq: m.seq, body: bytes.Clone(b)})
	}
	return nil
}

// Claim implements Queue. The bodies are copies: a handler that scribbles on one and fails gives back the original.
func (m *Memory) Claim(ctx context.Context, worker string, n int) ([]Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("queue: claim: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	items := take(&m.back, n)
	items = append(items, take(&m.ready, n-len(items))...)
	w := m.held[worker]
	if w == nil {
		if len(items) == 0 {
			return nil, nil // no name is remembered for a worker that holds nothing
		}
		w = &memoryWorker{items: make(map[uint64]memoryItem, len(items))}
		m.held[worker] = w
	}
	w.expires = m.now().Add(m.lease)
	msgs := make([]Message, 0, len(items))
	for _, it := range items {
		it.attempts++
		w.items[it.seq] = it
		msgs = append(msgs, Message{ID: strconv.FormatUint(it.seq, 10), Body: bytes.Clone(it.body), Attempts: it.attempts})
	}
	return msgs, nil
}

// Ack implements Queue.
func (m *Memory) Ack(ctx context.Context, worker string, msgs ...Message) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("queue: ack: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.release(worker, msgs)
	return nil
}

// Return implements Queue.
func (m *Memory) Return(ctx context.Context, worker string, msgs ...Message) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("queue: return: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.giveBack(m.release(worker, msgs))
	return nil
}

// Reap implements Queue.
func (m *Memory) Reap(ctx context.Context) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("queue: reap: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var items []memoryItem
	for name, w := range m.held {
		if w.expires.After(now) {
			continue
		}
		for _, it := range w.items {
			items = append(items, it)
		}
		delete(m.held, name)
	}
	m.giveBack(items)
	return len(items), nil
}

// Stats implements Queue.
func (m *Memory) Stats(ctx context.Context) (Stats, error) {
	if err := ctx.Err(); err != nil {
		return Stats{}, fmt.Errorf("queue: stats: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Stats{Ready: len(m.back) + len(m.ready)}
	for _, w := range m.held {
		s.Claimed += len(w.items)
	}
	return s, nil
}

// release takes from worker what it still holds of msgs from those very claims.
func (m *Memory) release(worker string, msgs []Message) []memoryItem {
	w := m.held[worker]
	if w == nil {
		return nil
	}
	var out []memoryItem
	for _, msg := range msgs {
		seq, err := strconv.ParseUint(msg.ID, 10, 64)
		if err != nil {
			continue // not from this queue, so not held
		}
		if it, ok := w.items[seq]; ok && it.attempts == msg.Attempts {
			out = append(out, it)
			delete(w.items, seq)
		}
	}
	if len(w.items) == 0 {
		delete(m.held, worker)
	}
	return out
}

func (m *Memory) giveBack(items []memoryItem) {
	if len(items) == 0 {
		return
	}
	m.back = append(m.back, items...)
	slices.SortFunc(m.back, func(a, b memoryItem) int { return cmp.Compare(a.seq, b.seq) })
}

// take cuts up to n items off the head of q and forgets their bodies there, so that they can be freed.
func take(q *[]memoryItem, n int) []memoryItem {
	n = max(0, min(n, len(*q)))
	out := slices.Clone((*q)[:n])
	clear((*q)[:n])
	*q = (*q)[n:]
	return out
}
