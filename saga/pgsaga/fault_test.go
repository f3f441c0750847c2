package pgsaga_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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

// newPool is a pool of the test's own schema.
func newPool(tb testing.TB, url string, edit func(*pgxpool.Config)) *pgxpool.Pool {
	tb.Helper()
	conf, err := pgxpool.ParseConfig(url)
	require.NoError(tb, err)
	edit(conf)
	pool, err := pgxpool.NewWithConfig(tb.Context(), conf)
	require.NoError(tb, err)
	tb.Cleanup(pool.Close)
	return pool
}

// run does a saga of five steps, each write until it is answered, and returns how often
// one failed.
func (f fixture) run(ctx context.Context, id string) (failed int, err error) {
	try := func(write func() error) {
		for e := write(); e != nil && err == nil; e = write() {
			failed++
			if err = ctx.Err(); err == nil {
				time.Sleep(5 * time.Millisecond) // the server is down just now; ctx bounds the tries
			}
		}
	}
	c := &saga.Create{Record: begun(id, "me"), Lease: time.Minute}
	try(func() error { return f.Create(ctx, []*saga.Create{c}) })
	if err = errors.Join(err, c.Err); err != nil || !c.Mine {
		return failed, errors.Join(err, fmt.Errorf("mine: %v", c.Mine))
	}
	r := c.Record
	for n := range plan {
		w := next(r)
		w.Messages = []saga.Message{{Topic: fmt.Sprint(n)}}
		if n == len(plan)-1 {
			w.Record.Status = saga.Completed
		}
		try(func() error { return f.Save(ctx, []*saga.Write{w}) })
		if err = errors.Join(err, w.Err); err != nil {
			return failed, err
		}
		r = w.Record
	}
	return failed, nil
}

// Owners write at once while PostgreSQL is killed again and again. Each repeats a write
// until it is answered; none is fenced off by its own write, and none is done twice.
func TestServerKilledUnderLoad(t *testing.T) {
	t.Parallel()
	const owners, sagas, kills = 16, 30, 3
	server := testdb.NewPostgres(t)
	f := openOn(t, newPool(t, server.URL(), func(*pgxpool.Config) {}))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var done, failed atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	for o := range owners {
		wg.Go(func() {
			for n := range sagas {
				bad, err := f.run(ctx, fmt.Sprint(o, "-", n))
				if err != nil {
					t.Errorf("%d-%d: %v", o, n, err)
				}
				failed.Add(int64(bad))
				done.Add(1)
			}
		})
	}
	for kill := range kills {
		for done.Load() < int64(owners*sagas*(kill+1)/(kills+2)) && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		require.NoError(t, server.Kill())
		require.NoError(t, server.Start(ctx))
	}
	wg.Wait()
	require.NoError(t, ctx.Err())
	t.Logf("%d kills: %d writes failed and were repeated", kills, failed.Load())
	require.GreaterOrEqual(t, failed.Load(), int64(kills), "the kills have tested nothing")
	require.Equal(t, owners*sagas, f.count(t, "SELECT count(*) FROM sagas WHERE status = 'COMPLETED' AND revision = 5 AND token = 1"))
	require.Equal(t, owners*sagas*len(plan), f.count(t, "SELECT count(*) FROM saga_outbox"))
	require.Equal(t, owners*sagas*len(plan), f.count(t, "SELECT count(DISTINCT (saga_id, topic)) FROM saga_outbox"))
}

// poison makes PostgreSQL refuse some sagas, as it does what no check of ours foresees.
func (f fixture) poison(tb testing.TB) {
	tb.Helper()
	f.exec(tb, `CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.id LIKE 'poison%' AND NEW.revision > 0 THEN RAISE EXCEPTION 'poisoned'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER poison BEFORE UPDATE ON sagas FOR EACH ROW EXECUTE FUNCTION poison()`)
}

