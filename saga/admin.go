package saga

import "context"

// Admin is for people.
type Admin struct{ engine *Engine }

// Admin returns it.
func (e *Engine) Admin() *Admin { return &Admin{e} }

// Inspect reads a saga with its history.
func (a *Admin) Inspect(ctx context.Context, id string) (*Record, error) {
	for rec, err := range a.engine.store.Find(ctx, Filter{IDs: []string{id}, Limit: 1, Events: true}) {
		return rec, err
	}
	return nil, ErrNotFound
}
