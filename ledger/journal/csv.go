package journal

import (
	"encoding/csv"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"
)

// CSVOptions are the optional settings of [WriteCSV].
type CSVOptions struct {
	// Raw writes ids as they are. Default: an id that a spreadsheet could take
	// for a formula has an apostrophe in front, and so has one that begins with an
	// apostrophe: take one away from each that has any to have the ids again.
	Raw bool
}

// csvHeader names the columns: see [WriteCSV].
var csvHeader = []string{"time", "transaction", "posting", "debit", "credit", "amount", "currency"}

// WriteCSV writes a line for each posting, by RFC 4180 and with a header: time
// (RFC 3339 in UTC), transaction, posting (its index), debit, credit, amount,
// currency. An id may be whatever a customer chose, and spreadsheets run text that
// begins with = + - or @: see [CSVOptions] for what is done about it. That covers
// programs that split the file at its commas.
func WriteCSV(w io.Writer, txs iter.Seq2[Transaction, error], o *CSVOptions) error {
	id := harmless
	if o != nil && o.Raw {
		id = func(s string) string { return s }
	}
	c := csv.NewWriter(w)
	c.UseCRLF = true
	if err := c.Write(csvHeader); err != nil {
		return fmt.Errorf("journal: write: %w", err)
	}
	for tx, err := range txs {
		if err != nil {
			c.Flush() // the error that came first counts
			return err
		}
		at := tx.At.UTC().Format(time.RFC3339Nano)
		for _, p := range tx.Postings {
			err := c.Write([]string{
				at, id(string(tx.ID)), strconv.Itoa(p.Index), id(string(p.Debit.ID)), id(string(p.Credit.ID)), fixed(p.Amount), p.Currency,
			})
			if err != nil {
				return fmt.Errorf("journal: write: %w", err)
			}
		}
	}
	c.Flush()
	if err := c.Error(); err != nil {
		return fmt.Errorf("journal: write: %w", err)
	}
	return nil
}

// formula begins a formula in some spreadsheet, the wide ones in Japanese. The
// apostrophe is here so that the one put in front can be told from another.
const formula = "=+-@＝＋－＠'"

func harmless(id string) string {
	if strings.IndexAny(strings.TrimSpace(id), formula) == 0 {
		return "'" + id
	}
	return id
}
