package ledger_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// late is a store that tells of holds which others have released or captured meanwhile.
type late struct {
	*ledger.Memory
	holds  []ledger.TransactionID
	limit  int
	drafts []ledger.Draft
}

func (l *late) ExpiredHolds(_ context.Context, limit int) ([]ledger.TransactionID, error) {
	l.limit = limit
	return l.holds, nil
}

func (l *late) Post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	l.drafts = drafts
	return l.Memory.Post(ctx, drafts)
}

// Each process counts what it has released itself, under an id that no client can take.
func TestExpireHoldsCountsItsOwn(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	store := &late{Memory: ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { return now }})}
	l, _ := newGroup(t, store, nil)
	for _, id := range []string{"expires", "captured"} {
		tx := pay(id)
		tx.Kind, tx.Expires = ledger.KindHold, time.Second
		_, err := l.PostOne(t.Context(), tx)
		require.NoError(t, err)
	}
	_, err := l.PostOne(t.Context(), ledger.Transaction{ID: "capture", Kind: ledger.KindCapture, Of: "captured"})
	require.NoError(t, err)
	now = now.Add(time.Second)
	store.holds = []ledger.TransactionID{"expires", "captured"}
	for _, want := range []int{1, 0} {
		n, err := l.ExpireHolds(t.Context(), ledger.MaxBatch+1)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	require.Equal(t, ledger.MaxBatch, store.limit)
	for _, d := range store.drafts {
		r, err := l.Post(t.Context(), []ledger.Transaction{{ID: d.ID, Kind: ledger.KindRelease, Of: d.Of}})
		require.NoError(t, err)
		require.Equal(t, ledger.InvalidID, r[0].Verdict, d.ID)
	}

	store.holds, store.drafts = nil, nil
	n, err := l.ExpireHolds(t.Context(), 1)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Nil(t, store.drafts, "nothing to post")
}
