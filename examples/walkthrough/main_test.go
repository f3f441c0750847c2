package main

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
)

func TestMain(m *testing.M) {
	_ = os.Unsetenv("SAFETILL_POSTGRES_URL") // no test may find a ledger of somebody's
	os.Exit(m.Run())
}

func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/walkthrough.md")
	require.NoError(t, err)
	return string(text)
}

// blocks returns what stands between ```language and ```.
func blocks(markdown, language string) (all []string) {
	for _, block := range regexp.MustCompile("(?s)\n```"+language+"\n(.*?\n)```\n").FindAllStringSubmatch(markdown, -1) {
		all = append(all, block[1])
	}
	return all
}

// In memory nothing is shared, so the first transcript needs nothing but Go. A line of … alone stands for any lines.
func TestThePageShowsWhatIsPrinted(t *testing.T) {
	t.Parallel()
	url, ran := "", 0
	for _, block := range blocks(page(t), "console") {
		for _, step := range strings.Split("\n"+block, "\n$ ")[1:] {
			command, want, _ := strings.Cut(step, "\n")
			args, ok := strings.CutPrefix(command, "go run ./examples/walkthrough")
			require.True(t, ok, command)
			if url == "" && strings.Contains(args, "$URL") {
				url = testdb.PostgresURL(t)
			}
			var out bytes.Buffer
			require.NoError(t, run(t.Context(), strings.Fields(strings.ReplaceAll(args, "$URL", url)), &out, io.Discard))
			pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(want)), "\n…", "(\n.*)*")
			require.Regexp(t, "^"+pattern+"$", strings.TrimSpace(out.String()), command)
			ran++
		}
	}
	require.Equal(t, 3, ran)
}

// The code on the page is the program's, but for how far it is to the right.
func TestThePageShowsTheProgram(t *testing.T) {
	t.Parallel()
	flat := func(s string) string { return regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(s, "") }
	var program strings.Builder
	for _, name := range []string{"main.go", "shop.go", "delivery.go"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		program.Write(text)
	}
	shown := blocks(page(t), "go")
	require.Len(t, shown, 6)
	for _, code := range shown {
		require.Contains(t, flat(program.String()), flat(code))
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		`unexpected argument "now"`: {"now"},
		"not defined":               {"-mysql", "x"},
		"cannot parse":              {"-postgres", "://"},
	} {
		require.ErrorContains(t, run(t.Context(), args, io.Discard, io.Discard), want)
	}
}
