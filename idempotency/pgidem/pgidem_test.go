package pgidem_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/idemtest"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/testdb"
)

var (
	_ idempotency.Store   = (*pgidem.Store)(nil)
	_ idempotency.Sweeper = (*pgidem.Store)(nil)
	_ pgidem.DB           = (*pgxpool.Pool)(nil)
	_ pgidem.DB           = (*pgx.Conn)(nil)
	_ pgidem.DB           = pgx.Tx(nil)
)

func migrated(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	pool := testdb.Postgres(tb)
	require.NoError(tb, pgidem.Migrate(tb.Context(), pool, nil))
	return pool
}

func newStore(tb testing.TB, db pgidem.DB) *pgidem.Store {
	tb.Helper()
	store, err := pgidem.NewStore(db, nil)
	require.NoError(tb, err)
	return store
}

func requests(n int) []idempotency.Request {
	all, scope := make([]idempotency.Request, n), rand.Text()
	for i := range all {
		all[i] = idempotency.Request{
			Key: idempotency.Key{Scope: scope, Op: "test", Value: strconv.Itoa(i)}, Lease: time.Minute,
		}
	}
	return all
}

func TestStore(t *testing.T) {
	t.Parallel()
	store := newStore(t, migrated(t))
	idemtest.Run(t, func(testing.TB) idempotency.Store { return store })
}

func TestStoreInSchema(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	const schema = "Odd \"schema\""
	require.NoError(t, pgidem.Migrate(t.Context(), pool, &pgidem.MigrateOptions{Schema: schema}))
	require.NoError(t, pgidem.Migrate(t.Context(), pool, &pgidem.MigrateOptions{Schema: schema}))
	t.Cleanup(func() {
		_, _ = pool.Exec(context.WithoutCancel(t.Context()), "DROP SCHEMA "+pgx.Identifier{schema}.Sanitize()+" CASCADE")
	})
	store, err := pgidem.NewStore(pool, &pgidem.Options{Schema: schema})
	require.NoError(t, err)
	require.NoError(t, store.CheckSchema(t.Context()))
	records, err := store.Claim(t.Context(), requests(3))
	require.NoError(t, err)
	require.Equal(t, idempotency.Won, records[2].Outcome)
}

func TestNewStoreRefusesNil(t *testing.T) {
	t.Parallel()
	_, err := pgidem.NewStore(nil, nil)
	require.ErrorIs(t, err, idempotency.ErrInvalid)
	_, err = pgidem.NewStore((*pgxpool.Pool)(nil), nil)
	require.ErrorIs(t, err, idempotency.ErrInvalid)
	_, err = pgidem.NewTxGuard((*pgxpool.Pool)(nil), nil)
	require.ErrorIs(t, err, idempotency.ErrInvalid)
	_, err = idempotency.New((*pgidem.Store)(nil), nil)
	require.EqualError(t, err, "idempotency: store is nil")
}

func TestDoTxRefusesNoWork(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://127.0.0.1:1/none") // it is not asked
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	guard, err := pgidem.NewTxGuard(pool, nil)
	require.NoError(t, err)
	key := idempotency.Key{Scope: "s", Op: "o", Value: "v"}
	_, err = pgidem.DoTx[string](t.Context(), guard, key, idempotency.Fingerprint{}, nil)
	require.EqualError(t, err, "idempotency: work is nil")
	for _, none := range []*pgidem.TxGuard{nil, {}} {
		_, err = pgidem.DoTx(t.Context(), none, key, idempotency.Fingerprint{}, func(context.Context, pgx.Tx) (int, error) { panic("must not run") })
		require.EqualError(t, err, "idempotency: guard is nil, or was not made by NewTxGuard")
	}
}

// counter counts statements.
type counter struct {
	pgidem.DB
	calls atomic.Int32
}

func (c *counter) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	c.calls.Add(1)
	return c.DB.Query(ctx, sql, args...)
}

func TestOneStatementACall(t *testing.T) {
	t.Parallel()
	db := &counter{DB: migrated(t)}
	store, batch := newStore(t, db), requests(100)
	for want := int32(1); want < 3; want++ { // won, then in flight
		_, err := store.Claim(t.Context(), append(slices.Clone(batch), batch[7]))
		require.NoError(t, err)
		require.Equal(t, want, db.calls.Load())
	}
}

