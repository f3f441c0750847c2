package pgidem_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/testdb"
)

// elsewhere returns a guard of another process, which knows none of the keys.
func elsewhere(t *testing.T, s *shop) *pgidem.TxGuard {
	t.Helper()
	return newTxGuard(t, s.pool, &pgidem.TxOptions{Optimistic: true})
}

func optimisticShop(t *testing.T) *shop {
	t.Helper()
	return newShop(t, testdb.Postgres(t), &pgidem.TxOptions{Optimistic: true})
}

func TestDoTxOptimisticRunsAndRollsBackARepeat(t *testing.T) {
	t.Parallel()
	s := optimisticShop(t)
	first, err := s.sell(t.Context(), "a", "10 EUR", nil)
	require.NoError(t, err)
	require.False(t, first.Replayed)
	require.EqualValues(t, 1, s.runs.Load())
	s.requireReplay(t, "a", "10 EUR", first.Value) // this process knows it
	again, err := s.sellOn(t.Context(), elsewhere(t, s), "a", "10 EUR", nil)
	require.NoError(t, err)
	require.Equal(t, idempotency.Result[int64]{Value: first.Value, Replayed: true}, again)
	require.EqualValues(t, 2, s.runs.Load())
	_, err = s.sellOn(t.Context(), elsewhere(t, s), "a", "11 EUR", nil)
	require.ErrorIs(t, err, idempotency.ErrMismatch)
	s.sold(t, "a", 1)
}

// A payment empties the account. What its repeat finds is not what it is answered with.
func TestDoTxOptimisticFailureOfARepeatIsNotItsAnswer(t *testing.T) {
	t.Parallel()
	s := optimisticShop(t)
	short := errors.New("insufficient funds")
	once := func(fail error) func(context.Context, pgx.Tx) error {
		return func(ctx context.Context, tx pgx.Tx) error {
			var sales int
			if err := tx.QueryRow(ctx, "SELECT count(*) FROM sales").Scan(&sales); err != nil || sales == 1 {
				return err
			}
			return fail
		}
	}
	_, err := s.sell(t.Context(), "a", "", once(short))
	require.NoError(t, err)
	for name, failure := range map[string]error{"failed": short, "refused": idempotency.Permanent(short)} {
		result, err := s.sellOn(t.Context(), elsewhere(t, s), "a", "", once(failure))
		require.NoError(t, err, name)
		require.True(t, result.Replayed)
		_, err = s.sellOn(t.Context(), elsewhere(t, s), "b", "", once(short))
		require.Equal(t, short, err, "a new key")
		tx := beginTx(t, s.pool, "")
		result, err = s.sellOn(t.Context(), elsewhere(t, s).In(tx), "a", "", once(failure))
		require.NoError(t, err, name)
		require.True(t, result.Replayed)
		require.NoError(t, tx.Commit(t.Context()))
	}
	s.sold(t, "a", 1)
	s.sold(t, "b", 0)

	// Where it cannot be told whether it is one, the work's error is not the answer either.
	conn, err := s.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = s.sellOn(t.Context(), newTxGuard(t, conn.Conn(), &pgidem.TxOptions{Optimistic: true}), "a", "", func(ctx context.Context, _ pgx.Tx) error {
		return errors.Join(short, conn.Conn().Close(ctx))
	})
	require.Error(t, err)
	require.NotErrorIs(t, err, short)
}

// Each process runs the work, and one of them commits it.
// The trap: the work of a repeat sends COMMIT as text, and so has its effect a second time. The first result would say that it had not.
func TestDoTxOptimisticTellsThatARepeatHasEndedTheTransaction(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	_, err := s.sell(t.Context(), "a", "", nil)
	require.NoError(t, err)
	_, err = s.sellOn(t.Context(), elsewhere(t, s), "a", "", func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "COMMIT")
		return err
	})
	require.ErrorContains(t, err, "has ended the transaction")
	s.sold(t, "a", 2)
}

