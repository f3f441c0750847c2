package pgidem_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/testdb"
)

// retryable asks an error as a caller would.
func retryable(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Retryable() bool
	}](err)
	return ok && e.Retryable()
}

func beginTx(t *testing.T, pool *pgxpool.Pool, level pgx.TxIsoLevel) pgx.Tx {
	t.Helper()
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	return tx
}

// The caller's commit decides, for the key as for the sale.
func TestDoTxSharesTheCallersFate(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		what := string(level)
		tx := beginTx(t, s.pool, level)
		execTx(t, tx, "INSERT INTO sales (what) VALUES ('before')")
		result, err := s.sellOn(t.Context(), s.guard.In(tx), what, "", nil)
		require.NoError(t, err)
		again, err := s.sellOn(t.Context(), s.guard.In(tx), what, "", nil) // in the same transaction
		require.NoError(t, err)
		require.Equal(t, idempotency.Result[int64]{Value: result.Value, Replayed: true}, again)
		require.NoError(t, tx.Rollback(t.Context()))
		s.sold(t, what, 0)

		tx = beginTx(t, s.pool, level)
		result, err = s.sellOn(t.Context(), s.guard.In(tx), what, "", nil)
		require.NoError(t, err)
		require.False(t, result.Replayed, "what was rolled back was never answered")
		require.NoError(t, tx.Commit(t.Context()))
		s.sold(t, what, 1)
		s.requireReplay(t, what, "", result.Value)
	}
	s.sold(t, "before", 0)
}

// The trap: the guard is on the connection on which the caller has begun, and not on the transaction. There is no transaction within another:
// DoTx would commit the caller's, or roll it back.
func TestDoTxDoesNotEndATransactionOfItsConnection(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		s := newShop(t, testdb.Postgres(t), nil)
		conn, err := s.pool.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		for name, db := range map[string]pgidem.DB{"connection": conn.Conn(), "connection of a pool": conn} {
			g := newTxGuard(t, db, &o)
			for _, fail := range []error{nil, errors.New("declined")} {
				tx, err := conn.Begin(t.Context())
				require.NoError(t, err)
				execTx(t, tx, "INSERT INTO sales (what) VALUES ('of the caller')")
				_, err = s.sellOn(t.Context(), g, name, "", func(context.Context, pgx.Tx) error { return fail })
				require.ErrorIs(t, err, idempotency.ErrInvalid, name)
				_, err = s.sellOn(t.Context(), s.guard.In(tx), name, "", nil)
				require.NoError(t, err)
				_, err = s.sellOn(t.Context(), s.guard.In(conn), name, "", nil) // by a guard that knows the key
				require.ErrorIs(t, err, idempotency.ErrInvalid, name)
				require.Equal(t, 2, queryTx[int](t, tx, "SELECT count(*) FROM sales"))
				require.NoError(t, tx.Rollback(t.Context()))
			}
			s.sold(t, "of the caller", 0)
			_, err = s.sellOn(t.Context(), g, name, "", nil)
			require.NoError(t, err)
			s.sold(t, name, 1)
			execTx(t, s.pool, "TRUNCATE sales")
		}
	})
}

func TestDoTxFailureLeavesTheCallersTransactionAsItWas(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	tx := beginTx(t, s.pool, "")
	execTx(t, tx, "INSERT INTO sales (what) VALUES ('before')")
	g := s.guard.In(tx)
	for name, fail := range map[string]func(context.Context, pgx.Tx) error{
		"error":     func(context.Context, pgx.Tx) error { return errors.New("declined") },
		"SQL error": func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "SELECT 1/0"); return err },
		"SQL error that it forgets": func(ctx context.Context, tx pgx.Tx) error {
			_, _ = tx.Exec(ctx, "SELECT 1/0")
			return nil
		},
	} {
		_, err := s.sellOn(t.Context(), g, name, "", fail)
		require.Error(t, err, name)
	}
	require.PanicsWithValue(t, "boom", func() {
		_, _ = s.sellOn(t.Context(), g, "panic", "", func(context.Context, pgx.Tx) error { panic("boom") })
	})
	_, err := s.sellOn(t.Context(), g, "refused", "", func(context.Context, pgx.Tx) error { return idempotency.Permanent(errors.New("no")) })
	require.EqualError(t, err, "no")
	result, err := s.sellOn(t.Context(), g, "a", "", nil)
	require.NoError(t, err)
	execTx(t, tx, "INSERT INTO sales (what) VALUES ('after')")
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, 3, queryTx[int](t, s.pool, "SELECT count(*) FROM sales"))
	require.Equal(t, 2, queryTx[int](t, s.pool, "SELECT count(*) FROM idempotency_records"), "a, and the refusal")
	s.requireReplay(t, "a", "", result.Value)
}

