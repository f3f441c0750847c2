package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// scenario is one load on the payment server, which runs with a PostgreSQL and a
// Redis of its own, both synced at every write, and the generator beside it.
type scenario struct {
	name string
	args []string
	span time.Duration

	posted, accept50, accept99, posting99, rss, errors []float64
}

// benchServer measures the payment server from outside, as its clients see it.
func benchServer(ctx context.Context, s *settings, w io.Writer) error {
	dir, err := os.MkdirTemp("", "safetill-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil { // the databases run as another user
		return err
	}
	binary := filepath.Join(dir, "paymentserver")
	build := exec.CommandContext(ctx, "go", "build", "-C", "../../examples", "-o", binary, "./paymentserver")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the server: %w\n%s", err, out)
	}
	scenarios := []*scenario{
		{name: "1,667/s, 10,000 customers", args: []string{"-rate", "1667", "-customers", "10000", "-hot", "0.0001"}, span: 10 * s.span},
		{name: "5,500/s, 10,000 customers", args: []string{"-rate", "5500", "-customers", "10000", "-hot", "0.0001"}, span: 4 * s.span},
		{name: "5,500/s, one customer", args: []string{"-rate", "5500", "-customers", "1", "-hot", "1"}, span: 4 * s.span},
		{name: "8,000/s, 10,000 customers", args: []string{"-rate", "8000", "-customers", "10000", "-hot", "0.0001"}, span: 4 * s.span},
	}
	for round := range min(s.rounds, 3) {
		for i, sc := range scenarios {
			if err := sc.round(ctx, binary, filepath.Join(dir, fmt.Sprint(round, "-", i))); err != nil {
				return fmt.Errorf("%s: %w", sc.name, err)
			}
		}
	}
	fmt.Fprintf(w, "\n## Payment server, PostgreSQL + Redis, fsync on\n\nThe server, both databases and the open-loop generator share the machine; 1 %% of the "+
		"payments are repeats. Medians of %d interleaved rounds. The generator checks every receipt; a round with a lost or doubled payment would fail the run.\n\n",
		min(s.rounds, 3))
	fmt.Fprintln(w, "| offered | posted/s | accept p50 | accept p99 | accept → posted p99 | refused and errors | server's peak RSS |\n|---|---|---|---|---|---|---|")
	for _, sc := range scenarios {
		fmt.Fprintf(w, "| %s | %.0f | %.1f ms | %.1f ms | %.1f ms | %.0f | %.0f MB |\n", sc.name, median(sc.posted),
			median(sc.accept50), median(sc.accept99), median(sc.posting99), median(sc.errors), median(sc.rss))
	}
	return nil
}

func (sc *scenario) round(ctx context.Context, binary, data string) (err error) {
	server := exec.CommandContext(ctx, binary, "-data", data, "-addr", "127.0.0.1:0", "-admin-addr", "127.0.0.1:0")
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGTERM) }
	server.WaitDelay = 20 * time.Second
	logs, err := server.StderrPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, server.Process.Signal(syscall.SIGTERM), server.Wait())
		err = errors.Join(err, os.RemoveAll(data))
	}()
	addr, admin, err := serving(logs)
	if err != nil {
		return err
	}
	args := append([]string{"load", "-addr", addr, "-admin-addr", admin, "-for", sc.span.String(), "-duplicates", "0.01"}, sc.args...)
	var out bytes.Buffer
	load := exec.CommandContext(ctx, binary, args...)
	load.Stdout, load.Stderr = &out, &out
	if err := load.Run(); err != nil {
		return fmt.Errorf("%w\n%s", err, out.String())
	}
	return sc.read(out.String(), server.Process.Pid)
}

// serving waits for the log line that names the addresses, and keeps reading.
func serving(logs io.Reader) (addr, admin string, err error) {
	lines := bufio.NewScanner(logs)
	for lines.Scan() {
		var line struct{ Msg, Addr, Admin string }
		if err := json.Unmarshal(lines.Bytes(), &line); err == nil && line.Msg == "serving" {
			go func() { _, _ = io.Copy(io.Discard, logs) }() // ends with the server
			return line.Addr, line.Admin, nil
		}
	}
	return "", "", errors.Join(lines.Err(), errors.New("the server did not start"))
}

var number = regexp.MustCompile(`[0-9.]+[a-zµ]*`)

// read takes the figures out of the generator's table.
func (sc *scenario) read(table string, pid int) error {
	rows := map[string][]string{}
	for line := range strings.Lines(table) {
		if len(line) > 18 {
			rows[strings.TrimSpace(line[:18])] = number.FindAllString(line[18:], -1)
		}
	}
	millis := func(row string, n int) (float64, error) {
		if len(rows[row]) <= n {
			return 0, fmt.Errorf("no %q in\n%s", row, table)
		}
		d, err := time.ParseDuration(rows[row][n])
		return float64(d) / float64(time.Millisecond), err
	}
	count := func(row string) (float64, error) {
		if len(rows[row]) == 0 {
			return 0, fmt.Errorf("no %q in\n%s", row, table)
		}
		return strconv.ParseFloat(rows[row][0], 64)
	}
	posted, err1 := count("posted/s")
	refused, err2 := count("refused")
	failed, err3 := count("errors")
	// The numbers of "p50 2ms p95 …" are 50, 2ms, 95, …: the digits of the names come first.
	accept50, err4 := millis("accept", 1)
	accept99, err5 := millis("accept", 5)
	posting99, err6 := millis("accept to posted", 5)
	rss, err7 := peakRSS(pid)
	sc.posted, sc.errors, sc.rss = append(sc.posted, posted), append(sc.errors, refused+failed), append(sc.rss, rss)
	sc.accept50, sc.accept99, sc.posting99 = append(sc.accept50, accept50), append(sc.accept99, accept99), append(sc.posting99, posting99)
	return errors.Join(err1, err2, err3, err4, err5, err6, err7)
}

// peakRSS is the most memory that a process has held, in MB. Linux only.
func peakRSS(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1000, err
		}
	}
	return 0, errors.New("no VmHWM")
}
