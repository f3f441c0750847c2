package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"regexp"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

func (a *app) open(f *flag.FlagSet) func(context.Context, []string) error {
	var floor *decimal.Decimal
	currency := f.String("currency", "", "ISO 4217 `code`")
	normal := f.String("normal", "", "`side` on which the balance grows: debit or credit")
	f.Func("floor", "the least `amount` that may be available, 0 or less; default none", func(s string) error {
		d, err := amount(s, "-")
		floor = &d
		return err
	})
	return func(ctx context.Context, args []string) error {
		sides := map[string]ledger.Side{"debit": ledger.Debit, "credit": ledger.Credit}
		side, ok := sides[*normal]
		err := missing(f, "currency", "normal")
		if !ok && *normal != "" {
			err = errors.Join(err, fmt.Errorf("-normal %q is neither debit nor credit", *normal))
		}
		ids, noAccount := accountIDs(args)
		if err = errors.Join(err, noAccount); err != nil {
			return err
		}
		accounts := make([]ledger.Account, len(ids))
		for i, id := range ids {
			accounts[i] = ledger.Account{ID: id, Currency: *currency, Normal: side, Floor: floor}
		}
		if err := a.ledger.Open(ctx, accounts...); err != nil {
			return err
		}
		for _, id := range ids {
			fmt.Fprintf(a.stdout, "%s: open\n", id)
		}
		return nil
	}
}

func (a *app) post(f *flag.FlagSet) func(context.Context, []string) error {
	return a.transaction(f, ledger.KindPost, "posted")
}

func (a *app) hold(f *flag.FlagSet) func(context.Context, []string) error {
	return a.transaction(f, ledger.KindHold, "held")
}

func (a *app) capture(f *flag.FlagSet) func(context.Context, []string) error {
	return a.transaction(f, ledger.KindCapture, "captured")
}

func (a *app) release(f *flag.FlagSet) func(context.Context, []string) error {
	return a.transaction(f, ledger.KindRelease, "released")
}

func (a *app) reverse(f *flag.FlagSet) func(context.Context, []string) error {
	return a.transaction(f, ledger.KindReverse, "reversed")
}

// transaction declares the flags of a kind of transaction, and posts it. A
// refusal is a *ledger.VerdictError.
func (a *app) transaction(f *flag.FlagSet, kind ledger.Kind, done string) func(context.Context, []string) error {
	tx := ledger.Transaction{Kind: kind}
	needed := []string{"id"}
	var currency, of string
	id := f.String("id", "", "the transaction's `id`; one that is used again changes nothing")
	if kind == ledger.KindPost || kind == ledger.KindHold || kind == ledger.KindCapture {
		f.StringVar(&currency, "currency", "", "`code` of all amounts")
	}
	if kind == ledger.KindPost || kind == ledger.KindHold {
		needed = append(needed, "currency")
	} else {
		needed = append(needed, "of")
		f.StringVar(&of, "of", "", "`id` of the hold or transaction that this is about")
	}
	if kind == ledger.KindHold {
		// 0 is for ever to the ledger: what was calculated to be over would never be.
		f.Func("expires", "how long it can be captured, a `duration` like 168h; default for ever", func(s string) (err error) {
			if tx.Expires, err = time.ParseDuration(s); err == nil && tx.Expires <= 0 {
				err = errors.New("must be more than 0")
			}
			return err
		})
	}
	return func(ctx context.Context, args []string) error {
		if len(args) > 0 && kind == ledger.KindCapture {
			needed = append(needed, "currency")
		}
		postings, err := postings(args, currency)
		if err = errors.Join(missing(f, needed...), err); err != nil {
			return err
		}
		tx.ID, tx.Of, tx.Postings = ledger.TransactionID(*id), ledger.TransactionID(of), postings
		if len(args) == 0 && (kind == ledger.KindPost || kind == ledger.KindHold) {
			return errors.New("DEBIT CREDIT AMOUNT are missing")
		}
		r, err := a.ledger.PostOne(ctx, tx)
		if err != nil {
			return err
		}
		if r.Duplicate {
			done += " before, at " + r.At.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(a.stdout, "%s: %s\n", tx.ID, done)
		return nil
	}
}

// postings reads arguments in threes: debit, credit, amount.
func postings(args []string, currency string) (list []ledger.Posting, err error) {
	if len(args)%3 != 0 {
		return nil, fmt.Errorf("%d arguments are not DEBIT CREDIT AMOUNT, once or more", len(args))
	}
	for i := 0; i < len(args); i += 3 {
		d, bad := amount(args[i+2], "")
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("AMOUNT %q %w", args[i+2], bad))
		}
		list = append(list, ledger.Posting{
			Debit: ledger.AccountID(args[i]), Credit: ledger.AccountID(args[i+1]), Amount: d, Currency: currency,
		})
	}
	return list, err
}

var number = regexp.MustCompile(`^(-?)[0-9]{1,38}(\.[0-9]{1,30})?$`)

// amount reads a number without exponent; sign may be "-" where one is allowed.
func amount(s, sign string) (decimal.Decimal, error) {
	m := number.FindStringSubmatch(s)
	if m == nil || m[1] != "" && m[1] != sign {
		return decimal.Decimal{}, errors.New("is not an amount like 10 or 10.50")
	}
	return decimal.NewFromString(s)
}