// The inner key's savepoint has the name of the outer's, and must not be taken for it.
func TestDoTxWithinDoTx(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	_, err := s.sell(t.Context(), "outer", "", func(ctx context.Context, tx pgx.Tx) error {
		if _, err := s.sellOn(ctx, s.guard.In(tx), "inner", "", nil); err != nil {
			return err
		}
		_, err := s.sellOn(ctx, s.guard.In(tx), "inner refused", "", func(context.Context, pgx.Tx) error { return errors.New("declined") })
		require.EqualError(t, err, "declined")
		return nil
	})
	require.NoError(t, err)
	s.sold(t, "outer", 1)
	s.sold(t, "inner", 1)
	s.sold(t, "inner refused", 0)

	// The transaction has failed before the inner call, which must not mend it by what the outer has made.
	tx := beginTx(t, s.pool, "")
	_, err = s.sellOn(t.Context(), s.guard.In(tx), "outer 2", "", func(ctx context.Context, tx pgx.Tx) error {
		_, _ = tx.Exec(ctx, "SELECT 1/0")
		_, err := s.sellOn(ctx, s.guard.In(tx), "inner 2", "", nil)
		require.Error(t, err)
		return nil
	})
	require.Error(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	s.sold(t, "outer 2", 0)
	s.sold(t, "inner 2", 0)

	// The same key within itself finds itself at work.
	short := newTxGuard(t, s.pool, &pgidem.TxOptions{Wait: 50 * time.Millisecond})
	_, err = s.sellOn(t.Context(), short, "itself", "", func(ctx context.Context, _ pgx.Tx) error {
		_, err := s.sellOn(ctx, short, "itself", "", nil)
		return err
	})
	require.ErrorIs(t, err, idempotency.ErrInFlight)
	s.sold(t, "itself", 0)
}

// The work cannot end the transaction, and has nothing of it when it has returned.
func TestDoTxTransactionIsLent(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	for _, callers := range []bool{false, true} {
		g, end := s.guard, func() {}
		if callers {
			tx := beginTx(t, s.pool, "")
			g, end = s.guard.In(tx), func() { require.NoError(t, tx.Commit(t.Context())) }
		}
		what := fmt.Sprint("lent ", callers)
		var kept pgx.Tx
		_, err := s.sellOn(t.Context(), g, what, "", func(ctx context.Context, tx pgx.Tx) error {
			kept = tx
			require.Error(t, tx.Commit(ctx))
			require.Error(t, tx.Rollback(ctx))
			err := pgx.BeginFunc(ctx, tx, func(nested pgx.Tx) error {
				_, _ = nested.Exec(ctx, "INSERT INTO sales (what) VALUES ('nested')")
				return errors.New("nested")
			})
			require.EqualError(t, err, "nested")
			large := tx.LargeObjects()
			id, err := large.Create(ctx, 0)
			require.NoError(t, err)
			return large.Unlink(ctx, id)
		})
		require.NoError(t, err)
		_, err = kept.Exec(t.Context(), "INSERT INTO sales (what) VALUES ('too late')")
		require.ErrorIs(t, err, pgx.ErrTxClosed)
		require.ErrorIs(t, kept.QueryRow(t.Context(), "SELECT 1").Scan(new(int)), pgx.ErrTxClosed)
		end()
		s.sold(t, what, 1)
	}
	require.Equal(t, 2, queryTx[int](t, s.pool, "SELECT count(*) FROM sales"))
}

// The trap: the work sends COMMIT as text. It cannot be kept from it, but must not hear that it was rolled back, and not be run again.
func TestDoTxTellsThatTheWorkHasEndedTheTransaction(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		s := newShop(t, testdb.Postgres(t), &o)
		conn, err := s.pool.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		declined := errors.New("declined")
		for on, guard := range map[string]func(*testing.T) *pgidem.TxGuard{
			"pool":                 func(*testing.T) *pgidem.TxGuard { return s.guard },
			"connection of a pool": func(*testing.T) *pgidem.TxGuard { return s.guard.In(conn) },
			"caller's transaction": func(t *testing.T) *pgidem.TxGuard { return s.guard.In(beginTx(t, s.pool, "")) },
		} {
			for name, end := range map[string]error{
				"done": nil, "failed": declined, "final": idempotency.Permanent(declined), "to repeat": &pgconn.PgError{Code: "40001"},
			} {
				for sql, sales := range map[string]int{"COMMIT": 1, "ROLLBACK": 0} {
					what := on + ", " + sql + ", " + name
					_, err := s.sellOn(t.Context(), guard(t), what, "", func(ctx context.Context, tx pgx.Tx) error {
						_, err := tx.Exec(ctx, sql)
						return errors.Join(err, end)
					})
					require.ErrorContains(t, err, "has ended the transaction", what)
					require.False(t, retryable(err))
					if end != nil {
						require.ErrorContains(t, err, end.Error())
					}
					require.Equal(t, sales, queryTx[int](t, s.pool, "SELECT count(*) FROM sales WHERE what = $1", what))
				}
			}
		}
		require.Zero(t, queryTx[int](t, s.pool, "SELECT count(*) FROM idempotency_records"))
	})
}