func TestDoTxOptimisticStorm(t *testing.T) {
	t.Parallel()
	s := optimisticShop(t)
	for n := range 20 {
		guards := make([]*pgidem.TxGuard, 8)
		for i := range guards {
			guards[i] = elsewhere(t, s)
		}
		s.storm(t, fmt.Sprint("storm ", n), 24, guards...)
	}
	require.Greater(t, s.runs.Load(), int32(20))
}

// B has run the work while A has the key: it is rolled back, and waits for A.
func TestDoTxOptimisticWaitsForTheOneWhoHasTheKey(t *testing.T) {
	t.Parallel()
	s := newShop(t, testdb.Postgres(t), nil)
	for _, end := range []error{nil, errors.New("declined")} {
		what := fmt.Sprint("with ", end)
		s.runs.Store(0)
		enter, leave := make(chan struct{}), make(chan struct{})
		var a, b idempotency.Result[int64]
		var failure, err error
		var wg sync.WaitGroup
		wg.Go(func() {
			a, failure = s.sell(t.Context(), what, "", func(context.Context, pgx.Tx) error { close(enter); <-leave; return end })
		})
		<-enter
		impatient := newTxGuard(t, s.pool, &pgidem.TxOptions{Optimistic: true, Wait: -1})
		_, err = s.sellOn(t.Context(), impatient, what, "", nil)
		require.ErrorIs(t, err, idempotency.ErrInFlight)
		g := elsewhere(t, s)
		wg.Go(func() { b, err = s.sellOn(t.Context(), g, what, "", nil) })
		s.waiting(t, 1)
		close(leave)
		wg.Wait()
		require.NoError(t, err)
		require.Equal(t, end, failure)
		require.Equal(t, end == nil, b.Replayed)
		if end == nil {
			require.Equal(t, a.Value, b.Value)
		}
		s.sold(t, what, 1)
	}
}

func TestDoTxOptimisticBesideDo(t *testing.T) {
	t.Parallel()
	s := optimisticShop(t)
	guard, err := idempotency.New(newStore(t, s.pool), &idempotency.Options{Wait: -1})
	require.NoError(t, err)
	do := func(what string, work func() error) error {
		_, err := idempotency.Do(t.Context(), guard, txKey(what), idempotency.FingerprintOf(nil),
			func(context.Context, *idempotency.Run) (int64, error) { return 42, work() })
		return err
	}
	require.NoError(t, do("done", func() error { return nil }))
	result, err := s.sell(t.Context(), "done", "", nil)
	require.NoError(t, err)
	require.Equal(t, idempotency.Result[int64]{Value: 42, Replayed: true}, result)
	s.sold(t, "done", 0)
	require.EqualError(t, do("claimed", func() error {
		_, err := s.sell(t.Context(), "claimed", "", nil)
		require.ErrorIs(t, err, idempotency.ErrInFlight)
		return errors.New("declined")
	}), "declined")
	s.sold(t, "claimed", 0)
	_, err = s.sell(t.Context(), "claimed", "", nil) // released, and its record is in the way of the guess
	require.NoError(t, err)
	s.sold(t, "claimed", 1)
}

func TestDoTxOptimisticTakesOverWhatIsOver(t *testing.T) {
	t.Parallel()
	s := optimisticShop(t)
	_, err := s.sell(t.Context(), "a", "", nil)
	require.NoError(t, err)
	ahead := time.Now().Add(20 * time.Minute).UnixMicro()
	execTx(t, s.pool, "UPDATE idempotency_records SET held_until = clock_timestamp(), token = $1", ahead)
	_, err = s.sellOn(t.Context(), elsewhere(t, s), "a", "other", func(context.Context, pgx.Tx) error { return errors.New("declined") })
	require.EqualError(t, err, "declined")
	require.Equal(t, ahead, queryTx[int64](t, s.pool, "SELECT token FROM idempotency_records"), "the old record is back")
	result, err := s.sellOn(t.Context(), elsewhere(t, s), "a", "other", nil)
	require.NoError(t, err)
	require.False(t, result.Replayed)
	require.Equal(t, ahead+1, queryTx[int64](t, s.pool, "SELECT token FROM idempotency_records"))
	held := queryTx[time.Duration](t, s.pool, "SELECT held_until - clock_timestamp() FROM idempotency_records")
	require.InDelta(t, 24*time.Hour, held, float64(time.Minute))
	s.sold(t, "a", 2)
}

