package journal

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/safetill/safetill/ledger"
)

// Read yields the transactions that have an entry on one of the accounts, ordered
// by time, then by id, as of the moment that it starts. Of each it has the
// postings that one of the accounts is part of. An unknown account is a
// [*ledger.UnknownAccountError].
//
// It holds a page of 500 entries of each account in memory, and the transactions
// of one moment. Cost: 1 round trip, 2 more for each account and for every 500 of
// its entries 1, and 1 for each moment that brings accounts not seen before.
func Read(ctx context.Context, l *ledger.Ledger, accounts ...ledger.AccountID) iter.Seq2[Transaction, error] {
	return func(yield func(Transaction, error) bool) {
		r := &reader{ledger: l, known: map[ledger.AccountID]ledger.Balance{}, named: map[ledger.AccountID]bool{}}
		defer r.stop()
		if err := r.start(ctx, accounts); err != nil {
			yield(Transaction{}, fmt.Errorf("journal: %w", err))
			return
		}
		for len(r.streams) > 0 {
			txs, err := r.moment(ctx)
			if err != nil {
				yield(Transaction{}, fmt.Errorf("journal: %w", err))
				return
			}
			for _, tx := range txs {
				if !yield(tx, nil) {
					return
				}
			}
		}
	}
}

// reader merges the entries of accounts.
type reader struct {
	ledger  *ledger.Ledger
	named   map[ledger.AccountID]bool
	known   map[ledger.AccountID]ledger.Balance // named or not
	streams streams                             // those with entries left
	stops   []func()
}

// stream is the rest of an account's entries.
type stream struct {
	next func() (ledger.Entry, error, bool)
	last int64 // version of the last entry to read
	head ledger.Entry
	at   time.Time // of head, or of an entry before where the clock was set back
}

// start looks at all accounts at one moment: what is posted later is not read.
func (r *reader) start(ctx context.Context, accounts []ledger.AccountID) error {
	balances, err := r.ledger.Balances(ctx, accounts...)
	if err != nil {
		return err
	}
	for _, b := range balances {
		if r.named[b.Account] {
			continue
		}
		r.named[b.Account], r.known[b.Account] = true, b
		if b.Version == 0 {
			continue
		}
		next, stop := iter.Pull2(r.ledger.Entries(ctx, b.Account, 0))
		r.stops = append(r.stops, stop)
		s := &stream{next: next, last: b.Version}
		if err := s.advance(); err != nil {
			return err
		}
		r.streams = append(r.streams, s)
	}
	heap.Init(&r.streams)
	return nil
}

func (r *reader) stop() {
	for _, stop := range r.stops {
		stop()
	}
}

// advance goes to the next entry, which there is.
func (s *stream) advance() error {
	e, err, ok := s.next()
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("the entries end at version %d of %d", s.head.Version, s.last)
	}
	s.head = e
	if s.at.Before(e.At) {
		s.at = e.At
	}
	return nil
}

// moment returns the transactions of the earliest time that is left.
func (r *reader) moment(ctx context.Context) ([]Transaction, error) {
	at := r.streams[0].at
	txs := map[ledger.TransactionID]*Transaction{}
	for len(r.streams) > 0 && r.streams[0].at.Equal(at) {
		s := r.streams[0]
		r.take(txs, &s.head)
		if s.head.Version >= s.last {
			heap.Pop(&r.streams)
			continue
		}
		if err := s.advance(); err != nil {
			return nil, err
		}
		heap.Fix(&r.streams, 0)
	}
	if err := r.complete(ctx, txs); err != nil {
		return nil, err
	}
	sorted := make([]Transaction, 0, len(txs))
	for _, tx := range txs {
		slices.SortFunc(tx.Postings, func(a, b Posting) int { return cmp.Compare(a.Index, b.Index) })
		sorted = append(sorted, *tx)
	}
	slices.SortFunc(sorted, func(a, b Transaction) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return sorted, nil
}

// take adds an entry's posting to its transaction. A posting that is on two
// named accounts is taken from the debited one.
func (r *reader) take(txs map[ledger.TransactionID]*Transaction, e *ledger.Entry) {
	p := Posting{Index: e.Posting, Debit: Account{ID: e.Account}, Credit: Account{ID: e.Contra}, Amount: e.Amount}
	if e.Side == ledger.Credit {
		if r.named[e.Contra] {
			return
		}
		p.Debit, p.Credit = p.Credit, p.Debit
	}
	p.Currency = r.known[e.Account].Currency
	tx := txs[e.Transaction]
	if tx == nil {
		tx = &Transaction{ID: e.Transaction, At: e.At}
		txs[e.Transaction] = tx
	}
	tx.Postings = append(tx.Postings, p)
}

// complete fills in what only the ledger knows of the accounts.
func (r *reader) complete(ctx context.Context, txs map[ledger.TransactionID]*Transaction) error {
	missing := map[ledger.AccountID]bool{}
	each := func(f func(*Account)) {
		for _, tx := range txs {
			for i := range tx.Postings {
				f(&tx.Postings[i].Debit)
				f(&tx.Postings[i].Credit)
			}
		}
	}
	each(func(a *Account) {
		if _, ok := r.known[a.ID]; !ok {
			missing[a.ID] = true
		}
	})
	balances, err := r.ledger.Balances(ctx, slices.Sorted(maps.Keys(missing))...)
	if err != nil {
		return err
	}
	for _, b := range balances {
		r.known[b.Account] = b
	}
	each(func(a *Account) { a.Normal = r.known[a.ID].Normal })
	return nil
}

// streams is a heap of streams, the one with the earliest entry on top.
type streams []*stream

func (s streams) Len() int           { return len(s) }
func (s streams) Less(i, j int) bool { return s[i].at.Before(s[j].at) }
func (s streams) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }

// Push is for package heap, as Pop is.
func (s *streams) Push(x any) { *s = append(*s, x.(*stream)) }

// Pop removes the last.
func (s *streams) Pop() any {
	last := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	return last
}
