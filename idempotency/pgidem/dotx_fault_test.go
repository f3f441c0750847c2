package pgidem_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/testdb"
)

// trial is work under a key that is struck by a fault.
type trial struct {
	do      func(ctx context.Context, what string) (reply string, replayed bool, err error)
	effects func(t *testing.T, what string) int
}

func (s *shop) trial() trial {
	return trial{
		do: func(ctx context.Context, what string) (string, bool, error) {
			result, err := s.sell(ctx, what, "", nil)
			return fmt.Sprint(result.Value), result.Replayed, err
		},
		effects: func(t *testing.T, what string) int {
			s.idle(t)
			return queryTx[int](t, s.pool, "SELECT count(*) FROM sales WHERE what = $1", what)
		},
	}
}

// atEveryEvent does the work once for each event on the wire, and lets strike happen at that one, until the work is over
// before. Whatever comes of it: what was answered was done, what was not answered was not, and repeats make it once.
func (tr trial) atEveryEvent(
	t *testing.T, tp *tap, strike func(kind string, conn net.Conn, hangUp func()) (struck, lost bool), after func(),
) (events, answered int) {
	t.Helper()
	for strikeAt := 1; ; {
		what := fmt.Sprint("strike at ", strikeAt)
		_, _ = tr.untilAnswered(t, what+" (prepare)") // on the connection that is there after the last one
		ctx, hangUp := context.WithCancel(t.Context())
		struck, at, over := "", strikeAt, false
		var mu sync.Mutex // the driver sends from other goroutines too, what is to cancel
		tp.arm(func(n int, kind string, conn net.Conn) (lost bool) {
			mu.Lock()
			defer mu.Unlock()
			if n < strikeAt || struck != "" || over {
				return false
			}
			yes, lost := strike(kind, conn, hangUp)
			if yes {
				struck, at = kind, n
			}
			return lost
		})
		first, replayed, err := tr.do(ctx, what)
		tp.disarm()
		hangUp()
		after()
		mu.Lock()
		over = true
		mu.Unlock()
		require.False(t, replayed)
		if err != nil {
			require.NotEmpty(t, struck)
			require.NotErrorIs(t, err, pgidem.ErrUnknown)
		}
		done := map[bool]int{true: 1, false: 0}[err == nil]
		require.Equal(t, done, tr.effects(t, what), "strike at %d, a %s: %v", strikeAt, struck, err)
		again, replayed := tr.untilAnswered(t, what)
		require.Equal(t, err == nil, replayed, "strike at %d, a %s: %v", strikeAt, struck, err)
		if err == nil {
			require.Equal(t, first, again)
		}
		require.Equal(t, 1, tr.effects(t, what))
		if struck == "" {
			return events, answered
		}
		answered += done
		events++
		strikeAt = at + 1
	}
}

func (tr trial) untilAnswered(t *testing.T, what string) (reply string, replayed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), txPatience)
	defer cancel()
	for {
		reply, replayed, err := tr.do(ctx, what)
		if err == nil {
			return reply, replayed
		}
		require.NoError(t, ctx.Err(), "%v", err)
	}
}

func faultyShop(t *testing.T, conf *pgxpool.Config, o *pgidem.TxOptions) (*shop, *tap) {
	t.Helper()
	pool, tp := tapPool(t, conf)
	return newShop(t, pool, o), tp
}

// The client hangs up at any moment: before the COMMIT is sent nothing is done, and later it is heard of.
func TestDoTxHangUpAtEveryEvent(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		s, tp := faultyShop(t, testdb.Postgres(t).Config(), &o)
		events, answered := s.trial().atEveryEvent(t, tp, func(_ string, _ net.Conn, hangUp func()) (struck, lost bool) {
			hangUp()
			return true, false
		}, func() {})
		t.Logf("%d events, after %d of them the sale was made", events, answered)
		require.Greater(t, events, 10)
		require.Greater(t, answered, 3)
		require.Less(t, answered, events-5)
		// A COMMIT that was sent is waited for: only what came before has cost the connection.
		require.LessOrEqual(t, s.pool.Stat().NewConnsCount(), int64(1+events-answered))
	})
}

// The last that the work sees is that its client is gone.
func TestDoTxHangUpAtTheEndOfTheWork(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	for name, end := range map[string]error{"done": nil, "refused": idempotency.Permanent(errors.New("no"))} {
		gone := errors.New("gone")
		ctx, hangUp := context.WithCancelCause(t.Context())
		_, err := s.sell(ctx, name, "", func(context.Context, pgx.Tx) error { hangUp(gone); return end })
		require.ErrorIs(t, err, gone)
		s.sold(t, name, 0)
		require.Zero(t, queryTx[int](t, s.pool, "SELECT count(*) FROM idempotency_records"), name)
	}
}

