package pgidem_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/testdb"
)

const txPatience = 30 * time.Second

// shop sells: each sale is a row, and its number is the receipt.
type shop struct {
	pool  *pgxpool.Pool
	guard *pgidem.TxGuard
	runs  atomic.Int32
}

// openPool opens a pool that is closed with the test.
func openPool(t testing.TB, config *pgxpool.Config) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func newShop(t *testing.T, pool *pgxpool.Pool, o *pgidem.TxOptions) *shop {
	t.Helper()
	require.NoError(t, pgidem.Migrate(t.Context(), pool, nil))
	execTx(t, pool, "CREATE TABLE IF NOT EXISTS sales (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text NOT NULL)")
	return &shop{pool: pool, guard: newTxGuard(t, pool, o)}
}

func newTxGuard(t testing.TB, db pgidem.DB, o *pgidem.TxOptions) *pgidem.TxGuard {
	t.Helper()
	guard, err := pgidem.NewTxGuard(db, o)
	require.NoError(t, err)
	return guard
}

// bothWays runs a test of what does not depend on when the key is looked up.
func bothWays(t *testing.T, test func(*testing.T, pgidem.TxOptions)) {
	t.Helper()
	for name, optimistic := range map[string]bool{"with BEGIN": false, "with COMMIT": true} {
		t.Run("looked up "+name, func(t *testing.T) {
			t.Parallel()
			test(t, pgidem.TxOptions{Optimistic: optimistic})
		})
	}
}

