// Command doublespend runs the ways of preventing double spending against the same storm, and prints what each lets through
// and what it costs. README.md beside it says more.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/safetill/safetill/examples/internal/cli"
)

func main() { cli.Main("doublespend", run) }

// options are the flags.
type options struct {
	postgres string
	redis    []string
	ways     []way
	rounds   int
	patience time.Duration // of a race's meeting
	lease    time.Duration
	length   time.Duration
	turns    int
	workers  int
	accounts int
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	if o.postgres == "" {
		own, err := startServers(ctx)
		if err != nil {
			return err
		}
		defer own.close()
		o.postgres, o.redis = own.postgresURL, own.redisURLs
	}
	var stages []*stage
	defer func() {
		for _, s := range stages {
			err = errors.Join(err, s.close(ctx))
		}
	}()
	for _, w := range o.ways {
		s, err := openStage(ctx, w, o.postgres, o.redis)
		if err != nil {
			return err
		}
		stages = append(stages, s)
	}
	if err := storm(ctx, stages, o, stderr); err != nil {
		return err
	}
	return report(ctx, stdout, stages, o)
}

// storm runs all that is asked for.
func storm(ctx context.Context, stages []*stage, o *options, progress io.Writer) error {
	for _, s := range stages {
		fmt.Fprintln(progress, "race and frost:", s.way.title)
		if err := s.race(ctx, o.rounds, o.patience); err != nil {
			return err
		}
		if err := s.frost(ctx, o.lease); err != nil {
			return err
		}
	}
	if o.turns == 0 {
		return nil
	}
	fmt.Fprintln(progress, "speed of all, for about", time.Duration(2*o.turns*len(stages))*(o.length+o.length/5))
	return speed(ctx, stages, o)
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{patience: 200 * time.Millisecond}
	f := cli.NewFlags("doublespend", stderr)
	var redis, ways string
	f.EnvVar(&o.postgres, "postgres", "SAFETILL_POSTGRES_URL",
		"`URL` of a PostgreSQL; schemas are made and removed there. Default $SAFETILL_POSTGRES_URL, else a private one")
	f.EnvVar(&redis, "redis", "SAFETILL_REDIS_URL",
		"`URLs` of one or more Redis, with commas; redsync uses all. Default $SAFETILL_REDIS_URL, else three private ones")
	f.StringVar(&ways, "ways", strings.Join(names(), ","), "`names` of ways, with commas")
	f.IntVar(&o.rounds, "rounds", 10, "how many accounts are raced for, 1 to 1000")
	f.DurationVar(&o.lease, "lease", time.Second, "lease of a lock under a server that freezes, 100ms to 1m")
	f.DurationVar(&o.length, "for", time.Second, "length of a turn on each kind of accounts, 10ms to 10m")
	f.IntVar(&o.turns, "turns", 3, "turns of which the median counts, 0 to 100; 0 measures no speed")
	f.IntVar(&o.workers, "workers", 16, "clients at a time, on both servers together, 2 to 256, even")
	f.IntVar(&o.accounts, "accounts", 256, "accounts of the uniform load, 1 to 4000")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	f.NoArguments()
	f.Refuse((o.postgres == "") != (redis == ""), "give both -postgres and -redis, or none of them")
	f.Demand(1 <= o.rounds && o.rounds <= 1000, "rounds", "1 to 1000")
	f.Demand(100*time.Millisecond <= o.lease && o.lease <= time.Minute, "lease", "100ms to 1m")
	f.Demand(10*time.Millisecond <= o.length && o.length <= 10*time.Minute, "for", "10ms to 10m")
	f.Demand(0 <= o.turns && o.turns <= 100, "turns", "0 to 100")
	f.Demand(2 <= o.workers && o.workers <= 256 && o.workers%2 == 0, "workers", "an even number from 2 to 256")
	f.Demand(1 <= o.accounts && o.accounts <= 4000, "accounts", "1 to 4000")
	if redis != "" {
		o.redis = strings.Split(redis, ",")
	}
	for name := range strings.SplitSeq(ways, ",") {
		w, ok := wayNamed(name)
		again := slices.ContainsFunc(o.ways, func(other way) bool { return other.name == name })
		f.Refuse(!ok || again, fmt.Sprintf("-ways: %q must be one of %s, once", name, strings.Join(names(), ", ")))
		o.ways = append(o.ways, w)
	}
	return o, f.Err()
}
