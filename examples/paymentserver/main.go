// Command paymentserver takes payments over HTTP and posts them to a ledger: an
// example of safetill at work. README.md beside it says how to run it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/safetill/safetill/examples/internal/loadgen"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "paymentserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "load" {
		return loadgen.Run(ctx, args[1:], stdout, stderr)
	}
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: o.level}))
	s, err := newServer(ctx, o, log)
	if err != nil {
		return err
	}
	defer s.close()
	return s.serve(ctx)
}

// options are the command line's.
type options struct {
	addr, adminAddr  string
	postgres, redis  string
	data             string
	migrate          bool
	seed             int
	workers, pgConns int
	level            slog.Level
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("paymentserver", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.addr, "addr", "127.0.0.1:8080", "serve payments on this `host:port`")
	f.StringVar(&o.adminAddr, "admin-addr", "127.0.0.1:8081", "serve admin, metrics and pprof on this `host:port`")
	f.StringVar(&o.postgres, "postgres", os.Getenv("SAFETILL_POSTGRES_URL"), "`URL` of PostgreSQL; default $SAFETILL_POSTGRES_URL, else memory")
	f.StringVar(&o.redis, "redis", os.Getenv("SAFETILL_REDIS_URL"), "`URL` of Redis; default $SAFETILL_REDIS_URL, else none")
	f.StringVar(&o.data, "data", "", "start a private PostgreSQL and Redis from this machine's binaries, with their data in `DIR`")
	f.BoolVar(&o.migrate, "migrate", false, "bring PostgreSQL's schema up to date before serving")
	f.IntVar(&o.seed, "seed", 10, "make customers GIG00001 to this `number` in memory, with -data and with -migrate")
	f.IntVar(&o.workers, "workers", 10, "how many workers post payments")
	f.IntVar(&o.pgConns, "pg-conns", 16, "connections to PostgreSQL at the most")
	f.TextVar(&o.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	var faults []error
	if f.NArg() > 0 {
		faults = append(faults, fmt.Errorf("unknown argument %q", f.Arg(0)))
	}
	if o.data != "" && (o.postgres != "" || o.redis != "") {
		faults = append(faults, errors.New("-data brings its own servers: give neither -postgres nor -redis"))
	}
	if o.redis != "" && o.postgres == "" {
		faults = append(faults, errors.New("-redis needs -postgres, which holds the truth"))
	}
	for name, n := range map[string]int{"-workers": o.workers, "-pg-conns": o.pgConns} {
		if n < 1 || n > 1000 {
			faults = append(faults, fmt.Errorf("%s must be from 1 to 1000", name))
		}
	}
	if o.seed < 0 || o.seed > maxSeed {
		faults = append(faults, fmt.Errorf("-seed must be from 0 to %d", maxSeed))
	}
	return o, errors.Join(faults...)
}
