package saga

import (
	"bytes"
	"cmp"
	"context"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is a [Store] in the memory of this process, for tests and for programs
// whose sagas may die with them. It keeps every promise of a store but that of
// outliving the process. Its transactions are [*MemoryTx]. Make one with
// [NewMemory]; the zero value is not usable.
type Memory struct {
	o      MemoryOptions
	seed   maphash.Seed
	shards [memoryShards]memoryShard
	outbox memoryOutbox
}

const memoryShards = 32

// memoryShard has some of the sagas, by the hash of their ids. With one lock for all,
// sixty sagas on two processors spend most of their time in wait for it.
type memoryShard struct {
	mu   sync.Mutex
	live map[string]*memorySaga // not over, or stuck
	over map[string]*memorySaga
	_    [64]byte // keeps the neighbour's lock out of this cache line
}

// MemoryOptions are the optional settings of a [Memory].
type MemoryOptions struct {
	// Now is the clock, for use by many goroutines at once. Default: time.Now.
	Now func() time.Time
}

// memorySaga is a saga and what only the store knows of it.
type memorySaga struct {
	rec Record
	due time.Time    // the end of its lease, or when it is due; zero: it is not
	few [6]StepState // rec.Steps, if they are not more
}

// NewMemory returns an empty store. nil options are the defaults.
func NewMemory(o *MemoryOptions) *Memory {
	m := &Memory{seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i].live, m.shards[i].over = map[string]*memorySaga{}, map[string]*memorySaga{}
	}
	if o != nil {
		m.o = *o
	}
	if m.o.Now == nil {
		m.o.Now = time.Now
	}
	return m
}

var _ interface {
	Store
	Transactor
	Outbox
	Sweeper
} = (*Memory)(nil)

func (m *Memory) shard(id string) *memoryShard {
	return &m.shards[maphash.String(m.seed, id)%memoryShards]
}

// lock locks all shards, for what concerns several sagas at once.
func (m *Memory) lock() {
	for i := range m.shards {
		m.shards[i].mu.Lock()
	}
}

func (m *Memory) unlock() {
	for i := range m.shards {
		m.shards[i].mu.Unlock()
	}
}

// find returns a saga of which the shard is locked, or nil.
func (m *Memory) find(id string) *memorySaga { return m.shard(id).find(id) }

func (h *memoryShard) find(id string) *memorySaga {
	if s := h.live[id]; s != nil {
		return s
	}
	return h.over[id]
}

// Create implements [Store].
func (m *Memory) Create(ctx context.Context, sagas []*Create) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := m.o.Now() // it takes as long as all that is done under a lock
	for _, c := range sagas {
		h := m.shard(c.Record.ID)
		h.mu.Lock()
		h.create(c, now)
		h.mu.Unlock()
	}
	return nil
}

func (h *memoryShard) create(c *Create, now time.Time) {
	r := c.Record
	c.Mine, c.Err = false, nil
	if s := h.find(r.ID); s != nil {
		if s.rec.Fingerprint != r.Fingerprint {
			c.Err = ErrConflict
		}
		c.Mine = c.Err == nil && r.Owner != "" && s.rec.Owner == r.Owner && s.rec.Token == r.Token && s.rec.Revision == 0
		return
	}
	r.Created, r.Updated = now, now
	s := &memorySaga{rec: *r, due: now}
	s.rec.Steps = append(s.few[:0], r.Steps...)
	if r.Owner != "" {
		s.due = now.Add(c.Lease)
	}
	c.Mine = r.Owner != ""
	h.live[r.ID] = s
}

// Save implements [Store].
func (m *Memory) Save(ctx context.Context, writes []*Write) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := m.o.Now()
	for _, w := range writes {
		h := m.shard(w.Record.ID)
		h.mu.Lock()
		if s := h.fence(w); s != nil {
			h.save(s, w, now)
			m.outbox.add(w.Messages)
		}
		h.mu.Unlock()
	}
	return nil
}

