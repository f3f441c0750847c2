package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/ledgertest"
)

// slow is a store in memory whose posts take a while, and which can fail.
type slow struct {
	ledger.Store
	takes time.Duration
	fail  func([]ledger.Draft) error

	mu    sync.Mutex
	sizes []int
}

func (s *slow) Post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	s.mu.Lock()
	s.sizes = append(s.sizes, len(drafts))
	s.mu.Unlock()
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.fail != nil {
		if err := s.fail(drafts); err != nil {
			return nil, err
		}
	}
	return s.Store.Post(ctx, drafts)
}

func (s *slow) posts() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sizes
}

// newGroup returns a group over store, with the accounts bank and shop, that is not running yet.
func newGroup(tb testing.TB, store ledger.Store, o *ledger.GroupOptions) (*ledger.Ledger, *ledger.Group) {
	tb.Helper()
	l, err := ledger.New(store, nil)
	require.NoError(tb, err)
	require.NoError(tb, l.Open(tb.Context(),
		ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit},
		ledger.Account{ID: "shop", Currency: "NGN", Normal: ledger.Credit, Floor: new(decimal.Zero)}))
	g, err := ledger.NewGroup(l, o)
	require.NoError(tb, err)
	return l, g
}

// running runs the group until stop, which waits for its end.
func running(tb testing.TB, g *ledger.Group) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(stop)
	return stop
}

func pay(id string) ledger.Transaction {
	return ledger.Transaction{ID: ledger.TransactionID(id), Postings: []ledger.Posting{
		{Debit: "bank", Credit: "shop", Amount: decimal.New(1, 0), Currency: "NGN"},
	}}
}

func payAll(ids ...string) (txs []ledger.Transaction) {
	for _, id := range ids {
		txs = append(txs, pay(id))
	}
	return txs
}

func TestGroupPostsAnIdleCallerAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, g := newGroup(t, &slow{Store: ledger.NewMemory(nil), takes: time.Second}, nil)
		stop := running(t, g)
		for _, id := range []string{"1", "2"} {
			begin := time.Now()
			r, err := g.PostOne(t.Context(), pay(id))
			require.NoError(t, err)
			require.EqualValues(t, id, r.ID)
			require.Equal(t, time.Second, time.Since(begin))
			time.Sleep(time.Hour)
		}
		_, err := g.PostOne(t.Context(), ledger.Transaction{ID: "3"})
		require.ErrorIs(t, err, ledger.ErrInvalidPostings)
		stop()
	})
}

func TestGroupWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: ledger.NewMemory(nil)}
		_, g := newGroup(t, s, &ledger.GroupOptions{Window: 10 * time.Millisecond, MaxBatch: 3})
		stop := running(t, g)
		begin := time.Now()
		var wg sync.WaitGroup
		for n := range 5 { // one each millisecond: three fill a batch, the fourth waits for its window
			time.Sleep(time.Millisecond)
			wg.Go(func() {
				if _, err := g.PostOne(t.Context(), pay(fmt.Sprint(n))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 14*time.Millisecond, time.Since(begin))
		require.Equal(t, []int{3, 2}, s.posts())
		wg.Go(func() { _, _ = g.PostOne(t.Context(), pay("last")) })
		synctest.Wait()
		begin = time.Now()
		stop() // does not wait for the window
		wg.Wait()
		require.Zero(t, time.Since(begin))
	})
}

func TestGroupGrowsUnderLoadAndKeepsCallersTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: ledger.NewMemory(nil), takes: time.Second}
		l, g := newGroup(t, s, &ledger.GroupOptions{MaxBatch: 10, AtOnce: 1})
		stop := running(t, g)
		var wg sync.WaitGroup
		post := func(ids ...string) {
			wg.Go(func() {
				results, err := g.Post(t.Context(), payAll(ids...))
				if err != nil {
					t.Error(err)
				}
				for i, r := range results {
					if r.Verdict != ledger.Posted || string(r.ID) != ids[i] || cap(results) != len(ids) {
						t.Errorf("%q: %+v", ids[i], r)
					}
				}
			})
			synctest.Wait() // in the queue, in this order
		}
		post("first")
		post("a", "b", "c", "d")
		post("e", "f", "g", "h")
		post("i", "j", "k", "l") // would make 12
		var many []string
		for n := range 12 {
			many = append(many, fmt.Sprint("many", n))
		}
		post(many...) // has one of its own
		post("last")
		wg.Wait()
		stop()
		require.Equal(t, []int{1, 8, 4, 12, 1}, s.posts())
		r, err := l.Verify(t.Context())
		require.NoError(t, err)
		require.True(t, r.OK())
		require.EqualValues(t, 26, r.Transactions)
	})
}

