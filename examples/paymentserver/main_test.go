package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// beServer makes the test binary the program: a test runs itself as a server
// that it can kill.
const beServer = "PAYMENTSERVER_TEST_IS_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(beServer) == "" {
		os.Exit(m.Run())
	}
	go func() { // ends with the test, however that ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	main()
	os.Exit(0)
}

const (
	startLimit = 60 * time.Second // of a server, on a machine that has much else to do
	logKept    = 12 << 10         // bytes of a server's log, when a test fails
)

// program is the payment server as a process of its own. Its methods are for one
// goroutine at a time; addr and admin stay what they are.
type program struct {
	addr, admin string

	args   []string
	cmd    *exec.Cmd
	stdin  io.Closer
	served atomic.Bool   // once
	exited chan struct{} // closed when the process is gone

	mu  sync.Mutex
	log bytes.Buffer // of all its runs
}

// startServer starts the program on free ports and waits until it serves.
func startServer(t testing.TB, args ...string) *program {
	t.Helper()
	p := newProgram(t, args...)
	require.NoError(t, p.start(t.Context()))
	return p
}

func newProgram(t testing.TB, args ...string) *program {
	p := &program{addr: "127.0.0.1:0", admin: "127.0.0.1:0", args: args}
	t.Cleanup(func() {
		p.Kill()
		log := p.logs()
		for _, trap := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if strings.Contains(log, trap) {
				t.Errorf("the server's log has %q", trap)
			}
		}
		if t.Failed() {
			t.Logf("log of the server on %s:\n%s", p.addr, log[max(0, len(log)-logKept):])
		}
	})
	return p
}

// command is the program with args; it ends with its standard input at the latest.
func command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), beServer+"=1", "SAFETILL_POSTGRES_URL=", "SAFETILL_REDIS_URL=")
	return cmd, nil
}

// start starts the program and returns when it serves, or has ended instead.
func (p *program) start(ctx context.Context) error {
	cmd, err := command(context.WithoutCancel(ctx), append([]string{"-addr", p.addr, "-admin-addr", p.admin}, p.args...)...)
	if err != nil {
		return err
	}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	log, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	serving, exited := make(chan [2]string, 1), make(chan struct{})
	p.cmd, p.exited = cmd, exited
	go func() { // ends with the process, which Kill waits for
		p.read(log, serving)
		_ = cmd.Wait() // ProcessState says how it ended
		close(exited)
	}()
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	select {
	case at := <-serving:
		if p.served.CompareAndSwap(false, true) { // a restart gets the same, and clients read them meanwhile
			p.addr, p.admin = at[0], at[1]
		}
		return nil
	case <-exited:
		return fmt.Errorf("the server ended with %v instead of serving: %s", cmd.ProcessState, p.lastLine())
	case <-limit.C:
		err = errors.New("the server does not serve in time")
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.Kill()
	return err
}

// read keeps the log, and sends the addresses when it tells them.
func (p *program) read(log io.Reader, serving chan<- [2]string) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Msg, Addr, Admin string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			serving <- [2]string{line.Addr, line.Admin}
		}
		p.mu.Lock()
		p.log.Write(lines.Bytes())
		p.log.WriteByte('\n')
		p.mu.Unlock()
	}
}

func (p *program) logs() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *program) lastLine() string {
	lines := strings.Split(strings.TrimSpace(p.logs()), "\n")
	return lines[len(lines)-1]
}

// restart is what a supervisor does: it starts the program on the same addresses
// until it serves. A client's connection may have taken the port meanwhile, or
// the database may be down.
func (p *program) restart(ctx context.Context) error {
	for {
		err := p.start(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Kill ends the program by SIGKILL and returns when it is gone.
func (p *program) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may be gone already
	<-p.exited
	_ = p.stdin.Close()
}

// Term sends SIGTERM. What comes of it is told by wait.
func (p *program) Term() error { return p.cmd.Process.Signal(syscall.SIGTERM) }

// wait returns the exit code, or an error if the program does not end in time.
func (p *program) wait(within time.Duration) (int, error) {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(within):
		return 0, fmt.Errorf("the server runs on %v after it should have ended", within)
	}
}

// dial connects without saying anything.
func (p *program) dial(t testing.TB) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(startLimit)))
	return conn
}

// runLoadOn runs the program's own load generator against p and returns its table.
func runLoadOn(ctx context.Context, p *program, args ...string) (string, error) {
	cmd, err := command(ctx, append([]string{"load", "-addr", p.addr, "-admin-addr", p.admin, "-customers", "10"}, args...)...)
	if err != nil {
		return "", err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	defer func() { _ = stdin.Close() }()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	err = cmd.Wait()
	return out.String(), err
}