// Hundreds write at once, and what two of them write is refused by PostgreSQL.
func TestOneBadWriteDoesNotFailItsNeighbours(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.poison(t)
	var writes []*saga.Write
	for n := range 300 {
		id := fmt.Sprint("fine", n)
		if n == 100 || n == 217 {
			id = fmt.Sprint("poison", n)
		}
		writes = append(writes, next(f.create(t, id, "me")))
	}
	var wg sync.WaitGroup
	for n, w := range writes {
		wg.Go(func() {
			err := f.Save(t.Context(), []*saga.Write{w})
			bad := n == 100 || n == 217
			if err != nil || (w.Err != nil) != bad {
				t.Error(n, err, w.Err)
			}
		})
	}
	wg.Wait()
	e, ok := errors.AsType[*pgconn.PgError](writes[100].Err)
	require.True(t, ok)
	require.Equal(t, "poisoned", e.Message)
	require.Equal(t, 298, f.count(t, "SELECT count(*) FROM sagas WHERE revision = 1"))

	many := writes[:0]
	for r, err := range f.Find(t.Context(), saga.Filter{}) {
		require.NoError(t, err)
		many = append(many, next(r))
	}
	require.NoError(t, f.Save(t.Context(), many), "nor in one call")
	for _, w := range many {
		require.Equal(t, w.Record.ID[:4] == "pois", w.Err != nil, w.Record.ID)
	}
}

// Somebody's row is locked. Those who wait for it can hang up, and find out later.
func TestCancelledWhileWaitingForALock(t *testing.T) {
	t.Parallel()
	f := open(t)
	var writes []*saga.Write
	for n := range 8 {
		writes = append(writes, next(f.create(t, fmt.Sprint(n), "me")))
	}
	tx, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), "SELECT FROM sagas FOR UPDATE")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var hungUp atomic.Int64
	for _, w := range writes {
		wg.Go(func() {
			if err := f.Save(ctx, []*saga.Write{w}); errors.Is(err, context.Canceled) {
				hungUp.Add(1)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	cancel()
	wg.Wait()
	require.EqualValues(t, 8, hungUp.Load())
	require.NoError(t, tx.Rollback(t.Context()))
	for _, w := range writes {
		require.NoError(t, f.save(t, w))
	}
	require.Equal(t, 8, f.count(t, "SELECT count(*) FROM sagas WHERE revision = 1"))
}

// The server does not answer: whoever leads does not wait for ever.
func TestTimeout(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := next(f.create(t, "1", "me"))
	tx, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), "SELECT FROM sagas FOR UPDATE")
	require.NoError(t, err)
	store := pgsaga.NewStore(f.pool, &pgsaga.Options{Timeout: 100 * time.Millisecond})
	err = store.Save(t.Context(), []*saga.Write{w})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	e, ok := errors.AsType[interface {
		error
		Retryable() bool
	}](err)
	require.True(t, ok)
	require.True(t, e.Retryable())
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, f.save(t, w))
}

