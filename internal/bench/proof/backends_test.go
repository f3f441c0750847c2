package proof

import (
	"context"
	"errors"
	"fmt"
	"math"
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
	twinBatches = 16
	twinWorkers = 4
)

// Both get the same batches, of all kinds, good and bad, and fail at the same calls.
func TestMemoryAgainstPostgres(t *testing.T) {
	t.Parallel()
	first, count := seeds(t, size(20, 1000))
	postgres := migrated(t, newPool(t, testdb.PostgresURL(t), t.Name(), clients))
	var next atomic.Int64
	var failures, expired atomic.Int64
	var verdicts [256]atomic.Int64
	var kinds [ledger.KindReverse + 1]atomic.Int64
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
				expired.Add(int64(p.expired))
				for k, n := range p.kinds {
					kinds[k].Add(n)
				}
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
	for k := range kinds {
		seen = append(seen, fmt.Sprint("of kind ", kindNames[k], " ", kinds[k].Load()))
	}
	t.Logf("%d seeds, %d calls failed, %d holds expired; %s", count, failures.Load(), expired.Load(), strings.Join(seen, ", "))
	require.Positive(t, failures.Load(), "the faults have tested nothing")
	if count > 100 { // less may miss some
		require.Positive(t, expired.Load())
		for k := range kinds {
			require.Positive(t, kinds[k].Load(), kindNames[k])
		}
	}
	verified(t, newLedger(t, postgres))
}

// Of two stores in memory one has a fault: a comparison that does not see that proves nothing.
func TestPairFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(*broken){
		"Forgets": forgets, "RefusesAnew": refusesAnew, "HalfAChain": halfAChain, "CapturesTwice": capturesAgain, "CapturesMoreThanIsHeld": capturesAny,
		"HoldsForEver": func(b *broken) { b.post = edited(b, func(d *ledger.Draft) { d.Expires = 0 }) },
		"NoConditions": func(b *broken) { b.post = edited(b, func(d *ledger.Draft) { d.If = nil }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, _ := seeds(t, 1)
			var err error
			for seed := first; seed < first+2000 && err == nil; seed++ {
				b := &broken{around: around{ledger.NewMemory(nil)}, r: dice(seed, 2), holds: map[ledger.TransactionID][]ledger.DraftPosting{}}
				plant(b)
				err = newPair(seed, b).run(t)
			}
			require.Error(t, err)
			t.Log(err)
		})
	}
}

// pair is two ledgers to which the same happens.
type pair struct {
	r        *rand.Rand
	prefix   string // of all ids, since seeds share the database
	memory   *ledger.Memory
	stores   [2]ledger.Store
	ledgers  [2]*ledger.Ledger
	sent     []ledger.Transaction
	posted   []ledger.Transaction
	at       map[ledger.TransactionID][2]ledger.Result
	accounts []ledger.Account
	failures int
	expired  int
	verdicts map[ledger.Verdict]int64
	kinds    [ledger.KindReverse + 1]int64 // of what was posted
}

func newPair(seed uint64, postgres ledger.Store) *pair {
	p := &pair{
		r: dice(seed, 0), prefix: fmt.Sprint(seed, "/"), at: map[ledger.TransactionID][2]ledger.Result{}, verdicts: map[ledger.Verdict]int64{},
	}
	// As in PostgreSQL, every call comes later than the one before. What both have in common of their clocks is that a microsecond is over
	// by then, and an hour is not.
	now := simEpoch
	p.memory = ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time {
		now = now.Add(time.Millisecond)
		return now
	}})
	p.stores = [2]ledger.Store{&own{around{p.memory}, p.prefix}, &own{around{postgres}, p.prefix}}
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
		if p.r.IntN(3) == 0 {
			if err := p.expire(t); err != nil {
				return fmt.Errorf("behind batch %d: %w", n, err)
			}
		}
		if err := p.compareBalances(t); err != nil {
			return fmt.Errorf("behind batch %d: %w", n, err)
		}
	}
	if err := p.expire(t); err != nil {
		return err
	}
	verified(t, newLedger(t, p.memory))
	return p.compare(t)
}

// own expires the holds of one pair only, since seeds share the database, in one order.
type own struct {
	around
	prefix string
}

func (o *own) ExpiredHolds(ctx context.Context, limit int) ([]ledger.TransactionID, error) {
	ids, err := o.around.ExpiredHolds(ctx, math.MaxInt32)
	ids = slices.DeleteFunc(ids, func(id ledger.TransactionID) bool { return !strings.HasPrefix(string(id), o.prefix) })
	slices.Sort(ids)
	return ids[:min(limit, len(ids))], err
}

// expire has both release holds that have expired. A call that fails when it is done is repeated, and then has none left to tell of.
func (p *pair) expire(t *testing.T) error {
	limit := 1 + p.r.IntN(20)
	var released [2]int
	err := p.both(func(i int, l *ledger.Ledger) (err error) {
		released[i], err = l.ExpireHolds(t.Context(), limit)
		return err
	})
	p.expired += released[0]
	if err == nil && released[0] != released[1] {
		err = fmt.Errorf("%d holds expire in memory, %d in PostgreSQL", released[0], released[1])
	}
	return err
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
			switch p.r.IntN(6) {
			case 0:
				tx.Postings = p.transaction().Postings
			case 1:
				tx.Linked = !tx.Linked
			}
		}
		p.sent = append(p.sent, tx)
		txs = append(txs, tx)
	}
	if last := &txs[len(txs)-1]; p.r.IntN(8) > 0 {
		last.Linked = false // else that chain has no end
	}
	return txs
}

