package proof

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// tell notes what was answered of a transaction: the same for ever.
func (s *simulation) tell(tx simTx, r ledger.Result) error {
	first, before := s.told[tx]
	if before && (first.Verdict != r.Verdict || first.Posting != r.Posting || !first.At.Equal(r.At)) {
		return fmt.Errorf("%+v: told %+v first, then %+v", tx, first, r)
	}
	if before {
		return nil
	}
	s.told[tx] = r
	switch r.Verdict {
	case ledger.Posted:
		s.Posted++
	case ledger.InsufficientFunds:
		s.Refused++
	case ledger.Conflict:
		s.Conflicts++
	default:
		return fmt.Errorf("%+v: %v", tx, r.Verdict)
	}
	return nil
}

// check looks at the books when all is over: each acknowledged transaction once, nothing else, no floor passed, a sum of 0.
func (s *simulation) check() error {
	want := map[ledger.TransactionID]int{} // entries that shall be there
	posted := map[ledger.TransactionID][]ledger.Posting{}
	for tx, postings := range s.content {
		switch r, ok := s.told[tx]; {
		case !ok:
			if s.sends(tx) {
				return fmt.Errorf("%+v was never answered", tx)
			}
		case r.Verdict == ledger.Posted:
			if posted[tx.id] != nil {
				return fmt.Errorf("%s was posted with two contents", tx.id)
			}
			want[tx.id], posted[tx.id] = 2*len(postings), postings
		}
	}
	sum := decimal.Zero
	for i := range simAccounts {
		net, err := s.checkAccount(i, want, posted)
		if err != nil {
			return err
		}
		sum = sum.Add(net)
	}
	for id, n := range want {
		if n != 0 {
			return fmt.Errorf("%d entries of %s are missing", n, id)
		}
	}
	if !sum.IsZero() {
		return fmt.Errorf("all accounts sum up to %s", sum)
	}
	report, err := s.books.Verify(s.ctx)
	if err == nil && !report.OK() {
		err = fmt.Errorf("verify: %v", report.Breaks)
	}
	return err
}

// sends tells whether a client has the transaction.
func (s *simulation) sends(tx simTx) bool {
	for _, c := range s.clients {
		for _, batch := range c.batches {
			if slices.Contains(batch, tx) {
				return true
			}
		}
	}
	return false
}

// checkAccount returns what the account's debits are over its credits.
func (s *simulation) checkAccount(i int, want map[ledger.TransactionID]int, posted map[ledger.TransactionID][]ledger.Posting) (decimal.Decimal, error) {
	var sum fold
	var last ledger.Entry
	floor := minor(simFloors[i])
	low := func() error { // at the end of a transaction
		if i > 0 && last.Balance.LessThan(floor) {
			return fmt.Errorf("%s falls to %s with %s", last.Account, last.Balance, last.Transaction)
		}
		return nil
	}
	for e, err := range s.books.Entries(s.ctx, simIDs[i], 0) {
		if err != nil {
			return sum.net, err
		}
		if e.Transaction != last.Transaction {
			if err := low(); err != nil {
				return sum.net, err
			}
		}
		postings, ok := posted[e.Transaction]
		if !ok {
			return sum.net, fmt.Errorf("%+v was not acknowledged", e)
		}
		if err := sum.add(e, ledger.Transaction{Postings: postings}); err != nil {
			return sum.net, err
		}
		want[e.Transaction]--
		last = e
	}
	if err := low(); err != nil {
		return sum.net, err
	}
	b, err := s.books.Balances(s.ctx, simIDs[i])
	if err != nil {
		return sum.net, err
	}
	return sum.net, sum.is(b[0])
}

// broken is a store with a planted fault.
type broken struct {
	ledger.Store
	open func([]ledger.State)
	post func(context.Context, ledger.Store, []ledger.Draft) ([]ledger.Outcome, error)
}

func (b *broken) Open(ctx context.Context, accounts []ledger.State) error {
	if b.open != nil {
		b.open(accounts)
	}
	return b.Store.Open(ctx, accounts)
}

func (b *broken) Post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	if b.post == nil {
		return b.Store.Post(ctx, drafts)
	}
	return b.post(ctx, b.Store, drafts)
}

// A simulator that finds nothing wrong proves nothing: each of these has a fault that it has to find.
func TestSimulatorFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(r *rand.Rand) *broken{
		"Forgets": func(r *rand.Rand) *broken { // an id in 50, which is then free again
			return &broken{post: func(ctx context.Context, store ledger.Store, drafts []ledger.Draft) ([]ledger.Outcome, error) {
				if r.IntN(50) == 0 {
					drafts[0].ID += "'"
				}
				return store.Post(ctx, drafts)
			}}
		},
		"Loses": func(r *rand.Rand) *broken { // a batch in 50, which is acknowledged nevertheless
			return &broken{post: func(ctx context.Context, store ledger.Store, drafts []ledger.Draft) ([]ledger.Outcome, error) {
				if r.IntN(50) == 0 {
					return make([]ledger.Outcome, len(drafts)), nil // posted, all of them
				}
				return store.Post(ctx, drafts)
			}}
		},
		"HalfABatch": func(r *rand.Rand) *broken { // fails after the first transaction, and repeats the batch with it
			return &broken{post: func(ctx context.Context, store ledger.Store, drafts []ledger.Draft) ([]ledger.Outcome, error) {
				if r.IntN(50) == 0 {
					half := drafts[0]
					half.ID += "'"
					if _, err := store.Post(ctx, []ledger.Draft{half}); err != nil {
						return nil, err
					}
				}
				return store.Post(ctx, drafts)
			}}
		},
		"NoFloors": func(*rand.Rand) *broken {
			return &broken{open: func(accounts []ledger.State) {
				for i := range accounts {
					accounts[i].Floor = nil
				}
			}}
		},
		"RefusesAnew": func(*rand.Rand) *broken { // a repeat's answer has the time of the repeat
			n := int64(0)
			return &broken{post: func(ctx context.Context, store ledger.Store, drafts []ledger.Draft) ([]ledger.Outcome, error) {
				outcomes, err := store.Post(ctx, drafts)
				for i := range outcomes {
					if n++; outcomes[i].Verdict == ledger.InsufficientFunds {
						outcomes[i].At = simEpoch.AddDate(0, 0, int(n))
					}
				}
				return outcomes, err
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, _ := seeds(t, 1)
			_, err := simulate(t.Context(), first, 2000, func(store ledger.Store, r *rand.Rand) ledger.Store {
				b := plant(r)
				b.Store = store
				return b
			})
			require.Error(t, err)
			t.Log(err)
		})
	}
}
