package proof

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
)

const wallets = 16

func walletID(n int) ledger.AccountID { return ledger.AccountID(fmt.Sprint("wallet", n)) }

func openWallets(t *testing.T, l *ledger.Ledger) (ids []ledger.AccountID) {
	t.Helper()
	accounts := []ledger.Account{bank("bank")}
	for n := range wallets {
		accounts = append(accounts, wallet(walletID(n), 0))
	}
	require.NoError(t, l.Open(t.Context(), accounts...))
	for _, a := range accounts {
		ids = append(ids, a.ID)
	}
	return ids
}

// crew posts while the server is killed. Nobody gives up: what is sent is repeated until it is answered.
type crew struct {
	*ledger.Ledger
	stop     chan struct{}
	answered atomic.Int64 // batches
	failed   atomic.Int64 // calls
	found    atomic.Int64 // transactions that a failed call had posted

	mu    sync.Mutex
	acked map[ledger.TransactionID]acked
}

type acked struct {
	tx     ledger.Transaction
	result ledger.Result
}

// PostgreSQL is killed with SIGKILL under 16 callers, each time after 50 to 250 ms of acknowledged work.
func TestKilledServer(t *testing.T) {
	t.Parallel()
	kills, seed := size(8, 100), oneSeed(t)
	server := testdb.NewPostgres(t)
	pool := newPool(t, server.URL(), t.Name(), clients)
	c := &crew{Ledger: newLedger(t, migrated(t, pool)), stop: make(chan struct{}), acked: map[ledger.TransactionID]acked{}}
	accounts := openWallets(t, c.Ledger)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(kills)*20*time.Second)
	defer cancel()

	var wg sync.WaitGroup
	defer wg.Wait()
	for n := range clients {
		wg.Go(func() {
			if err := c.work(ctx, n, dice(seed, uint64(n))); err != nil {
				t.Error(err)
				cancel()
			}
		})
	}
	start, r := time.Now(), dice(seed, clients)
	for range kills {
		before := c.answered.Load()
		for c.answered.Load() == before {
			require.NoError(t, pause(ctx, time.Millisecond))
		}
		require.NoError(t, pause(ctx, 50*time.Millisecond+time.Duration(r.Int64N(int64(200*time.Millisecond)))))
		require.NoError(t, server.Kill())
		require.NoError(t, server.Start(ctx))
	}
	close(c.stop)
	wg.Wait()
	require.NoError(t, ctx.Err())
	t.Logf("%d kills in %v: %d batches of %d transactions answered, %d calls failed, %d transactions had been posted by a failed one",
		kills, time.Since(start).Round(time.Second), c.answered.Load(), len(c.acked), c.failed.Load(), c.found.Load())
	require.GreaterOrEqual(t, c.failed.Load(), int64(kills), "the kills have tested nothing")
	c.recordedAsToldOnce(t, accounts)
}

// work posts batch after batch until it is told to stop.
func (c *crew) work(ctx context.Context, who int, r *rand.Rand) error {
	var last []ledger.Transaction
	for n := 0; ; {
		select {
		case <-c.stop:
			return nil
		default:
		}
		batch := last
		if last == nil || r.IntN(8) > 0 { // else what was answered is asked again
			batch = nil
			for range 1 + r.IntN(20) {
				batch = append(batch, randomTx(r, txID(who, "-", n)))
				n++
			}
		}
		results, err := c.untilAnswered(ctx, r, batch)
		if err != nil {
			return err
		}
		if err := c.told(batch, results); err != nil {
			return err
		}
		last = batch
	}
}

// randomTx has one to three postings; a quarter of them ask for more than there is.
func randomTx(r *rand.Rand, id ledger.TransactionID) ledger.Transaction {
	tx := ledger.Transaction{ID: id}
	for range 1 + r.IntN(3) {
		from, to := "bank", walletID(r.IntN(wallets))
		p := posting(ledger.AccountID(from), to, 1+r.Int64N(500))
		if r.IntN(2) == 0 {
			p = posting(to, walletID(r.IntN(wallets)), 1+r.Int64N(300))
		}
		if p.Debit == p.Credit {
			p.Credit = "bank"
		}
		tx.Postings = append(tx.Postings, p)
	}
	return tx
}

// untilAnswered repeats the batch, each time in another order.
func (c *crew) untilAnswered(ctx context.Context, r *rand.Rand, batch []ledger.Transaction) ([]ledger.Result, error) {
	for {
		call, cancel := context.WithTimeout(ctx, patience)
		results, err := c.Post(call, batch)
		cancel()
		if err == nil {
			c.answered.Add(1)
			return results, nil
		}
		c.failed.Add(1)
		if err := pause(ctx, time.Duration(1+r.Int64N(10))*time.Millisecond); err != nil {
			return nil, err
		}
		r.Shuffle(len(batch), func(i, k int) { batch[i], batch[k] = batch[k], batch[i] })
	}
}

// told notes the answers, and compares each with an earlier one.
func (c *crew) told(batch []ledger.Transaction, results []ledger.Result) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range results {
		first, before := c.acked[r.ID]
		if !before {
			c.acked[r.ID] = acked{batch[i], r}
			if r.Duplicate {
				c.found.Add(1)
			}
			continue
		}
		if err := same(first.result, r); err != nil {
			return err
		}
	}
	return nil
}

// same tells whether a repeat was told what the first was told.
func same(first, again ledger.Result) error {
	if again.Verdict != first.Verdict || again.Posting != first.Posting || !again.At.Equal(first.At) || !again.Duplicate {
		return fmt.Errorf("told %+v first, then %+v", first, again)
	}
	return nil
}

// recordedAsToldOnce compares all that the ledger holds with all that was acknowledged.
func (c *crew) recordedAsToldOnce(t *testing.T, accounts []ledger.AccountID) {
	t.Helper()
	const page = 2000
	var all []ledger.Transaction
	want := map[ledger.TransactionID]int{} // postings that shall be there
	for id, a := range c.acked {
		all = append(all, a.tx)
		if a.result.Verdict == ledger.Posted {
			want[id] = len(a.tx.Postings)
		}
	}
	for len(all) > 0 {
		n := min(page, len(all))
		results, err := c.Post(t.Context(), all[:n])
		require.NoError(t, err)
		for _, r := range results {
			require.NoError(t, same(c.acked[r.ID].result, r))
		}
		all = all[n:]
	}
	entries := 0
	for _, account := range accounts {
		b, err := c.Balances(t.Context(), account)
		require.NoError(t, err)
		sum := fold{}
		for e, err := range c.Entries(t.Context(), account, 0) {
			require.NoError(t, err)
			a, ok := c.acked[e.Transaction]
			require.True(t, ok && a.result.Verdict == ledger.Posted, "%+v was not acknowledged", e)
			require.NoError(t, sum.add(e, a.tx))
			if e.Side == ledger.Debit {
				want[e.Transaction]--
			}
			entries++
		}
		require.NoError(t, sum.is(b[0]))
	}
	for id, n := range want {
		require.Zero(t, n, "postings of %s too few or too many", id)
	}
	r := verified(t, c.Ledger)
	require.EqualValues(t, len(c.acked), r.Transactions)
	require.EqualValues(t, entries, r.Entries)
}
