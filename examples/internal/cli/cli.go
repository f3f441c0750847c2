// Package cli is what the example programs have in common: they run until
// they are told to stop, and refuse flags that break a rule, all at once.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Main runs a program until it returns; its context ends with SIGINT or SIGTERM, and a
// second SIGINT ends the process: who presses Ctrl-C again has waited long enough. A
// second SIGTERM does not, since some supervisors send two. An error goes to standard
// error and makes the exit status 1, but [flag.ErrHelp].
func Main(name string, run func(ctx context.Context, args []string, stdout, stderr io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt) })
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

// Flags are flags with rules. After Parse state the rules, and then ask for [Flags.Err].
type Flags struct {
	*flag.FlagSet
	faults []error
}

// NewFlags returns an empty set that writes its usage to stderr.
func NewFlags(name string, stderr io.Writer) *Flags {
	f := &Flags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError)}
	f.SetOutput(stderr)
	return f
}

// EnvVar adds a flag whose default is an environment variable. Usage does not show
// what that is: it may hold a password.
func (f *Flags) EnvVar(into *string, name, variable, usage string) {
	f.StringVar(into, name, "", usage)
	*into = os.Getenv(variable)
}

// Demand refuses the value of a flag unless it is ok. rule ends "must be".
func (f *Flags) Demand(ok bool, name, rule string) {
	f.Refuse(!ok, fmt.Sprintf("-%s %s: must be %s", name, f.Lookup(name).Value, rule))
}

// Refuse refuses flags that do not go together, say.
func (f *Flags) Refuse(bad bool, why string) {
	if bad {
		f.faults = append(f.faults, errors.New(why))
	}
}

// NoArguments refuses what is left behind the flags.
func (f *Flags) NoArguments() {
	if f.NArg() > 0 {
		f.Refuse(true, fmt.Sprintf("unexpected argument %q", f.Arg(0)))
	}
}

// Err returns all that was refused, or nil.
func (f *Flags) Err() error { return errors.Join(f.faults...) }
