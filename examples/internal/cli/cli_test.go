package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// beProgram makes the test binary a program, whose first argument says what it does.
const beProgram = "CLI_TEST_IS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(beProgram) == "" {
		os.Exit(m.Run())
	}
	Main("tea", func(ctx context.Context, args []string, _, _ io.Writer) error {
		switch args[0] {
		case "fails":
			return errors.New("no tea")
		case "helps":
			return flag.ErrHelp
		case "waits":
			self, err := os.FindProcess(os.Getpid())
			if err != nil {
				return err
			}
			if err := self.Signal(os.Interrupt); err != nil {
				return err
			}
			<-ctx.Done()
		case "hangs": // in what it does to end, and is told again and again
			self, err := os.FindProcess(os.Getpid())
			for err == nil {
				err = self.Signal(os.Interrupt)
				time.Sleep(time.Millisecond)
			}
			return err
		}
		return nil
	})
	os.Exit(0)
}

func TestMainTellsHowItEnded(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	for what, want := range map[string]struct {
		code int
		says string
	}{"works": {}, "helps": {}, "waits": {}, "fails": {1, "tea: no tea\n"}} {
		cmd := exec.CommandContext(t.Context(), self, what)
		cmd.Env = append(os.Environ(), beProgram+"=1")
		out, err := cmd.CombinedOutput()
		if want.code == 0 {
			require.NoError(t, err, what)
		}
		require.Equal(t, want.code, cmd.ProcessState.ExitCode(), what)
		require.Equal(t, want.says, string(out), what)
	}
}

// The first Ctrl-C asks a program to end, and the second ends one that takes its time.
func TestTheSecondInterruptEndsAProgramThatHangs(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "hangs")
	cmd.Env = append(os.Environ(), beProgram+"=1")
	require.Error(t, cmd.Run())
	require.NoError(t, ctx.Err(), "it had to be killed")
	require.Equal(t, "signal: interrupt", cmd.ProcessState.String())
}

func TestFlagsNameAllThatIsWrong(t *testing.T) {
	t.Parallel()
	parse := func(args ...string) error {
		f := NewFlags("tea", io.Discard)
		cups, pots := f.Int("cups", 1, "`cups`"), f.Int("pots", 1, "`pots`")
		if err := f.Parse(args); err != nil {
			return err
		}
		f.Demand(*cups > 0, "cups", "more than 0")
		f.Demand(*pots > 0, "pots", "more than 0")
		f.Refuse(*pots > *cups, "more pots than cups")
		f.NoArguments()
		return f.Err()
	}
	require.NoError(t, parse())
	require.NoError(t, parse("-cups", "2"))
	require.ErrorIs(t, parse("-h"), flag.ErrHelp)
	require.ErrorContains(t, parse("-cups", "many"), "many")
	require.EqualError(t, parse("-cups", "-1", "-pots", "0", "milk", "sugar"),
		"-cups -1: must be more than 0\n-pots 0: must be more than 0\nmore pots than cups\nunexpected argument \"milk\"")
}

func TestUsageDoesNotTellASecretOfTheEnvironment(t *testing.T) {
	t.Setenv("CLI_TEST_URL", "postgres://ada:hunter2@db/tea")
	var out bytes.Buffer
	f := NewFlags("tea", &out)
	var url, none string
	f.EnvVar(&url, "db", "CLI_TEST_URL", "`URL` of the tea")
	f.EnvVar(&none, "none", "CLI_TEST_NONE", "`URL` of nothing")
	require.Error(t, f.Parse([]string{"-pot"}))
	require.Contains(t, out.String(), "-db URL")
	require.NotContains(t, out.String(), "hunter2")
	require.Equal(t, "postgres://ada:hunter2@db/tea", url)
	require.Empty(t, none)
	require.NoError(t, f.Parse([]string{"-db", ""}))
	require.Empty(t, url, "the environment can be overruled")
}