func TestGroupDrains(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: ledger.NewMemory(nil), takes: time.Second}
		l, g := newGroup(t, s, &ledger.GroupOptions{MaxBatch: 1, AtOnce: 2})
		var wg sync.WaitGroup
		for n := range 7 { // before Run
			wg.Go(func() {
				if _, err := g.PostOne(t.Context(), pay(fmt.Sprint(n))); err != nil {
					t.Error(err)
				}
			})
		}
		stop := running(t, g)
		synctest.Wait()
		begin := time.Now()
		stop()
		wg.Wait()
		require.Equal(t, 4*time.Second, time.Since(begin))
		_, err := g.PostOne(t.Context(), pay("late"))
		require.ErrorIs(t, err, ledger.ErrGroupStopped)
		require.Error(t, g.Run(t.Context()))
		r, err := l.Verify(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 7, r.Transactions)
	})
}

// Whoever closes the pool when Run has returned must not close it under a commit.
func TestGroupRunReturnsAfterItsLastCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, g := newGroup(t, &slow{Store: ledger.NewMemory(nil), takes: time.Second}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		posted := make(chan time.Time, 1)
		go func() {
			if _, err := g.PostOne(t.Context(), pay("1")); err != nil {
				t.Error(err)
			}
			posted <- time.Now()
		}()
		time.AfterFunc(time.Second/2, cancel) // the commit is under way
		require.NoError(t, g.Run(ctx))
		returned := time.Now()
		require.False(t, returned.Before(<-posted))
	})
}

// A store that hangs keeps neither callers nor Run for longer than the timeout.
func TestGroupTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, g := newGroup(t, &slow{Store: ledger.NewMemory(nil), takes: time.Hour}, &ledger.GroupOptions{MaxBatch: 1, AtOnce: 1, Timeout: time.Minute})
		stop := running(t, g)
		begin := time.Now()
		_, err := g.PostOne(t.Context(), pay("1"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(begin))
		var wg sync.WaitGroup
		for n := range 5 {
			wg.Go(func() {
				if _, err := g.PostOne(t.Context(), pay(fmt.Sprint(n))); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		begin = time.Now()
		stop()
		wg.Wait()
		require.Equal(t, time.Minute, time.Since(begin))
	})
}

func TestGroupCallerHangsUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: ledger.NewMemory(nil), takes: time.Second}
		l, g := newGroup(t, s, &ledger.GroupOptions{AtOnce: 1})
		conditional := func(ids ...string) []ledger.Transaction {
			txs := payAll(ids...)
			for i := range txs {
				txs[i].If = []ledger.Condition{{Account: "bank", Available: new(decimal.Zero)}, {Account: "shop", Version: new(int64(0))}}
			}
			return txs
		}
		post := func(patience time.Duration, id string) error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			txs := conditional(id)
			_, err := g.Post(ctx, txs)
			tx := &txs[0]
			tx.ID, tx.Postings[0].Credit, *tx.If[0].Available, *tx.If[1].Version = "used again", "nobody", decimal.New(99, 0), 99
			tx.If[0].Account = "nobody"
			return err
		}
		require.ErrorIs(t, post(time.Minute, "nobody runs it"), context.DeadlineExceeded)
		stop := running(t, g)
		require.ErrorIs(t, post(time.Millisecond, "under way"), context.DeadlineExceeded)
		require.ErrorIs(t, post(time.Millisecond, "in the queue"), context.DeadlineExceeded)
		require.NoError(t, post(time.Minute, "patient"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := g.PostOne(ctx, pay("gone before"))
		require.ErrorIs(t, err, context.Canceled)
		stop()
		require.Equal(t, []int{1, 1}, s.posts())
		results, err := l.Post(t.Context(), conditional("nobody runs it", "under way", "in the queue", "patient", "gone before"))
		require.NoError(t, err)
		for i, before := range []bool{false, true, false, true, false} {
			require.Equal(t, before, results[i].Duplicate, results[i].ID)
			require.Equal(t, i == 1, results[i].Verdict == ledger.Posted, results[i].ID)
		}
	})
}

