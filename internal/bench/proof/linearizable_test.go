package proof

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
	"github.com/safetill/safetill/ledger/pgledger"
)

// rounds is one round after the other, each with connections of its own.
func rounds(t *testing.T, round func(*testing.T)) {
	t.Helper()
	for n := range size(1, 10) {
		t.Run(fmt.Sprint("Round", n+1), round)
	}
}

// Two processes, of which each remembers accounts that the other moves too. Some calls fail, done or not done, and most of them are
// repeated.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	rounds(t, func(t *testing.T) {
		pool := newPool(t, testdb.PostgresURL(t), t.Name(), clients)
		store, seed := migrated(t, pool), oneSeed(t)
		openShards(t, store)
		h := newHistory(t, seed, flaky(store, dice(seed, clients)), flaky(pgledger.NewStore(pool, nil), dice(seed, clients+1)))
		h.record(t, operations)
		h.settle(t, store)
		h.linearizable(t, strict)
		for _, err := range h.errs {
			require.ErrorIs(t, err, ledgertest.ErrInjected)
		}
		verified(t, newLedger(t, store))
	})
}

// Posts go a shorter way than what is of other kinds.
func TestLinearizablePosts(t *testing.T) {
	t.Parallel()
	rounds(t, func(t *testing.T) {
		pool := newPool(t, testdb.PostgresURL(t), t.Name(), clients)
		store := migrated(t, pool)
		openShards(t, store)
		h := newHistory(t, oneSeed(t), store, pgledger.NewStore(pool, nil))
		h.plain = true
		h.record(t, size(operations/2, operations))
		h.linearizable(t, strict)
		require.Empty(t, h.errs)
		verified(t, newLedger(t, store))
	})
}

// PostgreSQL ends the clients' connections under them.
func TestLinearizableOverCutConnections(t *testing.T) {
	t.Parallel()
	rounds(t, func(t *testing.T) {
		url := testdb.PostgresURL(t)
		pool := newPool(t, url, t.Name(), clients)
		store := migrated(t, pool)
		openShards(t, store)
		h := newHistory(t, oneSeed(t), store, pgledger.NewStore(pool, nil))
		stop := h.cutConnections(t, newPool(t, url, "cutter", 1), t.Name())
		h.record(t, size(operations/2, operations))
		cut := stop()
		h.settle(t, store)
		t.Logf("%d connections were cut", cut)
		require.Positive(t, cut)
		h.linearizable(t, strict)
		verified(t, newLedger(t, store))
	})
}

// flaky fails every thirtieth call, half of them after they were done.
func flaky(store ledger.Store, r *rand.Rand) ledger.Store {
	var mu sync.Mutex
	return &ledgertest.Flaky{Store: store, Fault: func(int64) ledgertest.Fault {
		mu.Lock()
		defer mu.Unlock()
		switch r.IntN(60) {
		case 0:
			return ledgertest.NotDone
		case 1:
			return ledgertest.DoneNotSaid
		}
		return ledgertest.Healthy
	}}
}

// cutConnections ends a busy connection of the named pool for each forty operations, until stop is called, which returns how many.
func (h *history) cutConnections(t *testing.T, pool *pgxpool.Pool, name string) (stop func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var cut int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for pause(ctx, time.Millisecond) == nil {
			h.mu.Lock()
			due := int64(len(h.ops)/40) > cut
			h.mu.Unlock()
			if !due {
				continue
			}
			tag, err := pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE application_name = $1 AND state = 'active' ORDER BY random() LIMIT 1`, name)
			if err != nil && ctx.Err() == nil {
				t.Errorf("cut a connection: %v", err)
				return
			}
			cut += tag.RowsAffected()
		}
	})
	stop = sync.OnceValue(func() int64 {
		cancel()
		wg.Wait()
		return cut
	})
	t.Cleanup(func() { stop() })
	return stop
}
