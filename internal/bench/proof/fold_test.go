package proof

import (
	"fmt"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// fold adds up an account's entries, in order.
type fold struct {
	version int64
	net     decimal.Decimal // debits less credits
	last    entryKey
}

type entryKey struct {
	transaction ledger.TransactionID
	posting     int
}

// add takes the next entry, of a transaction that is known, or says what is wrong with it.
func (f *fold) add(e ledger.Entry, tx ledger.Transaction) error {
	f.version++
	if e.Version != f.version {
		return fmt.Errorf("%s: version %d after %d", e.Account, e.Version, f.version-1)
	}
	if e.Posting >= len(tx.Postings) {
		return fmt.Errorf("%s: %+v has no such posting", e.Account, e)
	}
	// A transaction's postings stand together and in order, so one that is there twice would not be behind the other.
	key := entryKey{e.Transaction, e.Posting}
	if key.transaction == f.last.transaction && key.posting <= f.last.posting && f.version > 1 {
		return fmt.Errorf("%s: %+v comes after posting %d", e.Account, e, f.last.posting)
	}
	f.last = key
	p := tx.Postings[e.Posting]
	debit, credit := e.Account, e.Contra
	if e.Side == ledger.Credit {
		debit, credit = credit, debit
		f.net = f.net.Sub(e.Amount)
	} else {
		f.net = f.net.Add(e.Amount)
	}
	if p.Debit != debit || p.Credit != credit || !p.Amount.Equal(e.Amount) {
		return fmt.Errorf("%s: %+v is not posting %+v", e.Account, e, p)
	}
	return nil
}

// is compares the sum with a balance.
func (f *fold) is(b ledger.Balance) error {
	posted := f.net
	if b.Normal == ledger.Credit {
		posted = posted.Neg()
	}
	if b.Version != f.version || !b.Posted.Equal(posted) {
		return fmt.Errorf("%+v, but its entries make %s at version %d", b, posted, f.version)
	}
	return nil
}