// fence returns the saga of w, or nil and says in w.Err why not; Err is nil for a
// write that was done before.
func (h *memoryShard) fence(w *Write) *memorySaga {
	s := h.find(w.Record.ID)
	w.Err, w.Signals = nil, nil
	switch {
	case s == nil || s.rec.Token != w.Record.Token:
		w.Err = ErrFenced
	case s.rec.Revision == w.Record.Revision-1:
		return s
	case s.rec.Revision == w.Record.Revision:
		w.Signals = maps.Clone(s.rec.Signals)
	default:
		w.Err = ErrFenced
	}
	return nil
}

func (h *memoryShard) save(s *memorySaga, w *Write, now time.Time) {
	r, have := w.Record, &s.rec
	was := have.Status
	r.Updated = now
	have.Status, have.Undoing, have.Failed, have.Error, have.Crashes = r.Status, r.Undoing, r.Failed, r.Error, r.Crashes
	have.Data, have.Revision, have.Updated = r.Data, r.Revision, now
	copy(have.Steps, r.Steps)
	for _, ev := range w.Events {
		ev.At = now
		have.Events = append(have.Events, ev)
	}
	if len(have.Signals) > 0 {
		w.Signals = maps.Clone(have.Signals)
	}
	switch {
	case r.Status.Over():
		have.Owner, s.due = "", time.Time{}
	case w.Release && len(have.Signals) > w.Seen:
		have.Owner, s.due = "", now
	case w.Release && w.Due < 0:
		have.Owner, s.due = "", time.Time{}
	case w.Release:
		have.Owner, s.due = "", now.Add(w.Due)
	case have.Owner == "": // a person has brought it back
		s.due = now
	}
	if r.Status.ended() != was.ended() {
		from, to := h.live, h.over
		if was.ended() {
			from, to = to, from
		}
		delete(from, r.ID)
		to[r.ID] = s
	}
}

// Claim implements [Store]. Cost: a look at every saga that is not over, if IDs are nil.
func (m *Memory) Claim(ctx context.Context, c Claim) ([]Claimed, error) {
	if err := cmp.Or(ctx.Err(), c.check()); err != nil {
		return nil, err
	}
	m.lock()
	defer m.unlock()
	now := m.o.Now()
	var due []*memorySaga
	consider := func(s *memorySaga) {
		if s != nil && !s.due.IsZero() && !s.due.After(now) && slices.Contains(c.Definitions, s.rec.Definition) {
			due = append(due, s)
		}
	}
	if c.IDs != nil {
		for _, id := range c.IDs {
			consider(m.shard(id).live[id])
		}
	} else {
		for i := range m.shards {
			for _, s := range m.shards[i].live {
				consider(s)
			}
		}
	}
	slices.SortFunc(due, func(a, b *memorySaga) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.rec.ID, b.rec.ID))
	})
	claimed := make([]Claimed, 0, min(len(due), c.Limit))
	for _, s := range due[:min(len(due), c.Limit)] {
		if s.due.After(now) {
			continue // an id that is there twice
		}
		crashed := s.rec.Owner != ""
		if crashed {
			s.rec.Crashes++
		}
		s.rec.Owner = c.Owner
		s.rec.Token++
		s.due = now.Add(c.Lease)
		claimed = append(claimed, Claimed{Record: s.claimed(), Crashed: crashed, Now: now})
	}
	return claimed, nil
}

// check refuses what no store can do.
func (c *Claim) check() error {
	if c.Owner == "" {
		return &InputError{Field: "owner", Reason: "is empty"}
	}
	return cmp.Or(checkLease(c.Lease), checkLimit(c.Limit))
}

func checkLease(d time.Duration) error {
	if d < time.Millisecond {
		return &InputError{Field: "lease", Reason: "is less than a millisecond"}
	}
	return nil
}

func checkLimit(n int) error {
	if n < 1 {
		return &InputError{Field: "limit", Reason: "is less than 1"}
	}
	return nil
}

// claimed is the record for its new owner, who replaces its data and its signals, and
// does not change them.
func (s *memorySaga) claimed() *Record {
	r := s.rec
	r.Steps, r.Signals, r.Events = slices.Clone(r.Steps), maps.Clone(r.Signals), nil
	return &r
}

