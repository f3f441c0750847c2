//go:build unix

package lock_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/lock/locktest"
	"github.com/safetill/safetill/idempotency/pglock"
)

// beChild makes the test binary another process that takes locks; it holds an order as JSON.
const beChild = "SAFETILL_LOCK_TEST_IS_CHILD"

const (
	patience = time.Minute     // for what must come on a slow machine
	lease    = 2 * time.Second // that must run out
)

// The account of the tests, and whose it is.
const scope, name = "process", "account/42"

// order is what a child is to do.
type order struct {
	Backend backend
	Servers servers
	Lease   time.Duration
	Count   int // how often each of 8 goroutines adds to the balance; 0: hold the lock and pay late
}

func TestMain(m *testing.M) {
	text := os.Getenv(beChild)
	if text == "" {
		os.Exit(m.Run())
	}
	var o order
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		err = o.run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (o order) run(ctx context.Context) error {
	l, closeIt, err := o.Backend.open(ctx, o.Servers, lock.Options{Lease: o.Lease, Wait: patience})
	if err != nil {
		return err
	}
	defer closeIt()
	pool, err := o.Servers.pool(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	if o.Count == 0 {
		return payLate(ctx, l, pool)
	}
	return count(ctx, l, pool, o.Count)
}

// count adds to the balance by a plain read and a plain write.
func count(ctx context.Context, l locktest.Locker, pool *pgxpool.Pool, turns int) error {
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for range turns {
				errs[i] = errors.Join(errs[i], l.Do(ctx, scope, name, func(ctx context.Context, held lock.Held) error {
					var balance int64
					if err := pool.QueryRow(ctx, `SELECT balance FROM accounts WHERE id = 42`).Scan(&balance); err != nil {
						return err
					}
					return pglock.Written(pool.Exec(ctx,
						`UPDATE accounts SET balance = $1, fence = $2 WHERE id = 42 AND fence < $2`, balance+1, held.Token))
				}))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// late is what a child tells of its payment.
type late struct {
	Token   idempotency.Token
	Paid    bool   // it has done what follows
	Rows    int64  // that its fenced write has changed
	Stale   bool   // the fence has not let its transaction pass
	Outcome string // of Do
	Lost    bool   // Outcome is lock.ErrLost
}

// payLate takes the lock, says so, and when it is told to go on writes whatever has become of the lock meanwhile, as a process does
// that was stopped just before its write.
func payLate(ctx context.Context, l locktest.Locker, pool *pgxpool.Pool) error {
	out := json.NewEncoder(os.Stdout)
	var told late
	err := l.Do(ctx, scope, name, func(ctx context.Context, held lock.Held) error {
		told.Token = held.Token
		if err := out.Encode(told); err != nil {
			return err
		}
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			return err
		}
		ctx = context.WithoutCancel(ctx)
		tag, err := pool.Exec(ctx, `UPDATE accounts SET balance = 0, fence = $1 WHERE id = 42 AND fence < $1`, held.Token)
		if err != nil {
			return err
		}
		told.Paid, told.Rows = true, tag.RowsAffected()
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			return pglock.NewFence(nil).Pass(ctx, tx, scope, name, held.Token)
		})
		told.Stale = errors.Is(err, lock.ErrStale)
		return nil
	})
	told.Outcome, told.Lost = fmt.Sprint(err), errors.Is(err, lock.ErrLost)
	return out.Encode(told)
}

// child is a process that takes locks. Its methods are for one goroutine.
type child struct {
	tb  testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func start(tb testing.TB, o order) *child {
	tb.Helper()
	text, err := json.Marshal(o)
	require.NoError(tb, err)
	c := &child{tb: tb, cmd: exec.CommandContext(tb.Context(), os.Args[0])}
	c.cmd.Env = append(os.Environ(), beChild+"="+string(text))
	c.cmd.Stderr = os.Stderr
	c.in, err = c.cmd.StdinPipe()
	require.NoError(tb, err)
	out, err := c.cmd.StdoutPipe()
	require.NoError(tb, err)
	c.out = json.NewDecoder(out)
	require.NoError(tb, c.cmd.Start())
	return c
}

func (c *child) signal(s os.Signal) {
	c.tb.Helper()
	require.NoError(c.tb, c.cmd.Process.Signal(s))
}

func (c *child) says() (told late) {
	c.tb.Helper()
	require.NoError(c.tb, c.out.Decode(&told))
	return told
}

func TestProcessesExcludeEachOther(t *testing.T) {
	each(t, func(t *testing.T, b backend) {
		s := testServers(t)
		children := make([]*child, 3)
		for i := range children {
			children[i] = start(t, order{Backend: b, Servers: s, Lease: patience, Count: 5})
		}
		for _, c := range children {
			require.NoError(t, c.cmd.Wait())
		}
		require.EqualValues(t, 100+3*8*5, balance(t, s))
	})
}

// A holder is stopped for longer than its lease, and goes on with its write when another has held the lock and written: the late
// write changes no row.
func TestPausedHolderWritesNothing(t *testing.T) {
	each(t, func(t *testing.T, b backend) {
		s := testServers(t)
		l := b.locker(t, s, lock.Options{Wait: patience})
		late := start(t, order{Backend: b, Servers: s, Lease: lease})
		first := late.says()
		late.signal(syscall.SIGSTOP)
		require.NoError(t, l.Do(t.Context(), scope, name, func(_ context.Context, held lock.Held) error {
			require.Greater(t, held.Token, first.Token)
			pay(t, s, held.Token)
			return nil
		}))
		late.signal(syscall.SIGCONT)
		_, err := io.WriteString(late.in, "go on\n")
		require.NoError(t, err)
		told := late.says()
		require.True(t, told.Paid)
		require.Zero(t, told.Rows)
		require.True(t, told.Stale)
		require.True(t, told.Lost, told.Outcome) // it took some round trips to pay: by then it was told
		require.NoError(t, late.cmd.Wait())
		require.EqualValues(t, 20, balance(t, s))
	})
}

// A holder is killed. A lease must run out; a connection is closed by the system, and the lease of an hour is not waited for.
func TestKilledHolderLosesTheLock(t *testing.T) {
	each(t, func(t *testing.T, b backend) {
		s := testServers(t)
		l := b.locker(t, s, lock.Options{Wait: patience})
		o := order{Backend: b, Servers: s, Lease: lease}
		if b == onConnection {
			o.Lease = time.Hour
		}
		victim := start(t, o)
		first := victim.says()
		victim.signal(syscall.SIGKILL)
		begin := time.Now()
		require.NoError(t, l.Do(t.Context(), scope, name, func(_ context.Context, held lock.Held) error {
			t.Logf("held %v after the kill", time.Since(begin))
			require.Greater(t, held.Token, first.Token)
			pay(t, s, held.Token)
			return nil
		}))
		require.Error(t, victim.cmd.Wait())
	})
}

// pay writes as a holder does, in both ways that a fence is made.
func pay(tb testing.TB, s servers, token idempotency.Token) {
	tb.Helper()
	pool, err := s.pool(tb.Context())
	require.NoError(tb, err)
	defer pool.Close()
	require.NoError(tb, pgx.BeginFunc(tb.Context(), pool, func(tx pgx.Tx) error {
		if err := pglock.NewFence(nil).Pass(tb.Context(), tx, scope, name, token); err != nil {
			return err
		}
		return pglock.Written(tx.Exec(tb.Context(),
			`UPDATE accounts SET balance = balance - 80, fence = $1 WHERE id = 42 AND fence < $1`, token))
	}))
}

func balance(tb testing.TB, s servers) (balance int64) {
	tb.Helper()
	pool, err := s.pool(tb.Context())
	require.NoError(tb, err)
	defer pool.Close()
	require.NoError(tb, pool.QueryRow(tb.Context(), `SELECT balance FROM accounts WHERE id = 42`).Scan(&balance))
	return balance
}