// Looking up is planned without sequential scans, and must not leave the caller's own statements without.
func TestDoTxRestoresThePlannersSetting(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	setting := func(ctx context.Context, tx pgx.Tx) (was string) {
		require.NoError(t, tx.QueryRow(ctx, "SHOW enable_seqscan").Scan(&was))
		return was
	}
	conn, err := s.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for i, was := range []string{"on", "off"} {
		execTx(t, conn, "SET enable_seqscan = "+was)
		for name, g := range map[string]*pgidem.TxGuard{"own": newTxGuard(t, conn.Conn(), nil), "callers": nil} {
			if g == nil {
				tx, err := conn.Begin(t.Context())
				require.NoError(t, err)
				defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
				g = newTxGuard(t, tx, nil)
			}
			look := func(ctx context.Context, tx pgx.Tx) error {
				require.Equal(t, was, setting(ctx, tx), "%s: in the work", name)
				return nil
			}
			what := fmt.Sprint(name, i)
			for range 2 {
				_, err := s.sellOn(t.Context(), g, what, "", look)
				require.NoError(t, err)
			}
			_, err := s.sellOn(t.Context(), g, what, "other", look)
			require.ErrorIs(t, err, idempotency.ErrMismatch)
			execTx(t, conn, "UPDATE idempotency_records SET held_until = clock_timestamp()")
			_, err = s.sellOn(t.Context(), g, what, "", look) // takes the record over
			require.NoError(t, err)
			require.Equal(t, was, queryTx[string](t, conn, "SHOW enable_seqscan"), name)
			if name == "callers" {
				execTx(t, conn, "ROLLBACK")
			}
		}
	}
	execTx(t, conn, "RESET ALL")
}

