package pgsaga_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// A saga that this version cannot read is claimed with others: they are not to lose an
// owner each time, until each is a person's business.
func TestASagaThatCannotBeReadDoesNotFailItsNeighbours(t *testing.T) {
	t.Parallel()
	f := open(t)
	type none struct{}
	def := saga.MustDefine("plain", 1, saga.Pivot("a", func(context.Context, *none) error { return nil }))
	store := pgsaga.NewStore(f.pool, nil)
	idle, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
	require.NoError(t, err)
	for n := range 20 {
		_, err := def.Start(t.Context(), idle, fmt.Sprint(n), none{}, nil)
		require.NoError(t, err)
	}
	f.exec(t, "UPDATE sagas SET progress = 'Q' WHERE id = '7'")
	e := running(t, store, def)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for n := range 20 {
		if n == 7 {
			continue
		}
		r, err := def.Handle(e, fmt.Sprint(n)).Wait(ctx)
		require.NoError(t, err, n)
		require.Equal(t, saga.Completed, r.Status, n)
	}
	require.Equal(t, 19, f.count(t, "SELECT count(*) FROM sagas WHERE status = 'COMPLETED' AND token = 1"))
}

// A row was changed by hand, or put together from two backups: it has more or fewer steps
// than its plan. That is not to end the process that takes it up, and each that comes after;
// nor is it over where no step is left of it.
func TestASagaWhoseStepsAreNotThoseOfItsPlanEndsNoProcess(t *testing.T) {
	t.Parallel()
	f := open(t)
	type none struct{}
	def := saga.MustDefine("plain", 1,
		saga.Pure("price", func(context.Context, *none) error { return nil }),
		saga.Pivot("a", func(context.Context, *none) error { return nil }))
	store := pgsaga.NewStore(f.pool, nil)
	idle, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
	require.NoError(t, err)
	for _, id := range []string{"fewer", "more", "whole"} {
		_, err := def.Start(t.Context(), idle, id, none{}, nil)
		require.NoError(t, err)
	}
	f.exec(t, "UPDATE sagas SET progress = CASE id WHEN 'fewer' THEN 'O' ELSE 'D1 D2 O' END, owner = 'somebody' WHERE id <> 'whole'")
	e := running(t, store, def)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	r, err := def.Handle(e, "whole").Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, saga.Completed, r.Status)
	for _, id := range []string{"fewer", "more"} {
		_, err = e.Admin().Inspect(ctx, id)
		require.ErrorContains(t, err, "a plan of 2", id)
	}
}
