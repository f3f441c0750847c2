package proof

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// broken is a store with a planted fault.
type broken struct {
	around
	r       *rand.Rand
	open    func([]ledger.State)
	post    func(context.Context, []ledger.Draft) ([]ledger.Outcome, error)
	expired func([]ledger.TransactionID) []ledger.TransactionID

	holds    map[ledger.TransactionID][]ledger.DraftPosting // that were asked for
	expiring []ledger.TransactionID                         // those of them that do
}

func (b *broken) Open(ctx context.Context, accounts []ledger.State) error {
	if b.open != nil {
		b.open(accounts)
	}
	return b.Store.Open(ctx, accounts)
}

func (b *broken) Post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	for _, d := range drafts {
		if d.Kind == ledger.KindHold {
			b.holds[d.ID] = d.Postings
			if d.Expires > 0 {
				b.expiring = append(b.expiring, d.ID)
			}
		}
	}
	if b.post == nil {
		return b.Store.Post(ctx, drafts)
	}
	return b.post(ctx, slices.Clone(drafts))
}

func (b *broken) ExpiredHolds(ctx context.Context, limit int) ([]ledger.TransactionID, error) {
	ids, err := b.around.ExpiredHolds(ctx, limit)
	if b.expired != nil {
		ids = b.expired(ids)
	}
	return ids, err
}

// rarely is the time for a fault.
func (b *broken) rarely() bool { return b.r.IntN(20) == 0 }

// without posts the drafts but those that drop names, of which it says that they are posted.
func (b *broken) without(ctx context.Context, drafts []ledger.Draft, drop func(*ledger.Draft) bool) ([]ledger.Outcome, error) {
	var rest []ledger.Draft
	outcomes := make([]ledger.Outcome, len(drafts))
	var at []int
	for i := range drafts {
		if !drop(&drafts[i]) {
			rest, at = append(rest, drafts[i]), append(at, i)
		}
	}
	if len(rest) == 0 {
		return outcomes, nil
	}
	got, err := b.Store.Post(ctx, rest)
	for k, o := range got {
		outcomes[at[k]] = o
	}
	return outcomes, err
}

// A simulator that finds nothing wrong proves nothing: each of these has a fault that it has to find, by what clients were told and by
// the books; the last ones do not show there, and it takes the clerk to find them.
func TestSimulatorFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	for _, f := range []struct {
		name  string
		plant func(*broken)
		clerk bool
	}{
		{name: "Forgets", plant: forgets},
		{name: "Loses", plant: loses},
		{name: "HalfABatch", plant: halfABatch},
		{name: "RefusesAnew", plant: refusesAnew},
		{name: "NoFloors", plant: func(b *broken) {
			b.open = func(accounts []ledger.State) {
				for i := range accounts {
					accounts[i].Floor = nil
				}
			}
		}},
		{name: "HalfAChain", plant: halfAChain},
		{name: "CapturesTwice", plant: capturesAgain},
		{name: "CapturesMoreThanIsHeld", plant: capturesAny},
		{name: "ForgetsHolds", plant: func(b *broken) {
			b.post = func(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
				return b.without(ctx, drafts, func(d *ledger.Draft) bool { return d.Kind == ledger.KindHold && !d.Linked && b.rarely() })
			}
		}},
		{name: "ForgetsReleases", plant: func(b *broken) {
			b.post = func(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
				return b.without(ctx, drafts, func(d *ledger.Draft) bool { return d.Kind == ledger.KindRelease && !d.Linked && b.rarely() })
			}
		}},
		{name: "HoldsForEver", plant: func(b *broken) {
			b.post = edited(b, func(d *ledger.Draft) { d.Expires = 0 })
		}},
		{name: "NoConditions", clerk: true, plant: func(b *broken) {
			b.post = edited(b, func(d *ledger.Draft) { d.If = nil })
		}},
		{name: "ExpiresEarly", clerk: true, plant: func(b *broken) {
			b.expired = func(ids []ledger.TransactionID) []ledger.TransactionID {
				if len(b.expiring) > 0 {
					ids = append(ids, b.expiring[b.r.IntN(len(b.expiring))])
				}
				slices.Sort(ids)
				return slices.Compact(ids)
			}
		}},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			first, _ := seeds(t, 1)
			_, err := simulate(t.Context(), first, 2000, func(s *simulation, store ledger.Store) ledger.Store {
				b := &broken{around: around{store}, r: s.r, holds: map[ledger.TransactionID][]ledger.DraftPosting{}}
				f.plant(b)
				if f.clerk {
					return compared(s, b)
				}
				return b
			})
			require.Error(t, err)
			t.Log(err)
		})
	}
}

