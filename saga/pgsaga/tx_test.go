package pgsaga_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// effects is a fixture with a table of the steps' own.
func effects(tb testing.TB) fixture {
	tb.Helper()
	f := open(tb)
	f.exec(tb, "CREATE TABLE effects (id text)")
	return f
}

func (f fixture) effects(tb testing.TB) int {
	tb.Helper()
	return f.count(tb, "SELECT count(*) FROM effects")
}

// apply is a step that inserts a row, and then fills in the record.
func apply(w *saga.Write, then func() error) func(context.Context, any) error {
	return func(ctx context.Context, tx any) error {
		if _, err := tx.(pgx.Tx).Exec(ctx, "INSERT INTO effects VALUES ($1)", w.Record.ID); err != nil {
			return err
		}
		w.Record.Data = []byte(`{"applied": true}`)
		w.Record.Steps[0].Mark = saga.Done
		return then()
	}
}

func fine() error { return nil }

// ahead is the write of r's next step, before its work.
func ahead(r *saga.Record) *saga.Write {
	n := *r
	n.Revision++
	n.Steps = append(saga.Progress{}, r.Steps...)
	return &saga.Write{Record: &n}
}

func TestSaveTxCommitsTheStepWithItsCheckpoint(t *testing.T) {
	t.Parallel()
	f := effects(t)
	require.Equal(t, reflect.TypeFor[pgx.Tx](), f.TxType())
	r := f.create(t, "1", "me")
	w := ahead(r)
	require.NoError(t, f.SaveTx(t.Context(), w, apply(w, fine)))
	require.Equal(t, 1, f.effects(t))
	have := f.find(t, "1")
	require.Equal(t, w.Record, have)

	w = ahead(have) // with everything
	w.Events, w.Messages = []saga.Event{{Kind: saga.EventRetry}}, []saga.Message{{Topic: "paid"}}
	require.NoError(t, f.Deliver(t.Context(), "1", "go", []byte("1")))
	require.NoError(t, f.SaveTx(t.Context(), w, apply(w, func() error { w.Record.Status, w.Release = saga.Completed, true; return nil })))
	require.Equal(t, saga.Signals{"go": []byte("1")}, w.Signals)
	have = f.find(t, "1")
	require.Equal(t, saga.Completed, have.Status)
	require.Len(t, have.Events, 1)
	require.Equal(t, 1, f.count(t, "SELECT count(*) FROM saga_outbox"))
}

func TestSaveTxThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	f := effects(t)
	r := f.create(t, "1", "me")
	no := errors.New("no")
	f.exec(t, "CREATE TABLE late (id text UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO late VALUES ('x')")
	f.exec(t, `CREATE TABLE ruled (id text);
		CREATE FUNCTION rule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'ZX001'; END $$;
		CREATE CONSTRAINT TRIGGER rule AFTER INSERT ON ruled DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rule()`)
	f.exec(t, `CREATE TABLE divided (id text);
		CREATE FUNCTION divide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN (1 / 0)::text; END $$;
		CREATE CONSTRAINT TRIGGER divide AFTER INSERT ON divided DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION divide()`)
	for name, c := range map[string]struct {
		work func(ctx context.Context, tx pgx.Tx) error
		is   func(err error) bool
	}{
		"error":  {func(context.Context, pgx.Tx) error { return no }, func(err error) bool { return err == no }}, //nolint:errorlint // as it is
		"commit": {func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) }, func(err error) bool { return err != nil }},
		"ended":  {func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "ROLLBACK"); return err }, func(err error) bool { return err != nil }},
		"ignored": {func(ctx context.Context, tx pgx.Tx) error { _, _ = tx.Exec(ctx, "SELECT 1/0"); return nil }, func(err error) bool {
			return err != nil
		}},
		"rows that are not closed": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Query(ctx, "SELECT generate_series(1, 9)")
			return err
		}, func(err error) bool { return err != nil }},
		"deferred": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO late VALUES ('x')")
			return err
		}, func(err error) bool {
			e, ok := errors.AsType[*pgconn.PgError](err)
			return ok && e.Code == "23505"
		}},
		"deferred, with a code of its own": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO ruled VALUES ('x')")
			return err
		}, func(err error) bool {
			e, ok := errors.AsType[*pgconn.PgError](err)
			return ok && e.Code == "ZX001"
		}},
		"deferred, with the code by which a checkpoint says that its saga was lost": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO divided VALUES ('x')")
			return err
		}, func(err error) bool {
			e, ok := errors.AsType[*pgconn.PgError](err)
			return ok && e.Code == "22012"
		}},
	} {
		w := ahead(r)
		err := f.SaveTx(t.Context(), w, func(ctx context.Context, tx any) error {
			return errors.Join(apply(w, fine)(ctx, tx), c.work(ctx, tx.(pgx.Tx)))
		})
		if name == "error" {
			require.ErrorIs(t, err, no)
		} else {
			require.True(t, c.is(err), "%s: %v", name, err)
		}
		_, ok := errors.AsType[*saga.StoreError](err)
		require.False(t, ok, "%s: %v", name, err)
		require.Zero(t, f.effects(t), name)
		require.Zero(t, f.find(t, "1").Revision, name)
	}
	require.Panics(t, func() {
		w := ahead(r)
		_ = f.SaveTx(t.Context(), w, apply(w, func() error { panic("!") }))
	})
	bad := ahead(r)
	require.ErrorAs(t, f.SaveTx(t.Context(), bad, apply(bad, func() error { bad.Record.Data = []byte("{"); return nil })), new(*saga.InputError))
	ctx, cancel := context.WithCancel(t.Context())
	w := ahead(r)
	err := f.SaveTx(ctx, w, apply(w, func() error { cancel(); return nil }))
	require.ErrorAs(t, err, new(*saga.StoreError))
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, f.effects(t))
	require.Eventually(t, func() bool { return f.pool.Stat().AcquiredConns() == 0 }, 10*time.Second, time.Millisecond)
	w = ahead(r)
	require.NoError(t, f.SaveTx(t.Context(), w, apply(w, fine)))
	require.Equal(t, 1, f.effects(t))
}