// Do and DoTx replay each other's results, and respect each other's claims.
func TestDoTxBesideDo(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	guard, err := idempotency.New(newStore(t, s.pool), &idempotency.Options{Wait: -1})
	require.NoError(t, err)
	fp := idempotency.FingerprintOf([]byte("body"))
	do := func(what string, work func() error) (idempotency.Result[int64], error) {
		return idempotency.Do(t.Context(), guard, txKey(what), fp, func(context.Context, *idempotency.Run) (int64, error) { return 42, work() })
	}
	none := func() error { return nil }
	result, err := s.sell(t.Context(), "by DoTx", "body", nil)
	require.NoError(t, err)
	again, err := do("by DoTx", func() error { panic("must not run") })
	require.NoError(t, err)
	require.Equal(t, idempotency.Result[int64]{Value: result.Value, Replayed: true}, again)

	_, err = do("by Do", none)
	require.NoError(t, err)
	s.requireReplay(t, "by Do", "body", 42)

	_, err = do("claimed", func() error {
		_, err := s.sell(t.Context(), "claimed", "body", nil)
		e, ok := errors.AsType[*idempotency.InFlightError](err)
		require.True(t, ok, "%v", err)
		require.InDelta(t, 30*time.Second, e.RetryAfter, float64(5*time.Second))
		_, err = s.sell(t.Context(), "claimed", "other body", nil)
		require.ErrorIs(t, err, idempotency.ErrMismatch)
		return errors.New("declined")
	})
	require.EqualError(t, err, "declined")
	before := queryTx[int64](t, s.pool, "SELECT token FROM idempotency_records WHERE key = $1", []byte(txKey("claimed").String()))
	_, err = s.sell(t.Context(), "claimed", "body", nil) // released
	require.NoError(t, err)
	require.Greater(t, queryTx[int64](t, s.pool, "SELECT token FROM idempotency_records WHERE key = $1", []byte(txKey("claimed").String())), before)

	// Do takes no lock: its claim comes between the look of DoTx and its commit, which is then refused.
	for _, callers := range []bool{false, true} {
		for name, work := range map[string]func() error{"done": none, "failed": func() error { return errors.New("declined") }} {
			what := fmt.Sprint("overtaken and ", name, callers)
			g := s.guard
			var tx pgx.Tx
			if callers {
				tx = beginTx(t, s.pool, "")
				g = s.guard.In(tx)
			}
			var once sync.Once
			result, err := s.sellOn(t.Context(), g, what, "body", func(context.Context, pgx.Tx) error {
				once.Do(func() { _, _ = do(what, work) })
				return nil
			})
			require.NoError(t, err)
			if callers {
				require.NoError(t, tx.Commit(t.Context()))
			}
			if name == "done" {
				require.Equal(t, idempotency.Result[int64]{Value: 42, Replayed: true}, result)
				s.sold(t, what, 0)
			} else {
				require.False(t, result.Replayed)
				s.sold(t, what, 1)
			}
		}
	}
}

// The steps of an abandoned run have had effects that work in one transaction knows nothing of.
func TestDoTxLeavesStepsToDo(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	guard, err := idempotency.New(newStore(t, s.pool), nil)
	require.NoError(t, err)
	fp := idempotency.FingerprintOf([]byte("body"))
	run := func(end error) error {
		_, err := idempotency.Do(t.Context(), guard, txKey("a"), fp, func(ctx context.Context, run *idempotency.Run) (int64, error) {
			_, err := idempotency.Step(ctx, run, "charge", func(context.Context) (int, error) { return 1, nil })
			return 42, errors.Join(err, end)
		})
		return err
	}
	require.Error(t, run(errors.New("declined")))
	_, err = s.sell(t.Context(), "a", "body", nil)
	invalid, ok := errors.AsType[*idempotency.InvalidError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "key", invalid.Field)
	_, err = s.sell(t.Context(), "a", "other body", nil)
	require.ErrorIs(t, err, idempotency.ErrMismatch)
	require.NoError(t, run(nil))
	s.requireReplay(t, "a", "body", 42)
	require.Zero(t, s.runs.Load())
}

// beforeDelete calls strike before a DELETE is sent.
type beforeDelete struct{ strike func() }

func (b beforeDelete) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	if slices.ContainsFunc(data.Batch.QueuedQueries, func(q *pgx.QueuedQuery) bool { return strings.HasPrefix(q.SQL, "DELETE") }) {
		b.strike()
	}
	return ctx
}

func (beforeDelete) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (beforeDelete) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (beforeDelete) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}
func (beforeDelete) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData)     {}

