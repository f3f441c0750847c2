//go:build unix

package localdb_test

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
)

// ownerDir, when set, turns the test binary into an owner of servers that waits to be killed.
const ownerDir = "LOCALDB_TEST_OWNER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerDir); dir != "" {
		own(dir)
		return
	}
	os.Exit(m.Run())
}

// owned is what the owner tells about its servers.
type owned struct {
	Pids []int
	Fail string
}

func own(dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var told owned
	kept, err1 := localdb.StartPostgres(ctx, localdb.Options{Dir: filepath.Join(dir, "postgres")})
	temporary, err2 := localdb.StartPostgres(ctx, localdb.Options{})
	cache, err3 := localdb.StartRedis(ctx, localdb.Options{})
	down, err4 := localdb.StartRedis(ctx, localdb.Options{})
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			told.Fail = err.Error()
		}
	}
	if told.Fail == "" {
		told.Pids = []int{kept.Pid(), temporary.Pid(), cache.Pid(), down.Pid()}
		_ = down.Kill() // its directory must go although no server is left to stop
	}
	_ = json.NewEncoder(os.Stdout).Encode(told)
	select {} // until killed
}

func TestServersDieWithTheirOwner(t *testing.T) {
	t.Parallel()
	_, err := exec.LookPath("redis-server")
	if err != nil && os.Getenv("REQUIRE_BACKENDS") != "1" {
		t.Skip(err)
	}
	dir := sharedDir(t)
	temp := sharedDir(t)
	require.NoError(t, os.Chmod(temp, 0o777)) // the keeper removes from it as another user
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), ownerDir+"="+dir, "TMPDIR="+temp)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()
	line, err := bufio.NewReader(out).ReadBytes('\n')
	require.NoError(t, err)
	var told owned
	require.NoError(t, json.Unmarshal(line, &told))
	require.Empty(t, told.Fail)
	for _, pid := range told.Pids[:3] {
		require.True(t, running(pid))
	}

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	// At once: the old server is still shutting down, and Start waits for it.
	heir := startPostgres(t, localdb.Options{Dir: filepath.Join(dir, "postgres")})
	require.NotEqual(t, told.Pids[0], heir.Pid())
	require.Eventually(t, func() bool {
		left, err := os.ReadDir(temp)
		return err == nil && len(left) == 0 && !running(told.Pids[0]) && !running(told.Pids[1]) && !running(told.Pids[2])
	}, patience, 50*time.Millisecond)
}
