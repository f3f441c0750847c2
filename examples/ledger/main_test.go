package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
)

func TestMain(m *testing.M) {
	_ = os.Unsetenv("SAFETILL_POSTGRES_URL") // no test may find a ledger of somebody's
	os.Exit(m.Run())
}

// start runs the program as a user would.
func start(ctx context.Context, stdin string, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	err = run(ctx, args, strings.NewReader(stdin), &out, &errs)
	return out.String(), errs.String(), err
}

// TestREADME runs the transcripts of README.md.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	url := testdb.PostgresURL(t)
	t.Chdir(t.TempDir()) // some write files
	const program = "go run ./examples/ledger "
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		for _, step := range strings.Split("\n"+block[1], "\n$ ")[1:] {
			line, want, _ := strings.Cut(step, "\n")
			args, ok := strings.CutPrefix(line, program)
			require.True(t, ok, line)
			words, err := split(strings.ReplaceAll(args, "$URL", url))
			require.NoError(t, err)
			out, _, err := start(t.Context(), "", words...)
			require.NoError(t, err, line)
			pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(want)), "…", ".+")
			out = strings.ReplaceAll(strings.TrimSpace(out), "\r", "") // CSV has CRLF
			require.Regexp(t, "^"+pattern+"$", out, line)
			ran++
		}
	}
	require.Equal(t, 9, ran)
	page, err := os.ReadFile("statement.html")
	require.NoError(t, err)
	require.Contains(t, string(page), "pay-in-1")
}