func (p *pair) transaction() ledger.Transaction {
	tx := ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint(p.prefix, "t", len(p.sent))), Linked: p.r.IntN(6) == 0}
	switch k := p.r.IntN(20); {
	case k < 6:
		tx.Kind, tx.Postings = ledger.KindHold, p.postings()
		tx.Expires = []time.Duration{0, 0, time.Microsecond, time.Hour}[p.r.IntN(4)]
	case k < 10:
		target := p.target(func(t *ledger.Transaction) bool { return t.Kind == ledger.KindHold })
		tx.Kind, tx.Of, tx.Postings = ledger.KindCapture, target.ID, p.captured(target.Postings)
	case k < 12:
		tx.Kind, tx.Of = ledger.KindRelease, p.target(func(t *ledger.Transaction) bool { return t.Kind == ledger.KindHold }).ID
	case k < 15:
		tx.Kind, tx.Of = ledger.KindReverse, p.target(func(t *ledger.Transaction) bool { return t.Kind != ledger.KindHold }).ID
	default:
		tx.Postings = p.postings()
	}
	for p.r.IntN(6) == 0 {
		tx.If = append(tx.If, p.condition())
	}
	switch p.r.IntN(100) {
	case 0:
		tx.ID = "\x00"
	case 1:
		tx.Postings = nil
	case 2:
		tx.Of = tx.ID
	case 3:
		tx.Kind = ledger.Kind(p.r.IntN(7))
	case 4:
		tx.Expires = []time.Duration{-1, 1, time.Second}[p.r.IntN(3)]
	case 5:
		tx.If = []ledger.Condition{{}}
	}
	return tx
}

func (p *pair) postings() (postings []ledger.Posting) {
	for range 1 + p.r.IntN(3) {
		m := posting(p.account(), p.account(), 1+p.r.Int64N(3000))
		if p.r.IntN(3) == 0 {
			m.Debit = p.id("bank") // money comes in
		}
		if m.Debit == m.Credit && p.r.IntN(8) > 0 {
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
		postings = append(postings, m)
	}
	return postings
}

// target is mostly one of the last that were posted and fit.
func (p *pair) target(fits func(*ledger.Transaction) bool) ledger.Transaction {
	switch p.r.IntN(12) {
	case 0:
		return ledger.Transaction{ID: "nothing"}
	case 1:
		if len(p.sent) > 0 {
			return p.sent[p.r.IntN(len(p.sent))]
		}
	case 2:
		return ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint(p.prefix, "t", len(p.sent)-1))} // just before, maybe of its chain
	}
	var last []ledger.Transaction
	for _, tx := range slices.Backward(p.posted) {
		if fits(&tx) && len(last) < recent {
			last = append(last, tx)
		}
	}
	if len(last) == 0 {
		return ledger.Transaction{ID: "nothing"}
	}
	return pick(p.r, last)
}

// captured is all of what is held, some of it, or something else.
func (p *pair) captured(held []ledger.Posting) (postings []ledger.Posting) {
	if p.r.IntN(3) == 0 {
		return nil
	}
	for _, m := range held {
		if p.r.IntN(3) == 0 {
			continue
		}
		switch p.r.IntN(16) {
		case 0:
			m.Amount = m.Amount.Add(minor(1))
		case 1:
			m.Debit, m.Credit = m.Credit, m.Debit
		case 2:
			m.Credit = p.account()
		default:
			m.Amount = decimal.Min(m.Amount, minor(1+p.r.Int64N(3000)))
		}
		postings = append(postings, m)
	}
	return postings
}

func (p *pair) condition() ledger.Condition {
	c := ledger.Condition{Account: p.account()}
	if p.r.IntN(3) > 0 {
		c.Available = new(decimal.New(p.r.Int64N(20_000)-10_000, -int32(p.r.IntN(5))))
	}
	if p.r.IntN(3) == 0 {
		c.Version = new(p.r.Int64N(8))
	}
	return c
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
		if a.Verdict == ledger.Posted && !a.Duplicate {
			p.posted = append(p.posted, txs[i])
			p.kinds[txs[i].Kind]++
		}
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

// compareBalances compares all that Balances tells.
func (p *pair) compareBalances(t *testing.T) error {
	var ids []ledger.AccountID
	for _, a := range p.accounts {
		ids = append(ids, a.ID)
	}
	var seen [2][]string
	return errors.Join(p.both(func(i int, l *ledger.Ledger) error {
		balances, err := l.Balances(t.Context(), ids...)
		for _, b := range balances {
			seen[i] = append(seen[i], fmt.Sprintf("%+v", b))
		}
		return err
	}), differ(&seen))
}

// compare compares balances and entries.
func (p *pair) compare(t *testing.T) error {
	for _, a := range p.accounts {
		if err := p.compareEntries(t, a.ID); err != nil {
			return err
		}
	}
	return p.compareBalances(t)
}

func (p *pair) compareEntries(t *testing.T, id ledger.AccountID) error {
	var seen [2][]string
	return errors.Join(p.both(func(i int, l *ledger.Ledger) error {
		seen[i] = nil
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
