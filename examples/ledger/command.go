package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/safetill/safetill/ledger"
)

// app runs commands on a ledger.
type app struct {
	ledger         *ledger.Ledger
	stdout, stderr io.Writer
	timeout        time.Duration // of one command
}

// command is one thing that the program does. define declares its flags and
// returns what runs once they are parsed.
type command struct {
	name, arguments string
	define          func(*app, *flag.FlagSet) func(ctx context.Context, args []string) error
}

var commands = []command{
	{"open", "-currency CODE -normal debit|credit [-floor AMOUNT] ACCOUNT...", (*app).open},
	{"post", "-id ID -currency CODE DEBIT CREDIT AMOUNT [DEBIT CREDIT AMOUNT]...", (*app).post},
	{"hold", "-id ID -currency CODE [-expires DURATION] DEBIT CREDIT AMOUNT...", (*app).hold},
	{"capture", "-id ID -of HOLD [-currency CODE DEBIT CREDIT AMOUNT...]", (*app).capture},
	{"release", "-id ID -of HOLD", (*app).release},
	{"reverse", "-id ID -of TRANSACTION", (*app).reverse},
	{"balance", "[-at TIME] ACCOUNT...", (*app).balance},
	{"statement", "[-from TIME] [-to TIME] [-html FILE] ACCOUNT", (*app).statement},
	{"export", "-format csv|hledger|beancount [-o FILE] ACCOUNT...", (*app).export},
	{"verify", "", (*app).verify},
}

// command runs one command line.
func (a *app) command(ctx context.Context, line []string) error {
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == line[0] })
	if i < 0 {
		return fmt.Errorf("unknown command %q; ledger -h lists them", line[0])
	}
	c := commands[i]
	f := flag.NewFlagSet(c.name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // the error says it
	f.Usage = func() {}
	do := c.define(a, f)
	err := f.Parse(line[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(a.stderr, "usage: ledger %s %s\n", c.name, c.arguments)
		f.SetOutput(a.stderr)
		f.PrintDefaults()
		return err
	}
	if err == nil {
		err = misplaced(f, line[1:])
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	if err := do(ctx, f.Args()); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return nil
}

// misplaced finds a flag among the arguments, where it would be an account, and an
// account be opened without a floor. One that is named like a flag stands behind --,
// which ends the flags.
func misplaced(f *flag.FlagSet, line []string) error {
	if end := len(line) - f.NArg() - 1; end >= 0 && line[end] == "--" {
		return nil
	}
	for _, arg := range f.Args() {
		if strings.HasPrefix(arg, "-") && !number.MatchString(arg) {
			return fmt.Errorf("%s: flags stand before the arguments, and an account that is named like one behind --", arg)
		}
	}
	return nil
}

// missing returns an error for each flag of names that is empty.
func missing(f *flag.FlagSet, names ...string) error {
	var faults []error
	for _, name := range names {
		if f.Lookup(name).Value.String() == "" {
			faults = append(faults, fmt.Errorf("-%s is missing", name))
		}
	}
	return errors.Join(faults...)
}

// moment is a flag that takes a time.
type moment struct{ time.Time }

func (m *moment) String() string {
	if m == nil || m.IsZero() {
		return ""
	}
	return m.Format(time.RFC3339Nano)
}

func (m *moment) Set(s string) (err error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, time.DateOnly} {
		if m.Time, err = time.ParseInLocation(layout, s, time.UTC); err == nil && !m.IsZero() { // which would be none
			return nil
		}
	}
	return errors.New("is neither a date (2026-01-31), nor a date and time (2026-01-31T12:00:00Z)")
}

func accountIDs(args []string) ([]ledger.AccountID, error) {
	if len(args) == 0 {
		return nil, errors.New("ACCOUNT is missing")
	}
	ids := make([]ledger.AccountID, len(args))
	for i, arg := range args {
		ids[i] = ledger.AccountID(arg)
	}
	return ids, nil
}