// The trap: DoTx has read a claim that is over and is about to remove it, when its late owner extends it, or records a step and falls silent for
// good. The work ran beside the owner's, or the charge went with the claim and was made again by whoever asked next.
func TestDoTxLeavesAClaimThatIsExtendedLate(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	store := newStore(t, s.pool)
	over := func() { execTx(t, s.pool, "UPDATE idempotency_records SET held_until = clock_timestamp()") }
	for name, test := range map[string]struct {
		step idempotency.StepRecord
		late func()
		want error
	}{
		"extended": {idempotency.StepRecord{}, func() {}, idempotency.ErrInFlight},
		"step":     {idempotency.StepRecord{Name: "charge"}, over, idempotency.ErrInvalid},
	} {
		fp := idempotency.FingerprintOf([]byte("body"))
		won, err := store.Claim(t.Context(), []idempotency.Request{{Key: txKey(name), Fingerprint: fp, Lease: time.Hour}})
		require.NoError(t, err)
		over()

		config := s.pool.Config()
		config.ConnConfig.Tracer = beforeDelete{func() {
			lost, err := store.Extend(t.Context(), []idempotency.Extension{{
				Key: txKey(name), Token: won[0].Token, Lease: time.Hour, Step: test.step, Keep: time.Hour,
			}})
			require.NoError(t, errors.Join(append(lost, err)...))
			test.late()
		}}
		pool := openPool(t, config)
		_, err = s.sellOn(t.Context(), newTxGuard(t, pool, nil), name, "body", nil)
		require.ErrorIs(t, err, test.want)
		require.Zero(t, s.runs.Load())
		require.EqualValues(t, won[0].Token, queryTx[int64](t, s.pool, "SELECT max(token) FROM idempotency_records WHERE key = $1", []byte(txKey(name).String())))
	}
}

// A claim that is over was taken by another one before it is removed, which is over as well: a record goes on from the token of the last. To have
// looked twice leaves the planner's setting as it was.
func TestDoTxTakesOverTheLastClaim(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	store := newStore(t, s.pool)
	request := []idempotency.Request{{Key: txKey("a"), Fingerprint: idempotency.FingerprintOf([]byte("body")), Lease: time.Hour}}
	claim := func() {
		_, err := store.Claim(t.Context(), request)
		require.NoError(t, err)
		execTx(t, s.pool, "UPDATE idempotency_records SET held_until = clock_timestamp()")
	}
	claim()
	const last = 1 << 60 // a clock that is ahead
	config := s.pool.Config()
	config.ConnConfig.Tracer = beforeDelete{sync.OnceFunc(func() {
		claim()
		execTx(t, s.pool, "UPDATE idempotency_records SET token = $1", int64(last))
	})}
	config.ConnConfig.RuntimeParams["enable_seqscan"] = "off"
	pool := openPool(t, config)
	var scans string
	_, err := s.sellOn(t.Context(), newTxGuard(t, pool, nil), "a", "body", func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SHOW enable_seqscan").Scan(&scans)
	})
	require.NoError(t, err)
	require.Equal(t, "off", scans)
	require.EqualValues(t, last+1, queryTx[int64](t, s.pool, "SELECT token FROM idempotency_records"))
}

// A record is kept for its TTL from when the key was had, not from when its transaction began to wait for it.
func TestDoTxReadsTheClockBehindTheWait(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	enter, leave, done := make(chan struct{}), make(chan struct{}), make(chan error, 2)
	go func() {
		_, err := s.sell(t.Context(), "a", "", func(context.Context, pgx.Tx) error { close(enter); <-leave; return errors.ErrUnsupported })
		done <- err
	}()
	<-enter
	g := elsewhere(t, s)
	go func() {
		_, err := s.sellOn(t.Context(), g, "a", "", nil)
		done <- err
	}()
	s.waiting(t, 1)
	waited := queryTx[time.Time](t, s.pool, "SELECT clock_timestamp()")
	close(leave)
	require.NoError(t, errors.Join(slices.DeleteFunc([]error{<-done, <-done}, func(err error) bool { return errors.Is(err, errors.ErrUnsupported) })...))
	require.True(t, queryTx[time.Time](t, s.pool, "SELECT claimed_at FROM idempotency_records").After(waited))
}