var errPoison = errors.New("a trigger says no")

// atOnce posts one transaction for each id, all in one batch, and returns the errors.
func atOnce(t *testing.T, g *ledger.Group, ids []string) []error {
	faults := make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { _, faults[i] = g.PostOne(t.Context(), pay(id)) })
	}
	synctest.Wait()
	defer running(t, g)()
	wg.Wait()
	return faults
}

func TestGroupPoisonFailsItsCallerAlone(t *testing.T) {
	t.Parallel()
	for name, poison := range map[string]func(n int) bool{
		"one":       func(n int) bool { return n == 37 },
		"neighbors": func(n int) bool { return n == 20 || n == 21 },
		"one in 10": func(n int) bool { return n%10 == 0 },
		"all":       func(int) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var ids []string
				bad := map[ledger.TransactionID]bool{}
				for n := range 64 {
					ids = append(ids, fmt.Sprint(n))
					bad[ledger.TransactionID(ids[n])] = poison(n)
				}
				s := &slow{Store: ledger.NewMemory(nil), fail: func(drafts []ledger.Draft) error {
					for _, d := range drafts {
						if bad[d.ID] {
							return errPoison
						}
					}
					return nil
				}}
				_, g := newGroup(t, s, nil)
				for i, err := range atOnce(t, g, ids) {
					if poison(i) {
						require.ErrorIs(t, err, errPoison)
					} else {
						require.NoError(t, err, i)
					}
				}
				t.Logf("%d posts", len(s.posts()))
				if name == "all" {
					require.LessOrEqual(t, len(s.posts()), 10, "given up, since nothing succeeds")
				}
			})
		})
	}
}

type retryable struct{ error }

func (retryable) Retryable() bool { return true }

func (r retryable) Unwrap() error { return r.error }

func TestGroupDoesNotSplitWhatIsNobodysFault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: ledger.NewMemory(nil), fail: func([]ledger.Draft) error { return retryable{errPoison} }}
		_, g := newGroup(t, s, nil)
		for _, err := range atOnce(t, g, []string{"a", "b", "c"}) {
			require.ErrorIs(t, err, errPoison)
		}
		require.Equal(t, []int{3}, s.posts())
	})
}

// A commit that is done and reported as failed is posted again, and nothing twice.
func TestGroupLostAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		flaky := &ledgertest.Flaky{Store: ledger.NewMemory(nil), Fault: func(n int64) ledgertest.Fault {
			if n == 2 { // 1 opened the accounts
				return ledgertest.DoneNotSaid
			}
			return ledgertest.Healthy
		}}
		l, g := newGroup(t, flaky, nil)
		for _, err := range atOnce(t, g, []string{"a", "b", "c"}) {
			require.NoError(t, err)
		}
		b, err := l.Balances(t.Context(), "shop")
		require.NoError(t, err)
		require.Equal(t, "3", b[0].Posted.String())
	})
}

