package pgsaga

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/saga"
)

// Create is [saga.Store.Create]: a share of one round trip and commit, with the
// checkpoints of others; a second round trip for sagas that exist. It sets the
// Record's Created and Updated.
func (s *Store) Create(ctx context.Context, sagas []*saga.Create) error {
	return each(sagas, s.do(ctx), newBirth, born)
}

// born answers a caller.
func born(c *saga.Create, i *item) {
	c.Err, c.Mine = i.err, i.mine
	if i.err == nil {
		c.Record.Created, c.Record.Updated = i.at, i.at
	}
}

// Save is [saga.Store.Save]: a share of one round trip and commit, with what others
// write; a second round trip for those that are not written. It sets the Record's
// Updated.
func (s *Store) Save(ctx context.Context, writes []*saga.Write) error {
	return each(writes, s.do(ctx), newWrite, saved)
}

// saved answers a caller.
func saved(w *saga.Write, i *item) {
	w.Err, w.Signals = i.err, i.signals
	if i.err == nil {
		w.Record.Updated = i.at
	}
}

// do writes items with those of other callers.
func (s *Store) do(ctx context.Context) func([]*item) error {
	return func(items []*item) error { return s.group.do(ctx, items) }
}

// each makes items of a call's, has them written and answers. Those of one saga are
// written one after the other.
func each[T any](all []T, write func([]*item) error, parse func(T) (*item, error), answer func(T, *item)) error {
	for len(all) > 0 {
		var now, later []T
		var items []*item
		ids := make(map[string]bool, len(all))
		for _, t := range all {
			i, err := parse(t)
			switch {
			case err != nil:
				answer(t, &item{err: err})
			case ids[i.id]:
				later = append(later, t)
			default:
				ids[i.id] = true
				now, items = append(now, t), append(items, i)
			}
		}
		if len(items) == 0 {
			return nil
		}
		if err := write(items); err != nil {
			return err
		}
		var failed error
		for n, t := range now {
			if items[n].lost {
				failed = items[n].err
			}
			answer(t, items[n])
			items[n].free()
		}
		if failed != nil {
			return failed
		}
		all = later
	}
	return nil
}

// CreateTx is [saga.Transactor.CreateTx]: one round trip, a second for sagas that
// exist. An error of PostgreSQL leaves the transaction to be rolled back.
func (s *Store) CreateTx(ctx context.Context, tx any, sagas []*saga.Create) error {
	t, ok := tx.(pgx.Tx)
	if !ok {
		return refuse("tx", fmt.Sprintf("is a %T and no pgx.Tx", tx))
	}
	in := &Store{db: t, sql: s.sql}
	write := func(items []*item) error {
		in.send(ctx, slices.Clone(items)) // which sorts them
		return nil
	}
	return each(sagas, write, newBirth, born)
}
