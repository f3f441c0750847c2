package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

func between(id string, debit, credit ledger.AccountID) ledger.Transaction {
	tx := pay(id)
	tx.Postings[0].Debit, tx.Postings[0].Credit = debit, credit
	return tx
}

// What would wait in the store for a commit under way waits in the queue, where
// others join it; what shares no account does not wait.
func TestGroupDoesNotSendABatchToWaitForAnAccount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: ledger.NewMemory(nil), takes: time.Second}
		l, g := newGroup(t, s, &ledger.GroupOptions{AtOnce: 3})
		require.NoError(t, l.Open(t.Context(),
			ledger.Account{ID: "till", Currency: "NGN", Normal: ledger.Debit}, ledger.Account{ID: "stall", Currency: "NGN", Normal: ledger.Credit}))
		stop := running(t, g)
		begin := time.Now()
		var wg sync.WaitGroup
		post := func(tx ledger.Transaction, answered time.Duration) { // and at most a moment more, for who may come back
			wg.Go(func() {
				if _, err := g.PostOne(t.Context(), tx); err != nil || time.Since(begin).Truncate(time.Millisecond) != answered {
					t.Errorf("%s after %v: %v", tx.ID, time.Since(begin), err)
				}
			})
			synctest.Wait()
		}
		post(pay("1"), time.Second)
		post(between("2", "till", "stall"), time.Second) // beside the first
		post(between("3", "till", "shop"), 2*time.Second)
		time.Sleep(time.Second / 2)
		post(pay("4"), 2*time.Second)
		wg.Wait()
		stop()
		require.Equal(t, []int{1, 1, 2}, s.posts())
	})
}

// It is the same whichever side of the two the account is on.
func TestGroupWaitsForAnAccountOfEitherSide(t *testing.T) {
	t.Parallel()
	for sides, answered := range map[[2]ledger.AccountID]time.Duration{
		{"till", "stall"}: time.Second,
		{"bank", "stall"}: 2 * time.Second, {"till", "bank"}: 2 * time.Second,
		{"till", "shop"}: 2 * time.Second, {"shop", "stall"}: 2 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			l, g := newGroup(t, &slow{Store: ledger.NewMemory(nil), takes: time.Second}, nil)
			require.NoError(t, l.Open(t.Context(),
				ledger.Account{ID: "till", Currency: "NGN", Normal: ledger.Debit}, ledger.Account{ID: "stall", Currency: "NGN", Normal: ledger.Credit}))
			stop := running(t, g)
			post := func(txs ...ledger.Transaction) time.Duration {
				begin := time.Now()
				var wg sync.WaitGroup
				for _, tx := range txs {
					wg.Go(func() {
						_, err := g.PostOne(t.Context(), tx)
						require.NoError(t, err)
					})
					synctest.Wait()
				}
				wg.Wait()
				return time.Since(begin).Truncate(time.Millisecond)
			}
			require.Equal(t, answered, post(pay("1"), between("2", sides[0], sides[1])), sides)
			require.Equal(t, time.Second, post(pay("3"), between("4", "till", "stall")), "none is waited for when its commit has ended")
			require.Equal(t, time.Second, post(between("5", "till", "stall"), pay("6")))
			stop()
		})
	}
}

// Callers that come together part, so that no place stays empty, unless they would
// only wait for each other, or are too few.
func TestGroupPartsThoseWhoComeTogether(t *testing.T) {
	t.Parallel()
	own := func(n int) ledger.AccountID { return ledger.AccountID(fmt.Sprint("till", n)) }
	for name, c := range map[string]struct {
		callers, atOnce, turns int
		debit                  func(int) ledger.AccountID
		sizes                  []int // in any order, about
	}{
		"half each":       {64, 2, 3, own, []int{32, 32, 32, 32, 32, 32}},
		"one account":     {64, 2, 3, func(int) ledger.AccountID { return "bank" }, []int{64, 64, 64}},
		"too few for two": {31, 2, 3, own, []int{31, 31, 31}},
		"too few for six": {64, 6, 2, own, []int{16, 16, 16, 16, 16, 16, 16, 16}},
		"four in either half share an account": {64, 2, 1, func(n int) ledger.AccountID {
			if n%8 == 0 {
				return "bank"
			}
			return own(n)
		}, []int{28, 36}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &slow{Store: ledger.NewMemory(nil), takes: time.Second}
				_, g := newGroup(t, s, &ledger.GroupOptions{AtOnce: c.atOnce})
				var wg sync.WaitGroup
				for n := range c.callers {
					wg.Go(func() {
						for turn := range c.turns {
							tx := between(fmt.Sprint(n, "-", turn), c.debit(n), ledger.AccountID(fmt.Sprint("stall", n)))
							if _, err := g.PostOne(t.Context(), tx); !errors.Is(err, ledger.ErrUnknownAccount) {
								t.Errorf("%s: %v", tx.ID, err)
							}
						}
					})
					synctest.Wait() // they queue in their order
				}
				begin := time.Now()
				stop := running(t, g)
				wg.Wait()
				// Who is back first when two commits end at the same moment is up to the scheduler: the next may be of a little
				// more and a little less, and the last callers be a turn late.
				require.Less(t, time.Since(begin), time.Duration(c.turns+2)*time.Second)
				stop()
				sum, near := 0, 0
				for _, size := range s.sizes {
					sum += size
					if slices.ContainsFunc(c.sizes, func(want int) bool { return size >= want-want/4 && size <= want+want/4 }) {
						near++
					}
				}
				require.Equal(t, c.callers*c.turns, sum)
				require.Greater(t, near, len(c.sizes)/2, "%v", s.sizes)
			})
		})
	}
}

// A caller that was answered may be back at once, or never: who waits for it
// does not wait for long.
func TestGroupDoesNotWaitForWhoStaysAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: ledger.NewMemory(nil), takes: time.Second}
		_, g := newGroup(t, s, nil)
		stop := running(t, g)
		post := func(id string) {
			_, err := g.PostOne(t.Context(), pay(id))
			require.NoError(t, err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { post("first") })
		synctest.Wait()
		for n := range 10 {
			wg.Go(func() { post(fmt.Sprint(n)) })
		}
		wg.Wait()
		begin := time.Now()
		post("back")
		require.Greater(t, time.Since(begin), time.Second)
		require.Less(t, time.Since(begin), time.Second+time.Millisecond)
		begin = time.Now()
		post("alone")
		require.Equal(t, time.Second, time.Since(begin))
		require.Equal(t, []int{1, 10, 1, 1}, s.posts())
		stop()
	})
}

// The trap: with all places taken callers need not wake Run, and still need not
// when it has found the queue empty.
func TestGroupHearsWhoComesAfterAllPlacesWereTaken(t *testing.T) {
	t.Parallel()
	for _, atOnce := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(atOnce), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, g := newGroup(t, &slow{Store: ledger.NewMemory(nil), takes: time.Second}, &ledger.GroupOptions{AtOnce: atOnce})
				stop := running(t, g)
				for n := range 5 {
					time.Sleep(time.Minute)
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					var wg sync.WaitGroup
					for k := range atOnce { // without an account in common, so that each has a place
						wg.Go(func() {
							tx := between(fmt.Sprint(n, "-", k), ledger.AccountID(fmt.Sprint("debit", k)), ledger.AccountID(fmt.Sprint("credit", k)))
							if _, err := g.PostOne(ctx, tx); !errors.Is(err, ledger.ErrUnknownAccount) {
								t.Errorf("%s: %v", tx.ID, err)
							}
						})
						synctest.Wait()
					}
					wg.Wait()
					cancel()
				}
				stop()
			})
		})
	}
}