// A chain that lacks its end is refused, and does not take the next caller's transaction for it.
func TestGroupChains(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, g := newGroup(t, ledger.NewMemory(nil), nil)
		calls := [][]ledger.Transaction{payAll("a", "b"), payAll("c", "d"), payAll("e", "f"), payAll("g")}
		calls[0][0].Linked = true
		calls[1][0].Linked, calls[1][1].Linked = true, true
		results := make([][]ledger.Result, len(calls))
		var wg sync.WaitGroup
		for i, txs := range calls {
			wg.Go(func() {
				var err error
				if results[i], err = g.Post(t.Context(), txs); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		stop := running(t, g)
		wg.Wait()
		stop()
		for i, of := range results {
			for _, r := range of {
				require.Equal(t, i != 1, r.Verdict == ledger.Posted, "%+v", r)
			}
		}
	})
}

// 64 callers, every id from two of them at once: decided once, heard right by both.
func TestGroupManyCallers(t *testing.T) {
	t.Parallel()
	const callers, rounds = 64, 100
	l, g := newGroup(t, ledger.NewMemory(nil), &ledger.GroupOptions{MaxBatch: 20})
	running(t, g)
	var firsts atomic.Int64
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := range rounds {
				ids := []string{fmt.Sprint(c/2, "-", n), fmt.Sprint("own-", c, "-", n)}
				results, err := g.Post(t.Context(), payAll(ids...))
				if err != nil || len(results) != 2 || results[1].Duplicate {
					t.Errorf("%v, %v", results, err)
					return
				}
				for i, r := range results {
					if string(r.ID) != ids[i] || r.Verdict != ledger.Posted {
						t.Errorf("%q heard %+v", ids[i], r)
					}
				}
				if !results[0].Duplicate {
					firsts.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, callers/2*rounds, firsts.Load())
	r, err := l.Verify(t.Context())
	require.NoError(t, err)
	require.True(t, r.OK())
	require.EqualValues(t, callers*rounds*3, r.Entries)
}

// Callers hang up at any moment: what was answered is there once, and nothing that was not asked for.
func TestGroupCallersHangUpAtAnyMoment(t *testing.T) {
	t.Parallel()
	const callers, rounds = 64, 50
	s := &slow{Store: ledger.NewMemory(nil), takes: 200 * time.Microsecond}
	l, g := newGroup(t, s, &ledger.GroupOptions{MaxBatch: 20})
	stop := running(t, g)
	var answered, gone atomic.Int64
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := range rounds {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((c*n)%40)*50*time.Microsecond)
				txs := payAll(fmt.Sprint(c, "-", n))
				id := txs[0].ID
				results, err := g.Post(ctx, txs)
				txs[0].ID, txs[0].Postings[0].Debit = "used again", "nobody"
				cancel()
				switch {
				case errors.Is(err, context.DeadlineExceeded):
					gone.Add(1)
				case err != nil || results[0].ID != id || results[0].Err() != nil || results[0].Duplicate:
					t.Errorf("%q heard %+v, %v", id, results, err)
				default:
					answered.Add(1)
				}
			}
		})
	}
	wg.Wait()
	stop()
	r, err := l.Verify(t.Context())
	require.NoError(t, err)
	require.True(t, r.OK())
	t.Logf("%d answered, %d gone, %d posted", answered.Load(), gone.Load(), r.Transactions)
	require.GreaterOrEqual(t, r.Transactions, answered.Load())
	require.LessOrEqual(t, r.Transactions, answered.Load()+gone.Load())
	b, err := l.Balances(t.Context(), "shop")
	require.NoError(t, err)
	require.Equal(t, r.Transactions, b[0].Version, "each posted, and none refused for what it became")
}

func TestNewGroupRefuses(t *testing.T) {
	t.Parallel()
	_, err := ledger.NewGroup(nil, &ledger.GroupOptions{MaxBatch: ledger.MaxBatch + 1, AtOnce: -1, Window: -1, Timeout: -1})
	for _, field := range []string{"ledger is nil", "MaxBatch is not 1 to 8192", "AtOnce is neg", "Window is neg", "Timeout is neg"} {
		require.ErrorContains(t, err, field)
	}
	l, err := ledger.New(ledger.NewMemory(nil), nil)
	require.NoError(t, err)
	_, err = ledger.NewGroup(l, &ledger.GroupOptions{MaxBatch: -1})
	require.ErrorContains(t, err, "MaxBatch is not 1 to 8192")
}

func TestGroupBadCalls(t *testing.T) {
	t.Parallel()
	_, g := newGroup(t, ledger.NewMemory(nil), nil)
	running(t, g)
	results, err := g.Post(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, results)
	_, err = g.Post(t.Context(), make([]ledger.Transaction, ledger.MaxBatch+1))
	_, ok := errors.AsType[*ledger.InputError](err)
	require.True(t, ok)
	results, err = g.Post(t.Context(), []ledger.Transaction{{ID: "none"}, pay("good"), {}})
	require.NoError(t, err)
	require.Equal(t, []ledger.Verdict{ledger.InvalidPostings, ledger.Posted, ledger.InvalidID},
		[]ledger.Verdict{results[0].Verdict, results[1].Verdict, results[2].Verdict})
}

