package pgidem_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// till takes payments into a ledger, each under a key: key, posting and receipt are one commit.
type till struct {
	pool  *pgxpool.Pool
	guard *pgidem.TxGuard
	books *pgledger.Store
	runs  atomic.Int32
}

// receipt differs from run to run: two of one payment are equal only if the payment was made once.
type receipt struct {
	Number string
	Posted time.Time
}

func openTill(ctx context.Context, pool *pgxpool.Pool, o *pgidem.TxOptions) (*till, error) {
	guard, err := pgidem.NewTxGuard(pool, o)
	if err != nil {
		return nil, err
	}
	k := &till{pool: pool, guard: guard, books: pgledger.NewStore(pool, nil)}
	l, err := ledger.New(k.books, nil)
	return k, errors.Join(err, pgidem.Migrate(ctx, pool, nil), pgledger.Migrate(ctx, pool, nil), l.Open(ctx,
		ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit},
		ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit}))
}

func (k *till) pay(ctx context.Context, what string) (idempotency.Result[receipt], error) {
	key := idempotency.Key{Scope: "tenant-7", Op: "pay", Value: what}
	return pgidem.DoTx(ctx, k.guard, key, idempotency.FingerprintOf([]byte(what)), func(ctx context.Context, tx pgx.Tx) (receipt, error) {
		k.runs.Add(1)
		l, err := ledger.New(k.books.In(tx), nil)
		if err != nil {
			return receipt{}, err
		}
		// The id says nothing of the payment: not the ledger's own ids, but the key alone keeps it from being made twice.
		r := receipt{Number: rand.Text()}
		posted, err := l.PostOne(ctx, ledger.Transaction{ID: ledger.TransactionID(r.Number), Postings: []ledger.Posting{
			{Debit: "bank", Credit: "ada", Amount: decimal.NewFromInt(1), Currency: "NGN"},
		}})
		if err != nil {
			return receipt{}, err
		}
		_, err = tx.Exec(ctx, "INSERT INTO payments (what, receipt) VALUES ($1, $2)", what, r.Number)
		r.Posted = posted.At.UTC()
		return r, err
	})
}

// newTill also checks, at the end, that the ledger holds one posting for each payment, and adds up.
func newTill(t *testing.T, pool *pgxpool.Pool, o *pgidem.TxOptions) *till {
	t.Helper()
	k, err := openTill(t.Context(), pool, o)
	require.NoError(t, err)
	execTx(t, pool, "CREATE TABLE payments (what text NOT NULL, receipt text NOT NULL)")
	return k
}

func (k *till) requireSound(t *testing.T) {
	t.Helper()
	l, err := ledger.New(k.books, nil)
	require.NoError(t, err)
	report, err := l.Verify(t.Context())
	require.NoError(t, err)
	require.True(t, report.OK(), "%v", report.Breaks)
	n := queryTx[int](t, k.pool, "SELECT count(*) FROM payments")
	require.Equal(t, n, queryTx[int](t, k.pool, "SELECT count(*) FROM ledger_postings p JOIN payments ON receipt = p.transaction_id"))
	require.Equal(t, n, queryTx[int](t, k.pool, "SELECT count(*) FROM ledger_postings"))
	require.Equal(t, n, queryTx[int](t, k.pool, "SELECT count(*) FROM idempotency_records WHERE completed"))
	balances, err := l.Balances(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(n), balances[0].Posted.String())
}

func (k *till) trial() trial {
	return trial{
		do: func(ctx context.Context, what string) (string, bool, error) {
			result, err := k.pay(ctx, what)
			return fmt.Sprint(result.Value), result.Replayed, err
		},
		effects: func(t *testing.T, what string) int {
			return queryTx[int](t, k.pool, "SELECT count(*) FROM payments WHERE what = $1", what)
		},
	}
}

