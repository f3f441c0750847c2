package proof

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
)

const (
	twinBatches = 12
	twinWorkers = 4
)

// Both get the same batches, good and bad, and fail at the same calls.
func TestMemoryAgainstPostgres(t *testing.T) {
	t.Parallel()
	first, count := seeds(t, size(10, 1000))
	postgres := migrated(t, newPool(t, testdb.PostgresURL(t), t.Name(), clients))
	var next atomic.Int64
	var failures atomic.Int64
	var verdicts [256]atomic.Int64
	var wg sync.WaitGroup
	for range min(twinWorkers, count) {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < int64(count); n = next.Add(1) - 1 {
				seed := first + uint64(n)
				p := newPair(seed, postgres)
				if err := p.run(t); err != nil {
					t.Errorf("SAFETILL_PROOF_SEED=%d: %v", seed, err)
					return
				}
				failures.Add(int64(p.failures))
				for v, n := range p.verdicts {
					verdicts[v].Add(n)
				}
			}
		})
	}
	wg.Wait()
	var seen []string
	for v := range verdicts {
		if n := verdicts[v].Load(); n > 0 {
			seen = append(seen, fmt.Sprint(ledger.Verdict(v), " ", n))
		}
	}
	t.Logf("%d seeds, %d calls failed; %s", count, failures.Load(), strings.Join(seen, ", "))
	require.Positive(t, failures.Load(), "the faults have tested nothing")
	verified(t, newLedger(t, postgres))
}

// pair is two ledgers to which the same happens.
type pair struct {
	r        *rand.Rand
	prefix   string // of all ids, since seeds share the database
	stores   [2]ledger.Store
	ledgers  [2]*ledger.Ledger
	sent     []ledger.Transaction
	at       map[ledger.TransactionID][2]ledger.Result
	accounts []ledger.Account
	failures int
	verdicts map[ledger.Verdict]int64
}

func newPair(seed uint64, postgres ledger.Store) *pair {
	p := &pair{
		r: dice(seed, 0), prefix: fmt.Sprint(seed, "/"), at: map[ledger.TransactionID][2]ledger.Result{}, verdicts: map[ledger.Verdict]int64{},
		stores: [2]ledger.Store{ledger.NewMemory(nil), postgres},
	}
	for i, store := range p.stores {
		faults := dice(seed, 1) // one of their own each, and the same
		p.stores[i] = &ledgertest.Flaky{Store: store, Fault: func(int64) ledgertest.Fault { return ledgertest.Fault(max(0, faults.IntN(6)-3)) }}
	}
	return p
}

func (p *pair) id(n any) ledger.AccountID { return ledger.AccountID(fmt.Sprint(p.prefix, n)) }

func (p *pair) run(t *testing.T) error {
	for i, store := range p.stores {
		var err error
		if p.ledgers[i], err = ledger.New(store, nil); err != nil {
			return err
		}
	}
	euro := wallet(p.id("euro"), 0)
	euro.Currency = "EUR"
	if err := p.open(t, bank(p.id("bank")), bank(p.id("till")), wallet(p.id(0), 0), wallet(p.id(1), 0), wallet(p.id(2), -5000), euro); err != nil {
		return err
	}
	for n := range twinBatches {
		if n == twinBatches/2 { // so far it was unknown, and what that made of a transaction stays
			if err := p.open(t, wallet(p.id("late"), 0)); err != nil {
				return err
			}
		}
		if err := p.post(t, p.batch()); err != nil {
			return fmt.Errorf("batch %d: %w", n, err)
		}
	}
	return p.compare(t)
}

