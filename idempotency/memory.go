package idempotency

import (
	"bytes"
	"container/heap"
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// memoryShards splits the map, so that goroutines with different keys rarely wait for each other.
const memoryShards = 32

// Memory is a Store in the memory of one process: for tests, and for a single server that may forget its keys when it
// restarts. Every Claim also removes a few records that have expired, so no goroutine is needed.
type Memory struct {
	now    func() time.Time
	start  time.Time // records hold times as the distance from start, which the monotonic clock measures
	token  atomic.Int64
	seed   maphash.Seed
	shards [memoryShards]memoryShard
}

// MemoryOptions of a [Memory] store. The zero value means the defaults.
type MemoryOptions struct {
	// Now is the store's clock.
	// Default: time.Now.
	Now func() time.Time
}

type memoryShard struct {
	mu      sync.Mutex
	records map[Key]*memoryRecord
	expiry  expiryHeap
}

type memoryRecord struct {
	key         Key
	fingerprint Fingerprint
	token       Token
	until       time.Duration // the end of the lease, or of the TTL when completed
	forget      time.Duration // when the record may be removed
	response    []byte
	status      int32
	completed   bool
	index       int // in the heap
}

// NewMemory returns an empty store.
func NewMemory(opts *MemoryOptions) *Memory {
	m := &Memory{now: time.Now, seed: maphash.MakeSeed()}
	if opts != nil && opts.Now != nil {
		m.now = opts.Now
	}
	m.start = m.now()
	// One counter for all keys, from the clock on: see Token. It never goes back while the process lives, so unlike
	// the other stores this one need not remember a released key.
	m.token.Store(m.start.UnixMicro())
	for i := range m.shards {
		m.shards[i].records = make(map[Key]*memoryRecord)
	}
	return m
}

func (m *Memory) shard(k Key) *memoryShard {
	return &m.shards[maphash.Comparable(m.seed, k)%memoryShards]
}

// Claim implements [Store]. Cost: O(log n) an item, one allocation for a batch of replays.
func (m *Memory) Claim(ctx context.Context, requests []Request) ([]Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := ValidateAll(requests); err != nil {
		return nil, err
	}
	now := m.now().Sub(m.start)
	records := make([]Record, len(requests))
	for i := range requests {
		m.claim(now, &requests[i], &records[i])
	}
	return records, nil
}

func (m *Memory) claim(now time.Duration, q *Request, answer *Record) {
	s := m.shard(q.Key)
	s.mu.Lock()
	defer s.mu.Unlock()
	// Two out for each one in: the expired never pile up, and no caller pays for many.
	s.sweep(now, 2)

	r := s.records[q.Key]
	switch {
	case r == nil:
		r = &memoryRecord{key: q.Key, index: -1}
		s.records[q.Key] = r
	case r.until <= now: // abandoned or expired
		r.completed, r.response, r.status = false, nil, 0
	case r.fingerprint != q.Fingerprint:
		answer.Outcome = Mismatch
		return
	case r.completed:
		answer.Outcome, answer.Status, answer.Response = Completed, r.status, r.response
		return
	default:
		answer.Outcome, answer.Remaining = InFlight, r.until-now
		return
	}
	r.fingerprint = q.Fingerprint
	r.token = Token(m.token.Add(1))
	s.hold(r, now+q.Lease, AbandonedFor)
	answer.Outcome, answer.Token = Won, r.token
}

// Complete implements [Store].
func (m *Memory) Complete(ctx context.Context, completions []Completion) ([]error, error) {
	return each(ctx, completions, func(c *Completion) error {
		now := m.now().Sub(m.start)
		s := m.shard(c.Key)
		s.mu.Lock()
		defer s.mu.Unlock()
		r := s.records[c.Key]
		if r == nil || r.token != c.Token {
			return ErrLost
		}
		if r.completed {
			return nil
		}
		r.completed, r.status = true, c.Status
		r.response = bytes.Clone(c.Response)
		s.hold(r, now+c.TTL, 0)
		return nil
	})
}

// Release implements [Store].
func (m *Memory) Release(ctx context.Context, claims []Claim) ([]error, error) {
	return each(ctx, claims, func(c *Claim) error {
		s := m.shard(c.Key)
		s.mu.Lock()
		defer s.mu.Unlock()
		r := s.records[c.Key]
		if r == nil || r.token != c.Token || r.completed {
			return ErrLost
		}
		s.remove(r)
		return nil
	})
}

// Extend implements [Store].
func (m *Memory) Extend(ctx context.Context, extensions []Extension) ([]error, error) {
	return each(ctx, extensions, func(e *Extension) error {
		now := m.now().Sub(m.start)
		s := m.shard(e.Key)
		s.mu.Lock()
		defer s.mu.Unlock()
		r := s.records[e.Key]
		if r == nil || r.token != e.Token || r.completed {
			return ErrLost
		}
		s.hold(r, now+e.Lease, AbandonedFor)
		return nil
	})
}

// Sweep implements [Sweeper]. It locks one shard at a time and for a bounded number of records.
func (m *Memory) Sweep(ctx context.Context, limit int) (int, error) {
	const atOnce = 1000
	now := m.now().Sub(m.start)
	removed := 0
	for i := range m.shards {
		s := &m.shards[i]
		for removed < limit {
			if err := ctx.Err(); err != nil {
				return removed, err
			}
			want := min(limit-removed, atOnce)
			s.mu.Lock()
			n := s.sweep(now, want)
			s.mu.Unlock()
			removed += n
			if n < want {
				break
			}
		}
	}
	return removed, nil
}

// each validates the items and gives every one to do.
func each[T interface{ Validate() error }](ctx context.Context, items []T, do func(*T) error) ([]error, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := ValidateAll(items); err != nil {
		return nil, err
	}
	results := make([]error, len(items))
	for i := range items {
		results[i] = do(&items[i])
	}
	return results, nil
}

// hold sets the end of a record's lease or TTL and puts it in its place in the heap.
func (s *memoryShard) hold(r *memoryRecord, until, rememberFor time.Duration) {
	r.until, r.forget = until, until+rememberFor
	if r.index < 0 {
		heap.Push(&s.expiry, r)
		return
	}
	heap.Fix(&s.expiry, r.index)
}

func (s *memoryShard) remove(r *memoryRecord) {
	heap.Remove(&s.expiry, r.index)
	delete(s.records, r.key)
}

func (s *memoryShard) sweep(now time.Duration, limit int) int {
	removed := 0
	for removed < limit && len(s.expiry) > 0 && s.expiry[0].forget <= now {
		s.remove(s.expiry[0])
		removed++
	}
	return removed
}

// expiryHeap has the record that may be forgotten first at its root.
type expiryHeap []*memoryRecord

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].forget < h[j].forget }

func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *expiryHeap) Push(x any) {
	r := x.(*memoryRecord)
	r.index = len(*h)
	*h = append(*h, r)
}

func (h *expiryHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