// PostgreSQL is killed after any statement was sent and after any answer was made, and started again: the payment is made
// once, and repeats get one receipt. By then DoTx has found out itself what became of a COMMIT.
func TestDoTxServerKilledBetweenAnyTwoStatements(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		server := testdb.NewPostgres(t)
		conf, err := pgxpool.ParseConfig(server.URL())
		require.NoError(t, err)
		pool, tp := tapPool(t, conf)
		o.CommitTimeout = time.Minute
		k := newTill(t, pool, &o)
		var restart sync.WaitGroup
		defer restart.Wait()
		kills, answered := k.trial().atEveryEvent(t, tp, func(kind string, _ net.Conn, _ func()) (struck, lost bool) {
			if !slices.Contains([]string{"E", "Q", "answer"}, kind) { // Execute, Query; the messages before them do nothing yet
				return false, false
			}
			require.NoError(t, server.Kill())
			restart.Go(func() { _ = server.Start(t.Context()) })
			return true, true
		}, restart.Wait)
		t.Logf("%d kills, after %d of them the payment was made", kills, answered)
		require.Greater(t, kills, 15)
		k.requireSound(t)
	})
}

const (
	childEnv  = "SAFETILL_DOTX_CHILD" // what the child is to do
	childURL  = "SAFETILL_DOTX_URL"
	childArgs = "SAFETILL_DOTX_ARGS"
)

// child is this test binary again, as a process of its own.
func child(t *testing.T, job, url string, args ...any) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDoTxChild$", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), childEnv+"="+job, childURL+"="+url, childArgs+"="+fmt.Sprintln(args...))
	cmd.Stderr = os.Stderr
	return cmd
}

// TestDoTxChild is the main function of the children.
func TestDoTxChild(t *testing.T) {
	job := os.Getenv(childEnv)
	if job == "" {
		t.Skip("it is run by other tests")
	}
	conf, err := pgxpool.ParseConfig(os.Getenv(childURL))
	require.NoError(t, err)
	args := strings.Fields(os.Getenv(childArgs))
	n, err := strconv.Atoi(args[0])
	require.NoError(t, err)
	switch job {
	case "die":
		childDies(t, conf, n)
	case "storm":
		childStorms(t, conf, n)
	case "hold":
		childHolds(t, conf)
	}
}

// reply is what a child prints.
type reply struct {
	Receipt  receipt
	Replayed bool
	Error    string
	Runs     int
}

func tell(t *testing.T, r reply) {
	text, err := json.Marshal(r)
	require.NoError(t, err)
	_, err = fmt.Fprintln(os.Stdout, "\nREPLY", string(text))
	require.NoError(t, err)
}

func told(t *testing.T, out io.Reader) (replies []reply) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "REPLY "); ok {
			var r reply
			require.NoError(t, json.Unmarshal([]byte(text), &r))
			replies = append(replies, r)
		}
	}
	return replies
}

// childDies pays, and kills itself with SIGKILL at the n-th event on the wire.
func childDies(t *testing.T, conf *pgxpool.Config, n int) {
	pool, tp := tapPool(t, conf)
	k, err := openTill(t.Context(), pool, nil)
	require.NoError(t, err)
	_, err = k.pay(t.Context(), fmt.Sprint("prepare ", n))
	require.NoError(t, err)
	tp.arm(func(event int, _ string, _ net.Conn) bool {
		if event == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return false
	})
	result, err := k.pay(t.Context(), fmt.Sprint("payment ", n))
	require.NoError(t, err)
	tell(t, reply{Receipt: result.Value})
}

// atOnce is what takes no lease and no timeout, on a busy machine. Mostly it is less than a second.
const atOnce = 10 * time.Second

// The process that pays is killed at any moment. There is no lease: the next one pays, or replays, at once.
func TestDoTxProcessKilledBetweenAnyTwoStatements(t *testing.T) {
	t.Parallel()
	url := testdb.PostgresURL(t)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	k := newTill(t, pool, nil)
	made, retries := 0, []time.Duration(nil)
	for n := 1; ; n++ {
		cmd := child(t, "die", url, n)
		out, err := cmd.Output()
		what := fmt.Sprint("payment ", n)
		begin := time.Now()
		again, err2 := k.pay(t.Context(), what)
		took := time.Since(begin)
		require.NoError(t, err2)
		require.Equal(t, 1, k.trial().effects(t, what))
		third, err2 := k.pay(t.Context(), what)
		require.NoError(t, err2)
		require.Equal(t, again.Value, third.Value)
		if err == nil { // it had no n-th event
			require.Equal(t, told(t, strings.NewReader(string(out)))[0].Receipt, again.Value)
			slices.Sort(retries)
			t.Logf("%d kills, after %d of them the payment was made; the longest retry took %v", n-1, made, retries[len(retries)-1])
			require.Less(t, retries[len(retries)/2], time.Second)
			require.Greater(t, n, 15)
			require.NotZero(t, made)
			break
		}
		require.ErrorContains(t, err, "killed", "%s", out)
		require.Less(t, took, atOnce)
		retries = append(retries, took)
		if again.Replayed {
			made++
		}
	}
	k.requireSound(t)
}

