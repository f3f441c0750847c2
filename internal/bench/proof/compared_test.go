package proof

import (
	"context"
	"fmt"
	"slices"

	"github.com/safetill/safetill/ledger"
)

// ledgersOwn begins the ids that the ledger itself makes up, and no client's.
const ledgersOwn = 1

// shadow is a store beside which a clerk keeps the same books: it fails when they differ.
type shadow struct {
	around
	clerk
	*simulation
}

func compared(s *simulation, store ledger.Store) ledger.Store {
	return &shadow{around{store}, clerk{registry: &s.registry}, s}
}

// Post fails the run even where the answer is lost.
func (s *shadow) Post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	outcomes, err := s.post(ctx, drafts)
	if s.wrong == nil {
		s.wrong = err
	}
	return outcomes, err
}

func (s *shadow) post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	txs := make([]*tx, len(drafts))
	for i := range drafts {
		if txs[i] = s.known(&drafts[i]); txs[i] == nil {
			return nil, fmt.Errorf("nobody has sent %+v", drafts[i])
		}
		if decided, _ := s.was(txs[i].id); decided == nil {
			s.at[txs[i].id] = s.time()
		}
	}
	outcomes, err := s.Store.Post(ctx, drafts)
	if err != nil {
		return nil, err
	}
	var room [8]result
	results := s.clerk.post(txs, room[:0])
	for i, r := range results {
		want := ledger.Outcome{Verdict: r.verdict, Posting: r.posting, Duplicate: r.duplicate}
		if r.verdict != ledger.Conflict && r.verdict != ledger.LinkFailed {
			want.At = s.at[txs[i].id]
		}
		if outcomes[i] != want {
			return nil, fmt.Errorf("%v: %+v, should be %+v", txs[i], outcomes[i], want)
		}
		if drafts[i].ID[0] == ledgersOwn && r.verdict == ledger.Posted && !s.late(txs[i]) {
			return nil, fmt.Errorf("%v: %+v, before its time is over", txs[i], outcomes[i])
		}
	}
	return outcomes, s.compare(ctx)
}

// known finds what was sent.
func (s *shadow) known(d *ledger.Draft) *tx {
	if d.ID[0] == ledgersOwn {
		return s.expiry(d.Of)
	}
	id, ok := s.ids[d.ID]
	if !ok {
		return nil
	}
	i := slices.IndexFunc(s.contents[id], func(t *tx) bool {
		return t.linked == d.Linked && len(t.conditions) == len(d.If) && slices.EqualFunc(t.moves, d.Postings, func(m move, p ledger.DraftPosting) bool {
			return p.Amount == ledger.Minor(m.amount)
		})
	})
	if i < 0 {
		return nil
	}
	return s.contents[id][i]
}

// compare compares the accounts, and looks at their floors.
func (s *shadow) compare(ctx context.Context) error {
	states, err := s.States(ctx, s.names[:])
	if err != nil {
		return err
	}
	for i, a := range states {
		want := &s.accounts[i]
		if a.Balance() != ledger.Minor(want.posted) || a.HeldDebits != ledger.Minor(want.heldDebits) || a.HeldCredits != ledger.Minor(want.heldCredits) ||
			a.Version != want.version || a.Available() != ledger.Minor(s.available(i)) || s.low(i) {
			return fmt.Errorf("%+v, should be %+v, available %d", a, *want, s.available(i))
		}
	}
	return nil
}
