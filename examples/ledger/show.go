package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/statement"
)

func (a *app) balance(f *flag.FlagSet) func(context.Context, []string) error {
	var at moment
	f.Var(&at, "at", "tell what was posted at this `time` or before; default now")
	return func(ctx context.Context, args []string) error {
		ids, err := accountIDs(args)
		if err != nil {
			return err
		}
		if !at.IsZero() {
			return a.pastBalances(ctx, ids, at.Time)
		}
		balances, err := a.ledger.Balances(ctx, ids...)
		if err != nil {
			return err
		}
		rows := [][]string{{"ACCOUNT", "CURRENCY", ">POSTED", ">AVAILABLE", ">VERSION"}}
		for _, b := range balances {
			rows = append(rows, []string{string(b.Account), b.Currency, fixed(b.Posted), fixed(b.Available), strconv.FormatInt(b.Version, 10)})
		}
		return table(a.stdout, rows)
	}
}

func (a *app) pastBalances(ctx context.Context, ids []ledger.AccountID, at time.Time) error {
	rows := [][]string{{"ACCOUNT", "CURRENCY", ">POSTED", ">VERSION"}}
	for _, id := range ids {
		b, err := a.ledger.BalanceAt(ctx, id, at)
		if err != nil {
			return err
		}
		rows = append(rows, []string{string(b.Account), b.Currency, fixed(b.Posted), strconv.FormatInt(b.Version, 10)})
	}
	return table(a.stdout, rows)
}

func (a *app) statement(f *flag.FlagSet) func(context.Context, []string) error {
	var from, to moment
	f.Var(&from, "from", "first `time` of the period; default before the first entry")
	f.Var(&to, "to", "first `time` after the period; default after the last entry")
	html := f.String("html", "", "write a page to `FILE` instead")
	return func(ctx context.Context, args []string) error {
		ids, err := accountIDs(args)
		if err == nil && len(ids) > 1 {
			err = fmt.Errorf("%d accounts: a statement is of one", len(ids))
		}
		if err == nil && !from.IsZero() && !to.IsZero() && !from.Before(to.Time) {
			err = errors.New("-to is not after -from")
		}
		if err != nil {
			return err
		}
		s, err := statement.Read(ctx, a.ledger, ids[0], &statement.Options{From: from.Time, To: to.Time})
		if err != nil {
			return err
		}
		if *html == "" {
			return a.writeStatement(s)
		}
		err = writeFile(*html, func(w io.Writer) error { return statement.WriteHTML(w, s, nil) })
		if err != nil {
			return fmt.Errorf("-html: %w", err)
		}
		fmt.Fprintf(a.stdout, "%s: %d entries written to %s\n", s.Account, len(s.Entries), *html)
		return nil
	}
}

func (a *app) writeStatement(s *statement.Statement) error {
	rows := [][]string{
		{"TIME", "TRANSACTION", "ACCOUNT", ">DEBIT", ">CREDIT", ">" + s.Currency},
		{"", "opening balance", "", "", "", fixed(s.Opening)},
	}
	for _, e := range s.Entries {
		row := []string{e.At.UTC().Format(time.RFC3339), string(e.Transaction), string(e.Contra), "", "", fixed(e.Balance)}
		if e.Side == ledger.Debit {
			row[3] = fixed(e.Amount)
		} else {
			row[4] = fixed(e.Amount)
		}
		rows = append(rows, row)
	}
	return table(a.stdout, append(rows, []string{"", "closing balance", "", fixed(s.Debits), fixed(s.Credits), fixed(s.Closing)}))
}

func (a *app) verify(*flag.FlagSet) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unknown argument %q", args[0])
		}
		r, err := a.ledger.Verify(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%d accounts, %d transactions, %d entries\n", r.Accounts, r.Transactions, r.Entries)
		for _, b := range r.Breaks {
			fmt.Fprintln(a.stdout, b)
		}
		if r.Broken != nil {
			fmt.Fprintf(a.stdout, "what seal %d is over has been changed since\n", r.Broken.Number)
		}
		if !r.OK() {
			return fmt.Errorf("the ledger does not add up: %d breaks", len(r.Breaks))
		}
		fmt.Fprintln(a.stdout, "the ledger adds up")
		return nil
	}
}

// fixed writes d with all decimal places of its currency.
func fixed(d decimal.Decimal) string { return d.StringFixed(max(0, -d.Exponent())) }

// table writes rows in columns; those whose heading begins with > are aligned to
// the right.
func table(w io.Writer, rows [][]string) error {
	right := make([]bool, len(rows[0]))
	for c, heading := range rows[0] {
		rows[0][c], right[c] = strings.CutPrefix(heading, ">")
	}
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for c, cell := range row {
			width[c] = max(width[c], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for c, cell := range row {
			gap := strings.Repeat(" ", width[c]-utf8.RuneCountInString(cell))
			if right[c] {
				cell, gap = gap+cell, ""
			}
			b.WriteString(cell + gap + "  ")
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}