// pgError makes the work fail as PostgreSQL would, n times.
func pgError(code string, n int32) func(context.Context, pgx.Tx) error {
	var failed atomic.Int32
	return func(ctx context.Context, tx pgx.Tx) error {
		if failed.Add(1) > n {
			return nil
		}
		_, err := tx.Exec(ctx, fmt.Sprintf("DO $$ BEGIN RAISE EXCEPTION 'made' USING ERRCODE = '%s'; END $$", code))
		return fmt.Errorf("work: %w", err)
	}
}

func TestDoTxRunsAgainWherePostgresAsksForIt(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), &pgidem.TxOptions{Attempts: 3})
	for _, code := range []string{"40001", "40P01"} {
		s.runs.Store(0)
		_, err := s.sell(t.Context(), "twice "+code, "", pgError(code, 2))
		require.NoError(t, err)
		require.EqualValues(t, 3, s.runs.Load())
		s.sold(t, "twice "+code, 1)

		s.runs.Store(0)
		_, err = s.sell(t.Context(), "for ever "+code, "", pgError(code, 100))
		require.ErrorContains(t, err, "gave up after 3 attempts")
		require.True(t, retryable(err))
		require.EqualValues(t, 3, s.runs.Load())
		s.sold(t, "for ever "+code, 0)

		// It has judged by what is void: the refusal is not to be kept.
		fail := pgError(code, 1)
		_, err = s.sell(t.Context(), "refused "+code, "", func(ctx context.Context, tx pgx.Tx) error {
			return idempotency.Permanent(fail(ctx, tx))
		})
		require.NoError(t, err)

		// Only the caller can begin its transaction again.
		s.runs.Store(0)
		tx := beginTx(t, s.pool, "")
		_, err = s.sellOn(t.Context(), s.guard.In(tx), "callers "+code, "", pgError(code, 1))
		e, ok := errors.AsType[*pgconn.PgError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, code, e.Code)
		require.EqualValues(t, 1, s.runs.Load())
		require.NoError(t, tx.Commit(t.Context()))
	}
	s.runs.Store(0)
	_, err := s.sell(t.Context(), "unique", "", pgError("23505", 1))
	require.Error(t, err)
	require.EqualValues(t, 1, s.runs.Load())
}

func TestDoTxStopsToTryWhenTheCallerIsGone(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), &pgidem.TxOptions{Attempts: 1000})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.sell(ctx, "a", "", pgError("40001", 1000))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, s.runs.Load(), int32(50))
	s.sold(t, "a", 0)
}

// inDeadlock cannot begin.
type inDeadlock struct {
	pgidem.DB
	attempts int
}

func (d *inDeadlock) Begin(context.Context) (pgx.Tx, error) {
	d.attempts++
	return nil, &pgconn.PgError{Code: "40P01"}
}

// The trap: a pause that only grows. The tenth attempt came after half an hour, and the twenty-third was a panic.
func TestDoTxManyAttemptsComeSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := &inDeadlock{}
		g := newTxGuard(t, db, &pgidem.TxOptions{Attempts: 30})
		begin := time.Now()
		_, err := pgidem.DoTx(t.Context(), g, txKey("a"), idempotency.Fingerprint{}, func(context.Context, pgx.Tx) (int, error) { panic("must not run") })
		require.ErrorContains(t, err, "gave up after 30 attempts")
		require.Equal(t, 30, db.attempts)
		require.Less(t, time.Since(begin), 30*time.Second)
	})
}

// Two of three accounts are enough to pay from. Without serializable isolation both payments are made: write skew.
func TestDoTxSerializable(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		o.Isolation = pgx.Serializable
		newShop(t, testdb.Postgres(t), &o).skew(t)
	})
}

