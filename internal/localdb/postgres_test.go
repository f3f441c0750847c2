//go:build unix

package localdb_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestPostgresIsDurableByDefaultAndTakesSettings(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	p := startPostgres(t, localdb.Options{Settings: map[string]string{"work_mem": "3MB", "log_statement": "all"}, Log: &log})
	conn := connect(t, p)
	for name, want := range map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "work_mem": "3MB", "listen_addresses": "127.0.0.1",
	} {
		var have string
		require.NoError(t, conn.QueryRow(t.Context(), "select current_setting($1)", name).Scan(&have))
		require.Equal(t, want, have, name)
	}
	require.True(t, running(p.Pid()))
	require.NoError(t, p.Stop(t.Context()))
	require.Contains(t, log.String(), "current_setting", "the log goes to Options.Log")
	require.Zero(t, p.Pid())
	require.NoError(t, p.Stop(t.Context()), "a second Stop has nothing to do")
}

// Writers count what was acknowledged while the server is killed twice; every acknowledged row must be there afterwards.
func TestPostgresKilledUnderWritesKeepsWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, localdb.Options{})
	url := p.URL()
	_, err := connect(t, p).Exec(t.Context(), "create table written (n bigint primary key)")
	require.NoError(t, err)
	var acked []int64
	for round := range int64(2) {
		acked = append(acked, writeUntilKilled(t, p, round*1_000_000)...)
		require.NoError(t, p.Start(t.Context()))
		require.Equal(t, url, p.URL())
		var have []int64
		rows, err := connect(t, p).Query(t.Context(), "select n from written")
		require.NoError(t, err)
		have, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		require.NoError(t, err)
		require.Subset(t, have, acked)
	}
}

// writeUntilKilled kills the server once four writers have 200 rows acknowledged, and returns all acknowledged ones.
func writeUntilKilled(t *testing.T, p *localdb.Postgres, from int64) []int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var (
		mu     sync.Mutex
		acked  []int64
		enough = make(chan struct{})
		wg     sync.WaitGroup
	)
	for w := range int64(4) {
		conn := connect(t, p)
		wg.Go(func() {
			for n := from + w; ; n += 4 {
				if _, err := conn.Exec(ctx, "insert into written values ($1)", n); err != nil {
					return
				}
				mu.Lock()
				if acked = append(acked, n); len(acked) == 200 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-ctx.Done():
		t.Error("too few writes")
	}
	pid := p.Pid()
	require.NoError(t, p.Kill())
	require.False(t, running(pid))
	wg.Wait()
	return acked
}

// A backend in the middle of a query does not notice that its parent is dead; Kill must reach it by itself.
func TestPostgresKillReachesBusyBackends(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, localdb.Options{})
	conn := connect(t, p)
	backend := int(conn.PgConn().PID())
	busy := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "do $$ begin loop end loop; end $$")
		busy <- err
	}()
	require.Eventually(t, func() bool {
		var active bool
		err := connect(t, p).QueryRow(t.Context(),
			"select state = 'active' from pg_stat_activity where pid = $1", backend).Scan(&active)
		return err == nil && active
	}, patience, 50*time.Millisecond)
	require.NoError(t, p.Kill())
	require.Error(t, <-busy)
	require.False(t, running(backend))
	require.NoError(t, p.Start(t.Context()))
}

func TestPostgresKeptDirectoryIsUsedAgain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(sharedDir(t), "made", "postgres")
	first := startPostgres(t, localdb.Options{Dir: dir})
	_, err := connect(t, first).Exec(t.Context(), "create table kept as select 42 as n")
	require.NoError(t, err)

	short, cancel := context.WithTimeout(t.Context(), 2*time.Second) // a busy machine takes a while to find out
	defer cancel()
	_, err = localdb.StartPostgres(short, localdb.Options{Dir: dir})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "in use by another process")

	require.NoError(t, first.Close(t.Context()))
	require.Error(t, first.Start(t.Context()), "closed is for good")
	second := startPostgres(t, localdb.Options{Dir: dir})
	var n int
	require.NoError(t, connect(t, second).QueryRow(t.Context(), "select n from kept").Scan(&n))
	require.Equal(t, 42, n)
}

func TestPostgresFailureShowsTheServersWords(t *testing.T) {
	t.Parallel()
	dir := sharedDir(t)
	_, err := localdb.StartPostgres(t.Context(), localdb.Options{Dir: dir, Settings: map[string]string{"no_such_setting": "1"}})
	skipWithout(t, err)
	require.ErrorContains(t, err, `unrecognized configuration parameter "no_such_setting"`)
	// Nothing was left behind that would hinder the next start.
	p := startPostgres(t, localdb.Options{Dir: dir})
	require.NoError(t, p.Stop(t.Context()))
}

// A container starts again with the same small pids, and the one in postmaster.pid is now a process of another kind.
func TestPostgresStartsThoughItsOldPidIsTaken(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/cwd"); err != nil {
		t.Skip("no /proc: PostgreSQL decides itself")
	}
	dir := filepath.Join(sharedDir(t), "postgres")
	p := startPostgres(t, localdb.Options{Dir: dir})
	require.NoError(t, p.Kill())

	name := filepath.Join(dir, "data", "postmaster.pid")
	info, err := os.Stat(name)
	require.NoError(t, err)
	stranger := exec.CommandContext(t.Context(), "sleep", "120")
	if owner := info.Sys().(*syscall.Stat_t); int(owner.Uid) != os.Geteuid() {
		stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	require.NoError(t, stranger.Start())
	defer func() { _ = stranger.Wait() }()
	defer func() { _ = stranger.Process.Kill() }()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	_, rest, _ := bytes.Cut(text, []byte("\n"))
	require.NoError(t, os.WriteFile(name, append([]byte(itoa(stranger.Process.Pid)+"\n"), rest...), info.Mode()))
	require.NoError(t, p.Start(t.Context()))
}