// A store that needed a second connection while it holds one would wait for itself.
func TestPoolOfOneConnection(t *testing.T) {
	t.Parallel()
	f := openOn(t, newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 1 }))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for o := range 32 {
		wg.Go(func() {
			for n := range 3 {
				if failed, err := f.run(ctx, fmt.Sprint(o, "-", n)); err != nil || failed > 0 {
					t.Error(failed, err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, 96, f.count(t, "SELECT count(*) FROM sagas WHERE status = 'COMPLETED'"))
}

// Poolers ask for other ways to send statements than the driver's default; the defaults
// of a server may be stricter.
func TestOtherConnectionSettings(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*pgx.ConnConfig){
		"cache describe":  func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe },
		"describe exec":   func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec },
		"exec":            func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeExec },
		"simple protocol": func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol },
		"serializable":    func(c *pgx.ConnConfig) { c.RuntimeParams["default_transaction_isolation"] = "serializable" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openOn(t, newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 8; edit(c.ConnConfig) }))
			f.exec(t, "CREATE TABLE effects (id text)")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var wg sync.WaitGroup
			for o := range 16 {
				wg.Go(func() {
					if _, err := f.run(ctx, fmt.Sprint("at once ", o)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			r := f.create(t, "1", "me")
			require.NoError(t, f.Deliver(ctx, "1", "go", []byte(`{"☃": "'"}`)))
			w := ahead(r)
			require.NoError(t, f.SaveTx(ctx, w, apply(w, fine)))
			require.Equal(t, w.Record.Data, f.find(t, "1").Data)
			require.NoError(t, f.Renew(ctx, []*saga.Lease{{ID: "1", Token: 1}}, time.Minute))
			again := ahead(r)
			require.NoError(t, f.SaveTx(ctx, again, nil))
			require.Len(t, f.relay(t, 100), 80)
			f.expire(t)
			require.Len(t, f.claim(t, "you", 10), 1)
			require.ErrorIs(t, f.save(t, next(w.Record)), saga.ErrFenced)
			n, err := f.Sweep(ctx, -time.Hour, 100)
			require.NoError(t, err)
			require.Equal(t, 16, n)
		})
	}
}

// A lease is renewed while its saga is written, which PostgreSQL does not allow where
// sessions are REPEATABLE READ: not at once, and no lease runs out for that.
func TestLeasesAreRenewedBesideACheckpoint(t *testing.T) {
	t.Parallel()
	f := openOn(t, newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) {
		c.MaxConns = 4
		c.ConnConfig.RuntimeParams["default_transaction_isolation"] = "repeatable read"
	}))
	var leases []*saga.Lease
	for _, id := range []string{"1", "2", "3"} {
		f.create(t, id, "me")
		leases = append(leases, &saga.Lease{ID: id, Token: 1})
	}
	leases[2].Token = 2 // it has another owner
	tx, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	var pid int
	require.NoError(t, tx.QueryRow(t.Context(), "UPDATE sagas SET revision = revision WHERE id = '2' RETURNING pg_backend_pid()").Scan(&pid))
	done := make(chan error, 1)
	go func() { done <- f.Renew(t.Context(), leases, time.Hour) }()
	for f.count(t, "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))", pid) == 0 {
		select {
		case err := <-done:
			t.Fatal("it has not waited for the row", err)
		case <-time.After(time.Millisecond):
		}
	}
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-done)
	require.NoError(t, leases[0].Err)
	require.NoError(t, leases[1].Err)
	require.ErrorIs(t, leases[2].Err, saga.ErrFenced)
	require.Equal(t, 2, f.count(t, "SELECT count(*) FROM sagas WHERE due_at > now() + interval '59 minutes'"))
}