func TestDoTxOptimisticInTheCallersTransaction(t *testing.T) {
	t.Parallel()
	s := optimisticShop(t)
	tx := beginTx(t, s.pool, "")
	first, err := s.sellOn(t.Context(), s.guard.In(tx), "a", "", nil)
	require.NoError(t, err)
	again, err := s.sellOn(t.Context(), elsewhere(t, s).In(tx), "a", "", nil)
	require.NoError(t, err)
	require.Equal(t, idempotency.Result[int64]{Value: first.Value, Replayed: true}, again)
	require.NoError(t, tx.Rollback(t.Context()))
	s.sold(t, "a", 0)

	// The record was made after the caller's snapshot, in which nobody can go on.
	tx = beginTx(t, s.pool, pgx.RepeatableRead)
	require.Zero(t, queryTx[int](t, tx, "SELECT count(*) FROM sales"))
	_, err = s.sell(t.Context(), "a", "", nil)
	require.NoError(t, err)
	_, err = s.sellOn(t.Context(), elsewhere(t, s).In(tx), "a", "", nil)
	require.True(t, retryable(err), "%v", err)
	require.NoError(t, tx.Commit(t.Context()))
	s.sold(t, "a", 1)
}

func TestDoTxOptimisticCost(t *testing.T) {
	t.Parallel()
	pool, tp := tapPool(t, testdb.Postgres(t).Config())
	s := newShop(t, pool, &pgidem.TxOptions{Optimistic: true})
	n := 0
	trips := func(f func()) int {
		t.Helper()
		for range 2 { // the statements are prepared by then
			n++
			tp.arm(nil)
			f()
		}
		n, _ := tp.disarm()
		return n
	}
	sell := func(g *pgidem.TxGuard, what string) {
		_, err := s.sellOn(t.Context(), g, what, "", nil)
		require.NoError(t, err)
	}
	require.Equal(t, 3, trips(func() { sell(s.guard, fmt.Sprint(n)) }), "a run: as the bare transaction")
	require.Equal(t, 1, trips(func() { sell(s.guard, "1") }), "a replay of a key that was seen")
	require.Equal(t, 8, trips(func() { sell(elsewhere(t, s), "1") }),
		"a replay of one that was not: the run, its end, a look, its end; and the driver prepares anew what has failed")
}

// slowConn is a connection whose last messages are on their way for as long as the test wants.
type slowConn struct {
	net.Conn
	mu   sync.Mutex
	slow bool
	held []byte
}

func (c *slowConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.slow {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *slowConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.slow {
		return nil
	}
	return c.Conn.Close()
}

// arrive lets the server have them.
func (c *slowConn) arrive(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Equal(t, "B", string(c.held[:1])) // Bind: the statements were prepared
	require.NoError(t, c.SetDeadline(time.Now().Add(txPatience)))
	_, err := c.Conn.Write(c.held)
	require.NoError(t, err)
	c.slow = false
}

// hold keeps what is sent from now on from arriving.
func hold(tx pgx.Tx) *slowConn {
	c := tx.Conn().PgConn().Conn().(*slowConn)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow = true
	return c
}

// slowShop soon stops waiting for the answer to a COMMIT.
func slowShop(t *testing.T, o pgidem.TxOptions) *shop {
	t.Helper()
	conf := testdb.Postgres(t).Config()
	dial := conf.ConnConfig.DialFunc
	conf.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &slowConn{Conn: conn}, err
	}
	pool := openPool(t, conf)
	o.CommitTimeout, o.Attempts = 3*time.Second, 1
	s := newShop(t, pool, &o)
	_, err := s.sell(t.Context(), "prepare", "", nil)
	require.NoError(t, err)
	return s
}