// The connection breaks at any moment. If that was after the COMMIT was sent, the key tells what has become of it.
func TestDoTxConnectionLostAtEveryEvent(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		s, tp := faultyShop(t, testdb.Postgres(t).Config(), &o)
		events, answered := s.trial().atEveryEvent(t, tp, func(_ string, conn net.Conn, _ func()) (struck, lost bool) {
			_ = conn.Close()
			return true, true
		}, func() {})
		t.Logf("%d events, after %d of them the sale was made", events, answered)
		require.Greater(t, events, 10)
		require.Greater(t, answered, 3)
	})
}

// What was acknowledged is still there when the server is killed right after.
func TestDoTxAcknowledgedSaleSurvivesAKill(t *testing.T) {
	t.Parallel()
	server := testdb.NewPostgres(t)
	pool, err := pgxpool.New(t.Context(), server.URL())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s := newShop(t, pool, nil)
	for n := range 5 {
		what := fmt.Sprint(n)
		first, err := s.sell(t.Context(), what, "", nil)
		require.NoError(t, err)
		require.NoError(t, server.Kill())
		require.NoError(t, server.Start(t.Context()))
		again, replayed := s.trial().untilAnswered(t, what)
		require.True(t, replayed)
		require.Equal(t, fmt.Sprint(first.Value), again)
		s.sold(t, what, 1)
	}
}

// The answer to the COMMIT is lost, and the server that could tell what became of it is away for longer than anybody waits.
func TestDoTxUnknownOutcomeIsToldAndResolvedByARepeat(t *testing.T) {
	t.Parallel()
	server := testdb.NewPostgres(t)
	conf, err := pgxpool.ParseConfig(server.URL())
	require.NoError(t, err)
	s, tp := faultyShop(t, conf, &pgidem.TxOptions{CommitTimeout: 300 * time.Millisecond})
	_, err = s.sell(t.Context(), "prepare", "", nil)
	require.NoError(t, err)
	inWork := false
	_, err = s.sell(t.Context(), "a", "", func(context.Context, pgx.Tx) error {
		inWork = true
		tp.arm(func(_ int, kind string, _ net.Conn) bool {
			if kind == "answer" { // to the COMMIT
				require.NoError(t, server.Kill())
				return true
			}
			return false
		})
		return nil
	})
	tp.disarm()
	require.True(t, inWork)
	require.ErrorIs(t, err, pgidem.ErrUnknown)
	require.NoError(t, server.Start(t.Context()))
	_, replayed := s.trial().untilAnswered(t, "a")
	require.True(t, replayed, "the server had answered: it had committed")
	s.sold(t, "a", 1)

	// On a single connection nobody can be asked.
	conn, err := pgx.Connect(t.Context(), server.URL())
	require.NoError(t, err)
	begin := time.Now()
	_, err = s.sellOn(t.Context(), newTxGuard(t, conn, &pgidem.TxOptions{CommitTimeout: time.Minute}), "b", "", func(context.Context, pgx.Tx) error {
		return conn.PgConn().Conn().(*net.TCPConn).CloseWrite()
	})
	require.Error(t, err)
	require.Less(t, time.Since(begin), 20*time.Second)
	s.sold(t, "b", 0)
}

// The trap: a lock is waited for no longer than PostgreSQL can say, which is less than a COMMIT may take.
func TestDoTxSearchWithAllTheTimeThereIs(t *testing.T) {
	t.Parallel()
	s, tp := faultyShop(t, testdb.Postgres(t).Config(), &pgidem.TxOptions{CommitTimeout: 100 * 365 * 24 * time.Hour})
	_, err := s.sell(t.Context(), "prepare", "", nil)
	require.NoError(t, err)
	found := make(chan error, 1)
	go func() {
		_, err := s.sell(t.Context(), "a", "", func(context.Context, pgx.Tx) error {
			var lost atomic.Bool
			tp.arm(func(_ int, kind string, conn net.Conn) bool { // the answer to the COMMIT
				return kind == "answer" && lost.CompareAndSwap(false, true) && conn.Close() == nil
			})
			return nil
		})
		found <- err
	}()
	select {
	case err = <-found:
	case <-time.After(txPatience):
		t.Fatal("it still searches")
	}
	require.NoError(t, err)
	tp.disarm()
	s.sold(t, "a", 1)
}