func (s *shop) skew(t *testing.T) {
	t.Helper()
	var meet sync.WaitGroup
	meet.Add(2)
	pay := func(what string) error {
		var once sync.Once
		_, err := s.sell(t.Context(), what, "", func(ctx context.Context, tx pgx.Tx) error {
			var n int
			if err := tx.QueryRow(ctx, "SELECT count(*) FROM sales WHERE what LIKE 'skew%'").Scan(&n); err != nil {
				return err
			}
			once.Do(func() { meet.Done(); meet.Wait() }) // both have read before either has written
			if n > 1 {
				return errors.New("one is enough")
			}
			return nil
		})
		return err
	}
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = pay(fmt.Sprint("skew ", i)) })
	}
	wg.Wait()
	require.EqualError(t, errors.Join(errs...), "one is enough")
	require.Equal(t, 1, queryTx[int](t, s.pool, "SELECT count(*) FROM sales"))
}

// B waits for A with a snapshot that is older than A's commit.
func TestDoTxSnapshotOlderThanTheLock(t *testing.T) {
	t.Parallel()
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		for _, callers := range []bool{false, true} {
			for _, end := range []error{nil, errors.New("declined")} {
				s := newShop(t, testdb.Postgres(t), &pgidem.TxOptions{Isolation: level})
				enter, leave := make(chan struct{}), make(chan struct{})
				var a idempotency.Result[int64]
				var wg sync.WaitGroup
				wg.Go(func() {
					a, _ = s.sell(t.Context(), "a", "", func(context.Context, pgx.Tx) error { close(enter); <-leave; return end })
				})
				<-enter
				g := newTxGuard(t, s.pool, &pgidem.TxOptions{Isolation: level})
				var tx pgx.Tx
				if callers {
					tx = beginTx(t, s.pool, level)
					g = g.In(tx)
				}
				var b idempotency.Result[int64]
				var err error
				wg.Go(func() { b, err = s.sellOn(t.Context(), g, "a", "", nil) })
				s.waiting(t, 1)
				close(leave)
				wg.Wait()
				switch {
				case callers && end == nil:
					require.True(t, retryable(err), "%v", err)
					require.NoError(t, tx.Rollback(t.Context()))
				case callers:
					require.NoError(t, err)
					require.NoError(t, tx.Commit(t.Context()))
				case end == nil:
					require.NoError(t, err)
					require.Equal(t, idempotency.Result[int64]{Value: a.Value, Replayed: true}, b)
					require.EqualValues(t, 1, s.runs.Load())
				default:
					require.NoError(t, err)
					require.False(t, b.Replayed)
				}
				s.sold(t, "a", 1)
			}
		}
	}
}

// Callers that run two keys in one transaction, in opposite orders, wait for each other: PostgreSQL ends that for one of them.
func TestDoTxDeadlockOfCallersIsTold(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	var meet, wg sync.WaitGroup
	meet.Add(2)
	var deadlocks atomic.Int32
	for _, keys := range [][2]string{{"a", "b"}, {"b", "a"}} {
		wg.Go(func() {
			first := true
			for {
				err := pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
					_, err := s.sellOn(t.Context(), s.guard.In(tx), keys[0], "", nil)
					if first {
						first = false
						meet.Done()
						meet.Wait()
					}
					if err == nil {
						_, err = s.sellOn(t.Context(), s.guard.In(tx), keys[1], "", nil)
					}
					return err
				})
				if err == nil {
					return
				}
				if !retryable(err) {
					t.Error(err)
					return
				}
				deadlocks.Add(1)
			}
		})
	}
	wg.Wait()
	require.Positive(t, deadlocks.Load())
	s.sold(t, "a", 1)
	s.sold(t, "b", 1)
}

// A guard that needed a second connection while it holds one would wait for itself.
func TestDoTxPoolOfOneConnection(t *testing.T) {
	t.Parallel()
	conf := testdb.Postgres(t).Config()
	conf.MaxConns = 1
	pool := openPool(t, conf)
	s := newShop(t, pool, nil)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			end := error(nil)
			if i%10 == 9 {
				end = idempotency.Permanent(errors.New("no"))
			}
			_, err := s.sell(t.Context(), fmt.Sprint(i%20), "", func(context.Context, pgx.Tx) error { return end })
			if err != nil && err.Error() != "no" {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 18, queryTx[int](t, s.pool, "SELECT count(*) FROM sales"))
}
