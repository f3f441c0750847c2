// Command ledger keeps a ledger from the command line, in PostgreSQL or, for a
// script, in memory. README.md beside it shows how.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/safetill/safetill/examples/internal/cli"
	"github.com/safetill/safetill/examples/internal/connect"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

func main() {
	cli.Main("ledger", func(ctx context.Context, args []string, stdout, stderr io.Writer) error {
		return run(ctx, args, os.Stdin, stdout, stderr)
	})
}

// options are the flags in front of the command.
type options struct {
	postgres, schema string
	migrate          bool
	timeout          time.Duration
	command          []string
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	store, closeStore, err := openStore(ctx, o)
	if err != nil {
		return err
	}
	defer closeStore()
	l, err := ledger.New(store, nil)
	if err != nil {
		return err
	}
	a := &app{ledger: l, stdout: stdout, stderr: stderr, timeout: o.timeout}
	switch {
	case len(o.command) == 0:
		return a.script(ctx, stdin, false)
	case o.command[0] == "demo":
		return a.demo(ctx)
	}
	return a.command(ctx, o.command)
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	f := cli.NewFlags("ledger", io.Discard)
	f.EnvVar(&o.postgres, "postgres", "SAFETILL_POSTGRES_URL", "`URL` of PostgreSQL; default $SAFETILL_POSTGRES_URL, else memory")
	f.StringVar(&o.schema, "schema", "", "`name` of the schema with the ledger's tables; default the connection's own")
	f.BoolVar(&o.migrate, "migrate", false, "bring the tables up to date first")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "how long one command may take")
	f.Usage = func() { usage(stderr, f.FlagSet) }
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.command = f.Args()
	memory, demo := o.postgres == "", f.Arg(0) == "demo"
	f.Demand(o.timeout > 0, "timeout", "more than 0")
	f.Refuse(memory && o.migrate, "-migrate needs -postgres")
	f.Refuse(memory && o.schema != "", "-schema needs -postgres")
	f.Refuse(memory && known(f.Arg(0)) && !asksForHelp(f.Arg(1)),
		f.Arg(0)+" needs -postgres: a ledger in memory is empty. Write the commands on standard input to have one for all of them")
	f.Refuse(!memory && demo, "demo is in memory: leave out -postgres")
	f.Refuse(demo && f.NArg() > 1, "demo takes no arguments")
	return o, f.Err()
}

func known(name string) bool {
	return slices.ContainsFunc(commands, func(c command) bool { return c.name == name })
}

func asksForHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

func usage(w io.Writer, f *flag.FlagSet) {
	fmt.Fprintln(w, "usage: ledger [flags] [command]\n\nWithout a command, commands are read from standard input, one a line.\n\nCommands:")
	for _, c := range commands {
		fmt.Fprintln(w, strings.TrimRight("  "+c.name+" "+c.arguments, " "))
	}
	fmt.Fprintln(w, "  demo\n\nFlags:")
	f.SetOutput(w)
	f.PrintDefaults()
}

// openStore returns a store and what closes it.
func openStore(ctx context.Context, o *options) (ledger.Store, func(), error) {
	if o.postgres == "" {
		return ledger.NewMemory(nil), func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	pool, err := connect.Postgres(ctx, o.postgres, 4)
	if err != nil {
		return nil, nil, fmt.Errorf("-postgres: %w", err)
	}
	store := pgledger.NewStore(pool, &pgledger.Options{Schema: o.schema})
	if o.migrate {
		if err := pgledger.Migrate(ctx, pool, &pgledger.MigrateOptions{Schema: o.schema}); err != nil {
			pool.Close()
			return nil, nil, fmt.Errorf("-migrate: %w", err)
		}
	}
	if err := store.CheckSchema(ctx); err != nil {
		pool.Close()
		if _, ok := errors.AsType[*pgledger.SchemaError](err); ok {
			err = fmt.Errorf("%w (-migrate makes the tables)", err)
		}
		return nil, nil, fmt.Errorf("-postgres: %w", err)
	}
	return store, pool.Close, nil
}