// The server has committed and waits for a standby that does not answer: the caller gives the answer up, and finds it.
func TestDoTxSearchFindsACommitThatIsSlow(t *testing.T) {
	t.Parallel()
	server := testdb.NewPostgres(t)
	conf, err := pgxpool.ParseConfig(server.URL())
	require.NoError(t, err)
	conf.ConnConfig.RuntimeParams["synchronous_commit"] = "local"
	pool := openPool(t, conf)
	s := newShop(t, pool, &pgidem.TxOptions{CommitTimeout: 500 * time.Millisecond})
	execTx(t, pool, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	execTx(t, pool, "SELECT pg_reload_conf()")
	eventuallyTx(t, "commits to wait", func() bool { // for what the checkpointer makes of the setting, which a connection may know before
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := pool.Exec(ctx, "BEGIN; SET LOCAL synchronous_commit = on; SELECT pg_logical_emit_message(true, 'is it slow', ''); COMMIT")
		return err != nil
	})
	begin := time.Now()
	result, err := s.sell(t.Context(), "slow", "", func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on")
		return err
	})
	require.NoError(t, err)
	require.False(t, result.Replayed)
	require.GreaterOrEqual(t, time.Since(begin), 500*time.Millisecond)
	require.EqualValues(t, 1, s.runs.Load())
	s.sold(t, "slow", 1)
	s.requireReplay(t, "slow", "", result.Value)
}

// What is still to be done at the COMMIT takes too long: the server is told to stop, and has not committed.
func TestDoTxCommitThatIsCancelledIsUndone(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		o.CommitTimeout, o.Attempts = 300*time.Millisecond, 1
		s := newShop(t, testdb.Postgres(t), &o)
		execTx(t, s.pool, `CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(20); RETURN NULL; END $$`)
		execTx(t, s.pool, `CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON sales DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (new.what = 'slow') EXECUTE FUNCTION dawdle()`)
		_, err := s.sell(t.Context(), "slow", "", nil)
		require.ErrorContains(t, err, "it was not made")
		require.True(t, retryable(err))
		s.sold(t, "slow", 0)
	})
}

// A failure at the COMMIT itself is a failure, and not an unknown outcome.
func TestDoTxRefusedCommit(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	execTx(t, s.pool, "ALTER TABLE sales ADD CONSTRAINT once UNIQUE (what) DEFERRABLE INITIALLY DEFERRED")
	_, err := s.sell(t.Context(), "a", "", func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO sales (what) VALUES ('a')")
		return err
	})
	require.ErrorContains(t, err, "once")
	require.False(t, retryable(err))
	require.EqualValues(t, 1, s.runs.Load())
	s.sold(t, "a", 0)
	_, err = s.sell(t.Context(), "a", "", nil)
	require.NoError(t, err)
}

// The work leaves rows open that it reads: nothing can be sent, and so nothing was committed. It would do so again.
func TestDoTxRowsLeftOpen(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		s := newShop(t, testdb.Postgres(t), &o)
		_, err := s.sell(t.Context(), "a", "", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Query(ctx, "SELECT * FROM sales") //nolint:sqlclosecheck // that is the fault
			return err
		})
		require.ErrorContains(t, err, "rows open")
		require.False(t, retryable(err))
		require.EqualValues(t, 1, s.runs.Load())
		s.sold(t, "a", 0)
		_, err = s.sell(t.Context(), "a", "", nil)
		require.NoError(t, err)
	})
}

