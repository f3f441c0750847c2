package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/safetill/safetill/examples/internal/cli"
	"github.com/safetill/safetill/ratelimit"
)

// setting is what is simulated.
type setting struct {
	nodes  int
	demand float64 // of the rate, by all nodes together
	limit  ratelimit.Limit
	period time.Duration // of reports
	span   time.Duration
	stall  time.Duration // how long the store hangs, half-way
	over   float64
}

func simulate(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, out, err := parseSimulate(args, stderr)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d processes, a limit of %d per %v (%v), asked for %g times that; %v each way\n\n",
		s.nodes, s.limit.Rate, s.limit.Per, s.limit.Algorithm, s.demand, s.span)
	var traces []trace
	for _, w := range ways {
		t, err := s.run(ctx, w)
		if err != nil {
			return err
		}
		traces = append(traces, t)
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\tchecks\tadmitted\tfullest %v\tover the limit\tquestions\tchecks a question\t\n", s.limit.Per)
	for _, t := range traces {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%+.1f %%\t%d\t%.1f\t\n", t.name, t.checks, len(t.admitted), t.peak, 100*t.over, t.questions,
			float64(t.checks)/float64(max(1, t.questions)))
	}
	if err := table.Flush(); err != nil || out == "" {
		return err
	}
	if err := os.WriteFile(out, []byte(draw(s, traces)), 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "\ndrawn in %s\n", out)
	return err
}

func parseSimulate(args []string, stderr io.Writer) (s setting, out string, err error) {
	f := cli.NewFlags("simulate", stderr)
	f.IntVar(&s.nodes, "nodes", 10, "how many processes share the limit")
	f.Float64Var(&s.demand, "demand", 10, "how much they are asked for together, in `times` the limit")
	rate := f.Int64("rate", 1000, "units per -per")
	per := f.Duration("per", time.Second, "")
	name := f.String("algorithm", "sliding_log", "`one` of "+strings.Join(algorithmNames(), ", "))
	f.DurationVar(&s.period, "period", 100*time.Millisecond, "how often a process reports to the store")
	f.DurationVar(&s.span, "for", 4*time.Second, "how long each way is measured")
	f.DurationVar(&s.stall, "stall", 0, "how long the store hangs, half-way")
	f.Float64Var(&s.over, "max-over", 0.1, "how much more than the limit a hybrid may admit, in parts of one")
	f.StringVar(&out, "o", "", "draw into this `file`, as SVG")
	if err := f.Parse(args); err != nil {
		return s, "", err
	}
	i := slices.Index(algorithmNames(), *name)
	s.limit = ratelimit.Limit{Rate: *rate, Per: *per, Algorithm: ratelimit.Algorithm(max(0, i))}
	f.NoArguments()
	f.Demand(i >= 0, "algorithm", "one of "+strings.Join(algorithmNames(), ", "))
	f.Demand(s.nodes >= 1 && s.nodes <= 100, "nodes", "1 to 100")
	f.Demand(s.demand > 0 && s.demand*float64(*rate)/per.Seconds() <= 100_000, "demand", "more than 0, and no more than 100,000 checks a second")
	f.Demand(s.period > 0, "period", "more than 0")
	f.Demand(s.span > 0 && s.span <= time.Minute, "for", "more than 0, up to a minute")
	f.Demand(s.stall >= 0, "stall", "0 at least")
	f.Demand(s.over > 0 && s.over <= 1, "max-over", "more than 0, up to 1")
	return s, out, errors.Join(f.Err(), s.limit.Validate())
}

func algorithmNames() (names []string) {
	for a := range ratelimit.Concurrency {
		names = append(names, a.String())
	}
	return names
}
