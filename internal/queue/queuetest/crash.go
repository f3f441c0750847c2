package queuetest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/safetill/safetill/internal/queue"
)

// crashEnv tells a test binary that it is a worker of Crash.
const crashEnv = "SAFETILL_QUEUETEST_CRASH_WORKER"

// CrashLease is the lease that both sides of Crash give to the queue: how long the work of the killed lies idle.
const CrashLease = time.Second

// CrashWorker makes the test binary a worker of Crash if it was started as one, and returns otherwise. Call it from TestMain.
// open connects to the queue that the environment given to Crash describes.
func CrashWorker(open func(ctx context.Context) (queue.Queue, error)) {
	if os.Getenv(crashEnv) == "" {
		return
	}
	if err := crashWorker(open); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// crashWorker consumes until its standard input ends, and writes a line for each message it has worked on.
func crashWorker(open func(ctx context.Context) (queue.Queue, error)) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	q, err := open(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // any end of it is the end of the parent
		cancel()
	})
	defer wg.Wait()
	return queue.Consume(ctx, q, &queue.ConsumeOptions{Workers: 4, Batch: 10}, func(_ context.Context, msgs []queue.Message) error {
		time.Sleep(2 * time.Millisecond) // the work, in the midst of which the kill comes
		var lines strings.Builder
		for _, m := range msgs {
			fmt.Fprintf(&lines, "%s %d\n", m.Body, m.Attempts)
		}
		_, err := os.Stdout.WriteString(lines.String())
		return err
	})
}

// Crash pushes jobs and has them worked on by two processes, one of which is killed with SIGKILL and replaced, three times.
// It fails if a job is never worked on. The processes are this test binary with env added: see CrashWorker.
func Crash(t *testing.T, q queue.Queue, jobs int, env ...string) {
	t.Helper()
	h := harness{t: t, ctx: t.Context(), q: q}
	for from := 1; from <= jobs; from += 1000 {
		h.push(numbers(from, min(from+999, jobs))...)
	}
	c := &crash{t: t, env: append(os.Environ(), append(env, crashEnv+"=1")...), seen: map[string]int{}}
	deadline := time.Now().Add(2 * time.Minute)
	procs := []*crashProcess{c.start(), c.start()}
	for kill := range 3 {
		c.wait(jobs*(kill+1)/5, deadline)
		procs[kill%2].kill()
		procs[kill%2] = c.start()
	}
	c.wait(jobs, deadline)
	for _, p := range procs {
		if err := p.drain(); err != nil {
			t.Errorf("worker did not drain: %v", err)
		}
	}
	h.stats(0, 0)
	if c.repeated == 0 {
		t.Error("no message came back, so the kills have tested nothing")
	}
	t.Logf("%d jobs, 3 kills: 0 lost, %d worked on by a second claim, %d worked on twice", jobs, c.repeated, c.doubled)
}

type crash struct {
	t   *testing.T
	env []string

	mu       sync.Mutex
	seen     map[string]int
	repeated int // seen in a second or later claim
	doubled  int // seen more than once
}

func (c *crash) wait(n int, deadline time.Time) {
	c.t.Helper()
	for {
		c.mu.Lock()
		got := len(c.seen)
		c.mu.Unlock()
		if got >= n {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%d of %d jobs seen when time was up", got, n)
		}
		select {
		case <-c.t.Context().Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (c *crash) record(line string) {
	body, attempts, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, err := strconv.Atoi(attempts); err != nil {
		c.t.Errorf("worker wrote %q", line)
	} else if n > 1 {
		c.repeated++
	}
	if c.seen[body]++; c.seen[body] == 2 {
		c.doubled++
	}
}

type crashProcess struct {
	cmd   *exec.Cmd
	stdin io.Closer
	read  sync.WaitGroup
}

func (c *crash) start() *crashProcess {
	c.t.Helper()
	p := &crashProcess{cmd: exec.CommandContext(c.t.Context(), os.Args[0])}
	p.cmd.Env = c.env
	p.cmd.Stderr = os.Stderr
	stdin, err1 := p.cmd.StdinPipe()
	stdout, err2 := p.cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		c.t.Fatal(err1, err2)
	}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	p.stdin = stdin
	p.read.Go(func() {
		lines := bufio.NewReader(stdout)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return // half a line was cut off by the kill: that job does not count as seen
			}
			c.record(line)
		}
	})
	c.t.Cleanup(func() { // a test that failed on the way leaves no process behind
		if p.cmd.ProcessState == nil {
			p.kill()
		}
	})
	return p
}

// kill ends the process at whatever instruction it is, and takes in what it had written.
func (p *crashProcess) kill() {
	_ = p.cmd.Process.Kill()
	p.read.Wait()
	_ = p.cmd.Wait() // "signal: killed"
}

func (p *crashProcess) drain() error {
	_ = p.stdin.Close()
	p.read.Wait()
	return p.cmd.Wait()
}