// A commits between any two messages of B: whenever that is, B finds what A has made, and does not run the work in vain.
func TestDoTxOtherCommitsAtEveryEvent(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	pool, tp := tapPool(t, s.pool.Config())
	b := newTxGuard(t, pool, nil)
	for commitAt := 1; ; commitAt++ {
		what := fmt.Sprint("commit at ", commitAt)
		_, err := s.sellOn(t.Context(), b, what+" (prepare)", "", nil)
		require.NoError(t, err)
		s.runs.Store(0)
		enter, leave, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			_, err := s.sell(t.Context(), what, "", func(context.Context, pgx.Tx) error { close(enter); <-leave; return nil })
			done <- err
		}()
		<-enter
		committed := sync.OnceFunc(func() {
			close(leave)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		reached := false
		tp.arm(func(n int, _ string, _ net.Conn) bool {
			if n == commitAt {
				reached = true
				<-time.After(5 * time.Millisecond) // for the server to do what it has been sent
				committed()
			}
			return false
		})
		over := make(chan struct{})
		var watch sync.WaitGroup
		if commitAt > 3 { // B may be waiting for A by then, with nothing more to send
			watch.Go(func() { s.onceWaiting(t, over, committed) })
		}
		result, err := s.sellOn(t.Context(), b, what, "", nil)
		tp.disarm()
		close(over)
		watch.Wait()
		committed()
		require.NoError(t, err)
		require.True(t, result.Replayed)
		require.EqualValues(t, 1, s.runs.Load(), "commit at %d", commitAt)
		s.sold(t, what, 1)
		if !reached {
			require.Greater(t, commitAt, 8)
			return
		}
	}
}

// onceWaiting calls then when somebody waits for the lock of a key, unless it is over before.
func (s *shop) onceWaiting(t *testing.T, over <-chan struct{}, then func()) {
	for s.waiters(t) == 0 {
		select {
		case <-over:
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
	then()
}

func TestDoTxHangUpWhileWaiting(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*pgx.ConnConfig){
		"the driver closes the connection": func(*pgx.ConnConfig) {},
		"the driver asks the server to stop": func(c *pgx.ConnConfig) {
			c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
				return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: txPatience}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf := testdb.Postgres(t).Config()
			edit(conf.ConnConfig)
			pool := openPool(t, conf)
			s := newShop(t, pool, nil)
			enter, leave := make(chan struct{}), make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				_, err := s.sellOn(t.Context(), newTxGuard(t, pool, nil), "a", "", func(context.Context, pgx.Tx) error { close(enter); <-leave; return nil })
				if err != nil {
					t.Error(err)
				}
			})
			<-enter
			ctx, hangUp := context.WithCancel(t.Context())
			errs := make(chan error, 3)
			for range 3 { // one waits for the database, two for that one
				go func() {
					_, err := s.sell(ctx, "a", "", nil)
					errs <- err
				}()
			}
			s.waiting(t, 1)
			hangUp()
			for range 3 {
				err := <-errs
				require.ErrorIs(t, err, idempotency.ErrInFlight)
				require.ErrorIs(t, err, context.Canceled)
			}
			s.waiting(t, 0)
			close(leave)
			wg.Wait()
			s.sold(t, "a", 1)
			require.EqualValues(t, 1, s.runs.Load())
		})
	}
}

// A request that nobody bounds must not wait for as long as its client does: all connections are taken, or the server hangs.
func TestDoTxThatCannotBeginGivesUp(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		conf := testdb.Postgres(t).Config()
		conf.MaxConns = 2
		pool := openPool(t, conf)
		o.Wait, o.CommitTimeout = -1, 100*time.Millisecond
		s := newShop(t, pool, &o)
		_, err := s.sell(t.Context(), "known", "", nil)
		require.NoError(t, err)
		s.runs.Store(0)
		ctx, cancel := context.WithTimeout(t.Context(), txPatience)
		defer cancel()
		givesUp := func(g *pgidem.TxGuard, what string) {
			t.Helper()
			_, err := s.sellOn(ctx, g, what, "", nil)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NoError(t, ctx.Err(), "the caller would have waited")
			require.Zero(t, s.runs.Load())
		}
		first := beginTx(t, pool, "")
		if !o.Optimistic { // which looks only at the end
			execTx(t, first, "LOCK TABLE idempotency_records")
			givesUp(s.guard, "known")
			givesUp(s.guard, "new")
			require.NoError(t, first.Rollback(t.Context()))
			first = beginTx(t, pool, "")
		}
		second := beginTx(t, pool, "")
		givesUp(s.guard, "known")
		givesUp(s.guard, "new")
		require.NoError(t, errors.Join(first.Rollback(t.Context()), second.Rollback(t.Context())))
		s.sold(t, "new", 0)
	})
}

// brokenTx fails every batch.
type brokenTx struct{ pgx.Tx }

func (b brokenTx) SendBatch(_ context.Context, batch *pgx.Batch) pgx.BatchResults {
	return pgx.FailedBatchResults(batch, errBroken)
}

func TestDoTxDatabaseDownIsClosed(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	tx := beginTx(t, s.pool, "")
	must := func(context.Context, pgx.Tx) error { panic("must not run") }
	_, err := s.sellOn(t.Context(), s.guard.In(brokenTx{tx}), "a", "", must)
	require.ErrorIs(t, err, errBroken)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gone"))
	_, err = s.sell(ctx, "a", "", must)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, s.runs.Load())
}
