package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"

	"github.com/safetill/safetill/examples/internal/cli"
	"github.com/safetill/safetill/examples/internal/sagaotel"
	"github.com/safetill/safetill/saga"
)

// app is the program with its store open.
type app struct {
	o         *options
	store     saga.Store
	providers providers
	order     *saga.Definition[Order]
	out, errs io.Writer
}

// with runs an engine for as long as f does.
func (a *app) with(ctx context.Context, f func(ctx context.Context, e *saga.Engine) error) error {
	o := &saga.Options{
		Definitions: []saga.Registered{a.order},
		Lease:       a.o.lease, Poll: a.o.lease / 10,
		Logger: slog.New(slog.NewTextHandler(a.errs, nil)),
	}
	if a.o.trace {
		tracer, flush := printer(a.errs)
		defer flush()
		o.Hooks.Around = sagaotel.Around(tracer)
	}
	e, err := saga.New(a.store, o)
	if err != nil {
		return err
	}
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- e.Run(working) }()
	err = f(ctx, e)
	cancel() // what is under way is finished, and the rest free for who comes next
	return errors.Join(err, <-ended)
}

// place starts an order, or finds it where an earlier process has left it, and
// follows it to its end.
func (a *app) place(ctx context.Context) error {
	return a.with(ctx, func(ctx context.Context, e *saga.Engine) error {
		h, err := a.order.Start(ctx, e, a.o.id, a.o.order, nil)
		if err != nil {
			return err
		}
		return a.follow(ctx, h)
	})
}

func (a *app) follow(ctx context.Context, h *saga.Handle[Order]) error {
	if _, err := h.Wait(ctx); err != nil {
		return err
	}
	return a.show(ctx, h.ID())
}

// show writes what is known of an order, by the saga and by the providers.
func (a *app) show(ctx context.Context, id string) error {
	rec, err := saga.NewAdmin(a.store).Inspect(ctx, id)
	if err != nil {
		return err
	}
	if err := saga.WriteTimeline(a.out, rec); err != nil {
		return err
	}
	effects, err := a.providers.all(ctx, id)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, "the providers have:")
	for _, e := range effects {
		undone := ""
		if e.Undone {
			undone = ", undone"
		}
		fmt.Fprintf(a.out, "  %s%s\n", e.What, undone)
	}
	if rec.Status == saga.Stuck {
		fmt.Fprintf(a.out, "a person is needed: ordersaga resolve %s ACTION -actor NAME -reason WHY\n", id)
	}
	return nil
}

const usage = `
  list                   the orders, with their status
  show ID                one of them
  resolve ID ACTION -actor NAME -reason WHY [-step STEP] [-revision N]
                         help one that is stuck, and follow it; ACTION is one of
                         retry, skip, force-applied, force-not-applied, cancel
  diagram                the saga as Mermaid
`

func (a *app) command(ctx context.Context, words []string) error {
	switch name, rest := words[0], words[1:]; {
	case name == "list" && len(rest) == 0:
		return a.list(ctx)
	case name == "show" && len(rest) == 1:
		return a.show(ctx, rest[0])
	case name == "resolve" && len(rest) >= 2:
		return a.resolve(ctx, rest[0], saga.Action(rest[1]), rest[2:])
	case name == "diagram" && len(rest) == 0:
		_, err := io.WriteString(a.out, saga.Diagram(a.order))
		return err
	}
	return fmt.Errorf("no such command: %s\nCommands:%s", strings.Join(words, " "), usage)
}

func (a *app) list(ctx context.Context) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSTATUS\tREVISION\tNEEDS A PERSON AT\tERROR")
	for rec, err := range saga.NewAdmin(a.store).List(ctx, saga.Filter{Definition: a.order.Name()}) {
		if err != nil {
			return err
		}
		at := ""
		if rec.Status == saga.Stuck {
			at = strings.Join(rec.Blocked(), ", ")
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", rec.ID, rec.Status, rec.Revision, at, rec.Error)
	}
	return w.Flush()
}

// resolve does what a person has decided, and follows what comes of it.
func (a *app) resolve(ctx context.Context, id string, do saga.Action, args []string) error {
	var audit saga.Audit
	f := cli.NewFlags("ordersaga resolve", a.errs)
	f.StringVar(&audit.Actor, "actor", "", "`name` of who has decided this")
	f.StringVar(&audit.Reason, "reason", "", "`why`")
	f.StringVar(&audit.Step, "step", "", "`name` of the step, if several are in the way")
	f.Int64Var(&audit.ExpectRevision, "revision", 0, "`revision` that was looked at; default: that of now")
	if err := f.Parse(args); err != nil {
		return err
	}
	f.NoArguments()
	if err := f.Err(); err != nil {
		return err
	}
	return a.with(ctx, func(ctx context.Context, e *saga.Engine) error {
		if audit.ExpectRevision == 0 {
			rec, err := e.Admin().Inspect(ctx, id)
			if err != nil {
				return err
			}
			audit.ExpectRevision = rec.Revision
		}
		if _, err := e.Admin().Resolve(ctx, id, do, audit); err != nil {
			return err
		}
		return a.follow(ctx, a.order.Handle(e, id))
	})
}
