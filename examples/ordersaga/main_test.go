package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/saga"
)

// beProgram makes the test binary the program: one that kills itself.
const beProgram = "ORDERSAGA_TEST_IS_PROGRAM"

func TestMain(m *testing.M) {
	_ = os.Unsetenv("SAFETILL_POSTGRES_URL") // no test may find orders of somebody's
	if os.Getenv(beProgram) == "" {
		os.Exit(m.Run())
	}
	main()
	os.Exit(0)
}

// start runs the program as a user would.
func start(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	err = run(ctx, args, &out, &errs)
	return out.String(), errs.String(), err
}

// crash runs the program in a process of its own, and returns how that has ended.
func crash(t *testing.T, args ...string) string {
	t.Helper()
	me, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), me, args...)
	cmd.Env = append(os.Environ(), beProgram+"=1")
	out, err := cmd.CombinedOutput()
	require.Error(t, err, string(out))
	return err.Error()
}

// squeezed is text with one blank for many: columns are as wide as times are long.
func squeezed(s string) string {
	s = regexp.MustCompile(` *\n *`).ReplaceAllString("\n"+strings.TrimSpace(s)+"\n", "\n")
	return regexp.MustCompile(` +`).ReplaceAllString(s, " ")
}

var words = regexp.MustCompile(`"[^"]*"|\S+`)

// TestREADME runs the transcripts of README.md. A line of … alone stands for any lines.
func TestREADME(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	url := testdb.PostgresURL(t)
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		for _, step := range strings.Split("\n"+block[1], "\n$ ")[1:] {
			line, want, _ := strings.Cut(step, "\n")
			args, ok := strings.CutPrefix(line, "go run ./examples/ordersaga")
			require.True(t, ok, line)
			argv := words.FindAllString(strings.ReplaceAll(args, "$URL", url), -1)
			for i := range argv {
				argv[i] = strings.Trim(argv[i], `"`)
			}
			var out string
			if strings.Contains(line, "-crash-after") {
				out = crash(t, argv...)
			} else {
				out, _, err = start(t.Context(), argv...)
				require.NoError(t, err, line)
			}
			pattern := strings.ReplaceAll(regexp.QuoteMeta(squeezed(want)), "\n…\n", "\n(.*\n)*")
			pattern = strings.ReplaceAll(pattern, "…", ".+")
			require.Regexp(t, "^"+pattern+"$", squeezed(out), line)
			ran++
		}
	}
	require.Equal(t, 8, ran)
}

func TestItIsKilledAtEachStepAndFinishes(t *testing.T) {
	t.Parallel()
	url := testdb.PostgresURL(t)
	for _, step := range []string{"validate", "reserve", "charge", "confirm", "notify", "refund"} {
		args := []string{"-postgres", url, "-lease", "300ms", "-id", "killed-at-" + step}
		want := []string{"COMPLETED", "\n  reserve lamp\n", "\n  charge ada\n", "\n  ship lamp\n", "\n  write to ada\n"}
		if step == "refund" {
			args = append(args, "-reject", "confirm")
			want = []string{"COMPENSATED", "\n  reserve lamp, undone\n", "\n  charge ada, undone\n"}
		}
		require.Equal(t, "signal: killed", crash(t, append([]string{"-crash-after", step}, args...)...))
		out, _, err := start(t.Context(), args...)
		require.NoError(t, err)
		for _, w := range append(want, "crashed") {
			require.Contains(t, out, w, step)
			require.Equal(t, 1, strings.Count(out, w), step)
		}
	}
}

func TestAPersonUndoesByHand(t *testing.T) {
	t.Parallel()
	at := []string{"-postgres", testdb.PostgresURL(t)}
	program := func(args ...string) (string, error) {
		out, _, err := start(t.Context(), append(at, args...)...)
		return out, err
	}
	out, err := program("-reject", "confirm", "-fail", "refund", "-times", "3")
	require.NoError(t, err)
	require.Contains(t, out, "it needs a person at charge")
	_, err = program("resolve", "order-1", "cancel", "-actor", "ada", "-reason", "r")
	_, ok := errors.AsType[*saga.ActionError](err)
	require.True(t, ok, err)
	_, err = program("resolve", "order-1", "retry", "-actor", "ada", "-reason", "r", "-revision", "1")
	require.ErrorIs(t, err, saga.ErrFenced)
	out, err = program("resolve", "order-1", "force-applied", "-step", "charge", "-actor", "ada", "-reason", "by hand")
	require.NoError(t, err)
	require.Contains(t, out, "COMPENSATED")
	shown, err := program("show", "order-1")
	require.NoError(t, err)
	require.Equal(t, out, shown)
	_, err = program("show", "order-2")
	require.ErrorIs(t, err, saga.ErrNotFound)
	_, err = program("-amount", "7")
	require.ErrorIs(t, err, saga.ErrConflict)
}

func TestInMemory(t *testing.T) {
	t.Parallel()
	out, trace, err := start(t.Context(), "-fail", "charge", "-times", "2", "-trace")
	require.NoError(t, err)
	require.Contains(t, out, "charge    done     3 attempts")
	require.Equal(t, 7, strings.Count(trace, "trace "), trace)
	require.Equal(t, 2, strings.Count(trace, ": saga charge took ")-1)
	out, _, err = start(t.Context(), "-amount", "0")
	require.NoError(t, err)
	require.Contains(t, out, "validate: an order of nothing")
	out, _, err = start(t.Context(), "-timeout", "reserve", "-reject", "confirm")
	require.NoError(t, err)
	require.Contains(t, out, "COMPENSATED")
	out, _, err = start(t.Context(), "diagram")
	require.NoError(t, err)
	require.Contains(t, out, "no way back")
}

func TestBadCommandLines(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"-fail lunch":                        "-fail lunch: must be one of validate",
		"-times 0":                           "-times 0: must be 1 or more",
		"-lease 1ms":                         "-lease 1ms: must be 100ms or more",
		"-crash-after charge":                "needs -postgres or -data",
		"-postgres x -data y":                "brings its own PostgreSQL",
		"list":                               "a command needs -postgres or -data",
		"-postgres ://x list":                "-postgres: ",
		"-postgres postgres://127.0.0.1:1/x": "-postgres: ",
	} {
		_, _, err := start(t.Context(), strings.Fields(line)...)
		require.ErrorContains(t, err, want, line)
	}
	url := testdb.PostgresURL(t)
	for line, want := range map[string]string{
		"fly":                          "no such command: fly",
		"show":                         "no such command: show",
		"resolve order-1 skip more":    `unexpected argument "more"`,
		"resolve order-1 skip":         "saga: not found",
		"resolve order-1 skip -actor":  "needs an argument",
		"resolve o skip -revision 7":   "Audit.Actor is empty",
		"resolve o explode -actor ada": "saga: not found",
	} {
		_, _, err := start(t.Context(), append([]string{"-postgres", url}, strings.Fields(line)...)...)
		require.ErrorContains(t, err, want, line)
	}
	_, help, err := start(t.Context(), "-h")
	require.ErrorIs(t, err, flag.ErrHelp)
	require.Contains(t, help, "resolve ID ACTION")
}

func TestItEndsWhenItIsTold(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := start(ctx)
	require.ErrorIs(t, err, context.Canceled)
}
