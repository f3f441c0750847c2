// Command ordersaga takes an order through a saga: it is validated, stock is
// reserved, a card charged, the order confirmed and the customer told, while the
// providers fail as the flags say. README.md beside it shows how.
package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/safetill/safetill/examples/internal/cli"
	"github.com/safetill/safetill/examples/internal/connect"
	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

func main() { cli.Main("ordersaga", run) }

// options are the flags in front of the command.
type options struct {
	postgres, data string
	id             string
	order          Order
	faults         faults
	times          int
	lease          time.Duration
	trace          bool
	command        []string
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	store, providers, stop, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer stop()
	s := &shop{providers: providers, faults: &o.faults}
	a := &app{o: o, store: store, providers: providers, order: s.define(), out: stdout, errs: stderr}
	if len(o.command) > 0 {
		return a.command(ctx, o.command)
	}
	return a.place(ctx)
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	f := cli.NewFlags("ordersaga", stderr)
	f.EnvVar(&o.postgres, "postgres", "SAFETILL_POSTGRES_URL", "`URL` of PostgreSQL; default $SAFETILL_POSTGRES_URL, else memory")
	f.StringVar(&o.data, "data", "", "start a private PostgreSQL from this machine's binaries, with its data in `DIR`")
	f.StringVar(&o.id, "id", "order-1", "`id` of the order; one that is there already is followed to its end")
	f.StringVar(&o.order.Customer, "customer", "ada", "`name` of who orders")
	f.StringVar(&o.order.Item, "item", "lamp", "`name` of what is ordered")
	f.Int64Var(&o.order.Amount, "amount", 1_500_000, "what it costs, in `kobo`")
	known := strings.Join(names, ", ")
	f.StringVar(&o.faults.fail, "fail", "", "let the provider of this `step` answer with errors: "+known)
	f.StringVar(&o.faults.reject, "reject", "", "let the provider of this `step` say no")
	f.StringVar(&o.faults.timeout, "timeout", "", "let the provider of this `step` do its work and not answer")
	f.StringVar(&o.faults.crash, "crash-after", "", "die when the provider of this `step` has done its work")
	f.IntVar(&o.times, "times", 1, "how often -fail and -timeout do so, in all")
	f.DurationVar(&o.lease, "lease", 2*time.Second, "how long an order stays with a process that has died")
	f.BoolVar(&o.trace, "trace", false, "write a line for each span of the trace to standard error")
	f.Usage = func() {
		fmt.Fprintln(stderr, "usage: ordersaga [flags] [command]\n\nWithout a command, an order is placed.\n\nCommands:"+usage+"\nFlags:")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.command = f.Args()
	o.faults.left.Store(int64(o.times))
	for name, step := range map[string]string{"fail": o.faults.fail, "reject": o.faults.reject, "timeout": o.faults.timeout, "crash-after": o.faults.crash} {
		f.Demand(step == "" || slices.Contains(names, step), name, "one of "+known)
	}
	f.Demand(o.times >= 1, "times", "1 or more")
	f.Demand(o.lease >= 100*time.Millisecond, "lease", "100ms or more")
	memory := o.postgres == "" && o.data == ""
	f.Refuse(o.postgres != "" && o.data != "", "-data brings its own PostgreSQL: do not give -postgres")
	f.Refuse(memory && o.faults.crash != "", "-crash-after needs -postgres or -data: what is in memory dies too")
	f.Refuse(memory && len(o.command) > 0 && o.command[0] != "diagram", "a command needs -postgres or -data: there is nothing in memory yet")
	return o, f.Err()
}

// open returns where sagas are kept, the providers, and what closes both.
func open(ctx context.Context, o *options) (saga.Store, providers, func(), error) {
	url, stop := o.postgres, func() {}
	if o.data != "" {
		server, err := localdb.StartPostgres(ctx, localdb.Options{Dir: o.data})
		if err != nil {
			return nil, nil, nil, fmt.Errorf("-data: %w", err)
		}
		url, stop = server.URL(), func() {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			_ = server.Close(ctx) // it is killed then, which loses nothing
		}
	}
	if url == "" {
		return saga.NewMemory(nil), &inMemory{effects: map[string]*effect{}}, stop, nil
	}
	pool, err := connect.Postgres(ctx, url, 8)
	if err != nil {
		stop()
		return nil, nil, nil, fmt.Errorf("-postgres: %w", err)
	}
	stopAll := func() {
		pool.Close()
		stop()
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	p := inPostgres{pool}
	err = pgsaga.Migrate(ready, pool, nil)
	if err == nil {
		err = p.migrate(ready)
	}
	if err != nil {
		stopAll()
		return nil, nil, nil, fmt.Errorf("-postgres: %w", err)
	}
	return pgsaga.NewStore(pool, nil), p, stopAll, nil
}