// found is the record for somebody who may do with it what he likes.
func (s *memorySaga) found(events bool) *Record {
	r := s.claimed()
	r.Plan, r.Data = slices.Clone(r.Plan), bytes.Clone(r.Data)
	for name, payload := range r.Signals {
		r.Signals[name] = bytes.Clone(payload)
	}
	if events {
		r.Events = slices.Clone(s.rec.Events)
	}
	return r
}

// Renew implements [Store]. It reads the clock under the lock:
//
//	the engine's beat reads it, and is held up; the saga's own run renews the lease, and
//	is told so; the beat goes on, and sets the end by what it has read before: the run
//	charges on a lease that is over, and the next owner refunds.
func (m *Memory) Renew(ctx context.Context, leases []*Lease, d time.Duration) error {
	if err := cmp.Or(ctx.Err(), checkLease(d)); err != nil {
		return err
	}
	for _, l := range leases {
		h := m.shard(l.ID)
		h.mu.Lock()
		if s := h.live[l.ID]; s == nil || s.rec.Token != l.Token || s.rec.Owner == "" {
			l.Err = ErrFenced
		} else {
			l.Err, s.due = nil, m.o.Now().Add(d)
		}
		h.mu.Unlock()
	}
	return nil
}

// Deliver implements [Store].
func (m *Memory) Deliver(ctx context.Context, id, name string, payload []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h := m.shard(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.find(id)
	if s == nil {
		return ErrNotFound
	}
	have, there := s.rec.Signals[name]
	switch {
	case there && bytes.Equal(have, payload): // by a call whose answer was lost
		return nil
	case s.rec.Status.ended():
		return ErrOver
	case there:
		return ErrConflict
	case full(s.rec.Signals, name):
		return ErrTooManySignals
	}
	if s.rec.Signals == nil {
		s.rec.Signals = Signals{}
	}
	s.rec.Signals[name] = payload
	if s.rec.Owner == "" && s.rec.Status != Stuck {
		if now := m.o.Now(); s.due.IsZero() || s.due.After(now) {
			s.due = now
		}
	}
	return nil
}

// full tells whether there is no room for one more signal of that name.
func full(have Signals, name string) bool {
	if strings.HasPrefix(name, "$") || len(have) < MaxSignals {
		return false
	}
	counted := 0
	for name := range have {
		if !strings.HasPrefix(name, "$") {
			counted++
		}
	}
	return counted >= MaxSignals
}

// Find implements [Store].
func (m *Memory) Find(ctx context.Context, f Filter) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(nil, err)
			return
		}
		for _, r := range m.matching(f) {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (m *Memory) matching(f Filter) []*Record {
	m.lock()
	defer m.unlock()
	var ids []string
	consider := func(s *memorySaga) {
		if s == nil || s.rec.ID <= f.After || len(f.Status) > 0 && !slices.Contains(f.Status, s.rec.Status) ||
			f.Definition != "" && s.rec.Definition != f.Definition || f.BusinessID != "" && s.rec.BusinessID != f.BusinessID {
			return
		}
		ids = append(ids, s.rec.ID)
	}
	if f.IDs != nil {
		for _, id := range f.IDs {
			consider(m.find(id))
		}
	} else {
		for i := range m.shards {
			for _, all := range []map[string]*memorySaga{m.shards[i].live, m.shards[i].over} {
				for _, s := range all {
					consider(s)
				}
			}
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if f.Limit > 0 {
		ids = ids[:min(f.Limit, len(ids))]
	}
	records := make([]*Record, len(ids))
	for i, id := range ids {
		records[i] = m.find(id).found(f.Events)
	}
	return records
}

// Sweep implements [Sweeper].
func (m *Memory) Sweep(ctx context.Context, age time.Duration, limit int) (int, error) {
	if err := cmp.Or(ctx.Err(), checkLimit(limit)); err != nil {
		return 0, err
	}
	m.lock()
	defer m.unlock()
	before, n := m.o.Now().Add(-age), 0
	for i := range m.shards {
		over := m.shards[i].over
		for id, s := range over {
			if n == limit {
				return n, nil
			}
			if s.rec.Updated.Before(before) && m.shard(s.rec.Parent).live[s.rec.Parent] == nil { // else its parent may ask for it
				delete(over, id)
				n++
			}
		}
	}
	return n, nil
}
