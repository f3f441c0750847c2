package pg_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/internal/testdb"
)

func class(t *testing.T, what string, err error, retryable, unavailable bool) {
	t.Helper()
	require.Error(t, err, what)
	err = fmt.Errorf("post: %w", err)
	require.Equal(t, retryable, pg.Retryable(err), "%s retryable: %v", what, err)
	require.Equal(t, unavailable, pg.Unavailable(err), "%s unavailable: %v", what, err)
}

func TestErrorClassesByCode(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]struct{ retryable, unavailable bool }{
		"40001": {true, false},
		"40P01": {true, false},
		"55P03": {true, false},
		"57P01": {true, true},
		"57P02": {true, true},
		"57P03": {true, true},
		"57P05": {true, true},
		"53300": {true, true},
		"08001": {true, true},
		"08004": {true, true},
		"08006": {false, true}, // a pooler lost its server, perhaps behind a COMMIT
		"08007": {false, true},
		"08P01": {false, true},
		"25006": {false, true},
		"25P03": {false, true},
		"53100": {false, true},
		"57014": {false, true},
		"58030": {false, true},
		"22012": {false, false},
		"23505": {false, false},
		"25P02": {false, false},
		"28P01": {false, false},
		"3D000": {false, false},
		"42P01": {false, false},
		"57P04": {false, false},
		"XX000": {false, false},
	} {
		class(t, code, &pgconn.PgError{Code: code}, want.retryable, want.unavailable)
	}
	require.False(t, pg.Retryable(nil))
	require.False(t, pg.Unavailable(nil))
	class(t, "cancelled", context.Canceled, false, false)
	class(t, "deadline", context.DeadlineExceeded, false, true)
	class(t, "end", io.ErrUnexpectedEOF, false, true)
	class(t, "closed", net.ErrClosed, false, true)
	class(t, "other", errors.New("other"), false, false)
	class(t, "no rows", pgx.ErrNoRows, false, false)
	class(t, "not sent", unsent{errors.New("not sent")}, true, false)
	class(t, "cancelled before it was sent", unsent{context.Canceled}, false, false)
	class(t, "cancelled on the way", &net.OpError{Op: "read", Err: context.Canceled}, false, false)
}

// unsent is what the driver says of a statement that it has not sent.
type unsent struct{ error }

func (unsent) SafeToRetry() bool { return true }

func (u unsent) Unwrap() error { return u.error }

func TestErrorClassesOfARealServer(t *testing.T) {
	t.Parallel()
	db := testdb.Postgres(t)
	_, err := db.Exec(t.Context(), "create table one (id int constraint one_and_only primary key); insert into one values (1)")
	require.NoError(t, err)

	_, err = db.Exec(t.Context(), "insert into one values (1)")
	constraint, ok := pg.IsUniqueViolation(fmt.Errorf("post: %w", err))
	require.True(t, ok)
	require.Equal(t, "one_and_only", constraint)
	class(t, "duplicate", err, false, false)
	_, ok = pg.IsUniqueViolation(io.EOF)
	require.False(t, ok)

	_, err = db.Exec(t.Context(), "no such statement")
	class(t, "syntax", err, false, false)

	_, err = db.Exec(t.Context(), "set local statement_timeout = 20; select pg_sleep(30)")
	class(t, "statement_timeout", err, false, true)

	late, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = db.Exec(late, "select pg_sleep(30)")
	class(t, "our deadline", err, false, true)

	gone, hangUp := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, hangUp)
	_, err = db.Exec(gone, "select pg_sleep(30)")
	class(t, "client hung up", err, false, false)
	_, err = db.Exec(gone, "select 1")
	class(t, "client had hung up", err, false, false)
}