// Replays must not cost a commit: a statement that wrote nothing has no transaction id.
func TestReplayWritesNothing(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	store, batch := newStore(t, pool), requests(3)
	records, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	_, err = store.Complete(t.Context(), []idempotency.Completion{{Key: batch[0].Key, Token: records[0].Token, TTL: time.Hour}})
	require.NoError(t, err)
	batch[2].Fingerprint[0]++

	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	records, err = store.In(tx).Claim(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, idempotency.Completed, records[0].Outcome)
	require.Equal(t, idempotency.InFlight, records[1].Outcome)
	require.Equal(t, idempotency.Mismatch, records[2].Outcome)
	var xid *int64
	require.NoError(t, tx.QueryRow(t.Context(), "SELECT pg_current_xact_id_if_assigned()::text::bigint").Scan(&xid))
	require.Nil(t, xid)
}

// What is claimed and completed in the caller's transaction is gone with its rollback and there with its commit.
func TestJoinsTheCallersTransaction(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	batch := requests(1)
	inTx := func(end func(pgx.Tx) error) {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		store := newStore(t, tx)
		records, err := store.Claim(t.Context(), batch)
		require.NoError(t, err)
		require.Equal(t, idempotency.Won, records[0].Outcome)
		_, err = store.Complete(t.Context(), []idempotency.Completion{
			{Key: batch[0].Key, Token: records[0].Token, Response: []byte("receipt"), TTL: time.Hour},
		})
		require.NoError(t, err)
		require.NoError(t, end(tx))
	}
	inTx(func(tx pgx.Tx) error { return tx.Rollback(t.Context()) })
	inTx(func(tx pgx.Tx) error { return tx.Commit(t.Context()) })
	records, err := newStore(t, pool).Claim(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, idempotency.Completed, records[0].Outcome)
	require.Equal(t, "receipt", string(records[0].Response))
}

// watched is a transaction that tells of what is sent.
type watched struct {
	pgx.Tx
	sent chan struct{}
}

func (w watched) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	w.sent <- struct{}{}
	return w.Tx.SendBatch(ctx, b)
}

// A transaction is for one goroutine: a heartbeat would come between two statements of the work, or into one.
func TestALeaseIsNotExtendedInTheTransactionOfTheWork(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	w := watched{Tx: tx, sent: make(chan struct{}, 100)}
	key := requests(1)[0].Key
	do := func(store *pgidem.Store, work func(context.Context) error) (idempotency.Result[string], error) {
		guard, err := idempotency.New(store, &idempotency.Options{Lease: 100 * time.Millisecond})
		require.NoError(t, err)
		return idempotency.Do(t.Context(), guard, key, idempotency.FingerprintOf(nil), func(ctx context.Context, _ *idempotency.Run) (string, error) {
			return "receipt", work(ctx)
		})
	}
	_, err = do(newStore(t, pool).In(w), func(ctx context.Context) error {
		<-w.sent // the claim
		select {
		case <-ctx.Done():
			require.ErrorIs(t, context.Cause(ctx), idempotency.ErrLost)
		case <-w.sent:
			t.Error("something was sent beside the work")
		}
		return nil // it had done its part by then, and nobody else can have the key
	})
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	result, err := do(newStore(t, pool), func(context.Context) error { panic("must not run") })
	require.NoError(t, err)
	require.Equal(t, idempotency.Result[string]{Value: "receipt", Replayed: true}, result)

	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for _, db := range []pgidem.DB{conn, conn.Conn(), w} {
		require.False(t, newStore(t, db).Concurrent(), "%T", db)
	}
	require.True(t, newStore(t, pool).Concurrent())
}

// A's transaction has inserted the key when B's statement begins and commits while B waits for its row: the row is not
// in B's snapshot, and B has to look again to answer.
func TestLostRaceLooksAgain(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	batch := requests(2)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	a := newStore(t, tx)
	won, err := a.Claim(t.Context(), batch[:1])
	require.NoError(t, err)
	_, err = a.Complete(t.Context(), []idempotency.Completion{
		{Key: batch[0].Key, Token: won[0].Token, Response: []byte("receipt"), TTL: time.Hour},
	})
	require.NoError(t, err)

	db := &counter{DB: pool}
	type answer struct {
		records []idempotency.Record
		err     error
	}
	store, answers := newStore(t, db), make(chan answer, 1)
	other := batch[0]
	other.Fingerprint[0]++
	go func() {
		records, err := store.Claim(t.Context(), []idempotency.Request{batch[0], batch[1], batch[0], other})
		answers <- answer{records, err}
	}()
	awaitWaiter(t, pool, tx)
	require.NoError(t, tx.Commit(t.Context()))
	b := <-answers
	require.NoError(t, b.err)
	require.Equal(t, idempotency.Completed, b.records[0].Outcome)
	require.Equal(t, "receipt", string(b.records[0].Response))
	require.Equal(t, idempotency.Won, b.records[1].Outcome)
	require.Equal(t, idempotency.Completed, b.records[2].Outcome)
	require.Equal(t, idempotency.Mismatch, b.records[3].Outcome)
	require.EqualValues(t, 2, db.calls.Load())
}

