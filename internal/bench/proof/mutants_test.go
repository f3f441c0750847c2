package proof

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
)

// A checker that calls everything linearizable proves nothing: these stores are not, and it has to see that.
func TestMutantsAreCaught(t *testing.T) {
	t.Parallel()
	for _, m := range []struct {
		name  string
		want  porcupine.CheckResult
		plain bool // it knows posts only
		store func(*testing.T, *pgxpool.Pool) ledger.Store
	}{
		{"NoLock", porcupine.Illegal, true, func(t *testing.T, pool *pgxpool.Pool) ledger.Store { return newNaive(t, pool, "") }},
		{"NoLockButLocked", porcupine.Ok, true, func(t *testing.T, pool *pgxpool.Pool) ledger.Store {
			return newNaive(t, pool, " ORDER BY id FOR UPDATE") // so it is the lock that the one above lacks, and nothing else
		}},
		{"AppliedTwice", porcupine.Illegal, false, func(t *testing.T, pool *pgxpool.Pool) ledger.Store {
			return &twice{around: around{migrated(t, pool)}}
		}},
		{"StaleRead", porcupine.Illegal, false, func(t *testing.T, pool *pgxpool.Pool) ledger.Store {
			return &stale{around: around{migrated(t, pool)}}
		}},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			store := m.store(t, newPool(t, testdb.PostgresURL(t), m.name, clients))
			h := newHistory(t, oneSeed(t), store)
			h.plain = m.plain
			require.Equal(t, m.want, h.mutant(t, operations/4))
		})
	}
	for name, f := range map[string]flaw{
		"Sloppy":             0, // so it is the flaws that those below have, and nothing else
		"LooksBeforeItLocks": noLock, "CapturesTwice": capturesTwice, "CapturesMoreThanIsHeld": capturesMore, "CapturesWhatHasExpired": capturesLate,
		"KeepsTheRestOfACapture": keepsRest, "HoldsDoNotCount": freeHolds, "ExpiresEarly": expiresEarly, "ReversesTwice": reversesTwice,
		"HalfAChainStays": halfChain, "IgnoresConditions": noConditions, "ForgetsRefusals": forgetsRefusals,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := porcupine.Illegal
			if f == 0 {
				want = porcupine.Ok
			}
			h := newHistory(t, oneSeed(t), newSloppy(f))
			for _, d := range h.dealers {
				d.shorts = []time.Duration{time.Microsecond, 300 * time.Microsecond, time.Millisecond} // here, operations take no longer
			}
			require.Equal(t, want, h.mutant(t, operations))
		})
	}
}

func (h *history) mutant(t *testing.T, n int) porcupine.CheckResult {
	t.Helper()
	openShards(t, h.processes[0].store)
	if h.plain {
		h.clients(t.Context(), n)
	} else {
		h.record(t, n)
	}
	return h.check(t, strict)
}

// around is for stores around a store.
type around struct{ ledger.Store }

func (a around) ExpiredHolds(ctx context.Context, limit int) ([]ledger.TransactionID, error) {
	if e, ok := a.Store.(ledger.Expirer); ok {
		return e.ExpiredHolds(ctx, limit)
	}
	return nil, errors.ErrUnsupported
}

// twice posts every hundredth transaction a second time, under an id of its own.
type twice struct {
	around
	posted atomic.Int64
}

func (s *twice) Post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	outcomes, err := s.Store.Post(ctx, drafts)
	for i, o := range outcomes {
		if o.Verdict != ledger.Posted || o.Duplicate || s.posted.Add(1)%100 != 0 {
			continue
		}
		again := drafts[i]
		again.ID += " again"
		if _, err := s.Store.Post(ctx, []ledger.Draft{again}); err != nil {
			return nil, err
		}
	}
	return outcomes, err
}

// stale answers reads from what it read 50 ms earlier.
type stale struct {
	around

	mu    sync.Mutex
	reads []snapshot
}

type snapshot struct {
	at     time.Time
	states map[ledger.AccountID]*ledger.State
}

func (s *stale) States(ctx context.Context, ids []ledger.AccountID) ([]*ledger.State, error) {
	var all []ledger.AccountID
	for s := range shards {
		for _, a := range shardAccounts(s) {
			all = append(all, a.ID)
		}
	}
	now := snapshot{time.Now(), map[ledger.AccountID]*ledger.State{}}
	states, err := s.Store.States(ctx, all)
	if err != nil {
		return nil, err
	}
	for i, id := range all {
		now.states[id] = states[i]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = append(s.reads, now)
	for len(s.reads) > 1 && now.at.Sub(s.reads[1].at) >= 50*time.Millisecond {
		s.reads = s.reads[1:]
	}
	states = make([]*ledger.State, len(ids))
	for i, id := range ids {
		states[i] = s.reads[0].states[id]
	}
	return states, nil
}
