package pgledger_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
)

// failing makes each insert of the transaction "fails" fail with a code, and counts them; deferred, only the COMMIT fails.
func failing(t *testing.T, f fixture, code, deferred string) (attempts func() int) {
	t.Helper()
	exec(t, f.pool, "CREATE SEQUENCE attempts") // what is drawn is not rolled back
	exec(t, f.pool, `CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
PERFORM nextval('attempts'); RAISE EXCEPTION 'failed' USING ERRCODE = '`+code+`'; END $$`)
	exec(t, f.pool, `CREATE CONSTRAINT TRIGGER fails AFTER INSERT ON ledger_transactions `+deferred+` FOR EACH ROW WHEN (new.id = 'fails') EXECUTE FUNCTION fail()`)
	return func() int {
		return count(t, f.pool, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM attempts")
	}
}

// What PostgreSQL has rolled back is done again, a few times; what may be committed, and what would fail again, is the caller's.
func TestWhatIsDoneAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code, deferred string
		attempts       int
		retryable      bool
	}{
		"rolled back":          {"40001", "", 4, true},
		"of no use":            {"P0001", "", 1, false},
		"COMMIT has no answer": {"57P01", "DEFERRABLE INITIALLY DEFERRED", 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			attempts := failing(t, f, c.code, c.deferred)
			tell := func(err error) (code string, retryable bool) {
				e, ok := errors.AsType[*pgconn.PgError](err)
				require.True(t, ok, "%v", err)
				r, ok := errors.AsType[interface {
					error
					Retryable() bool
				}](err)
				require.True(t, ok, "%v", err)
				return e.Code, r.Retryable()
			}
			_, err := f.Post(t.Context(), []ledger.Transaction{move("fails", "bank", "a", "1")})
			code, retryable := tell(err)
			require.Equal(t, c.code, code)
			require.Equal(t, c.retryable, retryable)
			require.Equal(t, c.attempts, attempts())
			f.balance(t, "a", "0", 0)
			if c.deferred != "" {
				return
			}
			tx := begin(t, f, pgx.TxOptions{}) // which only its owner can do again
			_, err = on(t, tx).Post(t.Context(), []ledger.Transaction{move("fails", "bank", "a", "1")})
			code, retryable = tell(err)
			require.Equal(t, c.code, code)
			require.Equal(t, c.retryable, retryable)
			require.Equal(t, c.attempts+1, attempts())
		})
	}
}

// hangUp calls its function when a batch has failed, or has succeeded.
type hangUp struct {
	panicking
	failed bool
	now    func()
}

func (h hangUp) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (h hangUp) TraceBatchEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	if h.failed == (data.Err != nil) {
		h.now()
	}
}

// Who hangs up between two attempts hears so, and what was the matter.
func TestHangingUpBetweenAttempts(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := openOn(t, newPool(t, testdb.PostgresURL(t), func(c *pgxpool.Config) { c.ConnConfig.Tracer = hangUp{failed: true, now: cancel} }))
	attempts := failing(t, f, "40001", "")
	_, err := f.Post(ctx, []ledger.Transaction{move("fails", "bank", "a", "1")})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorAs(t, err, new(*pgconn.PgError))
	require.Equal(t, 1, attempts())
}

// Who hangs up when the accounts are locked, and nothing is written yet, finds a transaction as it was: without locks, and with its settings.
func TestHangingUpBehindTheLocks(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pool := newPool(t, f.pool.Config().ConnString(), func(c *pgxpool.Config) { c.ConnConfig.Tracer = hangUp{now: cancel} })
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = on(t, tx).Post(ctx, []ledger.Transaction{move("1", "bank", "a", "1")})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, count(t, tx, "SELECT count(*) WHERE current_setting('enable_seqscan') = 'on'"))
	exec(t, f.pool, "SELECT 1 FROM ledger_accounts FOR UPDATE NOWAIT")
	_, err = tx.Exec(t.Context(), "RELEASE SAVEPOINT safetill_ledger")
	require.ErrorContains(t, err, "does not exist")
}

// What is to be reversed was posted after the look for it and before the locks, so its accounts were not locked.
func TestATargetThatComesLate(t *testing.T) {
	t.Parallel()
	f := open(t)
	late := func(target string) ledger.Transaction {
		return ledger.Transaction{
			ID: ledger.TransactionID("undo " + target), Kind: ledger.KindReverse, Of: ledger.TransactionID(target),
			If: []ledger.Condition{{Account: "a"}}, // which makes it wait
		}
	}
	for target, post := range map[string]func(ledger.Transaction) (ledger.Result, error){
		"1": func(tx ledger.Transaction) (ledger.Result, error) { return f.PostOne(t.Context(), tx) },
		"2": func(tx ledger.Transaction) (r ledger.Result, err error) {
			err = pgx.BeginFunc(t.Context(), f.pool, func(db pgx.Tx) error {
				r, err = on(t, db).PostOne(t.Context(), tx)
				return err
			})
			return r, err
		},
	} {
		first := begin(t, f, pgx.TxOptions{})
		want(t, on(t, first), ledger.Posted, move(target, "bank", "a", "1"))
		got := make(chan error, 1)
		go func() {
			_, err := post(late(target))
			got <- err
		}()
		waitForLock(t, f.pool, 1)
		require.NoError(t, first.Commit(t.Context()))
		require.NoError(t, <-got)
	}
	f.balance(t, "a", "0", 4)
	f.verify(t)
}