// once is a database that fails at its second statement.
type once struct {
	pgidem.DB
	asked bool
}

var errGone = errors.New("gone")

func (o *once) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if o.asked {
		return nil, errGone
	}
	o.asked = true
	return o.DB.Query(ctx, sql, args...)
}

// onceTx is a transaction that does.
type onceTx struct {
	pgx.Tx
	asked bool
}

func (o *onceTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if o.asked {
		return pgx.FailedBatchResults(b, errGone)
	}
	o.asked = true
	return o.Tx.SendBatch(ctx, b)
}

// One key is won at the first look, of the other the race is lost, and the second look fails: in a transaction that takes back the first one, too.
func TestSecondLookThatFails(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	begin := func() pgx.Tx {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
		return tx
	}
	for outcome, db := range map[idempotency.Outcome]pgidem.DB{idempotency.Won: &once{DB: pool}, idempotency.Unknown: &onceTx{Tx: begin()}} {
		batch, tx := requests(2), begin()
		_, err := newStore(t, tx).Claim(t.Context(), batch[:1])
		require.NoError(t, err)
		store, answers := newStore(t, db), make(chan []idempotency.Record, 1)
		go func() {
			records, err := store.Claim(t.Context(), batch)
			assert.ErrorIs(t, err, errGone)
			answers <- records
		}()
		awaitWaiter(t, pool, tx)
		require.NoError(t, tx.Commit(t.Context()))
		records := <-answers
		require.Equal(t, idempotency.Unknown, records[0].Outcome)
		require.Equal(t, outcome, records[1].Outcome)
	}
}

// A's lease is over, and B takes the key while A comes back: A's statement meets the row as it was before, and waits for it. What A then does to it
// is done to B: B's result would be A's, or a third one would run beside B.
func TestALateOwnerThatWaitsForTheNextOneHasLost(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	store := newStore(t, pool)
	for name, late := range map[string]func(idempotency.Key, idempotency.Token) ([]error, error){
		"complete": func(key idempotency.Key, token idempotency.Token) ([]error, error) {
			return store.Complete(t.Context(), []idempotency.Completion{{Key: key, Token: token, Response: []byte("late"), TTL: time.Hour}})
		},
		"release": func(key idempotency.Key, token idempotency.Token) ([]error, error) {
			return store.Release(t.Context(), []idempotency.Claim{{Key: key, Token: token}})
		},
		"extend": func(key idempotency.Key, token idempotency.Token) ([]error, error) {
			return store.Extend(t.Context(), []idempotency.Extension{{Key: key, Token: token, Lease: time.Hour}})
		},
	} {
		batch := requests(1)
		key := batch[0].Key
		a, err := store.Claim(t.Context(), batch)
		require.NoError(t, err)
		_, err = pool.Exec(t.Context(), "UPDATE idempotency_records SET held_until = clock_timestamp() WHERE key = $1", []byte(key.String()))
		require.NoError(t, err)
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
		b, err := newStore(t, tx).Claim(t.Context(), batch)
		require.NoError(t, err)
		require.Equal(t, idempotency.Won, b[0].Outcome)
		answer := make(chan error, 1)
		go func() {
			items, err := late(key, a[0].Token)
			answer <- errors.Join(append(items, err)...)
		}()
		awaitWaiter(t, pool, tx)
		require.NoError(t, tx.Commit(t.Context()))
		require.ErrorIs(t, <-answer, idempotency.ErrLost, name)
		c, err := store.Claim(t.Context(), batch)
		require.NoError(t, err)
		require.Equal(t, idempotency.InFlight, c[0].Outcome, name)
		require.LessOrEqual(t, c[0].Remaining, batch[0].Lease, name)
	}
}