// A step sends COMMIT as text, before its checkpoint is written. What it has done stays, so
// that it is neither done again nor taken for rolled back: a person is told.
func TestAStepThatEndsItsTransactionIsNotDoneAgain(t *testing.T) {
	t.Parallel()
	type order struct{}
	for name, fails := range map[string]error{"and succeeds": nil, "and fails": errors.New("no")} {
		for _, undo := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", undone ", undo), func(t *testing.T) {
				t.Parallel()
				f := effects(t)
				commits := func(ctx context.Context, tx pgx.Tx, _ *order) error {
					_, err := tx.Exec(ctx, "INSERT INTO effects VALUES ('x'); COMMIT")
					return errors.Join(err, fails)
				}
				none := func(context.Context, pgx.Tx, *order) error { return nil }
				step := saga.StepTx("a", commits).Undo(none)
				if undo {
					step = saga.StepTx("a", none).Undo(commits)
				}
				d := saga.MustDefine("ends", 1, step, saga.Pivot("b", func(context.Context, *order) error { return saga.Reject(errors.New("declined")) }))
				h, err := d.Start(t.Context(), running(t, f.Store, d), "1", order{}, nil)
				require.NoError(t, err)
				got, err := h.Wait(t.Context())
				require.NoError(t, err)
				require.Equal(t, saga.Stuck, got.Status)
				require.Equal(t, 1, f.effects(t))
				want, said := saga.Maybe, "ended its transaction"
				if undo {
					want, said = saga.UndoFailed, "given up"
				}
				require.Equal(t, want, f.find(t, "1").Steps[0].Mark)
				require.ErrorContains(t, got.Err(), said)
			})
		}
	}
}

// The store is on the connection on which the caller has begun, and not on the
// transaction: the step would commit what the caller then rolls back.
func TestSaveTxDoesNotEndATransactionOfItsConnection(t *testing.T) {
	t.Parallel()
	f := effects(t)
	r := f.create(t, "1", "me")
	conn, err := f.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for name, db := range map[string]pgsaga.DB{"connection": conn.Conn(), "connection of a pool": conn} {
		store := pgsaga.NewStore(db, nil)
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "INSERT INTO effects VALUES ('of the caller')")
		require.NoError(t, err)
		w := ahead(r)
		require.ErrorContains(t, store.SaveTx(t.Context(), w, apply(w, fine)), "in a transaction", name)
		_, err = store.Relay(t.Context(), 1, func(context.Context, []saga.Message) error { return nil })
		require.ErrorContains(t, err, "in a transaction", name)
		require.NoError(t, tx.Rollback(t.Context()))
		require.Zero(t, f.effects(t), name)
		w = ahead(r)
		require.NoError(t, store.SaveTx(t.Context(), w, apply(w, fine)))
		r = w.Record
		f.exec(t, "TRUNCATE effects")
	}
}

