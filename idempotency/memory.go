package idempotency

import (
	"context"
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// memoryShards splits the records, so that goroutines with different keys rarely wait for each other.
	memoryShards = 64
	// memorySweep is how many records a sweep removes in one shard before it lets others have it: some tens of
	// microseconds.
	memorySweep = 128
)

// Memory is a Store in the memory of one process: for tests, and for a single server that may forget its keys when it
// restarts. Every Claim also removes a few records that have expired, so no goroutine is needed. A completed record
// costs about 75 bytes beside those of its key and of its response, and stays for up to an eighth of its TTL after it
// has expired. Make one with [NewMemory]; the zero value is not usable.
type Memory struct {
	now    func() time.Time // nil: the monotonic clock
	start  time.Time        // records hold times as the distance from start
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

// memoryShard has some of the keys. A key is in flights from its claim to its completion, and in kept from then on: what
// is in flight changes and is little, what is completed does not and is much.
type memoryShard struct {
	mu      sync.Mutex
	flights map[Key]*flight
	expiry  flightHeap
	kept    archive
}

// NewMemory returns an empty store.
func NewMemory(opts *MemoryOptions) *Memory {
	m := &Memory{start: time.Now(), seed: maphash.MakeSeed()}
	if opts != nil && opts.Now != nil {
		m.now = opts.Now
		m.start = m.now()
	}
	// One counter for all keys, from the clock on: see Token. It never goes back while the process lives, so unlike
	// the other stores this one need not remember a released key. A clock may begin before 1970, as one of a test's that
	// begins with the zero time does: with a token that is not positive nothing could be completed.
	m.token.Store(max(0, m.start.UnixMicro()))
	return m
}

// clock is the time since start.
func (m *Memory) clock() time.Duration {
	if m.now == nil {
		return time.Since(m.start)
	}
	return m.now().Sub(m.start)
}

// shard returns the shard of a key, and the part of the key's hash that the shard has not used up.
func (m *Memory) shard(k Key) (*memoryShard, uint32) {
	h := maphash.Comparable(m.seed, k)
	return &m.shards[h>>32%memoryShards], uint32(h)
}

// Claim implements [Store]. Cost: O(1) an item that is completed, O(log n) in the number of keys in flight for others; one
// allocation for a batch of replays.
func (m *Memory) Claim(ctx context.Context, requests []Request) ([]Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := ValidateAll(requests); err != nil {
		return nil, err
	}
	now := m.clock()
	records := make([]Record, len(requests))
	for i := range requests {
		records[i] = m.claim(now, &requests[i])
	}
	return records, nil
}

// ClaimOne implements [Single]. It does not allocate for a replay.
func (m *Memory) ClaimOne(ctx context.Context, request Request) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	if err := request.Validate(); err != nil {
		return Record{}, err
	}
	return m.claim(m.clock(), &request), nil
}

func (m *Memory) claim(now time.Duration, q *Request) Record {
	s, hash := m.shard(q.Key)
	s.mu.Lock()
	defer s.mu.Unlock()
	// Two out for each one in: the expired never pile up, and no caller pays for many.
	s.sweep(now, 2)
	if ref := s.kept.find(q.Key, hash); ref != 0 {
		e := s.kept.entry(ref)
		switch {
		case e.until() <= now:
			s.kept.remove(ref)
		case e.fingerprint() != q.Fingerprint:
			return Record{Outcome: Mismatch}
		default:
			return Record{Outcome: Completed, Status: e.status(), Response: e.response()}
		}
	}
	return s.take(q, now, &m.token)
}

// replay is a claim of a key that is completed. Of any other it does nothing, and is not ok.
func (m *Memory) replay(key Key, fp *Fingerprint) (status int32, response []byte, ok bool) {
	now := m.clock()
	s, hash := m.shard(key)
	s.mu.Lock()
	s.sweep(now, 2)
	if ref := s.kept.find(key, hash); ref != 0 {
		if e := s.kept.entry(ref); e.until() > now && e.fingerprint() == *fp {
			status, response, ok = e.status(), e.response(), true
		}
	}
	s.mu.Unlock()
	return status, response, ok
}

// Complete implements [Store].
func (m *Memory) Complete(ctx context.Context, completions []Completion) ([]error, error) {
	return each(ctx, completions, func(c *Completion) error {
		s, hash := m.shard(c.Key)
		s.mu.Lock()
		defer s.mu.Unlock()
		f := s.flights[c.Key]
		if f == nil {
			if ref := s.kept.find(c.Key, hash); ref != 0 && s.kept.entry(ref).token() == c.Token {
				return nil // a repeat
			}
			return ErrLost
		}
		if f.token != c.Token {
			return ErrLost
		}
		s.land(f)
		s.kept.add(c, hash, f.fingerprint, m.clock())
		return nil
	})
}

// Release implements [Store].
func (m *Memory) Release(ctx context.Context, claims []Claim) ([]error, error) {
	return each(ctx, claims, func(c *Claim) error {
		s, _ := m.shard(c.Key)
		s.mu.Lock()
		defer s.mu.Unlock()
		f := s.flights[c.Key]
		switch now := m.clock(); {
		case f == nil || f.token != c.Token:
			return ErrLost
		case f.keep > now: // its steps are still wanted
			f.token = 0
			s.hold(f, now, 0)
		default:
			s.land(f)
		}
		return nil
	})
}

// Extend implements [Store].
func (m *Memory) Extend(ctx context.Context, extensions []Extension) ([]error, error) {
	return each(ctx, extensions, func(e *Extension) error {
		s, _ := m.shard(e.Key)
		s.mu.Lock()
		defer s.mu.Unlock()
		f := s.flights[e.Key]
		if f == nil || f.token != e.Token {
			return ErrLost
		}
		now := m.clock()
		if e.Step.Name != "" {
			f.add(e.Step, now+e.Keep)
		}
		s.hold(f, now+e.Lease, AbandonedFor)
		return nil
	})
}

// Sweep implements [Sweeper]. It locks one shard at a time, and each for some tens of microseconds.
func (m *Memory) Sweep(ctx context.Context, limit int) (int, error) {
	removed := 0
	// A few of each shard in turn. To take the same lock again at once would keep it from those who wait for it: they
	// are woken, find it taken, and insist (sync.Mutex) only after a millisecond.
	for more := true; more; {
		more = false
		for i := range m.shards {
			if err := ctx.Err(); err != nil {
				return removed, err
			}
			want := min(limit-removed, memorySweep)
			if want <= 0 {
				return removed, nil
			}
			n := m.shards[i].sweepLocked(m.clock(), want)
			removed += n
			more = more || n == want
			runtime.Gosched()
		}
	}
	return removed, nil
}

func (s *memoryShard) sweepLocked(now time.Duration, limit int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sweep(now, limit)
}

// sweep removes up to limit records that nobody wants any more and returns how many.
func (s *memoryShard) sweep(now time.Duration, limit int) int {
	removed := 0
	for removed < limit && len(s.expiry) > 0 && s.expiry[0].forget <= now {
		s.land(s.expiry[0])
		removed++
	}
	return removed + s.kept.sweep(now, limit-removed)
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
