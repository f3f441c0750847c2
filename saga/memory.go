package saga

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"reflect"
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
	o MemoryOptions

	mu       sync.Mutex
	live     map[string]*memorySaga // not over, or stuck
	over     map[string]*memorySaga
	messages []Message
	lastID   int64
	relaying sync.Mutex
}

// MemoryOptions are the optional settings of a [Memory].
type MemoryOptions struct {
	// Now is the clock. Default: time.Now.
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
	m := &Memory{live: map[string]*memorySaga{}, over: map[string]*memorySaga{}}
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

func (m *Memory) find(id string) *memorySaga {
	if s := m.live[id]; s != nil {
		return s
	}
	return m.over[id]
}

// Create implements [Store].
func (m *Memory) Create(ctx context.Context, sagas []*Create) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.o.Now()
	for _, c := range sagas {
		m.create(c, now)
	}
	return nil
}

func (m *Memory) create(c *Create, now time.Time) {
	r := c.Record
	c.Mine, c.Err = false, nil
	if s := m.find(r.ID); s != nil {
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
	m.live[r.ID] = s
}

// Save implements [Store].
func (m *Memory) Save(ctx context.Context, writes []*Write) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.o.Now()
	for _, w := range writes {
		w.Signals = nil
		if s := m.fence(w); s != nil {
			m.save(s, w, now)
		}
	}
	return nil
}

// fence returns the saga of w, or nil and says in w.Err why not; Err is nil for a
// write that was done before.
func (m *Memory) fence(w *Write) *memorySaga {
	s := m.find(w.Record.ID)
	w.Err = nil
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

func (m *Memory) save(s *memorySaga, w *Write, now time.Time) {
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
	for _, msg := range w.Messages {
		m.lastID++
		msg.ID = m.lastID
		m.messages = append(m.messages, msg)
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
		from, to := m.live, m.over
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
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.o.Now()
	var due []*memorySaga
	consider := func(s *memorySaga) {
		if s != nil && !s.due.IsZero() && !s.due.After(now) && slices.Contains(c.Definitions, s.rec.Definition) {
			due = append(due, s)
		}
	}
	if c.IDs != nil {
		for _, id := range c.IDs {
			consider(m.live[id])
		}
	} else {
		for _, s := range m.live {
			consider(s)
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

// Renew implements [Store].
func (m *Memory) Renew(ctx context.Context, leases []*Lease, d time.Duration) error {
	if err := cmp.Or(ctx.Err(), checkLease(d)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.o.Now()
	for _, l := range leases {
		s := m.live[l.ID]
		if s == nil || s.rec.Token != l.Token || s.rec.Owner == "" {
			l.Err = ErrFenced
			continue
		}
		l.Err, s.due = nil, now.Add(d)
	}
	return nil
}

// Deliver implements [Store].
func (m *Memory) Deliver(ctx context.Context, id, name string, payload []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.find(id)
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
	m.mu.Lock()
	defer m.mu.Unlock()
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
		for _, all := range []map[string]*memorySaga{m.live, m.over} {
			for _, s := range all {
				consider(s)
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
	m.mu.Lock()
	defer m.mu.Unlock()
	before, n := m.o.Now().Add(-age), 0
	for id, s := range m.over {
		if n == limit {
			break
		}
		if s.rec.Updated.Before(before) && m.live[s.rec.Parent] == nil { // else its parent may ask for it
			delete(m.over, id)
			n++
		}
	}
	return n, nil
}

// Relay implements [Outbox].
func (m *Memory) Relay(ctx context.Context, limit int, publish func(context.Context, []Message) error) (int, error) {
	if err := checkLimit(limit); err != nil {
		return 0, err
	}
	if !m.relaying.TryLock() {
		return 0, nil
	}
	defer m.relaying.Unlock()
	m.mu.Lock()
	msgs := slices.Clone(m.messages[:min(limit, len(m.messages))])
	m.mu.Unlock()
	if len(msgs) == 0 {
		return 0, ctx.Err()
	}
	if err := publish(ctx, msgs); err != nil {
		return 0, fmt.Errorf("saga: relay: %w", err)
	}
	m.mu.Lock()
	m.messages = m.messages[len(msgs):]
	m.mu.Unlock()
	return len(msgs), nil
}

// MemoryTx is the transaction of a [Memory].
type MemoryTx struct {
	commit  []func()
	creates []*Create
}

// OnCommit calls f if the transaction is committed, at the moment it is. The store is
// locked meanwhile: f must not call it.
func (tx *MemoryTx) OnCommit(f func()) { tx.commit = append(tx.commit, f) }

// TxType implements [Transactor].
func (m *Memory) TxType() reflect.Type { return reflect.TypeFor[*MemoryTx]() }

// SaveTx implements [Transactor].
func (m *Memory) SaveTx(ctx context.Context, w *Write, work func(ctx context.Context, tx any) error) error {
	if err := ctx.Err(); err != nil {
		return &StoreError{err}
	}
	m.mu.Lock()
	w.Signals = nil
	s := m.fence(w)
	m.mu.Unlock()
	if s == nil {
		return w.Err
	}
	tx := &MemoryTx{}
	if err := work(ctx, tx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s = m.fence(w); s == nil { // it was lost meanwhile: nothing is committed
		return w.Err
	}
	if err := m.fits(tx); err != nil { // the work is called again, and told so by CreateTx
		return &StoreError{err}
	}
	m.save(s, w, m.o.Now())
	m.commit(tx)
	return nil
}

// CreateTx implements [Transactor]: the sagas are there when tx is committed.
func (m *Memory) CreateTx(ctx context.Context, tx any, sagas []*Create) error {
	t, ok := tx.(*MemoryTx)
	if !ok {
		return fmt.Errorf("saga: a transaction of Memory is a *saga.MemoryTx, not %T", tx)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range sagas {
		if c.Err = m.free(c, t.creates); c.Err == nil {
			t.creates = append(t.creates, c)
		}
	}
	return nil
}

// free returns [ErrConflict] if another saga has the id of c, in the store or before it in
// its transaction.
func (m *Memory) free(c *Create, before []*Create) error {
	if s := m.find(c.Record.ID); s != nil && s.rec.Fingerprint != c.Record.Fingerprint {
		return ErrConflict
	}
	for _, b := range before {
		if b.Record.ID == c.Record.ID && b.Record.Fingerprint != c.Record.Fingerprint {
			return ErrConflict
		}
	}
	return nil
}

// fits asks at the commit what CreateTx has asked before:
//
//	two transactions start a saga by the same id, for different orders, and neither sees
//	the other's; both are committed; the second order is there, and has no saga.
func (m *Memory) fits(tx *MemoryTx) error {
	for _, c := range tx.creates {
		if err := m.free(c, nil); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) commit(tx *MemoryTx) {
	now := m.o.Now()
	for _, c := range tx.creates {
		m.create(c, now)
	}
	for _, f := range tx.commit {
		f()
	}
	*tx = MemoryTx{}
}

// Begin returns a transaction of the caller's own, to be ended by [Memory.Commit].
func (m *Memory) Begin() *MemoryTx { return &MemoryTx{} }

// Commit ends a transaction that Begin has returned. Its error is [ErrConflict] where a
// saga that was created in tx has met another with its id, which was committed since:
// nothing is done then.
func (m *Memory) Commit(tx *MemoryTx) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fits(tx); err != nil {
		return err
	}
	m.commit(tx)
	return nil
}
