package pgsaga_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// account is the data of the sagas of the processes' test. Every tenth is refused.
type account struct {
	N      int
	Booked bool
}

const processLease = 500 * time.Millisecond

// bookings has steps with an idempotent provider, which is the table charges with its
// primary key, and others that are exactly once by their transaction alone: the table
// bookings has no key. A refund comes before its charge where the charge is sent by a
// process that was stopped at that moment: it stays in the table, so that the charge is
// refused when it arrives. Without that this test finds charges that stand.
func bookings(pool *pgxpool.Pool) *saga.Definition[account] {
	charge := func(ctx context.Context, _ *account) error {
		_, err := pool.Exec(ctx, `INSERT INTO charges (key) VALUES ($1) ON CONFLICT DO NOTHING`, saga.CallFrom(ctx).DoKey())
		return err
	}
	refund := func(ctx context.Context, _ *account) error {
		_, err := pool.Exec(ctx, `INSERT INTO charges VALUES ($1, true) ON CONFLICT (key) DO UPDATE SET refunded = true`, saga.CallFrom(ctx).DoKey())
		return err
	}
	return saga.MustDefine("booking", 1,
		saga.StepTx("book", func(ctx context.Context, tx pgx.Tx, a *account) error {
			a.Booked = true
			_, err := tx.Exec(ctx, `INSERT INTO bookings (saga, kind) VALUES ($1, 'booked')`, saga.CallFrom(ctx).SagaID)
			return err
		}).Undo(func(ctx context.Context, tx pgx.Tx, _ *account) error {
			_, err := tx.Exec(ctx, `INSERT INTO bookings (saga, kind) VALUES ($1, 'cancelled')`, saga.CallFrom(ctx).SagaID)
			return err
		}),
		saga.Step("charge", charge).Undo(refund).Idempotent(),
		saga.Pivot("confirm", func(ctx context.Context, a *account) error {
			if a.N%10 == 0 {
				return saga.Reject(errors.New("every tenth is refused"))
			}
			return charge(ctx, a)
		}).Idempotent(),
		saga.RetriableTx("file", func(ctx context.Context, tx pgx.Tx, _ *account) error {
			_, err := tx.Exec(ctx, `INSERT INTO bookings (saga, kind) VALUES ($1, 'filed')`, saga.CallFrom(ctx).SagaID)
			return err
		}))
}

// The log of all writes that were accepted: who wrote, with which token. A trigger
// keeps it, which no client can pass by.
const acceptedSQL = `
CREATE TABLE charges (key text PRIMARY KEY, refunded boolean NOT NULL DEFAULT false);
CREATE TABLE bookings (saga text NOT NULL, kind text NOT NULL);
CREATE TABLE accepted (saga text, token bigint, revision bigint, who text, claim boolean, at bigserial);
CREATE FUNCTION accept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO accepted VALUES (NEW.id, NEW.token, NEW.revision, current_setting('application_name'), NEW.token <> OLD.token);
    RETURN NEW;
END $$;
CREATE TRIGGER accept AFTER UPDATE ON sagas FOR EACH ROW WHEN (NEW.token <> OLD.token OR NEW.revision <> OLD.revision) EXECUTE FUNCTION accept()`

const (
	childEnv = "SAFETILL_PGSAGA_CHILD"
	nameEnv  = "SAFETILL_PGSAGA_NAME"
)