// A's transaction has recorded a step and released the key while B, with another payload, waits for its row: what B could
// not see when its statement began still holds the key to A's payload.
func TestLostRaceToAStepIsAMismatch(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	batch := requests(1)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	a := newStore(t, tx)
	won, err := a.Claim(t.Context(), batch)
	require.NoError(t, err)
	_, err = a.Extend(t.Context(), []idempotency.Extension{{
		Key: batch[0].Key, Token: won[0].Token, Lease: time.Minute, Keep: time.Hour, Step: idempotency.StepRecord{Name: "charge"},
	}})
	require.NoError(t, err)
	_, err = a.Release(t.Context(), []idempotency.Claim{{Key: batch[0].Key, Token: won[0].Token}})
	require.NoError(t, err)

	type answer struct {
		records []idempotency.Record
		err     error
	}
	store, answers := newStore(t, pool), make(chan answer, 1)
	other := batch[0]
	other.Fingerprint[0]++
	go func() {
		records, err := store.Claim(t.Context(), []idempotency.Request{other})
		answers <- answer{records, err}
	}()
	awaitWaiter(t, pool, tx)
	require.NoError(t, tx.Commit(t.Context()))
	b := <-answers
	require.NoError(t, b.err)
	require.Equal(t, idempotency.Mismatch, b.records[0].Outcome)
}

