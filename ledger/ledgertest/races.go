package ledgertest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// atOnce runs f n times at once and waits.
func atOnce(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

// postOne is for goroutines, which may not end the test.
func (f *fixture) postOne(t testing.TB, tx ledger.Transaction) (r ledger.Result) {
	results, err := f.Post(t.Context(), []ledger.Transaction{tx})
	if err != nil {
		t.Errorf("post %q: %v", tx.ID, err)
		return r
	}
	return results[0]
}

// Balance 100, two debits of 80 from two servers: one wins, always.
func testTwoDebits(t *testing.T, f *fixture) {
	for round := range 20 {
		f.want(t, ledger.Posted, move(fmt.Sprint("fund", round), "bank", wallet(0), "100"))
		var won atomic.Int32
		atOnce(2, func(i int) {
			if r := f.postOne(t, move(fmt.Sprint("debit", round, i), wallet(0), "bank", "80")); r.Verdict == ledger.Posted {
				won.Add(1)
			}
		})
		if won.Load() != 1 {
			t.Fatalf("round %d: %d of two debits of 80 were posted against 100", round, won.Load())
		}
		f.want(t, ledger.Posted, move(fmt.Sprint("empty", round), wallet(0), "bank", "20"))
	}
	f.balance(t, wallet(0), "0", 60)
	f.verify(t)
}

// One batch posted by 16 at once, also with ids that touch no account in
// common: each transaction once, and all hear the same.
func testSameBatchAtOnce(t *testing.T, f *fixture) {
	batch := []ledger.Transaction{
		move("a", "bank", wallet(0), "1"), move("z", "bank", wallet(1), "1"), move("m", wallet(7), "bank", "1"),
		move("unknown", "nobody", "nowhere", "1"),
	}
	var firsts [4]atomic.Int32
	atOnce(16, func(int) {
		own := append([]ledger.Transaction(nil), batch...)
		rand.Shuffle(len(own), func(a, b int) { own[a], own[b] = own[b], own[a] })
		results, err := f.Post(t.Context(), own)
		if err != nil {
			t.Errorf("post: %v", err)
			return
		}
		for _, r := range results {
			for k := range batch {
				if r.ID == batch[k].ID && !r.Duplicate {
					firsts[k].Add(1)
				}
			}
		}
	})
	for k := range firsts {
		if n := firsts[k].Load(); n != 1 {
			t.Errorf("%q was decided %d times", batch[k].ID, n)
		}
	}
	// The same id with accounts that nobody else locks: only its own uniqueness
	// can stop the second.
	const pairs = 3
	for i := range pairs {
		f.want(t, ledger.Posted, move(fmt.Sprint("fund", i), "bank", wallet(2+2*i), "1"))
	}
	var posted, refused atomic.Int32
	atOnce(pairs, func(i int) {
		switch r := f.postOne(t, move("disjoint", wallet(2+2*i), wallet(3+2*i), "1")); r.Verdict {
		case ledger.Posted:
			posted.Add(1)
		case ledger.Conflict:
			refused.Add(1)
		default:
			t.Errorf("%q: %v", r.ID, r.Verdict)
		}
	})
	if posted.Load() != 1 || refused.Load() != pairs-1 {
		t.Errorf("of %d contents under one id %d were posted, %d refused", pairs, posted.Load(), refused.Load())
	}
	f.balance(t, wallet(0), "1", 1)
	f.balance(t, wallet(1), "1", 1)
	f.verify(t)
}

// Batches that name the same accounts in opposite orders never deadlock.
func testOppositeOrders(t *testing.T, f *fixture) {
	const clients, rounds = 8, 15
	for n := range wallets {
		f.want(t, ledger.Posted, move(fmt.Sprint("fund", n), "bank", wallet(n), "1000"))
	}
	atOnce(clients, func(c int) {
		for round := range rounds {
			var batch []ledger.Transaction
			for i := range wallets - 1 {
				from, to := i, i+1
				if c%2 == 1 {
					from, to = wallets-1-i, wallets-2-i
				}
				batch = append(batch, move(fmt.Sprint(c, "-", round, "-", i), wallet(from), wallet(to), "0.01"))
			}
			results, err := f.Post(t.Context(), batch)
			if err != nil {
				t.Errorf("client %d, round %d: %v", c, round, err)
				return
			}
			for _, r := range results {
				if r.Err() != nil {
					t.Errorf("client %d, round %d: %v", c, round, r.Err())
				}
			}
		}
	})
	f.balance(t, "bank", fmt.Sprint(1000*wallets), wallets)
	if r := f.verify(t); r.Entries != 2*(wallets+clients*rounds*(wallets-1)) {
		t.Errorf("%d entries", r.Entries)
	}
}

// 64 at once move money in a circle, with repeats: none is made or lost, no
// balance falls below its floor, and everything posted is there once.
func testManyAtOnce(t *testing.T, f *fixture) {
	const clients, rounds = 64, 12
	for n := range wallets {
		f.want(t, ledger.Posted, move(fmt.Sprint("fund", n), "bank", wallet(n), "10"))
	}
	var posted atomic.Int64
	atOnce(clients, func(c int) {
		r := rand.New(rand.NewPCG(1, uint64(c)))
		for round := range rounds {
			from := r.IntN(wallets)
			tx := move(fmt.Sprint("c", c, "-", round), wallet(from), wallet((from+1+r.IntN(wallets-1))%wallets), fmt.Sprint(1+r.IntN(9)))
			first := f.postOne(t, tx)
			again := f.postOne(t, tx)
			if first.Verdict != again.Verdict || first.Duplicate || !again.Duplicate {
				t.Errorf("%q: %+v, then %+v", tx.ID, first, again)
			}
			if first.Verdict == ledger.Posted {
				posted.Add(1)
			}
		}
	})
	total := decimal.Zero
	for n := range wallets {
		b, err := f.Balances(t.Context(), wallet(n))
		if err != nil {
			t.Fatal(err)
		}
		if b[0].Posted.IsNegative() {
			t.Errorf("%s fell to %s", wallet(n), b[0].Posted)
		}
		total = total.Add(b[0].Posted)
	}
	if !total.Equal(decimal.New(10*wallets, 0)) {
		t.Errorf("%s in all wallets, want %d", total, 10*wallets)
	}
	if r := f.verify(t); r.Entries != 2*(posted.Load()+wallets) || r.Transactions != clients*rounds+wallets {
		t.Errorf("report %+v after %d posted", r, posted.Load())
	}
}