// both does f with each ledger until it is answered.
func (p *pair) both(f func(i int, l *ledger.Ledger) error) error {
	for i, l := range p.ledgers {
		err := f(i, l)
		for ; errors.Is(err, ledgertest.ErrInjected); err = f(i, l) {
			p.failures++
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pair) open(t *testing.T, accounts ...ledger.Account) error {
	p.accounts = append(p.accounts, accounts...)
	return p.both(func(_ int, l *ledger.Ledger) error { return l.Open(t.Context(), accounts...) })
}

func (p *pair) batch() (txs []ledger.Transaction) {
	for range 1 + p.r.IntN(10) {
		tx := p.transaction()
		if len(p.sent) > 0 && p.r.IntN(6) == 0 {
			tx = p.sent[p.r.IntN(len(p.sent))]
			if p.r.IntN(3) == 0 {
				tx.Postings = p.transaction().Postings
			}
		}
		p.sent = append(p.sent, tx)
		txs = append(txs, tx)
	}
	return txs
}

func (p *pair) transaction() ledger.Transaction {
	tx := ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint(p.prefix, "t", len(p.sent)))}
	for range 1 + p.r.IntN(3) {
		m := posting(p.account(), p.account(), 1+p.r.Int64N(3000))
		if m.Debit == m.Credit && p.r.IntN(4) > 0 {
			m.Credit = p.account() // too many would have that verdict
		}
		switch p.r.IntN(50) {
		case 0:
			m.Amount = decimal.New(1, -3)
		case 1:
			m.Amount = decimal.New(-p.r.Int64N(2), 0)
		case 2:
			m.Amount = decimal.RequireFromString(strings.Repeat("9", 34+p.r.IntN(4)) + ".99")
		case 3:
			m.Currency = "EUR"
		case 4:
			m.Currency = "XXXX"
		}
		tx.Postings = append(tx.Postings, m)
	}
	switch p.r.IntN(60) {
	case 0:
		tx.ID = "\x00"
	case 1:
		tx.Postings = nil
	}
	return tx
}

func (p *pair) account() ledger.AccountID {
	switch k := p.r.IntN(40); {
	case k == 0:
		return p.id("euro")
	case k == 1:
		return p.id("nobody")
	case k < 5:
		return p.id("late")
	case k < 15:
		return p.id("bank")
	case k < 20:
		return p.id("till")
	}
	return p.id(p.r.IntN(3))
}

func (p *pair) post(t *testing.T, txs []ledger.Transaction) error {
	var results [2][]ledger.Result
	err := p.both(func(i int, l *ledger.Ledger) (err error) {
		results[i], err = l.Post(t.Context(), txs)
		return err
	})
	if err != nil {
		return err
	}
	for i, a := range results[0] {
		b := results[1][i]
		if a.ID != b.ID || a.Verdict != b.Verdict || a.Posting != b.Posting || a.Duplicate != b.Duplicate || a.At.IsZero() != b.At.IsZero() {
			return fmt.Errorf("%+v: %+v in memory, %+v in PostgreSQL", txs[i], a, b)
		}
		p.verdicts[a.Verdict]++
		first, before := p.at[a.ID]
		if a.At.IsZero() {
			continue
		}
		if before && (!first[0].At.Equal(a.At) || !first[1].At.Equal(b.At)) {
			return fmt.Errorf("%+v: decided %+v at first, %+v and %+v now", txs[i], first, a, b)
		}
		p.at[a.ID] = [2]ledger.Result{a, b}
	}
	return nil
}

// compare compares balances and entries.
func (p *pair) compare(t *testing.T) error {
	for _, a := range p.accounts {
		if err := p.compareAccount(t, a.ID); err != nil {
			return err
		}
	}
	return nil
}

func (p *pair) compareAccount(t *testing.T, id ledger.AccountID) error {
	var seen [2][]string
	return errors.Join(p.both(func(i int, l *ledger.Ledger) error {
		b, err := l.Balances(t.Context(), id)
		if err != nil {
			return err
		}
		seen[i] = []string{fmt.Sprintf("%+v", b)}
		return nil
	}), p.both(func(i int, l *ledger.Ledger) error {
		seen[i] = seen[i][:1]
		for e, err := range l.Entries(t.Context(), id, 0) {
			if err != nil {
				return err
			}
			if decided := p.at[e.Transaction][i]; !decided.At.Equal(e.At) {
				return fmt.Errorf("%+v, but it was decided %+v", e, decided)
			}
			e.At = time.Time{} // two clocks
			seen[i] = append(seen[i], fmt.Sprintf("%+v", e))
		}
		return nil
	}), differ(&seen))
}

// differ tells the first line in which the two are not the same.
func differ(seen *[2][]string) error {
	if slices.Equal(seen[0], seen[1]) {
		return nil
	}
	n := 0
	for n < min(len(seen[0]), len(seen[1])) && seen[0][n] == seen[1][n] {
		n++
	}
	return fmt.Errorf("after %d that are the same: %q in memory, %q in PostgreSQL", n, seen[0][n:], seen[1][n:])
}