// awaitWaiter waits until somebody waits for the transaction.
func awaitWaiter(t *testing.T, pool *pgxpool.Pool, tx pgx.Tx) {
	t.Helper()
	require.Eventually(t, func() bool {
		var waiting int
		err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE NOT l.granted AND a.datname = current_database() AND a.query LIKE '%idempotency_records%'
			AND l.transactionid = (SELECT transactionid FROM pg_locks WHERE pid = $1 AND locktype = 'transactionid' LIMIT 1)`,
			tx.Conn().PgConn().PID()).Scan(&waiting)
		return err == nil && waiting == 1
	}, 20*time.Second, 5*time.Millisecond)
}

// A record written when the clock was ahead: the token must grow from it, not from the clock.
func TestTokenGrowsWhenTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	store, batch := newStore(t, pool), requests(1)
	first, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	_, err = store.Release(t.Context(), []idempotency.Claim{{Key: batch[0].Key, Token: first[0].Token}})
	require.NoError(t, err)
	ahead := time.Now().Add(20 * time.Minute).UnixMicro()
	_, err = pool.Exec(t.Context(), "UPDATE idempotency_records SET token = $1 WHERE key = $2", ahead, []byte(batch[0].Key.String()))
	require.NoError(t, err)
	records, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, idempotency.Won, records[0].Outcome)
	require.EqualValues(t, ahead+1, records[0].Token)
}

// A replica is promoted that has heard of an earlier owner, and not of the last one: the next token is above that one's too, since it is the clock's.
func TestTokenOutgrowsAnOwnerWhoWasNotReplicated(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	store, batch := newStore(t, pool), requests(1)
	first, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	_, err = store.Release(t.Context(), []idempotency.Claim{{Key: batch[0].Key, Token: first[0].Token}})
	require.NoError(t, err)
	last := int64(first[0].Token) // as if it was lost, with its release
	_, err = pool.Exec(t.Context(), "UPDATE idempotency_records SET token = $1 WHERE key = $2", last-60_000_000, []byte(batch[0].Key.String()))
	require.NoError(t, err)
	records, err := store.Claim(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, idempotency.Won, records[0].Outcome)
	require.Greater(t, int64(records[0].Token), last)
}

// A claim may have waited for another's lock before it won: its lease does not begin before.
func TestLeaseBeginsWhenTheKeyIsWon(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	store, batch := newStore(t, pool), requests(1)
	batch[0].Lease = time.Hour
	for range 2 { // the second finds a row
		won, err := store.Claim(t.Context(), batch)
		require.NoError(t, err)
		var lease time.Duration
		require.NoError(t, pool.QueryRow(t.Context(), "SELECT held_until - claimed_at FROM idempotency_records").Scan(&lease))
		require.GreaterOrEqual(t, lease, time.Hour)
		_, err = store.Release(t.Context(), []idempotency.Claim{{Key: batch[0].Key, Token: won[0].Token}})
		require.NoError(t, err)
	}
}

// The life of a claim stays in its page: no index is written but at the first insert.
func TestUpdatesAreHOT(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	store, batch := newStore(t, pool), requests(300)
	for i := range batch {
		records, err := store.Claim(t.Context(), batch[i:i+1])
		require.NoError(t, err)
		e := idempotency.Extension{Key: batch[i].Key, Token: records[0].Token, Lease: time.Minute}
		if i%10 == 0 {
			e.Step, e.Keep = idempotency.StepRecord{Name: "charge", Result: []byte("charged")}, time.Hour
		}
		_, err = store.Extend(t.Context(), []idempotency.Extension{e})
		require.NoError(t, err)
		_, err = store.Complete(t.Context(), []idempotency.Completion{
			{Key: batch[i].Key, Token: records[0].Token, Response: make([]byte, 200), TTL: 24 * time.Hour},
		})
		require.NoError(t, err)
	}
	var updates, inPlace int
	require.Eventually(t, func() bool { // the other connections' counts come when they have been idle for a second
		_, err := pool.Exec(t.Context(), "SELECT pg_stat_force_next_flush()")
		require.NoError(t, err)
		require.NoError(t, pool.QueryRow(t.Context(),
			"SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'idempotency_records'::regclass").Scan(&updates, &inPlace))
		return updates == 600
	}, 20*time.Second, 50*time.Millisecond)
	require.GreaterOrEqual(t, inPlace, 595)
}

func TestMissingTableIsAnErrorAndClosed(t *testing.T) {
	t.Parallel()
	store := newStore(t, testdb.Postgres(t))
	missing, ok := errors.AsType[*pgidem.SchemaError](store.CheckSchema(t.Context()))
	require.True(t, ok)
	require.Equal(t, &pgidem.SchemaError{Line: "idempotency", By: "pgidem.Migrate", Have: 0, Want: 4}, missing)
	guard, err := idempotency.New(store, nil)
	require.NoError(t, err)
	_, err = idempotency.Do(t.Context(), guard, requests(1)[0].Key, idempotency.Fingerprint{},
		func(context.Context, *idempotency.Run) (int, error) { panic("must not run") })
	require.ErrorContains(t, err, "idempotency_records")
	key := requests(1)[0].Key
	for name, call := range map[string]func(ctx context.Context) error{
		"Claim": func(ctx context.Context) error { _, err := store.Claim(ctx, requests(1)); return err },
		"Complete": func(ctx context.Context) error {
			_, err := store.Complete(ctx, []idempotency.Completion{{Key: key, Token: 1, TTL: time.Hour}})
			return err
		},
		"Release": func(ctx context.Context) error {
			_, err := store.Release(ctx, []idempotency.Claim{{Key: key, Token: 1}})
			return err
		},
		"Extend": func(ctx context.Context) error {
			_, err := store.Extend(ctx, []idempotency.Extension{{Key: key, Token: 1, Lease: time.Minute}})
			return err
		},
		"Sweep": func(ctx context.Context) error { _, err := store.Sweep(ctx, 1); return err },
	} {
		err := call(t.Context())
		missing, ok := errors.AsType[*pgidem.SchemaError](err)
		require.True(t, ok, "%s: %v", name, err)
		require.Equal(t, 4, missing.Want)
		require.ErrorContains(t, err, "pgidem.Migrate brings them to version 4", name)
	}
}

// The steps came with the second file.
func TestATableThatIsTooOldSaysSo(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	first, err := fs.ReadFile(pgidem.Migrations(), "0001_init.sql")
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), string(first))
	require.NoError(t, err)
	_, err = newStore(t, pool).Claim(t.Context(), requests(1))
	require.ErrorAs(t, err, new(*pgidem.SchemaError))
	require.ErrorContains(t, err, "or too old: pgidem.Migrate brings them to version 4")
}

func TestDatabaseDownIsClosed(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	store := newStore(t, brokenDB{pool})
	records, err := store.Claim(t.Context(), requests(2))
	require.ErrorIs(t, err, errBroken)
	require.Equal(t, []idempotency.Record{{}, {}}, records) // idempotency.Unknown
	_, err = store.Complete(t.Context(), []idempotency.Completion{{Key: requests(1)[0].Key, Token: 1, TTL: time.Hour}})
	require.ErrorIs(t, err, errBroken)
}

var errBroken = errors.New("connection is broken")

type brokenDB struct{ pgidem.DB }

func (brokenDB) Query(context.Context, string, ...any) (pgx.Rows, error) { return nil, errBroken }

func BenchmarkClaimComplete100(b *testing.B) {
	store := newStore(b, migrated(b))
	batch := requests(100)
	fresh := 0
	for b.Loop() {
		for i := range batch {
			fresh++
			batch[i].Key.Value = strconv.Itoa(fresh)
		}
		records, err := store.Claim(b.Context(), batch)
		require.NoError(b, err)
		completions := make([]idempotency.Completion, len(batch))
		for i, r := range records {
			completions[i] = idempotency.Completion{Key: batch[i].Key, Token: r.Token, TTL: time.Hour}
		}
		_, err = store.Complete(b.Context(), completions)
		require.NoError(b, err)
	}
}
