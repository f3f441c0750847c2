package localdb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// keeperScript runs a server and outlives its owner just long enough to stop it.
//
// The owner writes "reap" once every process of the server is gone, and "keep" to send the shell away. The end of input without a "keep"
// means that the owner has closed the instance or is dead: the server, if it runs, is stopped, and the temporary directory removed.
// The shell is the server's parent, so the pid it signals cannot have gone to another process. The traps come after the fork, as the
// server would inherit them; they include PIPE since the owner may be dead before the first echo.
const keeperScript = `
signal=$1 grace=$2 temp=$3
shift 3
"$@" </dev/null >&2 &
pid=$!
trap '' HUP INT TERM PIPE
echo "$pid"
exec 2>/dev/null
while read -r word; do
	case $word in
	reap) wait "$pid"; echo "$?"; pid= ;;
	keep) exit 0 ;;
	esac
done
if [ -n "$pid" ]; then
	kill -s "$signal" "$pid"
	(n=0; while [ $n -lt "$grace" ]; do sleep 1; n=$((n+1)); done; kill -s KILL "$pid") >/dev/null &
	timer=$!
	wait "$pid"
	kill -s KILL "$timer"
fi
if [ -n "$temp" ]; then rm -rf "$temp"; fi
`

// orphanGrace is how long, in seconds, a server whose owner died may take to shut down before it is killed.
const orphanGrace = 60

// run is one life of a server: the shell that keeps it and the server's own processes.
type run struct {
	pid    int
	keeper *exec.Cmd
	words  io.WriteCloser
	answer *bufio.Reader
	log    *tail
	done   chan struct{} // closed when the server and all its children are gone
	status int           // exit status, set before done is closed
}

// spawn starts argv under a keeper. What happens on the owner's death: signal is sent, and temp, if any, removed.
func spawn(ctx context.Context, argv []string, who *account, lock *os.File, signal, temp string, log io.Writer) (*run, error) {
	args := append([]string{"-c", keeperScript, "keeper", signal, strconv.Itoa(orphanGrace), temp}, argv...)
	// Not bound to the context of a start: the keeper lives as long as the owner, and ends by its pipe.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", args...)
	cmd.Dir, cmd.Env = "/", environment()
	cmd.ExtraFiles = []*os.File{lock}
	detach(cmd, who)
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = errWrite.Close() }()
	cmd.Stderr = errWrite
	words, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		_ = errRead.Close()
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		_ = errRead.Close()
		return nil, err
	}
	r := &run{keeper: cmd, words: words, answer: bufio.NewReader(out), log: &tail{to: log}, done: make(chan struct{})}
	if r.pid, err = r.number(); err != nil {
		_ = errRead.Close()
		r.dismiss("")
		return nil, fmt.Errorf("no pid from the shell: %w", err)
	}
	go r.watch(errRead)
	return r, nil
}

// watch ends when no process holds the server's standard error any more: the server is gone with all its children.
func (r *run) watch(log *os.File) {
	_, _ = io.Copy(r.log, log)
	_ = log.Close()
	_, _ = io.WriteString(r.words, "reap\n")
	r.status, _ = r.number()
	close(r.done)
}

func (r *run) number() (int, error) {
	line, err := r.answer.ReadString('\n')
	if err != nil {
		return -1, err
	}
	return strconv.Atoi(strings.TrimSpace(line))
}

func (r *run) alive() bool {
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

// wait returns when the server is gone or ctx ends.
func (r *run) wait(ctx context.Context) error {
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dismiss ends the keeper: with "keep" it leaves everything as it is, with "" it stops a running server and removes what is temporary.
func (r *run) dismiss(word string) {
	if word != "" {
		_, _ = io.WriteString(r.words, word+"\n")
	}
	_ = r.words.Close()
	late := time.AfterFunc(2*orphanGrace*time.Second, func() { _ = r.keeper.Process.Kill() })
	_ = r.keeper.Wait()
	late.Stop()
}

// environment is the caller's without what would steer a PostgreSQL binary (PGDATA, PGPORT), in a language whose messages we know.
func environment() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "LC_") && !strings.HasPrefix(kv, "LANG") {
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C")
}
