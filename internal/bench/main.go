// Command bench measures safetill beside the ways that it replaces, in one run,
// and prints the tables of docs/benchmarks.md.
//
// Machines are noisy and shared: every round runs all contestants one after the
// other, and a figure is the median over the rounds. Trust the ratios, the CPU
// time and the counts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"time"
)

// section is one table.
type section struct {
	name string
	run  func(context.Context, *settings, io.Writer) error
}

var sections = []section{
	{"ledger", benchLedger},
	{"group", benchGroup},
	{"size", benchSize},
	{"idempotency", benchIdempotency},
	{"dotx", benchDoTx},
	{"ratelimit-memory", benchGates},
	{"ratelimit-scale", benchScale},
	{"ratelimit-redis", benchRateLimitRedis},
	{"saga", benchSaga},
	{"server", benchServer},
}

type settings struct {
	rounds int
	span   time.Duration
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var s settings
	flags.IntVar(&s.rounds, "rounds", 5, "how often each contestant runs")
	flags.DurationVar(&s.span, "for", 3*time.Second, "how long each contestant runs in a round")
	only := flags.String("only", "", "run the `sections` that match this regular expression")
	out := flags.String("o", "", "also write the tables to this `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	var page strings.Builder
	w := io.MultiWriter(os.Stdout, &page)
	header(ctx, w)
	var faults []error
	for _, sec := range sections {
		if !pattern.MatchString(sec.name) {
			continue
		}
		if err := sec.run(ctx, &s, w); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", sec.name, err))
		}
	}
	if *out != "" && len(faults) == 0 {
		faults = append(faults, os.WriteFile(*out, []byte(page.String()), 0o644))
	}
	return errors.Join(faults...)
}
