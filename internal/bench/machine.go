package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// header says on what all was measured.
func header(ctx context.Context, w io.Writer) {
	fmt.Fprintf(w, "# Benchmarks\n\nThe last run of `make bench`. %s; %d cores of %s, shared with other jobs (load %s); %s; %s; commit %s.\n",
		time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), cpuModel(), load(), runtime.Version(),
		strings.Join([]string{
			version(ctx, "postgres", "--version"), version(ctx, "redis-server", "--version"),
		}, "; "), version(ctx, "git", "describe", "--always", "--dirty"))
}

func cpuModel() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(data)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(data))[0]
}

func version(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return name + " of unknown version"
	}
	return strings.TrimSpace(string(out))
}

// cpuOf is the CPU time that a process and all its descendants, living and
// waited for, have used. Linux only; elsewhere 0.
func cpuOf(pid int) time.Duration {
	children := map[int][]int{}
	ticks := map[int]int64{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		p, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // gone meanwhile
		}
		// The name in brackets may hold spaces; fields are counted behind it.
		f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		parent, _ := strconv.Atoi(f[1])
		children[parent] = append(children[parent], p)
		for _, field := range f[11:15] { // utime, stime, cutime, cstime
			n, _ := strconv.ParseInt(field, 10, 64)
			ticks[p] += n
		}
	}
	var sum int64
	for todo := []int{pid}; len(todo) > 0; {
		p := todo[0]
		todo = append(todo[1:], children[p]...)
		sum += ticks[p]
	}
	return time.Duration(sum) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}

func median[T int64 | float64 | time.Duration](values []T) T {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}