// The trap: the search begins before the COMMIT is made, and waits for that. By a snapshot of its beginning it would have missed it.
func TestDoTxSearchSeesWhatItHasWaitedFor(t *testing.T) {
	t.Parallel()
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			s := slowShop(t, pgidem.TxOptions{Isolation: level})
			var result idempotency.Result[int64]
			var pid uint32
			var lost *slowConn
			held, done := make(chan struct{}), make(chan error, 1)
			go func() {
				var err error
				result, err = s.sell(t.Context(), "a", "", func(_ context.Context, tx pgx.Tx) error {
					pid, lost = tx.Conn().PgConn().PID(), hold(tx)
					close(held)
					return nil
				})
				done <- err
			}()
			<-held
			eventuallyTx(t, "the search to wait", func() bool {
				return queryTx[bool](t, s.pool, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND $1 = ANY (pg_blocking_pids(pid)))", int(pid))
			})
			lost.arrive(t)
			require.NoError(t, <-done)
			require.False(t, result.Replayed)
			s.sold(t, "a", 1)
			s.requireReplay(t, "a", "", result.Value)
		})
	}
}

// The server reads INSERT and COMMIT only when nobody listens any more, and the caller was told that nothing was committed. Nothing had
// the lock when it was asked: without a record in its way it would be committed now.
func TestDoTxOptimisticCommitThatComesLateIsNotMade(t *testing.T) {
	t.Parallel()
	s := slowShop(t, pgidem.TxOptions{Optimistic: true})
	var lost *slowConn
	var pid uint32
	_, err := s.sell(t.Context(), "a", "", func(_ context.Context, tx pgx.Tx) error {
		pid, lost = tx.Conn().PgConn().PID(), hold(tx)
		return nil
	})
	require.ErrorContains(t, err, "it was not made")
	lost.arrive(t)
	eventuallyTx(t, "the server to do what it was told", func() bool {
		return queryTx[int](t, s.pool, "SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid) == 0
	})
	s.sold(t, "a", 0)
	result, err := s.sell(t.Context(), "a", "another payload", nil)
	require.NoError(t, err)
	require.False(t, result.Replayed)
	s.sold(t, "a", 1)
}

// The trap: the answer to the COMMIT of a guess is lost; what is found is another's result, which is over already. It is neither ours nor an
// answer: the call went on with a connection that it had given back.
func TestDoTxOptimisticLostCommitMeetsARecordThatIsOver(t *testing.T) {
	t.Parallel()
	s := slowShop(t, pgidem.TxOptions{Optimistic: true})
	g := newTxGuard(t, s.pool, &pgidem.TxOptions{Optimistic: true, TTL: time.Millisecond})
	var lost *slowConn
	_, err := s.sell(t.Context(), "a", "", func(ctx context.Context, tx pgx.Tx) error {
		_, err := s.sellOn(ctx, g, "a", "", nil)
		lost = hold(tx)
		return err
	})
	lost.arrive(t)
	require.ErrorContains(t, err, "it was not made")
	require.True(t, retryable(err))
	s.sold(t, "a", 1)
}

// The trap: what is found is a claim of Do, which has no result yet. It must not be taken for ours where that is empty.
func TestDoTxOptimisticLostCommitMeetsAClaim(t *testing.T) {
	t.Parallel()
	s := slowShop(t, pgidem.TxOptions{Optimistic: true})
	fp := idempotency.FingerprintOf([]byte("body"))
	var lost *slowConn
	_, err := pgidem.DoTx(t.Context(), s.guard, txKey("a"), fp, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
		_, err := tx.Exec(ctx, "INSERT INTO sales (what) VALUES ('a')")
		lost = hold(tx)
		require.NoError(t, err)
		_, err = newStore(t, s.pool).Claim(ctx, []idempotency.Request{{Key: txKey("a"), Fingerprint: fp, Lease: time.Hour}})
		return nil, err
	})
	lost.arrive(t)
	require.ErrorContains(t, err, "it was not made")
	s.sold(t, "a", 0)
}
