package pgsaga_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
	run(tb, e)
	return e
}

// run runs an engine until the test ends.
func run(tb testing.TB, e *saga.Engine) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.Run(ctx); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(func() { cancel(); wg.Wait() })
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

// errorsOf keeps what is logged as an error.
type errorsOf struct{ told chan string }

func (errorsOf) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (h errorsOf) WithAttrs([]slog.Attr) slog.Handler         { return h }
func (h errorsOf) WithGroup(string) slog.Handler              { return h }

func (h errorsOf) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	select {
	case h.told <- text:
	default:
	}
	return nil
}

// An operator adds a CHECK that a checkpoint violates when its step has charged. That is
// an error in the log, with PostgreSQL's code; what has happened is kept until there is
// room for it, and nothing is charged twice.
func TestACheckpointThatIsRefusedWaitsForAPerson(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.exec(t, "ALTER TABLE sagas ADD CONSTRAINT small CHECK (octet_length(data::text) < 30)")
	type order struct{ Receipt string }
	charged := 0
	d := saga.MustDefine("refused", 1, saga.Step("charge", func(_ context.Context, o *order) error {
		charged++
		o.Receipt = "a receipt that is longer than that"
		return nil
	}).Undo(func(context.Context, *order) error { charged--; return nil }))
	log := errorsOf{make(chan string, 1)}
	e, err := saga.New(f, &saga.Options{Definitions: []saga.Registered{d}, Logger: slog.New(log)})
	require.NoError(t, err)
	run(t, e)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	h, err := d.Start(ctx, e, "1", order{}, nil)
	require.NoError(t, err)
	select {
	case text := <-log.told:
		require.Contains(t, text, "saga=1")
		require.Contains(t, text, "SQLSTATE 23514")
	case <-ctx.Done():
		t.Fatal("nobody is told")
	}
	f.exec(t, "ALTER TABLE sagas DROP CONSTRAINT small")
	got, err := h.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, saga.Completed, got.Status)
	require.Equal(t, 1, charged)
	require.NotEmpty(t, got.Data.Receipt)
}
