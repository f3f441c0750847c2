// Command paymentserver takes payments over HTTP and posts them to a ledger: an
// example of safetill at work. README.md beside it says how to run it.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/safetill/safetill/examples/internal/cli"
	"github.com/safetill/safetill/examples/internal/limits"
	"github.com/safetill/safetill/examples/internal/loadgen"
	"github.com/safetill/safetill/examples/internal/settlement"
)

func main() { cli.Main("paymentserver", run) }

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
	limits           limits.Options
	settling         settlement.Options
	level            slog.Level
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	f := cli.NewFlags("paymentserver", stderr)
	f.StringVar(&o.addr, "addr", "127.0.0.1:8080", "serve payments on this `host:port`")
	f.StringVar(&o.adminAddr, "admin-addr", "127.0.0.1:8081", "serve admin, metrics and pprof on this `host:port`")
	f.EnvVar(&o.postgres, "postgres", "SAFETILL_POSTGRES_URL", "`URL` of PostgreSQL; default $SAFETILL_POSTGRES_URL, else memory")
	f.EnvVar(&o.redis, "redis", "SAFETILL_REDIS_URL", "`URL` of Redis; default $SAFETILL_REDIS_URL, else none")
	f.StringVar(&o.data, "data", "", "start a private PostgreSQL and Redis from this machine's binaries, with their data in `DIR`")
	f.BoolVar(&o.migrate, "migrate", false, "bring PostgreSQL's schema up to date before serving")
	f.IntVar(&o.seed, "seed", 10, "make customers GIG00001 to this `number` in memory, with -data and with -migrate")
	f.IntVar(&o.workers, "workers", 10, "how many workers post payments")
	f.IntVar(&o.pgConns, "pg-conns", 16, "connections to PostgreSQL at the most")
	f.TextVar(&o.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	o.limits.Flags(f)
	o.settling.Flags(f)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	f.NoArguments()
	f.Refuse(o.data != "" && (o.postgres != "" || o.redis != ""), "-data brings its own servers: give neither -postgres nor -redis")
	f.Refuse(o.redis != "" && o.postgres == "", "-redis needs -postgres, which holds the truth")
	f.Demand(o.workers >= 1 && o.workers <= 1000, "workers", "in 1..1000")
	f.Demand(o.pgConns >= 1 && o.pgConns <= 1000, "pg-conns", "in 1..1000")
	f.Demand(o.seed >= 0 && o.seed <= maxSeed, "seed", fmt.Sprintf("in 0..%d", maxSeed))
	o.limits.Demand(f)
	o.settling.Demand(f)
	return o, f.Err()
}