// The answer to the COMMIT was lost: the repeat does nothing, and tells what was written.
func TestSaveTxIsRepeatable(t *testing.T) {
	t.Parallel()
	f := effects(t)
	r := f.create(t, "1", "me")
	w := ahead(r)
	require.NoError(t, f.SaveTx(t.Context(), w, apply(w, fine)))
	again := ahead(r)
	require.NoError(t, f.SaveTx(t.Context(), again, func(context.Context, any) error { panic("must not run") }))
	require.Equal(t, w.Record, again.Record)
	require.Equal(t, 1, f.effects(t))
	w = ahead(ahead(w.Record).Record)
	require.ErrorIs(t, f.SaveTx(t.Context(), w, func(context.Context, any) error { panic("must not run") }), saga.ErrFenced)
}

// The repeat comes while the first call is still under way: one of the two is committed.
func TestSaveTxRepeatedWhileItIsUnderWay(t *testing.T) {
	t.Parallel()
	f := effects(t)
	r := f.create(t, "1", "me")
	var both, wg sync.WaitGroup
	both.Add(2)
	writes := [2]*saga.Write{ahead(r), ahead(r)}
	for i, w := range writes {
		wg.Go(func() {
			err := f.SaveTx(t.Context(), w, apply(w, func() error {
				w.Record.Data = []byte(fmt.Sprint(i))
				both.Done()
				both.Wait()
				return nil
			}))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, f.effects(t))
	have := f.find(t, "1")
	require.Equal(t, have, writes[0].Record)
	require.Equal(t, have, writes[1].Record)
}

// A step takes longer than its owner's lease; somebody else takes the saga up, and does
// the step too.
func TestSaveTxOfALostSagaIsRolledBack(t *testing.T) {
	t.Parallel()
	f := effects(t)
	r := f.create(t, "1", "me")
	w := ahead(r)
	err := f.SaveTx(t.Context(), w, apply(w, func() error {
		f.expire(t)
		claimed := f.claim(t, "you", 1)
		require.Len(t, claimed, 1)
		theirs := ahead(claimed[0].Record)
		return f.SaveTx(t.Context(), theirs, apply(theirs, fine))
	}))
	require.ErrorIs(t, err, saga.ErrFenced)
	require.ErrorIs(t, w.Err, saga.ErrFenced)
	require.Equal(t, 1, f.effects(t))
	require.EqualValues(t, 2, f.find(t, "1").Token)
}

// It is not even begun by an owner that has lost the saga before.
func TestSaveTxOfALostSagaIsNotBegun(t *testing.T) {
	t.Parallel()
	f := effects(t)
	w := ahead(f.create(t, "1", "me"))
	f.expire(t)
	require.Len(t, f.claim(t, "you", 1), 1)
	require.ErrorIs(t, f.SaveTx(t.Context(), w, func(context.Context, any) error { panic("must not run") }), saga.ErrFenced)
}

// Whether the saga was lost is looked up on another connection, once this one is free.
func TestSaveTxOfALostSagaOnAPoolOfOneConnection(t *testing.T) {
	t.Parallel()
	f := openOn(t, newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 1 }))
	f.exec(t, "CREATE TABLE effects (id text)")
	w := ahead(f.create(t, "1", "me"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.ErrorIs(t, f.SaveTx(ctx, w, func(ctx context.Context, tx any) error {
		_, err := tx.(pgx.Tx).Exec(ctx, "UPDATE sagas SET token = 2")
		return err
	}), saga.ErrFenced)
}

// The table refuses the checkpoint: that is a failure of the store, and neither of the step
// nor is the saga lost.
func TestSaveTxThatTheTableRefuses(t *testing.T) {
	t.Parallel()
	f := effects(t)
	r := f.create(t, "1", "me")
	for _, code := range []string{"ZX001", "P0001", "23514"} {
		f.exec(t, fmt.Sprintf(`CREATE OR REPLACE FUNCTION rule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '%s'; END $$;
			CREATE OR REPLACE TRIGGER rule BEFORE UPDATE ON sagas FOR EACH ROW EXECUTE FUNCTION rule()`, code))
		w := ahead(r)
		err := f.SaveTx(t.Context(), w, apply(w, fine))
		require.ErrorAs(t, err, new(*saga.StoreError), code)
		require.NotErrorIs(t, err, saga.ErrFenced, code)
		require.NoError(t, w.Err, code)
		require.Zero(t, f.effects(t), code)
	}
}

// While a step works in its transaction its lease is renewed and signals come.
func TestALongStepDoesNotLockItsSaga(t *testing.T) {
	t.Parallel()
	f := effects(t)
	w := ahead(f.create(t, "1", "me"))
	require.NoError(t, f.SaveTx(t.Context(), w, apply(w, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		l := &saga.Lease{ID: "1", Token: 1}
		return errors.Join(f.Renew(ctx, []*saga.Lease{l}, time.Minute), l.Err, f.Deliver(ctx, "1", "go", []byte("1")))
	})))
	require.Len(t, w.Signals, 1)
}

func TestCreateTxIsCommittedWithTheCallersWork(t *testing.T) {
	t.Parallel()
	f := effects(t)
	taken := f.create(t, "taken", "me")
	begin := func(end func(pgx.Tx) error) []*saga.Create {
		tx, err := f.pool.Begin(t.Context())
		require.NoError(t, err)
		other := begun("taken", "me")
		other.Fingerprint[0]++
		creates := []*saga.Create{
			{Record: begun("z", "")},
			{Record: begun("a", "me"), Lease: time.Minute},
			{Record: other, Lease: time.Minute},
			{Record: begun("taken", "me"), Lease: time.Minute},
			{Record: begun("", "")},
		}
		require.NoError(t, f.CreateTx(t.Context(), tx, creates))
		var scans, plans string
		require.NoError(t, tx.QueryRow(t.Context(), "SELECT current_setting('enable_seqscan'), current_setting('plan_cache_mode')").Scan(&scans, &plans))
		require.Equal(t, "on auto", scans+" "+plans, "the caller's settings are as they were")
		require.NoError(t, end(tx))
		return creates
	}
	begin(func(tx pgx.Tx) error { return tx.Rollback(t.Context()) })
	require.Nil(t, f.find(t, "a"))
	creates := begin(func(tx pgx.Tx) error { return tx.Commit(t.Context()) })
	require.NoError(t, creates[0].Err)
	require.False(t, creates[0].Mine)
	require.True(t, creates[1].Mine)
	require.ErrorIs(t, creates[2].Err, saga.ErrConflict)
	require.True(t, creates[3].Mine)
	require.Equal(t, taken.Created, creates[3].Record.Created)
	require.ErrorAs(t, creates[4].Err, new(*saga.InputError))
	require.Equal(t, creates[1].Record, f.find(t, "a"))
	require.Len(t, f.claim(t, "you", 9), 1)
}

// A store over one connection, or over a transaction of the caller's, does the same.
func TestOverAConnectionAndATransaction(t *testing.T) {
	t.Parallel()
	f := effects(t)
	conn, err := f.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	tx, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	for name, db := range map[string]pgsaga.DB{"conn": conn.Conn(), "tx": tx} {
		f := fixture{pgsaga.NewStore(db, nil), nil}
		r := f.create(t, name, "me")
		w := next(r)
		require.NoError(t, f.save(t, w))
		require.NoError(t, f.save(t, w), "repeated")
		w = ahead(w.Record)
		require.NoError(t, f.SaveTx(t.Context(), w, apply(w, fine)))
		require.Equal(t, w.Record, f.find(t, name))
		w = ahead(w.Record)
		require.ErrorContains(t, f.SaveTx(t.Context(), w, apply(w, func() error { return errors.New("no") })), "no")
		require.NoError(t, f.Deliver(t.Context(), name, "go", []byte("1")))
		lost := ahead(w.Record)
		require.ErrorIs(t, f.SaveTx(t.Context(), lost, apply(lost, fine)), saga.ErrFenced)
		var scans, plans string
		require.NoError(t, db.QueryRow(t.Context(), "SELECT current_setting('enable_seqscan'), current_setting('plan_cache_mode')").Scan(&scans, &plans))
		require.Equal(t, "on auto", scans+" "+plans, "the caller's settings are as they were")
	}
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, 2, f.effects(t))
}
