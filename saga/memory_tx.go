package saga

import (
	"context"
	"fmt"
	"reflect"
)

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
	h := m.shard(w.Record.ID)
	h.mu.Lock()
	s := h.fence(w)
	h.mu.Unlock()
	if s == nil {
		return w.Err
	}
	tx := &MemoryTx{}
	if err := work(ctx, tx); err != nil {
		return err
	}
	m.lock()
	defer m.unlock()
	if s = h.fence(w); s == nil { // it was lost meanwhile: nothing is committed
		return w.Err
	}
	if err := m.fits(tx); err != nil { // the work is called again, and told so by CreateTx
		return &StoreError{err}
	}
	h.save(s, w, m.o.Now())
	m.outbox.add(w.Messages)
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
	m.lock()
	defer m.unlock()
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
		m.shard(c.Record.ID).create(c, now)
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
	m.lock()
	defer m.unlock()
	if err := m.fits(tx); err != nil {
		return err
	}
	m.commit(tx)
	return nil
}