// childHolds is in the middle of its work until it is killed.
func childHolds(t *testing.T, conf *pgxpool.Config) {
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	guard, err := pgidem.NewTxGuard(pool, nil)
	require.NoError(t, err)
	_, _ = pgidem.DoTx(t.Context(), guard, txKey("held"), idempotency.Fingerprint{}, func(ctx context.Context, tx pgx.Tx) (int, error) {
		if _, err := tx.Exec(ctx, "INSERT INTO sales (what) VALUES ('by the holder')"); err != nil {
			return 0, err
		}
		tell(t, reply{})
		select {}
	})
}

// A process holds a key and is killed while another waits for it: that one goes on at once.
func TestDoTxKilledHolderIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	url := testdb.PostgresURL(t)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s := newShop(t, pool, nil)
	var retries []time.Duration
	for range 3 {
		cmd := child(t, "hold", url, 0)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "REPLY") {
		}
		done := make(chan error, 1)
		go func() {
			_, err := pgidem.DoTx(t.Context(), s.guard, txKey("held"), idempotency.Fingerprint{}, func(ctx context.Context, tx pgx.Tx) (int, error) {
				_, err := tx.Exec(ctx, "INSERT INTO sales (what) VALUES ('by the next')")
				return 1, errors.Join(err, errors.New("and again"))
			})
			done <- err
		}()
		s.waiting(t, 1)
		killed := time.Now()
		require.NoError(t, cmd.Process.Kill())
		require.EqualError(t, <-done, "and again")
		took := time.Since(killed)
		t.Logf("%v after the kill", took)
		require.Less(t, took, atOnce)
		retries = append(retries, took)
		require.Error(t, cmd.Wait())
		s.sold(t, "by the holder", 0)
	}
	require.Less(t, slices.Min(retries), time.Second)
}

// childStorms sends n requests for one key when its input ends.
func childStorms(t *testing.T, conf *pgxpool.Config, n int) {
	conf.MaxConns = 8
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	defer pool.Close()
	k, err := openTill(t.Context(), pool, nil)
	require.NoError(t, err)
	tell(t, reply{})
	_, err = io.Copy(io.Discard, os.Stdin)
	require.NoError(t, err)
	replies := make([]reply, n)
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() {
			result, err := k.pay(t.Context(), "storm")
			replies[i] = reply{Receipt: result.Value, Replayed: result.Replayed}
			if err != nil {
				replies[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	replies[0].Runs = int(k.runs.Load())
	for _, r := range replies {
		tell(t, r)
	}
}

// 1,000 requests, the first of their key, come to five processes at once: one runs, 999 get its receipt.
func TestDoTxThousandFirstRequestsOfSeveralProcesses(t *testing.T) {
	t.Parallel()
	const processes, each = 5, 200
	url := testdb.PostgresURL(t)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	k := newTill(t, pool, nil)
	var starts []io.Closer
	var outs []*bufio.Reader
	var cmds []*exec.Cmd
	for range processes {
		cmd := child(t, "storm", url, each)
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		cmds, starts, outs = append(cmds, cmd), append(starts, in), append(outs, bufio.NewReader(out))
	}
	for _, out := range outs { // each is ready
		for line := ""; !strings.HasPrefix(line, "REPLY"); {
			line, err = out.ReadString('\n')
			require.NoError(t, err)
		}
	}
	for _, start := range starts {
		require.NoError(t, start.Close())
	}
	var all []reply
	for i, out := range outs {
		all = append(all, told(t, out)...)
		require.NoError(t, cmds[i].Wait())
	}
	require.Len(t, all, processes*each)
	runs, fresh := 0, 0
	for _, r := range all {
		require.Empty(t, r.Error)
		require.Equal(t, all[0].Receipt, r.Receipt)
		runs += r.Runs
		if !r.Replayed {
			fresh++
		}
	}
	require.Equal(t, 1, fresh)
	require.Equal(t, 1, runs)
	require.Equal(t, 1, k.trial().effects(t, "storm"))
	k.requireSound(t)
}