func execTx(t *testing.T, db pgidem.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func queryTx[T any](t *testing.T, db pgidem.DB, sql string, args ...any) (v T) {
	t.Helper()
	require.NoError(t, db.QueryRow(t.Context(), sql, args...).Scan(&v), sql)
	return v
}

func txKey(value string) idempotency.Key {
	return idempotency.Key{Scope: "tenant-7", Op: "sell", Value: value}
}

// sell sells what under a key of that name. meanwhile is called after the sale was written.
func (s *shop) sell(ctx context.Context, what, payload string, meanwhile func(context.Context, pgx.Tx) error) (idempotency.Result[int64], error) {
	return s.sellOn(ctx, s.guard, what, payload, meanwhile)
}

func (s *shop) sellOn(
	ctx context.Context, g *pgidem.TxGuard, what, payload string, meanwhile func(context.Context, pgx.Tx) error,
) (idempotency.Result[int64], error) {
	return pgidem.DoTx(ctx, g, txKey(what), idempotency.FingerprintOf([]byte(payload)), func(ctx context.Context, tx pgx.Tx) (id int64, err error) {
		s.runs.Add(1)
		if err := tx.QueryRow(ctx, "INSERT INTO sales (what) VALUES ($1) RETURNING id", what).Scan(&id); err != nil {
			return 0, err
		}
		if meanwhile != nil {
			if err := meanwhile(ctx, tx); err != nil {
				return 0, err
			}
		}
		return id, nil
	})
}

// sold fails unless what was sold n times, and nothing is left of the transactions that did not.
func (s *shop) sold(t *testing.T, what string, n int) {
	t.Helper()
	require.Equal(t, n, queryTx[int](t, s.pool, "SELECT count(*) FROM sales WHERE what = $1", what), "sales of %s", what)
	s.idle(t)
}

// idle fails if a connection to the schema is left in a transaction, or with a lock.
func (s *shop) idle(t *testing.T) {
	t.Helper()
	eventuallyTx(t, "transactions to end", func() bool {
		return queryTx[int](t, s.pool, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid IN
			(SELECT l.pid FROM pg_locks l WHERE l.relation = 'idempotency_records'::regclass AND l.pid <> pg_backend_pid())`) == 0
	})
}

func eventuallyTx(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(txPatience); !ok(); {
		require.True(t, time.Now().Before(end), "waited in vain for %s", what)
		select {
		case <-t.Context().Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// waiting waits until n sessions wait for the lock of a key in this schema.
func (s *shop) waiting(t *testing.T, n int) {
	t.Helper()
	eventuallyTx(t, "duplicates to wait", func() bool { return s.waiters(t) == n })
}

func (s *shop) waiters(t *testing.T) int {
	t.Helper()
	return queryTx[int](t, s.pool, `SELECT count(*) FROM pg_locks w WHERE w.locktype = 'advisory' AND NOT w.granted AND EXISTS
		(SELECT FROM pg_locks r WHERE r.pid = w.pid AND r.relation = 'idempotency_records'::regclass)`)
}

func (s *shop) requireReplay(t *testing.T, what, payload string, want int64) {
	t.Helper()
	before := s.runs.Load()
	for range 2 {
		result, err := s.sell(t.Context(), what, payload, nil)
		require.NoError(t, err)
		require.Equal(t, idempotency.Result[int64]{Value: want, Replayed: true}, result)
	}
	require.Equal(t, before, s.runs.Load())
}

func TestDoTxRunsOnceAndReplays(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	result, err := s.sell(t.Context(), "a", "10 EUR", nil)
	require.NoError(t, err)
	require.False(t, result.Replayed)
	s.requireReplay(t, "a", "10 EUR", result.Value)
	_, err = s.sell(t.Context(), "a", "99 EUR", nil)
	require.ErrorIs(t, err, idempotency.ErrMismatch)

	other := &shop{pool: s.pool, guard: newTxGuard(t, s.pool, nil)} // one that has not seen the key
	_, err = other.sell(t.Context(), "a", "99 EUR", nil)
	require.ErrorIs(t, err, idempotency.ErrMismatch)
	other.requireReplay(t, "a", "10 EUR", result.Value)
	require.Zero(t, other.runs.Load())

	_, err = pgidem.DoTx(t.Context(), s.guard, idempotency.Key{Op: "sell", Value: "a"}, idempotency.Fingerprint{},
		func(context.Context, pgx.Tx) (int, error) { panic("must not run") })
	require.ErrorIs(t, err, idempotency.ErrInvalid)
	s.sold(t, "a", 1)
	require.EqualValues(t, 1, s.runs.Load())
}

func TestDoTxOnOtherDBs(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for name, db := range map[string]pgidem.DB{
		"connection": conn.Conn(), "connection of a pool": conn, "four methods": struct{ pgidem.DB }{pool}, "pool": pool,
	} {
		s := newShop(t, pool, nil)
		s.guard = newTxGuard(t, db, nil)
		_, err := s.sell(t.Context(), name, "", func(context.Context, pgx.Tx) error { return errors.New("declined") })
		require.EqualError(t, err, "declined", name)
		first, err := s.sell(t.Context(), name, "", nil)
		require.NoError(t, err, name)
		s.guard = newTxGuard(t, db, nil)
		s.requireReplay(t, name, "", first.Value)
		_, err = s.sell(t.Context(), name+" refused", "", func(context.Context, pgx.Tx) error { return idempotency.Permanent(errors.New("no")) })
		require.EqualError(t, err, "no", name)
		s.sold(t, name+" refused", 0)
		s.sold(t, name, 1)
		require.EqualValues(t, 'I', conn.Conn().PgConn().TxStatus(), name)
	}
}

// Poolers ask for other ways to send statements than the driver's default; the defaults of a server may be stricter.
func TestDoTxOnOtherConnectionSettings(t *testing.T) {
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
			conf := testdb.Postgres(t).Config()
			edit(conf.ConnConfig)
			pool := openPool(t, conf)
			s := newShop(t, pool, nil)
			s.storm(t, "storm", 40, s.guard, newTxGuard(t, s.pool, nil))
			require.EqualValues(t, 1, s.runs.Load())
			s.storm(t, "guessed", 40, elsewhere(t, s), elsewhere(t, s))
			first, err := s.sell(t.Context(), "a", "", nil)
			require.NoError(t, err)
			s.guard = newTxGuard(t, pool, nil)
			s.requireReplay(t, "a", "", first.Value)
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			result, err := s.sellOn(t.Context(), s.guard.In(tx), "b", "", nil)
			require.NoError(t, err)
			require.NoError(t, tx.Commit(t.Context()))
			s.requireReplay(t, "b", "", result.Value)
		})
	}
}

// storm sends duplicates by the guards of several processes, and wants one sale.
func (s *shop) storm(t *testing.T, what string, n int, guards ...*pgidem.TxGuard) {
	t.Helper()
	results, errs := make([]idempotency.Result[int64], n), make([]error, n)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			results[i], errs[i] = s.sellOn(t.Context(), guards[i%len(guards)], what, "", nil)
		})
	}
	close(start)
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	fresh := 0
	for _, r := range results {
		require.Equal(t, results[0].Value, r.Value)
		if !r.Replayed {
			fresh++
		}
	}
	require.Equal(t, 1, fresh)
	s.sold(t, what, 1)
}

func TestDoTxStorm(t *testing.T) {
	t.Parallel()
	for range 5 {
		s := newShop(t, testdb.Postgres(t), nil)
		s.storm(t, "a", 200, s.guard, newTxGuard(t, s.pool, nil))
		require.EqualValues(t, 1, s.runs.Load())
	}
}

func TestDoTxErrorRollsBackAndFreesTheKey(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		s := newShop(t, testdb.Postgres(t), &o)
		declined := errors.New("declined")
		for range 3 {
			_, err := s.sell(t.Context(), "a", "body", func(context.Context, pgx.Tx) error { return declined })
			require.Equal(t, declined, err)
			s.sold(t, "a", 0)
		}
		require.Zero(t, queryTx[int](t, s.pool, "SELECT count(*) FROM idempotency_records"))
		result, err := s.sell(t.Context(), "a", "corrected body", nil)
		require.NoError(t, err)
		s.requireReplay(t, "a", "corrected body", result.Value)
	})
}

func TestDoTxPanicRollsBackAndGoesOn(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		s := newShop(t, testdb.Postgres(t), &o)
		require.PanicsWithValue(t, "boom", func() {
			_, _ = s.sell(t.Context(), "a", "", func(context.Context, pgx.Tx) error { panic("boom") })
		})
		s.sold(t, "a", 0)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = s.sell(t.Context(), "a", "", func(context.Context, pgx.Tx) error { runtime.Goexit(); return nil })
		})
		wg.Wait()
		s.sold(t, "a", 0)
		_, err := s.sell(t.Context(), "a", "", nil)
		require.NoError(t, err)
		s.sold(t, "a", 1)
	})
}

// The refusal is kept; what was written before it is not.
func TestDoTxPermanentErrorIsReplayedWithoutItsWrites(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]string{"sound transaction": "SELECT 1", "failed transaction": "SELECT 1/0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, testdb.Postgres(t), nil)
			refused := &idempotency.PermanentError{Code: "card_declined", Message: "the card was declined"}
			refuse := func(ctx context.Context, tx pgx.Tx) error {
				_, _ = tx.Exec(ctx, spoil)
				return refused
			}
			result, err := s.sell(t.Context(), "a", "body", refuse)
			require.Equal(t, refused, err)
			require.False(t, result.Replayed)
			tx, err := s.pool.Begin(t.Context())
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
			for _, g := range []*pgidem.TxGuard{s.guard, newTxGuard(t, s.pool, nil), s.guard.In(tx), newTxGuard(t, tx, nil)} {
				result, err := s.sellOn(t.Context(), g, "a", "body", nil)
				again, ok := errors.AsType[*idempotency.PermanentError](err)
				require.True(t, ok, "%v", err)
				require.Equal(t, &idempotency.PermanentError{Code: refused.Code, Message: refused.Message, Replayed: true}, again)
				require.True(t, result.Replayed)
			}
			_, err = s.sell(t.Context(), "a", "other body", nil)
			require.ErrorIs(t, err, idempotency.ErrMismatch)
			require.EqualValues(t, 1, s.runs.Load())
			require.NoError(t, tx.Rollback(t.Context()))
			s.sold(t, "a", 0)

			store := newStore(t, s.pool)
			guard, err := idempotency.New(store, nil)
			require.NoError(t, err)
			_, err = idempotency.Do(t.Context(), guard, txKey("a"), idempotency.FingerprintOf([]byte("body")),
				func(context.Context, *idempotency.Run) (int64, error) { panic("must not run") })
			require.EqualError(t, err, refused.Message)
		})
	}
}

// A refuses; B, which was waiting, is let in before A's refusal is stored. Both get the answer that was stored first.
func TestDoTxRefusalsOfDuplicatesAgree(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	var n atomic.Int32
	var wg sync.WaitGroup
	messages := make([]string, 8)
	for i := range messages {
		g := newTxGuard(t, s.pool, nil) // each a process of its own
		wg.Go(func() {
			_, err := s.sellOn(t.Context(), g, "a", "", func(context.Context, pgx.Tx) error {
				return idempotency.Permanent(fmt.Errorf("refusal %d", n.Add(1)))
			})
			messages[i] = err.Error()
		})
	}
	wg.Wait()
	for _, m := range messages {
		require.Equal(t, messages[0], m)
		require.True(t, strings.HasPrefix(m, "refusal "), m)
	}
	s.sold(t, "a", 0)
}

func TestDoTxValueThatCannotBeKeptRollsBack(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), &pgidem.TxOptions{MaxResponse: 100})
	do := func(value any) error {
		_, err := pgidem.DoTx(t.Context(), s.guard, txKey("a"), idempotency.Fingerprint{}, func(ctx context.Context, tx pgx.Tx) (any, error) {
			_, err := tx.Exec(ctx, "INSERT INTO sales (what) VALUES ('a')")
			return value, err
		})
		return err
	}
	require.ErrorContains(t, do(make(chan int)), "encode")
	err := do(strings.Repeat("x", 99)) // and quotes
	large, ok := errors.AsType[*idempotency.TooLargeError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, &idempotency.TooLargeError{Size: 101, Limit: 100}, large)
	s.sold(t, "a", 0)
	require.Zero(t, queryTx[int](t, s.pool, "SELECT count(*) FROM idempotency_records"))
	require.NoError(t, do(strings.Repeat("x", 98)))
	s.sold(t, "a", 1)
}

func TestDoTxKeepsBytesAsTheyAre(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	for name, body := range map[string][]byte{"json": []byte(`{"paid":true}`), "binary": {0, 255, 1}, "empty": {}, "nil": nil} {
		for range 2 {
			result, err := pgidem.DoTx(t.Context(), s.guard, txKey(name), idempotency.Fingerprint{},
				func(context.Context, pgx.Tx) ([]byte, error) { return body, nil })
			require.NoError(t, err)
			require.True(t, bytes.Equal(body, result.Value), name)
		}
	}
}

// Whoever ran the work writes into its result, while those who have waited read theirs.
func TestDoTxBytesAreEachCallersOwn(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			result, err := pgidem.DoTx(t.Context(), s.guard, txKey("a"), idempotency.Fingerprint{},
				func(context.Context, pgx.Tx) ([]byte, error) { return []byte("body"), nil })
			if err != nil || string(result.Value) != "body" {
				t.Errorf("%q, %v", result.Value, err)
				return
			}
			clear(result.Value)
		})
	}
	wg.Wait()
}

func TestDoTxExpires(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), &pgidem.TxOptions{TTL: time.Hour})
	first, err := s.sell(t.Context(), "a", "body", nil)
	require.NoError(t, err)
	held := queryTx[time.Duration](t, s.pool, "SELECT held_until - claimed_at FROM idempotency_records")
	require.InDelta(t, time.Hour, held, float64(10*time.Second))
	before := queryTx[int64](t, s.pool, "SELECT token FROM idempotency_records")
	require.InDelta(t, time.Now().UnixMicro(), before, 60e6)
	s.requireReplay(t, "a", "body", first.Value)

	// It is over, and of a clock that was ahead: the token grows from its own.
	ahead := time.Now().Add(20 * time.Minute).UnixMicro()
	execTx(t, s.pool, "UPDATE idempotency_records SET held_until = clock_timestamp(), token = $1", ahead)
	_, err = s.sell(t.Context(), "a", "another body", func(context.Context, pgx.Tx) error { return errors.New("declined") })
	require.EqualError(t, err, "declined")
	require.Equal(t, ahead, queryTx[int64](t, s.pool, "SELECT token FROM idempotency_records"), "the old record is back")
	second, err := s.sell(t.Context(), "a", "another body", nil)
	require.NoError(t, err)
	require.False(t, second.Replayed)
	require.NotEqual(t, first.Value, second.Value)
	require.Equal(t, ahead+1, queryTx[int64](t, s.pool, "SELECT token FROM idempotency_records"))
	s.requireReplay(t, "a", "another body", second.Value)
	s.sold(t, "a", 2)
}

func TestDoTxDuplicateWaitsNoLongerThanItsPatience(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	enter, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := s.sell(t.Context(), "a", "", func(context.Context, pgx.Tx) error { close(enter); <-leave; return nil })
		if err != nil {
			t.Error(err)
		}
	})
	<-enter
	inFlight := func(g *pgidem.TxGuard, ctx context.Context) error {
		_, err := s.sellOn(ctx, g, "a", "", func(context.Context, pgx.Tx) error { panic("must not run") })
		e, ok := errors.AsType[*idempotency.InFlightError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, txKey("a"), e.Key)
		require.Positive(t, e.RetryAfter)
		return err
	}
	none := &pgidem.TxOptions{Wait: -1}
	short := &pgidem.TxOptions{Wait: 100 * time.Millisecond}
	tx, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	execTx(t, tx, "SET LOCAL lock_timeout = '7s'")
	for _, o := range []*pgidem.TxOptions{none, short} {
		begin := time.Now()
		_ = inFlight(newTxGuard(t, s.pool, o), t.Context()) // another process
		_ = inFlight(newTxGuard(t, tx, o), t.Context())     // a transaction of the caller's
		require.Less(t, time.Since(begin), 10*time.Second)
	}
	require.Equal(t, "7s", queryTx[string](t, tx, "SHOW lock_timeout"))
	execTx(t, tx, "INSERT INTO sales (what) VALUES ('it is usable')")
	soon, cancel := context.WithTimeout(t.Context(), 2*time.Second) // after which it waits for sure
	defer cancel()
	_ = inFlight(newTxGuard(t, s.pool, nil), soon)
	require.ErrorIs(t, inFlight(s.guard, soon), context.DeadlineExceeded)
	close(leave)
	wg.Wait()
	s.sold(t, "a", 1)
	require.EqualValues(t, 1, s.runs.Load())
	require.NoError(t, tx.Commit(t.Context()))
	s.sold(t, "it is usable", 1)
}

// The server's limit for a statement is shorter than the wait: the key is in flight all the same, and the caller's transaction as it was.
func TestDoTxDuplicateWaitsNoLongerThanAStatementMay(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	_, err := s.sell(t.Context(), "a", "", func(context.Context, pgx.Tx) error {
		tx := beginTx(t, s.pool, "")
		execTx(t, tx, "SET LOCAL statement_timeout = 500")
		for _, optimistic := range []bool{false, true} {
			g := newTxGuard(t, tx, &pgidem.TxOptions{Optimistic: optimistic})
			_, err := s.sellOn(t.Context(), g, "a", "", nil)
			require.ErrorIs(t, err, idempotency.ErrInFlight)
			_, err = s.sellOn(t.Context(), g, "b", "", nil)
			require.NoError(t, err)
		}
		return tx.Commit(t.Context())
	})
	require.NoError(t, err)
	s.sold(t, "a", 1)
	s.sold(t, "b", 1)
}

// Who has waited with settings of ours works on with the caller's.
func TestDoTxRestoresSettingsAfterAWait(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	enter, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		_, _ = s.sell(t.Context(), "a", "", func(context.Context, pgx.Tx) error { close(enter); <-leave; return errors.New("declined") })
	})
	<-enter
	tx := beginTx(t, s.pool, "")
	execTx(t, tx, "SET LOCAL lock_timeout = '7s'")
	execTx(t, tx, "SET LOCAL enable_seqscan = off")
	const settings = "SELECT current_setting('lock_timeout') || ' ' || current_setting('enable_seqscan')"
	wg.Go(func() {
		_, err := s.sellOn(t.Context(), s.guard.In(tx), "a", "", func(ctx context.Context, tx pgx.Tx) (err error) {
			var are string
			if err = tx.QueryRow(ctx, settings).Scan(&are); are != "7s off" {
				t.Errorf("lock_timeout and enable_seqscan are %q in the work", are)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	s.waiting(t, 1)
	close(leave)
	wg.Wait()
	require.Equal(t, "7s off", queryTx[string](t, tx, settings))
	require.NoError(t, tx.Commit(t.Context()))
	s.sold(t, "a", 1)
}

// Advisory locks are the whole database's; keys are a table's.
func TestDoTxKeysOfTwoTablesAreApart(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	s2 := newShop(t, testdb.Postgres(t), &pgidem.TxOptions{Wait: -1})
	_, err := s.sell(t.Context(), "a", "", func(ctx context.Context, _ pgx.Tx) error {
		_, err := s2.sell(ctx, "a", "another payload", nil)
		return err
	})
	require.NoError(t, err)
	s.sold(t, "a", 1)
	s2.sold(t, "a", 1)
}

// comparesWithNothing is a DB that is no key of a map.
type comparesWithNothing struct {
	pgidem.DB
	_ []int
}

// The trap: the two legs of a transfer are made at the same time, under one key and by one guard, each on the database of its
// account. The second is handed the result of the first, and is never made.
func TestDoTxResultOfAnotherDatabaseIsNotReplayed(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		s, s2 := newShop(t, testdb.Postgres(t), &o), newShop(t, testdb.Postgres(t), nil)
		for name, db := range map[string]pgidem.DB{"pool": s2.pool, "own": comparesWithNothing{DB: s2.pool}} {
			var there idempotency.Result[int64]
			var failure error
			var wg sync.WaitGroup
			first, err := s.sell(t.Context(), name, "", func(context.Context, pgx.Tx) error {
				done := make(chan struct{})
				wg.Go(func() {
					defer close(done)
					there, failure = s2.sellOn(t.Context(), s.guard.In(db), name, "", nil)
				})
				select {
				case <-done:
				case <-time.After(time.Second): // it waits for this one
				}
				return nil
			})
			wg.Wait()
			require.NoError(t, errors.Join(err, failure))
			require.False(t, first.Replayed)
			require.False(t, there.Replayed, name)
			s.sold(t, name, 1)
			s2.sold(t, name, 1)
		}
	})
}

func TestNewTxGuardReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := pgidem.NewTxGuard(nil, &pgidem.TxOptions{
		TTL: -1, Wait: time.Microsecond, Isolation: "read uncommitted", Attempts: -1, CommitTimeout: 1 << 62, MaxResponse: 1 << 40,
	})
	require.ErrorIs(t, err, idempotency.ErrInvalid)
	for _, field := range []string{"database is nil", "ttl is", "wait is shorter", "isolation is", "attempts is", "commit timeout is", "max response is"} {
		require.ErrorContains(t, err, field)
	}
	_, err = pgidem.NewTxGuard(nil, &pgidem.TxOptions{Wait: 25 * 24 * time.Hour})
	require.ErrorContains(t, err, "wait is longer")
}

func TestDoTxWithoutTheTable(t *testing.T) {
	t.Parallel()
	guard := newTxGuard(t, testdb.Postgres(t), nil)
	missing, ok := errors.AsType[*pgidem.SchemaError](guard.CheckSchema(t.Context()))
	require.True(t, ok)
	require.Equal(t, 0, missing.Have)
	_, err := pgidem.DoTx(t.Context(), guard, txKey("a"), idempotency.Fingerprint{}, func(context.Context, pgx.Tx) (int, error) { panic("must not run") })
	e, ok := errors.AsType[*pgconn.PgError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "42P01", e.Code)
	require.ErrorAs(t, err, new(*pgidem.SchemaError))
	require.ErrorContains(t, err, "pgidem.Migrate")
	guessing := newTxGuard(t, testdb.Postgres(t), &pgidem.TxOptions{Optimistic: true})
	_, err = pgidem.DoTx(t.Context(), guessing, txKey("a"), idempotency.Fingerprint{}, func(context.Context, pgx.Tx) (int, error) { return 1, nil })
	require.ErrorContains(t, err, "pgidem.Migrate")
}

func TestDoTxDoesNotSpeakOfTheCallersTables(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	_, err := pool.Exec(t.Context(), `CREATE TABLE paid (id int);
		CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO told VALUES (1); RETURN NEW; END';
		CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON paid DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tell()`)
	require.NoError(t, err)
	for name, sql := range map[string]string{"in the work": "INSERT INTO told VALUES (1)", "at the commit": "INSERT INTO paid VALUES (1)"} {
		_, err := pgidem.DoTx(t.Context(), newTxGuard(t, pool, nil), txKey("a"), idempotency.Fingerprint{}, func(ctx context.Context, tx pgx.Tx) (int, error) {
			_, err := tx.Exec(ctx, sql)
			return 1, err
		})
		require.ErrorContains(t, err, `"told" does not exist`, name)
		_, ours := errors.AsType[*pgidem.SchemaError](err)
		require.False(t, ours, "%s: %v", name, err)
	}
}

func TestDoTxInSchema(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	const schema = "Odd \"schema\" of DoTx"
	require.NoError(t, pgidem.Migrate(t.Context(), pool, &pgidem.MigrateOptions{Schema: schema}))
	t.Cleanup(func() {
		_, _ = pool.Exec(context.WithoutCancel(t.Context()), "DROP SCHEMA "+pgx.Identifier{schema}.Sanitize()+" CASCADE")
	})
	guard := newTxGuard(t, pool, &pgidem.TxOptions{Schema: schema})
	require.NoError(t, guard.CheckSchema(t.Context()))
	for _, replayed := range []bool{false, true} {
		result, err := pgidem.DoTx(t.Context(), guard, txKey("a"), idempotency.Fingerprint{}, func(context.Context, pgx.Tx) (int, error) { return 7, nil })
		require.NoError(t, err)
		require.Equal(t, idempotency.Result[int]{Value: 7, Replayed: replayed}, result)
	}
}