// TestChild is one of the processes of [TestProcessesStoppedAndKilled].
func TestChild(t *testing.T) {
	url := os.Getenv(childEnv)
	if url == "" {
		t.Skip("it is started by TestProcessesStoppedAndKilled")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	c.ConnConfig.RuntimeParams["application_name"] = os.Getenv(nameEnv)
	c.MaxConns = 8
	pool, err := pgxpool.NewWithConfig(context.Background(), c)
	require.NoError(t, err)
	defer pool.Close()
	e, err := saga.New(pgsaga.NewStore(pool, nil), &saga.Options{
		Definitions: []saga.Registered{bookings(pool)}, Lease: processLease, Poll: 50 * time.Millisecond, MaxConcurrent: 64, MaxCrashes: 1000, Drain: 2 * time.Second,
	})
	require.NoError(t, err)
	require.NoError(t, e.Run(ctx))
}

// child is a process that may be stopped for longer than its leases, or killed.
type child struct {
	cmd *exec.Cmd
	n   int
}

func (c *child) start(t *testing.T, url string) {
	t.Helper()
	c.n++
	c.cmd = exec.CommandContext(context.Background(), os.Args[0], "-test.run", "^TestChild$", "-test.timeout", "10m")
	c.cmd.Env = append(os.Environ(), childEnv+"="+url, fmt.Sprintf("%s=p%d-%d", nameEnv, os.Getpid(), rand.Uint32()))
	c.cmd.Stderr = os.Stderr
	require.NoError(t, c.cmd.Start())
}

func (c *child) end() {
	_ = c.cmd.Process.Signal(syscall.SIGKILL)
	_ = c.cmd.Wait()
}

// disturb stops and kills children until it is over.
func disturb(t *testing.T, children []child, url string, over <-chan struct{}) {
	t.Helper()
	for n := 0; ; n++ {
		select {
		case <-over:
			return
		case <-time.After(rand.N(300*time.Millisecond) * time.Duration(10+n) / 10): // ever more: on a slow machine a process needs a while to begin
		}
		c := &children[n%len(children)]
		if rand.N(2) == 0 {
			_ = c.cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(processLease + rand.N(processLease))
			_ = c.cmd.Process.Signal(syscall.SIGCONT)
			continue
		}
		c.end()
		c.start(t, url)
	}
}

// Three processes share sagas; they are stopped for longer than their leases and
// killed at random. Nobody writes with a token that is not its own, every booking
// happens exactly once, and every saga comes to its end.
func TestProcessesStoppedAndKilled(t *testing.T) {
	t.Parallel()
	sagas := 1000
	if os.Getenv("SAFETILL_PROOF") == "full" {
		sagas = 10_000
	}
	pool := testdb.Postgres(t)
	require.NoError(t, pgsaga.Migrate(t.Context(), pool, nil))
	_, err := pool.Exec(t.Context(), acceptedSQL)
	require.NoError(t, err)
	url := pool.Config().ConnString()
	def := bookings(pool)
	e, err := saga.New(pgsaga.NewStore(pool, nil), &saga.Options{Definitions: []saga.Registered{def}})
	require.NoError(t, err)
	children := make([]child, 3)
	for i := range children {
		children[i].start(t, url)
	}
	var wg sync.WaitGroup
	defer func() {
		wg.Wait()
		for i := range children {
			children[i].end()
		}
	}()
	over, started := make(chan struct{}), make(chan struct{})
	wg.Go(func() { disturb(t, children, url, over) })
	wg.Go(func() {
		defer close(started)
		for n := range sagas {
			if _, err := def.Start(context.Background(), e, fmt.Sprint("b", n), account{N: n}, nil); err != nil {
				t.Error(err)
				return
			}
		}
	})
	<-started
	left := func() (n int) {
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM sagas WHERE status NOT IN ('COMPLETED', 'COMPENSATED')`).Scan(&n))
		return n
	}
	deadline := time.Now().Add(5 * time.Minute)
	for left() > 0 && time.Now().Before(deadline) {
		time.Sleep(200 * time.Millisecond)
	}
	close(over)
	wg.Wait()
	count := func(sql string) (n int) {
		t.Helper()
		require.NoError(t, pool.QueryRow(t.Context(), sql).Scan(&n))
		return n
	}
	tenth := sagas / 10
	require.Zero(t, left(), "every saga comes to its end")
	require.Equal(t, tenth, count(`SELECT count(*) FROM sagas WHERE status = 'COMPENSATED'`))
	require.Equal(t, sagas, count(`SELECT count(*) FROM bookings WHERE kind = 'booked'`))
	require.Equal(t, sagas, count(`SELECT count(DISTINCT saga) FROM bookings WHERE kind = 'booked'`))
	require.Equal(t, tenth, count(`SELECT count(*) FROM bookings WHERE kind = 'cancelled'`))
	require.Equal(t, sagas-tenth, count(`SELECT count(*) FROM bookings WHERE kind = 'filed'`))
	require.Equal(t, 2*(sagas-tenth), count(`SELECT count(*) FROM charges WHERE NOT refunded`), "nothing is left of those that were refused")
	require.Zero(t, count(`SELECT count(*) FROM accepted w WHERE NOT claim AND NOT EXISTS (
		SELECT FROM accepted c WHERE c.claim AND c.saga = w.saga AND c.token = w.token AND c.who = w.who)`), "writes by who does not own the saga")
	require.Zero(t, count(`SELECT count(*) FROM (SELECT token, lag(token) OVER (PARTITION BY saga ORDER BY at) AS before FROM accepted) AS w WHERE token < before`))
	t.Logf("%d claims of %d sagas, %d after a crash", count(`SELECT count(*) FROM accepted WHERE claim`), sagas,
		count(`SELECT count(*) FROM saga_events WHERE kind = 'crashed'`))
	require.Positive(t, count(`SELECT count(*) FROM saga_events WHERE kind = 'crashed'`), "nobody died: the test shows nothing")
}

// PostgreSQL is killed under load, and comes back: no saga is lost, no step's end.
func TestPostgresRestartedUnderLoad(t *testing.T) {
	t.Parallel()
	server := testdb.NewPostgres(t)
	pool, err := pgxpool.New(t.Context(), server.URL())
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, pgsaga.Migrate(t.Context(), pool, nil))
	var mu sync.Mutex
	effects := map[string]int{}
	step := func(ctx context.Context, _ *account) error {
		time.Sleep(rand.N(20 * time.Millisecond))
		mu.Lock()
		defer mu.Unlock()
		effects[saga.CallFrom(ctx).Key()]++
		return nil
	}
	def := saga.MustDefine("load", 1,
		saga.Step("a", step).Undo(step), saga.Step("b", step).Undo(step), saga.Pivot("c", step), saga.Retriable("d", step))
	e, err := saga.New(pgsaga.NewStore(pool, nil), &saga.Options{
		Definitions: []saga.Registered{def}, Lease: 30 * time.Second, // longer than PostgreSQL is away, also on a slow machine
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	const sagas = 300
	var wg sync.WaitGroup
	for n := range sagas {
		wg.Go(func() {
			time.Sleep(rand.N(2 * time.Second))
			for {
				h, err := def.Start(t.Context(), e, fmt.Sprint("s", n), account{N: n}, nil)
				if err != nil {
					time.Sleep(50 * time.Millisecond)
					continue
				}
				for {
					r, err := h.Wait(t.Context())
					if err == nil {
						require.Equal(t, saga.Completed, r.Status)
						return
					}
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	for range 2 {
		time.Sleep(700 * time.Millisecond)
		require.NoError(t, server.Kill())
		require.NoError(t, server.Start(t.Context()))
	}
	wg.Wait()
	cancel()
	require.NoError(t, <-done)
	require.Len(t, effects, 4*sagas)
	for key, n := range effects {
		require.Equal(t, 1, n, "%s: the engine lived on: nothing is repeated", key)
	}
}

// A thousand sagas are under way when the next version is rolled out, on two engines
// one after the other: each finishes on the plan it began with, and nothing is repeated.
func TestRollingDeploy(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	require.NoError(t, pgsaga.Migrate(t.Context(), pool, nil))
	type trail struct{ Seen []string }
	note := func(what string) saga.Func[trail] {
		return func(_ context.Context, d *trail) error {
			d.Seen = append(d.Seen, what)
			return nil
		}
	}
	pause := saga.Sleep("pause", func(*trail) time.Duration { return 500 * time.Millisecond })
	v1 := saga.MustDefine("deploy", 1, saga.Step("a", note("a")).Undo(note("-a")), pause, saga.Step("b", note("b")).Undo(note("-b")), saga.Pivot("c", note("c")))
	v2 := saga.MustDefine("deploy", 2, saga.Step("z", note("z")).Undo(note("-z")), pause, saga.Step("a", note("a")).Undo(note("-a")),
		saga.Step("b", note("b")).Undo(note("-b")), saga.Pivot("c", note("c")))
	run := func(defs ...saga.Registered) (*saga.Engine, func()) {
		e, err := saga.New(pgsaga.NewStore(pool, nil), &saga.Options{Definitions: defs, Poll: 100 * time.Millisecond})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		return e, func() {
			cancel()
			require.NoError(t, <-done)
		}
	}
	old1, end1 := run(v1)
	_, end2 := run(v1)
	const sagas = 1000
	start := func(def *saga.Definition[trail], e *saga.Engine, from, to int) {
		var wg sync.WaitGroup
		for n := from; n < to; n++ {
			wg.Go(func() {
				if _, err := def.Start(t.Context(), e, fmt.Sprint("d", n), trail{}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	start(v1, old1, 0, sagas)
	new1, stop1 := run(v2) // the old version's code is gone; its steps are all in the new one
	end1()
	start(v2, new1, sagas, sagas+100)
	_, stop2 := run(v2)
	end2()
	defer stop1()
	defer stop2()
	for n := range sagas + 100 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		r, err := v2.Handle(new1, fmt.Sprint("d", n)).Wait(ctx)
		cancel()
		require.NoError(t, err)
		want := []string{"a", "b", "c"}
		if n >= sagas {
			want = []string{"z", "a", "b", "c"}
		}
		require.Equal(t, want, r.Data.Seen)
		require.Equal(t, saga.Completed, r.Status)
	}
}
