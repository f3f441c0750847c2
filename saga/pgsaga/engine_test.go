package pgsaga_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// deaf does not hear the answer to some COMMITs.
type deaf struct {
	pgsaga.DB
	lose atomic.Int64
}

type deafTx struct {
	pgx.Tx
	db *deaf
}

func (d *deaf) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := d.DB.Begin(ctx)
	return deafTx{tx, d}, err
}

func (tx deafTx) Commit(ctx context.Context) error {
	err := tx.Tx.Commit(ctx)
	if err == nil && tx.db.lose.Add(-1) >= 0 {
		return errors.New("the connection was lost")
	}
	return err
}

// running is an engine that runs until the test ends.
func running(tb testing.TB, store saga.Store, definitions ...saga.Registered) *saga.Engine {
	tb.Helper()
	e, err := saga.New(store, &saga.Options{Definitions: definitions})
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.Run(ctx); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(func() { cancel(); wg.Wait() })
	return e
}

// A step in the transaction of its checkpoint is committed, and the answer lost. The
// saga goes on from what was committed: not from what its owner had before, and not
// from what a second attempt would have made of it.
func TestTheAnswerToTheCommitOfAStepIsLost(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.exec(t, "CREATE SEQUENCE numbers; CREATE TABLE effects (id text)")
	type order struct{ Number, Seen int }
	seen := make(chan int, 10)
	d := saga.MustDefine("deaf", 1,
		saga.StepTx("draw", func(ctx context.Context, tx pgx.Tx, o *order) error {
			if err := tx.QueryRow(ctx, "SELECT nextval('numbers')").Scan(&o.Number); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "INSERT INTO effects VALUES ($1)", fmt.Sprint(o.Number))
			return err
		}).Undo(func(context.Context, pgx.Tx, *order) error { return nil }),
		saga.Step("look", func(_ context.Context, o *order) error {
			seen <- o.Number
			o.Seen = o.Number
			return nil
		}).Undo(func(context.Context, *order) error { return nil }),
	)
	db := &deaf{DB: f.pool}
	db.lose.Store(1)
	e := running(t, pgsaga.NewStore(db, nil), d)
	h, err := d.Start(t.Context(), e, "1", order{}, nil)
	require.NoError(t, err)
	result, err := h.Wait(t.Context())
	require.NoError(t, err)
	require.NoError(t, result.Err())
	require.Equal(t, saga.Completed, result.Status)
	require.Equal(t, 1, f.count(t, "SELECT count(*) FROM effects"))
	require.Equal(t, 1, <-seen)
	require.Equal(t, order{1, 1}, result.Data)
}