// edited changes some of the drafts.
func edited(b *broken, edit func(*ledger.Draft)) func(context.Context, []ledger.Draft) ([]ledger.Outcome, error) {
	return func(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
		for i := range drafts {
			if b.rarely() {
				edit(&drafts[i])
			}
		}
		return b.Store.Post(ctx, drafts)
	}
}

// forgets an id, which is then free again.
func forgets(b *broken) {
	b.post = edited(b, func(d *ledger.Draft) { d.ID += "'" })
}

// loses a batch, which is acknowledged nevertheless.
func loses(b *broken) {
	b.post = func(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
		if b.rarely() {
			return make([]ledger.Outcome, len(drafts)), nil // posted, all of them
		}
		return b.Store.Post(ctx, drafts)
	}
}

// halfABatch fails after the first transaction, and repeats the batch with it.
func halfABatch(b *broken) {
	b.post = func(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
		if b.rarely() {
			half := drafts[0]
			half.ID += "'"
			if _, err := b.Store.Post(ctx, []ledger.Draft{half}); err != nil {
				return nil, err
			}
		}
		return b.Store.Post(ctx, drafts)
	}
}

// refusesAnew gives a repeat's answer the time of the repeat.
func refusesAnew(b *broken) {
	n := 0
	b.post = func(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
		outcomes, err := b.Store.Post(ctx, drafts)
		for i := range outcomes {
			if n++; outcomes[i].Verdict == ledger.InsufficientFunds {
				outcomes[i].At = simEpoch.AddDate(0, 0, n)
			}
		}
		return outcomes, err
	}
}

// halfAChain does what it can of a chain, under ids of its own, when it is refused.
func halfAChain(b *broken) {
	b.post = func(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
		outcomes, err := b.Store.Post(ctx, drafts)
		if err != nil || outcomes[0].Verdict != ledger.LinkFailed || !b.rarely() {
			return outcomes, err
		}
		half := drafts[0]
		half.ID, half.Linked = half.ID+"'", false
		_, err = b.Store.Post(ctx, []ledger.Draft{half})
		return outcomes, err
	}
}

// capturesAgain posts what was captured a second time.
func capturesAgain(b *broken) {
	b.post = func(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
		outcomes, err := b.Store.Post(ctx, drafts)
		for i, o := range outcomes {
			d := drafts[i]
			if d.Kind != ledger.KindCapture || o.Verdict != ledger.Posted || !b.rarely() {
				continue
			}
			if len(d.Postings) == 0 {
				d.Postings = b.holds[d.Of]
			}
			d.ID, d.Kind, d.Of, d.If, d.Linked = d.ID+"'", ledger.KindPost, "", nil, false
			if _, err := b.Store.Post(ctx, []ledger.Draft{d}); err != nil {
				return nil, err
			}
		}
		return outcomes, err
	}
}

// capturesAny captures more than the hold has, by a release and a post.
func capturesAny(b *broken) {
	b.post = func(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
		d := &drafts[0]
		held := b.holds[d.Of]
		if d.Kind == ledger.KindCapture && !d.Linked && len(d.Postings) > 0 && len(held) > 0 && d.Postings[0].Amount.Cmp(held[0].Amount) > 0 {
			release := ledger.Draft{ID: d.ID + "'", Kind: ledger.KindRelease, Of: d.Of}
			if _, err := b.Store.Post(ctx, []ledger.Draft{release}); err != nil {
				return nil, err
			}
			d.Kind, d.Of = ledger.KindPost, ""
		}
		return b.Store.Post(ctx, drafts)
	}
}
