package pgidem_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
)

// withStandby returns a server with the tables of a shop and a standby of it that hears of nothing more.
func withStandby(t *testing.T) (primary, standby *localdb.Postgres) {
	t.Helper()
	dir, copied := openDir(t), openDir(t)
	primary = testdb.NewPostgres(t, localdb.Options{Dir: dir})
	pool, err := pgxpool.New(t.Context(), primary.URL())
	require.NoError(t, err)
	newShop(t, pool, nil)
	pool.Close()
	require.NoError(t, primary.Stop(t.Context()))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data", "standby.signal"), nil, 0o644)) //nolint:gosec // the server is another user
	require.NoError(t, exec.CommandContext(t.Context(), "cp", "-a", filepath.Join(dir, "data"), copied).Run())
	require.NoError(t, os.Remove(filepath.Join(dir, "data", "standby.signal")))
	require.NoError(t, primary.Start(t.Context()))
	return primary, testdb.NewPostgres(t, localdb.Options{Dir: copied})
}

// openDir is a directory that a server of another user may reach, which t.TempDir is not when the tests run as root.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "safetill-pgidem-test-*") //nolint:usetesting // its parents are closed to other users
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func hostOf(t *testing.T, server *localdb.Postgres) string {
	t.Helper()
	u, err := url.Parse(server.URL())
	require.NoError(t, err)
	return u.Host
}

// The trap: the server commits, its answer is lost, and the next connection is to a standby that is behind. There nobody has the lock of
// the key, and no record is: the caller is told that nothing was committed, and pays elsewhere.
func TestDoTxStandbyCannotTellThatNothingWasCommitted(t *testing.T) {
	t.Parallel()
	primary, standby := withStandby(t)
	for name, optimistic := range map[string]bool{"with BEGIN": false, "with COMMIT": true} {
		conf, err := pgxpool.ParseConfig(primary.URL())
		require.NoError(t, err)
		var failedOver atomic.Bool
		dial := conf.ConnConfig.DialFunc
		conf.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if failedOver.Load() {
				addr = hostOf(t, standby)
			}
			return dial(ctx, network, addr)
		}
		pool, tp := tapPool(t, conf)
		s := &shop{pool: pool, guard: newTxGuard(t, pool, &pgidem.TxOptions{
			Optimistic: optimistic, CommitTimeout: time.Second, Attempts: 1,
		})}
		_, err = s.sell(t.Context(), "prepare "+name, "", nil)
		require.NoError(t, err)
		_, err = s.sell(t.Context(), name, "", func(context.Context, pgx.Tx) error {
			tp.arm(func(_ int, kind string, _ net.Conn) bool {
				return kind == "answer" && failedOver.CompareAndSwap(false, true) // it is that to the COMMIT
			})
			return nil
		})
		tp.disarm()
		require.ErrorIs(t, err, pgidem.ErrUnknown, name)
		failedOver.Store(false)
		pool.Reset()
		_, replayed := s.trial().untilAnswered(t, name)
		require.True(t, replayed, "it was committed")
		s.sold(t, name, 1)
	}
}

// lastWords is a connection whose server has committed, and whose answer to that is another.
type lastWords struct {
	net.Conn
	words atomic.Pointer[pgproto3.ErrorResponse] // in place of the next answer
	over  atomic.Bool
}

func (c *lastWords) Read(p []byte) (int, error) {
	if c.over.Load() {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p)
	words := c.words.Load()
	if err != nil || words == nil {
		return n, err
	}
	c.over.Store(true)
	text, err := words.Encode(nil)
	return copy(p, text), err
}

// The trap: the server has committed when it is lost. Odyssey, a pooler, then answers the COMMIT itself, by an ERROR of class 08, which of a
// server would mean that it has rolled back; and one that is told to stop may say so after the commit.
func TestDoTxErrorBehindACommitIsNoRollback(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, o pgidem.TxOptions) {
		conf := testdb.Postgres(t).Config()
		dial := conf.ConnConfig.DialFunc
		conf.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &lastWords{Conn: conn}, err
		}
		pool := openPool(t, conf)
		s := newShop(t, pool, &o)
		for what, words := range map[string]*pgproto3.ErrorResponse{
			"pooler": {Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "08006", Message: "remote server read/write error"},
			"server": {Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "57P01", Message: "terminating connection due to administrator command"},
		} {
			_, err := s.sell(t.Context(), what+" (prepare)", "", nil)
			require.NoError(t, err)
			s.runs.Store(0)
			result, err := s.sell(t.Context(), what, "", func(_ context.Context, tx pgx.Tx) error {
				tx.Conn().PgConn().Conn().(*lastWords).words.Store(words)
				return nil
			})
			require.NoError(t, err, what)
			require.False(t, result.Replayed, what)
			require.EqualValues(t, 1, s.runs.Load(), what)
			s.sold(t, what, 1)
			s.requireReplay(t, what, "", result.Value)
		}
	})
}