// What no ledger takes is refused without a wait for Run, and the most that one takes is the group's to post.
func TestGroupTakesAsMuchAsALedger(t *testing.T) {
	t.Parallel()
	_, g := newGroup(t, ledger.NewMemory(nil), &ledger.GroupOptions{MaxBatch: ledger.MaxBatch})
	_, err := g.Post(t.Context(), make([]ledger.Transaction, ledger.MaxBatch+1))
	_, ok := errors.AsType[*ledger.InputError](err)
	require.True(t, ok)
	running(t, g)()
	_, err = g.Post(t.Context(), make([]ledger.Transaction, ledger.MaxBatch))
	require.ErrorIs(t, err, ledger.ErrGroupStopped)
}

// A group copies what a transaction points to. Whoever gives Transaction or Posting another slice, map or pointer must have newCall copy
// it, or a caller that hangs up and uses it again changes what is being posted.
func TestGroupCopiesAllThatATransactionPointsTo(t *testing.T) {
	t.Parallel()
	var shared []string
	var walk func(name string, of reflect.Type)
	walk = func(name string, of reflect.Type) {
		switch {
		case of == reflect.TypeFor[decimal.Decimal](), of == reflect.TypeFor[time.Time](): // never changed in place
		case of.Kind() == reflect.Struct:
			for f := range of.Fields() {
				walk(name+"."+f.Name, f.Type)
			}
		case of.Kind() == reflect.Slice || of.Kind() == reflect.Map || of.Kind() == reflect.Pointer:
			shared = append(shared, name)
			walk(name, of.Elem())
		}
	}
	walk("Transaction", reflect.TypeFor[ledger.Transaction]())
	require.Equal(t, []string{"Transaction.Postings", "Transaction.If", "Transaction.If.Available", "Transaction.If.Version"}, shared)
}

// Not parallel: AllocsPerRun counts what the whole process allocates.
func TestGroupPostAllocates(t *testing.T) {
	const runs = 1000
	l, list := batches(t, 2*runs/batchSize+1)
	g, err := ledger.NewGroup(l, nil)
	require.NoError(t, err)
	running(t, g)
	n := 0
	count := func(post func(context.Context, []ledger.Transaction) ([]ledger.Result, error)) float64 {
		return testing.AllocsPerRun(runs-1, func() {
			if _, err := post(t.Context(), list[n/batchSize][n%batchSize:][:1]); err != nil {
				t.Error(err)
			}
			n++
		})
	}
	alone, grouped := count(l.Post), count(g.Post)
	t.Logf("one transaction: %.1f allocations, through an idle group %.1f", alone, grouped)
	require.LessOrEqual(t, grouped-alone, 8.0)
}

// A store that failed a test, or had it fail, took the goroutine of the commit with it: its callers waited for ever, and so did Run.
func TestGroupStoreThatEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &slow{Store: ledger.NewMemory(nil), takes: time.Millisecond}
		store.fail = func(drafts []ledger.Draft) error {
			switch {
			case len(drafts) > 1: // one half is answered by the time that the other one ends
				return errors.New("in halves")
			case drafts[0].ID == "bad":
				runtime.Goexit()
			}
			return nil
		}
		_, g := newGroup(t, store, &ledger.GroupOptions{AtOnce: 1, Window: time.Millisecond})
		stop := running(t, g)
		errs := map[string]error{}
		var mu sync.Mutex
		var callers sync.WaitGroup
		for _, id := range []string{"good", "bad"} {
			callers.Go(func() {
				_, err := g.PostOne(t.Context(), pay(id))
				mu.Lock()
				errs[id] = err
				mu.Unlock()
			})
			synctest.Wait() // in this order
		}
		callers.Wait()
		require.NoError(t, errs["good"])
		require.ErrorContains(t, errs["bad"], "ended the goroutine")
		_, err := g.PostOne(t.Context(), pay("next"))
		require.NoError(t, err, "there is room for another commit")
		stop()
	})
}