func TestErrorClassesOfAServerThatGoes(t *testing.T) {
	t.Parallel()
	server := testdb.NewPostgres(t)
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), server.URL())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
		return conn
	}
	told, killed := connect(), connect()
	_, err := connect().Exec(t.Context(), "select pg_terminate_backend($1)", told.PgConn().PID())
	require.NoError(t, err)
	_, err = told.Exec(t.Context(), "select 1")
	require.Error(t, err)
	require.True(t, pg.Unavailable(err), "terminated: %v", err)

	busy := make(chan error, 1)
	go func() {
		_, err := killed.Exec(t.Context(), "select pg_sleep(60)")
		busy <- err
	}()
	watch := connect()
	require.Eventually(t, func() bool {
		var active bool
		err := watch.QueryRow(t.Context(), "select state = 'active' from pg_stat_activity where pid = $1", killed.PgConn().PID()).Scan(&active)
		return err == nil && active
	}, time.Minute, 20*time.Millisecond)
	require.NoError(t, server.Kill())
	class(t, "killed below a statement", <-busy, false, true)
	_, err = killed.Exec(t.Context(), "select 1")
	class(t, "connection known to be closed", err, false, true)
	_, err = pgx.Connect(t.Context(), server.URL())
	class(t, "nobody listens", err, true, true)
	pool, err := pgxpool.New(t.Context(), server.URL())
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), "select 1")
	class(t, "nobody listens, through a pool", err, true, true)

	require.NoError(t, server.Start(t.Context()))
	_, err = pool.Exec(t.Context(), "select 1")
	require.NoError(t, err)
	_, err = pgx.Connect(t.Context(), server.URL()+"&dbname=none")
	class(t, "no such database", err, false, false)
}

// The trap: COMMIT is sent, the server dies, and the driver says "conn closed", which is also its word for a connection on which nothing was sent.
func TestALostCommitIsNotSafeToRetry(t *testing.T) {
	t.Parallel()
	server := testdb.NewPostgres(t)
	conn, err := pgx.Connect(t.Context(), server.URL())
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	_, err = conn.Exec(t.Context(), `create table slow (n int);
		create function wait() returns trigger language plpgsql as $$ begin perform pg_sleep(60); return null; end $$;
		create constraint trigger wait after insert on slow deferrable initially deferred for each row execute function wait()`)
	require.NoError(t, err)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "insert into slow values (1)")
	require.NoError(t, err)

	lost := make(chan error, 1)
	go func() { lost <- tx.Commit(t.Context()) }()
	watch, err := pgx.Connect(t.Context(), server.URL())
	require.NoError(t, err)
	defer func() { _ = watch.Close(context.WithoutCancel(t.Context())) }()
	require.Eventually(t, func() bool {
		var waiting bool
		err := watch.QueryRow(t.Context(), "select exists (select from pg_stat_activity where query = 'commit' and wait_event = 'PgSleep')").Scan(&waiting)
		return err == nil && waiting
	}, time.Minute, 20*time.Millisecond)
	require.NoError(t, server.Kill())
	class(t, "lost COMMIT", <-lost, false, true)
}

func TestClassifiedErrorsSayWhetherToRepeat(t *testing.T) {
	t.Parallel()
	type retryable interface {
		error
		Retryable() bool
	}
	for code, want := range map[string]bool{"40001": true, "40P01": true, "23505": false} {
		err := fmt.Errorf("post: %w", pg.Classify(fmt.Errorf("write: %w", &pgconn.PgError{Code: code})))
		e, ok := errors.AsType[retryable](err)
		require.True(t, ok)
		require.Equal(t, want, e.Retryable(), code)
		pgErr, ok := errors.AsType[*pgconn.PgError](err)
		require.True(t, ok, "the driver's error stays in reach")
		require.Equal(t, code, pgErr.Code)
	}
	require.NoError(t, pg.Classify(nil))
}

func TestAfterACommitWasSentOnlyARollbackIsRetryable(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{"40001": true, "40P01": true, "57P01": false, "57P02": false, "08001": false, "53300": false} {
		err := &pgconn.PgError{Code: code}
		require.True(t, pg.Retryable(fmt.Errorf("lock: %w", err)), code)
		sent := fmt.Errorf("write: %w", pg.CommitSent(err))
		require.Equal(t, want, pg.Retryable(sent), code)
		require.Equal(t, pg.Unavailable(err), pg.Unavailable(sent), code)
	}
	_, refused := pgconn.Connect(t.Context(), "postgres://127.0.0.1:1/none")
	for _, err := range []error{refused, unsent{errors.New("not sent")}} {
		require.True(t, pg.Retryable(err), err)
		require.False(t, pg.Retryable(pg.CommitSent(err)), err)
	}
	require.NoError(t, pg.CommitSent(nil))
}