func TestScriptInMemory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, _, err := start(t.Context(), `
open -currency NGN -normal debit 'the bank'   # with a blank
open -currency NGN -normal credit -floor -10.50 "q\"uote" obi
open -currency NGN -normal debit -- -1 -odd
post -id 1 -currency NGN "the bank" obi 100
post -id 1 -currency NGN "the bank" obi 101
hold -id h -currency NGN obi "the bank" 60
release -id r -of h
capture -id c -of h
reverse -id back -of 1
balance -at 2000-01-01 obi
balance obi
export -format beancount -o `+filepath.Join(dir, "x.beancount")+` obi
verify
`)
	require.NoError(t, err)
	for _, want := range []string{
		"the bank: open\nq\"uote: open\nobi: open\n-1: open\n-odd: open\n1: posted\n1: refused, conflict\nh: held\nr: released\nc: refused, target_closed\nback: reversed\n",
		"obi      NGN         0.00        0\n",
		"obi      NGN         0.00       0.00        2\n",
		"1 accounts written to",
		"5 accounts, 5 transactions, 4 entries\nthe ledger adds up\n",
	} {
		require.Contains(t, out, want)
	}
	text, err := os.ReadFile(filepath.Join(dir, "x.beancount"))
	require.NoError(t, err)
	require.Contains(t, string(text), `Assets:The-20bank  100.00 NGN`)
	left, err := filepath.Glob(filepath.Join(dir, ".ledger-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// Root may put a file in the place of /dev/null, for all programs of the machine.
func TestADeviceIsWrittenToAndNotReplaced(t *testing.T) {
	t.Parallel()
	null := filepath.Join(t.TempDir(), "null")
	require.NoError(t, os.Symlink(os.DevNull, null))
	_, _, err := start(t.Context(), "open -currency NGN -normal debit bank\nexport -format csv -o "+null+" bank\nstatement -html "+null+" bank\n")
	require.NoError(t, err)
	info, err := os.Stat(null)
	require.NoError(t, err)
	require.False(t, info.Mode().IsRegular())
}

func TestBadCommandLines(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"-postgres":                       "flag needs an argument: -postgres",
		"-nothing":                        "not defined: -nothing",
		"-timeout 0s":                     "-timeout 0s: must be more than 0",
		"-timeout soon":                   "-timeout",
		"-migrate":                        "-migrate needs -postgres",
		"-schema x":                       "-schema needs -postgres",
		"balance ada":                     "balance needs -postgres",
		"fly":                             "unknown command",
		"-postgres postgres://x demo":     "demo is in memory",
		"demo -seed 5":                    "demo takes no arguments",
		"-postgres ://x verify":           "-postgres: ",
		"-postgres postgres://x:p verify": "-postgres: ",
	} {
		_, _, err := start(t.Context(), "", strings.Fields(line)...)
		require.ErrorContains(t, err, want, line)
	}
}

func TestBadCommands(t *testing.T) {
	t.Parallel()
	const accounts = "open -currency NGN -normal debit bank ada\n"
	missing := filepath.Join(t.TempDir(), "no", "such", "folder")
	for line, wants := range map[string][]string{
		"fly":                              {`unknown command "fly"`},
		"open":                             {"-currency is missing", "-normal is missing", "ACCOUNT is missing"},
		"open -normal up -currency NGN x":  {`-normal "up" is neither debit nor credit`},
		"open -normal debit -currency X x": {`"X" is unknown`},
		"open -floor 1e3 x":                {"-floor"},
		"open -floor 5 -normal debit -currency NGN x":   {"Floor is above 0"},
		"open -normal credit -currency NGN bank":        {`"bank" is open with other properties`},
		"post":                                          {"-id is missing", "-currency is missing"},
		"post -id 1 -currency NGN":                      {"DEBIT CREDIT AMOUNT are missing"},
		"post -id 1 -currency NGN bank ada":             {"2 arguments are not DEBIT CREDIT AMOUNT"},
		"post -id 1 -currency NGN bank ada -1":          {`AMOUNT "-1" is not an amount`},
		"post -id 1 -currency NGN bank ada NaN":         {`AMOUNT "NaN" is not an amount`},
		"post -id 1 -currency NGN bank ada 1e5":         {`AMOUNT "1e5" is not an amount`},
		"post -id 1 bank ada 5 -currency NGN":           {"-currency: flags stand before the arguments"},
		"open -currency NGN -normal credit x -floor=0":  {"-floor=0: flags stand before the arguments"},
		"open -currency NGN -normal credit x --flor=0":  {"--flor=0: flags stand before the arguments"},
		"open -currency NGN -normal credit x -- -floor": {"--: flags stand before the arguments"},
		"hold -id 1 -currency NGN -expires x a b 1":     {"-expires"},
		"balance -at 0001-01-01 bank":                   {"-at"},
		"hold -id 1 -currency NGN -expires 0s a b 1":    {"-expires", "must be more than 0"},
		"hold -id 1 -currency NGN -expires -5s a b 1":   {"-expires", "must be more than 0"},
		"capture -id 1":                                 {"-of is missing"},
		"capture -id 1 -of 2 bank ada 1":                {"-currency is missing"},
		"release -id 1 -of 2 -currency NGN":             {"not defined: -currency"},
		"balance":                                       {"ACCOUNT is missing"},
		"balance -at noon bank":                         {"-at: is neither a date"},
		"balance nobody":                                {`unknown account "nobody"`},
		"balance -at 2026-01-31 nobody":                 {`unknown account "nobody"`},
		"statement bank ada":                            {"2 accounts: a statement is of one"},
		"statement -from 2026-02-01 -to 2026-01-01 ada": {"-to is not after -from"},
		"statement -html " + missing + "/x ada":         {"-html: "},
		"export ada":                                    {"-format is missing"},
		"export -format pdf ada":                        {`-format "pdf" is none of csv, hledger, beancount`},
		"export -format csv":                            {"ACCOUNT is missing"},
		"export -format csv -o " + missing + "/x ada":   {"-o: "},
		"export -format csv nobody":                     {`unknown account "nobody"`},
		"verify now":                                    {`unknown argument "now"`},
		"verify 'x":                                     {"the quote ' is not closed"},
	} {
		_, _, err := start(t.Context(), accounts+line)
		require.ErrorContains(t, err, "line 2: ", line)
		for _, want := range wants {
			require.ErrorContains(t, err, want, line)
		}
	}
}

// A refusal given on the command line ends the program with an error.
func TestRefusalOnTheCommandLine(t *testing.T) {
	t.Parallel()
	url := testdb.PostgresURL(t)
	_, _, err := start(t.Context(), "", "-postgres", url, "verify")
	require.ErrorContains(t, err, "-migrate")
	_, _, err = start(t.Context(), "open -currency NGN -normal credit -floor 0 a b", "-postgres", url, "-migrate")
	require.NoError(t, err)
	_, _, err = start(t.Context(), "", "-postgres", url, "post", "-id", "1", "-currency", "NGN", "a", "b", "1")
	require.ErrorIs(t, err, ledger.ErrInsufficientFunds)
}

func TestHelp(t *testing.T) {
	t.Parallel()
	_, help, err := start(t.Context(), "", "-h")
	require.ErrorIs(t, err, flag.ErrHelp)
	for _, c := range commands {
		require.Contains(t, help, strings.TrimRight("  "+c.name+" "+c.arguments, " ")+"\n")
		out, own, err := start(t.Context(), c.name+" -h")
		require.NoError(t, err)
		require.Empty(t, out)
		require.Contains(t, own, "usage: ledger "+c.name)
		_, alone, err := start(t.Context(), "", c.name, "-h") // without a database
		require.ErrorIs(t, err, flag.ErrHelp)
		require.Equal(t, own, alone)
	}
}

type broken struct{}

var errBroken = errors.New("broken pipe")

func (broken) Write([]byte) (int, error) { return 0, errBroken }
func (broken) Read([]byte) (int, error)  { return 0, errBroken }

func TestBrokenPipes(t *testing.T) {
	t.Parallel()
	script := "open -currency NGN -normal debit a\nbalance a"
	require.ErrorIs(t, run(t.Context(), nil, strings.NewReader(script), broken{}, broken{}), errBroken)
	require.ErrorIs(t, run(t.Context(), nil, broken{}, broken{}, broken{}), errBroken)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, run(ctx, nil, strings.NewReader(script), broken{}, broken{}), context.Canceled)
}

// Who types hears that the program is told to stop, also before the next line is there.
func TestItEndsWhileItWaitsForALine(t *testing.T) {
	t.Parallel()
	keyboard, typing := io.Pipe()
	t.Cleanup(func() { _ = typing.Close() })
	screen, shown := io.Pipe()
	t.Cleanup(func() { _ = screen.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, nil, keyboard, shown, io.Discard) }()
	_, err := typing.Write([]byte("verify\n"))
	require.NoError(t, err)
	answer := bufio.NewScanner(screen)
	for range 2 {
		require.True(t, answer.Scan())
	}
	require.Equal(t, "the ledger adds up", answer.Text())
	cancel()
	select {
	case err := <-ended:
		require.ErrorIs(t, err, context.Canceled)
	case <-time.After(10 * time.Second):
		require.Fail(t, "it waits for a line that does not come")
	}
}

// Quoted words come back as they were.
func FuzzSplit(f *testing.F) {
	f.Add("the bank", `q"uote`)
	f.Add(`back\slash`, "#")
	f.Add("", "'")
	f.Fuzz(func(t *testing.T, a, b string) {
		a, b = strings.ToValidUTF8(a, "?"), strings.ToValidUTF8(b, "?")
		quoted := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
		words, err := split(quoted(a) + " \t" + quoted(b) + " # comment")
		require.NoError(t, err)
		require.Equal(t, []string{a, b}, words)
		_, _ = split(a) // no panic
	})
}
