package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	"github.com/safetill/safetill/ledger/journal"
)

var formats = map[string]func(io.Writer, iter.Seq2[journal.Transaction, error]) error{
	"csv": func(w io.Writer, txs iter.Seq2[journal.Transaction, error]) error {
		return journal.WriteCSV(w, txs, nil)
	},
	"hledger": func(w io.Writer, txs iter.Seq2[journal.Transaction, error]) error {
		return journal.WriteHledger(w, txs, nil)
	},
	"beancount": func(w io.Writer, txs iter.Seq2[journal.Transaction, error]) error {
		return journal.WriteBeancount(w, txs, nil)
	},
}

func (a *app) export(f *flag.FlagSet) func(context.Context, []string) error {
	format := f.String("format", "", "csv, hledger or beancount")
	file := f.String("o", "", "write to `FILE`; default standard output")
	return func(ctx context.Context, args []string) error {
		err := missing(f, "format")
		if formats[*format] == nil && *format != "" {
			err = fmt.Errorf("-format %q is none of csv, hledger, beancount", *format)
		}
		ids, noAccount := accountIDs(args)
		if err = errors.Join(err, noAccount); err != nil {
			return err
		}
		write := func(w io.Writer) error { return formats[*format](w, journal.Read(ctx, a.ledger, ids...)) }
		if *file == "" {
			return write(a.stdout)
		}
		if err := writeFile(*file, write); err != nil {
			return fmt.Errorf("-o: %w", err)
		}
		fmt.Fprintf(a.stdout, "%d accounts written to %s\n", len(ids), *file)
		return nil
	}
}

// writeFile writes a whole file or none: what was at path stays until then. To a device
// or a pipe it just writes.
func writeFile(path string, write func(io.Writer) error) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".ledger-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already where all went well
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