// Where sessions are REPEATABLE READ, PostgreSQL refuses a statement that comes to a row which was changed behind its snapshot.
func TestWhatMeetsACheckpointIsDoneAgain(t *testing.T) {
	t.Parallel()
	url := testdb.PostgresURL(t)
	f := openOn(t, newPool(t, url, func(c *pgxpool.Config) {
		c.MaxConns = 2
		c.ConnConfig.RuntimeParams["default_transaction_isolation"] = "repeatable read"
	}))
	watch := fixture{pool: newPool(t, url, func(*pgxpool.Config) {})}
	const due = "due_at = now() - interval '1 second'"
	for name, does := range map[string]struct {
		before string // what the row is changed to
		call   func(id string) (int, error)
	}{
		"Deliver": {due, func(id string) (int, error) { return 1, f.Deliver(t.Context(), id, "go", []byte("{}")) }},
		"Claim": {due, func(id string) (int, error) {
			claimed, err := f.Claim(t.Context(), saga.Claim{Owner: "you", Lease: time.Minute, Definitions: []string{begun(id, "me").Definition}, Limit: 1, IDs: []string{id}})
			return len(claimed), err
		}},
		"Sweep": {"status = 'COMPLETED', over_at = now() - interval '2 hours', due_at = NULL", func(string) (int, error) {
			return f.Sweep(t.Context(), time.Hour, 10)
		}},
	} {
		tx, err := f.pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
		_, _ = does.call("nobody") // to prepare a statement waits for the table too, and has no snapshot yet
		f.create(t, name, "me")
		_, err = f.pool.Exec(t.Context(), "UPDATE sagas SET "+does.before+" WHERE id = $1", name)
		require.NoError(t, err)
		var pid int
		require.NoError(t, tx.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&pid))
		_, err = tx.Exec(t.Context(), "LOCK TABLE sagas")
		require.NoError(t, err)
		type answer struct {
			n   int
			err error
		}
		done := make(chan answer, 1)
		go func() {
			n, err := does.call(name)
			done <- answer{n, err}
		}()
		for watch.count(t, "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))", pid) == 0 {
			select {
			case a := <-done:
				t.Fatal(name, "has not waited for the table", a.err)
			case <-time.After(time.Millisecond):
			}
		}
		_, err = tx.Exec(t.Context(), "UPDATE sagas SET revision = revision WHERE id = $1", name)
		require.NoError(t, err)
		require.NoError(t, tx.Commit(t.Context()))
		require.Equal(t, answer{1, nil}, <-done, name)
	}
}

func TestMissingTables(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	f := fixture{pgsaga.NewStore(pool, nil), pool}
	missing, ok := errors.AsType[*pgsaga.SchemaError](f.CheckSchema(t.Context()))
	require.True(t, ok)
	require.Equal(t, &pgsaga.SchemaError{Line: "saga", By: "pgsaga.Migrate", Have: 0, Want: 1}, missing)
	for name, call := range map[string]func(ctx context.Context) error{
		"Create": func(ctx context.Context) error {
			return f.Create(ctx, []*saga.Create{{Record: begun("1", "me"), Lease: time.Minute}})
		},
		"CreateTx": func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				return f.CreateTx(ctx, tx, []*saga.Create{{Record: begun("1", "me"), Lease: time.Minute}})
			})
		},
		"Save": func(ctx context.Context) error {
			return f.Save(ctx, []*saga.Write{{Record: begun("1", "me")}})
		},
		"SaveTx": func(ctx context.Context) error {
			return f.SaveTx(ctx, &saga.Write{Record: begun("1", "me")}, func(context.Context, any) error { panic("must not run") })
		},
		"Claim": func(ctx context.Context) error {
			_, err := f.Claim(ctx, saga.Claim{Owner: "me", Lease: time.Minute, Limit: 1})
			return err
		},
		"Renew":   func(ctx context.Context) error { return f.Renew(ctx, []*saga.Lease{{ID: "1", Token: 1}}, time.Minute) },
		"Deliver": func(ctx context.Context) error { return f.Deliver(ctx, "1", "paid", []byte("{}")) },
		"Find": func(ctx context.Context) error {
			for _, err := range f.Find(ctx, saga.Filter{}) {
				return err
			}
			return nil
		},
		"Sweep": func(ctx context.Context) error { _, err := f.Sweep(ctx, time.Hour, 1); return err },
		"Relay": func(ctx context.Context) error {
			_, err := f.Relay(ctx, 1, func(context.Context, []saga.Message) error { panic("must not run") })
			return err
		},
	} {
		err := call(t.Context())
		missing, ok := errors.AsType[*pgsaga.SchemaError](err)
		require.True(t, ok, "%s: %v", name, err)
		require.Equal(t, 1, missing.Want)
		require.ErrorContains(t, err, "pgsaga.Migrate brings them to version 1", name)
	}
	require.NoError(t, pgsaga.Migrate(t.Context(), pool, nil))
	require.NoError(t, f.CheckSchema(t.Context()))
	f.create(t, "1", "me")
}
