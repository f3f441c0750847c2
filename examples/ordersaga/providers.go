package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/saga"
)

// effect is what a provider has done.
type effect struct {
	Key, What string
	Undone    bool
}

// providers stand for a warehouse, a bank, a mailer. They know nothing of sagas, and
// remember what they have done when the shop has forgotten it: that is what doubt
// is made of.
type providers interface {
	// apply has an effect once for a key, and none for a key that was undone.
	apply(ctx context.Context, key, what string) error
	// undo succeeds where there is nothing to undo.
	undo(ctx context.Context, key string) error
	// find tells whether a key has an effect that stands.
	find(ctx context.Context, key string) (bool, error)
	// all returns the effects for one saga.
	all(ctx context.Context, saga string) ([]effect, error)
}

var errUndone = saga.Reject(errors.New("it was undone before it came"))

// inMemory are providers that die with the program.
type inMemory struct {
	mu      sync.Mutex
	effects map[string]*effect
	order   []string
}

func (m *inMemory) apply(_ context.Context, key, what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.effects[key]
	if e == nil {
		m.effects[key], m.order = &effect{Key: key, What: what}, append(m.order, key)
		return nil
	}
	if e.Undone {
		return errUndone
	}
	return nil
}

func (m *inMemory) undo(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.effects[key] == nil {
		m.effects[key], m.order = &effect{Key: key, What: "nothing"}, append(m.order, key)
	}
	m.effects[key].Undone = true
	return nil
}

func (m *inMemory) find(_ context.Context, key string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.effects[key]
	return e != nil && !e.Undone, nil
}

func (m *inMemory) all(_ context.Context, saga string) (all []effect, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range m.order {
		if strings.HasPrefix(key, saga+"/") {
			all = append(all, *m.effects[key])
		}
	}
	return all, nil
}

// inPostgres are providers that outlive the program. They have a table of their own,
// and are not in the transactions of the sagas.
type inPostgres struct{ pool *pgxpool.Pool }

func (p inPostgres) migrate(ctx context.Context) error {
	_, err := p.pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS ordersaga_effects (
		no bigint GENERATED ALWAYS AS IDENTITY, key text PRIMARY KEY, what text NOT NULL, undone boolean NOT NULL)`)
	return err
}

func (p inPostgres) apply(ctx context.Context, key, what string) error {
	var undone bool
	err := p.pool.QueryRow(ctx, `INSERT INTO ordersaga_effects AS e (key, what, undone) VALUES ($1, $2, false)
		ON CONFLICT (key) DO UPDATE SET key = e.key RETURNING undone`, key, what).Scan(&undone)
	if err == nil && undone {
		return errUndone
	}
	return err
}

func (p inPostgres) undo(ctx context.Context, key string) error {
	_, err := p.pool.Exec(ctx, `INSERT INTO ordersaga_effects (key, what, undone) VALUES ($1, 'nothing', true)
		ON CONFLICT (key) DO UPDATE SET undone = true`, key)
	return err
}

func (p inPostgres) find(ctx context.Context, key string) (there bool, err error) {
	err = p.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM ordersaga_effects WHERE key = $1 AND NOT undone)`, key).Scan(&there)
	return there, err
}

func (p inPostgres) all(ctx context.Context, saga string) ([]effect, error) {
	rows, err := p.pool.Query(ctx, `SELECT key, what, undone FROM ordersaga_effects WHERE starts_with(key, $1) ORDER BY no`, saga+"/")
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[effect])
	return slices.Clip(all), err
}
