// Package herdtest makes many requests with one key at once, from several processes, and looks at what came of them. The
// processes are the test binary itself:
//
//	func TestHerdChild(t *testing.T) { herdtest.Child(t, connect) }
//
//	func TestHerd(t *testing.T) {
//		h := herdtest.Start(t, herdtest.Options{URL: url, Processes: 4, Requests: 250})
//		herdtest.Same(t, h.Wait())
//	}
package herdtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/safetill/safetill/idempotency"
)

// Options of a herd.
type Options struct {
	URL       string // of the store's server
	Processes int
	Requests  int           // of each process
	Work      time.Duration // how long the work takes
	Lease     time.Duration
	Key       string
}

const (
	environment = "SAFETILL_HERD"
	childName   = "TestHerdChild"
	patience    = 2 * time.Minute
)

// order is what a child is told.
type order struct {
	Options
	Journal string // the file in which runs of the work write their lines
}

// Answer is what one process has got.
type Answer struct {
	Replies map[string]int // values, and how often each was returned
	Ran     int            // requests whose result was not a replay
	Failed  int            // calls of Do that failed and were repeated
	Claims  int64          // calls of the store
}

// Herd is some processes at work.
type Herd struct {
	t        testing.TB
	journal  string
	children []*child
	started  time.Time
}

// child is one process.
type child struct {
	*exec.Cmd
	output bytes.Buffer
	read   sync.WaitGroup // until all of the output is there
}

// Start starts the processes, and when all are connected, the requests of all.
func Start(t testing.TB, o Options) *Herd {
	t.Helper()
	h := &Herd{t: t, journal: filepath.Join(t.TempDir(), "journal")}
	told, err := json.Marshal(order{o, h.journal})
	if err != nil {
		t.Fatal(err)
	}
	var inputs []io.Closer
	for range o.Processes {
		cmd := &child{Cmd: exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+childName+"$", "-test.timeout=5m")}
		cmd.Env = append(os.Environ(), environment+"="+string(told))
		cmd.WaitDelay = 10 * time.Second
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		cmd.Stderr = os.Stderr
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ready := bufio.NewReader(out)
		if line, err := ready.ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("a child says %q: %v", line, err)
		}
		cmd.read.Go(func() { _, _ = io.Copy(&cmd.output, ready) }) // ends with the child
		h.children, inputs = append(h.children, cmd), append(inputs, in)
	}
	h.started = time.Now()
	for _, in := range inputs {
		_ = in.Close() // go
	}
	return h
}

// Runs returns the process ids that have written that they began the work, in order.
func (h *Herd) Runs() []string { return h.lines("began ") }

// Charges returns the fencing tokens of the runs that came to their effect.
func (h *Herd) Charges() []string { return h.lines("charged ") }

func (h *Herd) lines(prefix string) (found []string) {
	h.t.Helper()
	text, err := os.ReadFile(h.journal)
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
			found = append(found, rest)
		}
	}
	return found
}

