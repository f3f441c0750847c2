package ledger

import (
	"context"
	"errors"
	"fmt"
)

// Expirer is what a [Store] implements whose holds expire.
type Expirer interface {
	// ExpiredHolds returns up to limit open holds whose time is over, by the
	// store's clock.
	ExpiredHolds(ctx context.Context, limit int) ([]TransactionID, error)
}

// expiryPrefix begins the id of what releases an expired hold. No client's id
// has a control character.
const expiryPrefix = "\x01expired:"

// ExpireHolds releases up to limit holds whose time is over, [MaxBatch] at most, and
// returns how many: fewer where others were faster. An expired hold cannot be
// captured any more, but what it reserves is not available until it is released: call
// this again and again, from as many processes as you like. A limit below 1 is an
// [*InputError]. Its error is [errors.ErrUnsupported] where the store's holds never
// expire. Cost: one query, and one commit if there are any.
func (l *Ledger) ExpireHolds(ctx context.Context, limit int) (int, error) {
	store, ok := l.store.(Expirer)
	if !ok {
		return 0, fmt.Errorf("ledger: expire holds: %w", errors.ErrUnsupported)
	}
	if limit < 1 {
		return 0, &InputError{Field: "limit", Reason: "is less than 1"}
	}
	holds, err := store.ExpiredHolds(ctx, min(limit, MaxBatch))
	if err != nil || len(holds) == 0 {
		return 0, err
	}
	drafts := make([]Draft, len(holds))
	for i, id := range holds {
		drafts[i] = Draft{ID: expiryPrefix + id, Kind: KindRelease, Of: id}
		drafts[i].Fingerprint = drafts[i].fingerprint()
	}
	outcomes, err := l.store.Post(ctx, drafts)
	if err != nil {
		return 0, fmt.Errorf("ledger: expire %d holds: %w", len(holds), err)
	}
	released := 0
	for _, o := range outcomes { // others may have been faster: captured no, released yes
		if o.Verdict == Posted && !o.Duplicate {
			released++
		}
	}
	return released, nil
}
