package journal

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/safetill/safetill/ledger"
)

// WriteHledger writes a journal that hledger reads, also with --strict: accounts
// and currencies are declared before their first use. A transaction's id is its
// code, its time a tag.
func WriteHledger(w io.Writer, txs iter.Seq2[Transaction, error], o *Options) error {
	return writeText(w, txs, o, &text{
		head: "decimal-mark .\n",
		name: hledgerName, currency: hledgerCurrency,
		declareCurrency: func(code, sample string) string {
			return fmt.Sprintf("\ncommodity %s %s\n", sample, hledgerCurrency(code))
		},
		declareAccount: func(_, name, _ string) string { return fmt.Sprintf("\naccount %s\n", name) },
		title: func(date, at string, id ledger.TransactionID) string {
			return fmt.Sprintf("\n%s * (%s)  ; time:%s\n", date, hledgerCode(id), at)
		},
	})
}

// WriteBeancount writes a file that Beancount reads: accounts are opened on the
// day of their first posting. A transaction's id is its narration, its time
// metadata; an account's id is metadata too. A transaction that comes later, of a
// time before that day, has the day as its date, and its time as it was.
func WriteBeancount(w io.Writer, txs iter.Seq2[Transaction, error], o *Options) error {
	return writeText(w, txs, o, &text{
		opens: true,
		name:  beancountName, currency: beancountCurrency,
		declareCurrency: func(string, string) string { return "" },
		declareAccount: func(date, name, id string) string {
			return fmt.Sprintf("\n%s open %s\n  id: %s\n", date, name, beancountText(id))
		},
		title: func(date, at string, id ledger.TransactionID) string {
			return fmt.Sprintf("\n%s * %s\n  time: %q\n", date, beancountText(string(id)), at)
		},
	})
}

// text is a journal on its way, and what its format wants.
type text struct {
	head            string
	opens           bool // no account has a posting before the day of its declaration
	name            func(Root, ledger.AccountID) string
	currency        func(code string) string
	declareCurrency func(code, sample string) string
	declareAccount  func(date, name, id string) string
	title           func(date, at string, id ledger.TransactionID) string

	options    Options
	w          *bufio.Writer // keeps its first error for Flush
	declared   map[Account]declared
	currencies map[string]string // of those that are declared
}

// declared is an account that is declared.
type declared struct{ name, date string }

func writeText(w io.Writer, txs iter.Seq2[Transaction, error], o *Options, t *text) error {
	t.options, t.w = o.orDefault(), bufio.NewWriter(w)
	t.declared, t.currencies = map[Account]declared{}, map[string]string{}
	fmt.Fprint(t.w, t.head)
	for tx, err := range txs {
		if err == nil {
			err = t.write(&tx)
		}
		if err != nil {
			_ = t.w.Flush() // the error that came first counts
			return err
		}
	}
	if err := t.w.Flush(); err != nil {
		return fmt.Errorf("journal: write: %w", err)
	}
	return nil
}

func (t *text) write(tx *Transaction) error {
	date := tx.At.In(t.options.Location).Format(time.DateOnly)
	for i := range tx.Postings {
		if err := t.declare(&tx.Postings[i], date); err != nil {
			return err
		}
	}
	if t.opens {
		date = t.opened(tx, date)
	}
	fmt.Fprint(t.w, t.title(date, tx.At.UTC().Format(time.RFC3339Nano), tx.ID))
	for i := range tx.Postings {
		p := &tx.Postings[i]
		amount, currency := fixed(p.Amount), t.currencies[p.Currency]
		fmt.Fprintf(t.w, "  %s  %s %s\n  %s  -%s %s\n", t.declared[p.Debit].name, amount, currency, t.declared[p.Credit].name, amount, currency)
	}
	if _, err := t.w.Write(nil); err != nil { // no use in reading on
		return fmt.Errorf("journal: write: %w", err)
	}
	return nil
}

// declare declares what a posting uses, where that is new.
func (t *text) declare(p *Posting, date string) error {
	if _, ok := t.currencies[p.Currency]; !ok {
		t.currencies[p.Currency] = t.currency(p.Currency)
		sample := "1000." + strings.Repeat("0", int(max(0, -p.Amount.Exponent()))) // always with a decimal mark
		fmt.Fprint(t.w, t.declareCurrency(p.Currency, sample))
	}
	for _, a := range [...]Account{p.Debit, p.Credit} {
		if _, ok := t.declared[a]; ok {
			continue
		}
		root, err := t.options.root(a)
		if err != nil {
			return err
		}
		d := declared{name: t.name(root, a.ID), date: date}
		t.declared[a] = d
		fmt.Fprint(t.w, t.declareAccount(date, d.name, string(a.ID)))
	}
	return nil
}

// opened is date, or the day from which all accounts of a transaction are open:
//
//	a posts to b just after midnight, and both are opened on that day;
//	the store's clock is set back by a minute, and a posts to b on the day before.
func (t *text) opened(tx *Transaction, date string) string {
	for i := range tx.Postings {
		p := &tx.Postings[i]
		date = max(date, t.declared[p.Debit].date, t.declared[p.Credit].date)
	}
	return date
}