// AwaitRun waits until the work has begun, and returns the process id.
func (h *Herd) AwaitRun() string {
	h.t.Helper()
	deadline := time.After(patience)
	for {
		if runs := h.Runs(); len(runs) > 0 {
			return runs[0]
		}
		select {
		case <-deadline:
			h.t.Fatal("the work has not begun")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Kill kills the process with SIGKILL.
func (h *Herd) Kill(pid string) {
	h.t.Helper()
	for i, cmd := range h.children {
		if cmd != nil && fmt.Sprint(cmd.Process.Pid) == pid {
			if err := cmd.Process.Kill(); err != nil {
				h.t.Fatal(err)
			}
			cmd.read.Wait()
			_ = cmd.Wait() // it was killed
			h.children[i] = nil
			return
		}
	}
	h.t.Fatalf("no process %s", pid)
}

// Wait waits for the processes that were not killed and returns what they have got.
func (h *Herd) Wait() []Answer {
	h.t.Helper()
	var answers []Answer
	for _, cmd := range h.children {
		if cmd == nil {
			continue
		}
		cmd.read.Wait()
		if err := cmd.Wait(); err != nil {
			h.t.Fatalf("a child: %v\n%s", err, cmd.output.String())
		}
		var a Answer
		if err := json.NewDecoder(&cmd.output).Decode(&a); err != nil {
			h.t.Fatalf("a child says %q: %v", cmd.output.String(), err)
		}
		answers = append(answers, a)
	}
	h.t.Logf("%v after %v", answers, time.Since(h.started).Round(time.Millisecond))
	return answers
}

// Same fails unless there is one value in all answers, requests times, and at most one of them is not a replay.
func Same(t testing.TB, answers []Answer, requests int) {
	t.Helper()
	total, ran := map[string]int{}, 0
	for _, a := range answers {
		ran += a.Ran
		for value, n := range a.Replies {
			total[value] += n
		}
	}
	for value, n := range total {
		if len(total) != 1 || n != requests || ran > 1 {
			t.Fatalf("%d replies %q, %d of them no replays: %v", n, value, ran, total)
		}
	}
	if len(total) == 0 {
		t.Fatal("no replies")
	}
}

// Child is one of the processes, where this one is; else it returns at once.
func Child(t *testing.T, connect func(ctx context.Context, url string) (idempotency.Store, error)) {
	t.Helper()
	var o order
	told := os.Getenv(environment)
	if told == "" {
		return
	}
	if err := json.Unmarshal([]byte(told), &o); err != nil {
		t.Fatal(err)
	}
	store, err := connect(t.Context(), o.URL)
	if err != nil {
		t.Fatal(err)
	}
	counted := &counting{Store: store}
	guard, err := idempotency.New(counted, &idempotency.Options{Lease: o.Lease, Wait: patience, WriteTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	out := os.Stdout
	_, _ = io.WriteString(out, "ready\n")
	_, _ = io.ReadAll(os.Stdin)
	answer := o.ask(t.Context(), guard)
	answer.Claims = counted.claims.Load()
	if err := json.NewEncoder(out).Encode(answer); err != nil {
		t.Fatal(err)
	}
}

// counting counts the claims that reach a store.
type counting struct {
	idempotency.Store
	claims atomic.Int64
}

func (c *counting) Claim(ctx context.Context, q []idempotency.Request) ([]idempotency.Record, error) {
	c.claims.Add(1)
	return c.Store.Claim(ctx, q)
}

// ask makes all requests at once, and repeats those that fail, as clients do.
func (o *order) ask(ctx context.Context, guard *idempotency.Guard) Answer {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer := Answer{Replies: map[string]int{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := make(chan struct{})
	key := idempotency.Key{Scope: "herd", Op: "pay", Value: o.Key}
	for range o.Requests {
		wg.Go(func() {
			<-start
			for ctx.Err() == nil {
				result, err := idempotency.Do(ctx, guard, key, idempotency.Fingerprint{1}, o.work)
				mu.Lock()
				if err == nil {
					answer.Replies[result.Value]++
					if !result.Replayed {
						answer.Ran++
					}
					mu.Unlock()
					return
				}
				answer.Failed++
				mu.Unlock()
				time.Sleep(20 * time.Millisecond) // between a client's requests
			}
		})
	}
	close(start)
	wg.Wait()
	return answer
}

// work charges once for each time that it is run.
func (o *order) work(ctx context.Context, run *idempotency.Run) (string, error) {
	o.write(fmt.Sprintf("began %d", os.Getpid()))
	timer := time.NewTimer(o.Work)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	o.write(fmt.Sprintf("charged %d", run.Token()))
	return fmt.Sprintf("receipt %d", run.Token()), nil
}

// write appends a line; the system keeps the lines of several processes apart.
func (o *order) write(line string) {
	f, err := os.OpenFile(o.Journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(line + "\n")
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		panic(err)
	}
}
