package idempotency_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

var errDown = errors.New("store is down")

// faultyStore fails a method before it reaches the store beneath, or after.
type faultyStore struct {
	idempotency.Store
	mu         sync.Mutex
	faults     faults
	extensions int
}

type faults struct {
	claim, complete, release, extend error
	after                            bool
	onClaim                          func()
}

// fail sets what fails from now on.
func (s *faultyStore) fail(f faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

func (s *faultyStore) present() faults {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

func (s *faultyStore) Claim(ctx context.Context, q []idempotency.Request) ([]idempotency.Record, error) {
	f := s.present()
	if f.claim != nil {
		return nil, f.claim
	}
	records, err := s.Store.Claim(ctx, q)
	if f.onClaim != nil {
		f.onClaim()
	}
	return records, err
}

func (s *faultyStore) Complete(ctx context.Context, c []idempotency.Completion) ([]error, error) {
	f := s.present()
	if f.complete != nil && !f.after {
		return nil, f.complete
	}
	items, err := s.Store.Complete(ctx, c)
	if f.complete != nil {
		return nil, f.complete
	}
	return items, err
}

func (s *faultyStore) Release(ctx context.Context, c []idempotency.Claim) ([]error, error) {
	if f := s.present(); f.release != nil {
		return nil, f.release
	}
	return s.Store.Release(ctx, c)
}

func (s *faultyStore) Extend(ctx context.Context, e []idempotency.Extension) ([]error, error) {
	s.mu.Lock()
	s.extensions++
	s.mu.Unlock()
	f := s.present()
	if f.extend != nil && !f.after {
		return nil, f.extend
	}
	items, err := s.Store.Extend(ctx, e)
	if f.extend != nil {
		return nil, f.extend
	}
	return items, err
}

// shop counts the charges that its work has made.
type shop struct {
	store   *faultyStore
	guard   *idempotency.Guard
	log     bytes.Buffer
	charges atomic.Int32
}

// newShop makes a shop whose duplicates do not wait. It is for one goroutine, or for several that a bubble keeps in order.
func newShop(t *testing.T) *shop {
	t.Helper()
	return newShopWith(t, idempotency.Options{Wait: -1})
}

func newShopWith(t *testing.T, o idempotency.Options) *shop {
	t.Helper()
	s := &shop{store: &faultyStore{Store: idempotency.NewMemory(nil)}}
	o.Lease, o.TTL, o.Logger = 10*time.Second, time.Hour, slog.New(slog.NewTextHandler(&s.log, nil))
	guard, err := idempotency.New(s.store, &o)
	require.NoError(t, err)
	s.guard = guard
	return s
}

func (s *shop) pay(ctx context.Context, key, body string, work func(context.Context) error) (idempotency.Result[string], error) {
	return idempotency.Do(ctx, s.guard, testKey(key), idempotency.FingerprintOf([]byte(body)),
		func(ctx context.Context, _ *idempotency.Run) (string, error) {
			if work != nil {
				if err := work(ctx); err != nil {
					return "", err
				}
			}
			s.charges.Add(1)
			return "receipt of " + key, nil
		})
}

func (s *shop) requireReplay(t *testing.T, key, body string) {
	t.Helper()
	before := s.charges.Load()
	result, err := s.pay(t.Context(), key, body, nil)
	require.NoError(t, err)
	require.Equal(t, idempotency.Result[string]{Value: "receipt of " + key, Replayed: true}, result)
	require.Equal(t, before, s.charges.Load())
}

func TestDoRunsOnceAndReplays(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	result, err := s.pay(t.Context(), "a", "body", nil)
	require.NoError(t, err)
	require.Equal(t, idempotency.Result[string]{Value: "receipt of a"}, result)
	s.requireReplay(t, "a", "body")

	_, err = s.pay(t.Context(), "a", "other body", nil)
	require.ErrorIs(t, err, idempotency.ErrMismatch)
	_, err = idempotency.Do(t.Context(), s.guard, idempotency.Key{Op: "pay", Value: "a"}, idempotency.Fingerprint{},
		func(context.Context, *idempotency.Run) (string, error) { panic("must not run") })
	require.ErrorIs(t, err, idempotency.ErrInvalid)
	require.EqualValues(t, 1, s.charges.Load())
}

func TestDoInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := s.pay(t.Context(), "a", "body", func(context.Context) error { time.Sleep(5 * time.Second); return nil })
			require.NoError(t, err)
		})
		synctest.Wait()
		time.Sleep(3 * time.Second)
		_, err := s.pay(t.Context(), "a", "body", nil)
		require.ErrorIs(t, err, idempotency.ErrInFlight)
		inFlight, ok := errors.AsType[*idempotency.InFlightError](err)
		require.True(t, ok)
		require.Equal(t, 7*time.Second, inFlight.RetryAfter)
		wg.Wait()
		s.requireReplay(t, "a", "body")
	})
}

// Whatever the store, also one that could answer without looking at the context.
func TestNothingIsReplayedToAClientThatIsGone(t *testing.T) {
	t.Parallel()
	guard := newGuard(t, idempotency.NewMemory(nil), nil)
	charge := func(ctx context.Context) error {
		_, err := idempotency.Do(ctx, guard, testKey("a"), idempotency.Fingerprint{},
			func(context.Context, *idempotency.Run) (int, error) { return 1, nil })
		return err
	}
	require.NoError(t, charge(t.Context()))
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	require.ErrorIs(t, charge(gone), context.Canceled)
}

// The store in memory answers a replay before anything else is asked: nor then is it longer than its TTL, or for another payload.
func TestMemoryReplaysNoLongerThanTheTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard := newGuard(t, idempotency.NewMemory(nil), &idempotency.Options{TTL: time.Minute})
		replayed := func(payload byte) (bool, error) {
			result, err := idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{payload},
				func(context.Context, *idempotency.Run) (int, error) { return 1, nil })
			return result.Replayed, err
		}
		for _, want := range []bool{false, true} {
			got, err := replayed(1)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		_, err := replayed(2)
		require.ErrorIs(t, err, idempotency.ErrMismatch)
		time.Sleep(time.Minute)
		for _, want := range []bool{false, true} {
			got, err := replayed(1)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	})
}

func TestDoExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		_, err := s.pay(t.Context(), "a", "body", nil)
		require.NoError(t, err)
		time.Sleep(time.Hour - time.Nanosecond)
		s.requireReplay(t, "a", "body")
		time.Sleep(time.Nanosecond)
		result, err := s.pay(t.Context(), "a", "another body", nil)
		require.NoError(t, err)
		require.False(t, result.Replayed)
	})
}

// The client hangs up while the provider is charging: the completion must be written all the same.
func TestClientHangUpDoesNotChargeTwice(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	client, hangUp := context.WithCancel(t.Context())
	_, err := s.pay(client, "a", "body", func(context.Context) error { hangUp(); return nil })
	require.NoError(t, err)
	s.requireReplay(t, "a", "body")
	require.EqualValues(t, 1, s.charges.Load())
}

// A client that hangs up before anything was charged must not keep its own retry out.
func TestClientHangUpFreesFailedWork(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	client, hangUp := context.WithCancel(t.Context())
	_, err := s.pay(client, "a", "body", func(ctx context.Context) error { hangUp(); return ctx.Err() })
	require.ErrorIs(t, err, context.Canceled)
	result, err := s.pay(t.Context(), "a", "body", nil)
	require.NoError(t, err)
	require.False(t, result.Replayed)
	require.EqualValues(t, 1, s.charges.Load())
}

func TestErrorOfWorkIsNotReplayed(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	declined := errors.New("declined")
	for range 3 {
		_, err := s.pay(t.Context(), "a", "body", func(context.Context) error { return declined })
		require.Equal(t, declined, err)
	}
	_, err := s.pay(t.Context(), "a", "corrected body", nil)
	require.NoError(t, err)
	s.requireReplay(t, "a", "corrected body")
}

func TestPanicReleasesAndGoesOn(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	require.PanicsWithValue(t, "boom", func() {
		_, _ = s.pay(t.Context(), "a", "body", func(context.Context) error { panic("boom") })
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = s.pay(t.Context(), "a", "body", func(context.Context) error { runtime.Goexit(); return nil })
	})
	wg.Wait()
	_, err := s.pay(t.Context(), "a", "body", nil)
	require.NoError(t, err)
	s.requireReplay(t, "a", "body")
}

func TestStoreDownIsClosed(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.store.fail(faults{claim: errDown})
	_, err := s.pay(t.Context(), "a", "body", nil)
	require.ErrorIs(t, err, errDown)
	require.Zero(t, s.charges.Load())
}

// A store that does not answer is down, for a caller without a deadline too.
func TestStoreThatDoesNotAnswerIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, wait := range []time.Duration{-1, time.Minute} {
			guard, err := idempotency.New(silentStore{idempotency.NewMemory(nil)},
				&idempotency.Options{Wait: wait, WriteTimeout: 2 * time.Second})
			require.NoError(t, err)
			start := time.Now()
			_, err = idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
				func(context.Context, *idempotency.Run) (int, error) { panic("must not run") })
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, idempotency.ErrInFlight)
			require.Equal(t, 2*time.Second, time.Since(start))
		}
	})
}

// silentStore answers no claim.
type silentStore struct{ idempotency.Store }

func (silentStore) Claim(ctx context.Context, _ []idempotency.Request) ([]idempotency.Record, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// The effect has happened: the caller hears that it is not recorded, and the key stays taken until the lease is over.
func TestCompletionFailureIsSeenAndKeepsTheKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.store.fail(faults{complete: errDown})
		start := time.Now()
		result, err := s.pay(t.Context(), "a", "body", nil)
		require.ErrorIs(t, err, idempotency.ErrNotRecorded)
		require.ErrorIs(t, err, errDown)
		require.Equal(t, 5*time.Second, time.Since(start))
		require.Equal(t, "receipt of a", result.Value)

		s.store.fail(faults{})
		_, err = s.pay(t.Context(), "a", "body", nil)
		require.ErrorIs(t, err, idempotency.ErrInFlight)
		time.Sleep(5*time.Second - time.Nanosecond)
		_, err = s.pay(t.Context(), "a", "body", nil)
		require.ErrorIs(t, err, idempotency.ErrInFlight)
		require.EqualValues(t, 1, s.charges.Load())
	})
}

// The store has committed and then reports failure.
func TestCompletionThatArrivedIsReplayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.store.fail(faults{complete: errDown, after: true})
		_, err := s.pay(t.Context(), "a", "body", nil)
		require.ErrorIs(t, err, idempotency.ErrNotRecorded)
		s.requireReplay(t, "a", "body")
	})
}

// The store restarts between the effect and its completion: the result is not lost.
func TestCompletionOutlastsARestartOfTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		store := &restartingStore{Store: s.store, until: time.Now().Add(3 * time.Second)}
		guard, err := idempotency.New(store, nil)
		require.NoError(t, err)
		s.guard = guard
		_, err = s.pay(t.Context(), "a", "body", nil)
		require.NoError(t, err)
		require.Less(t, store.calls, 20)
		s.requireReplay(t, "a", "body")
	})
}

// restartingStore completes nothing for a while.
type restartingStore struct {
	idempotency.Store
	until time.Time
	calls int
}

func (s *restartingStore) Complete(ctx context.Context, c []idempotency.Completion) ([]error, error) {
	if s.calls++; time.Now().Before(s.until) {
		return nil, errDown
	}
	return s.Store.Complete(ctx, c)
}

// reasonsStore fails to complete, each time for another reason, and hangs at last.
type reasonsStore struct {
	idempotency.Store
	reasons []error
}

func (s *reasonsStore) Complete(ctx context.Context, _ []idempotency.Completion) ([]error, error) {
	if len(s.reasons) == 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	reason := s.reasons[0]
	s.reasons = s.reasons[1:]
	return nil, reason
}

// The error says why the store failed at last, rather than that the time for it ran out.
func TestCompletionFailureSaysWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &reasonsStore{idempotency.NewMemory(nil), []error{errors.New("starting"), errDown}}
		_, err := idempotency.Do(t.Context(), newGuard(t, store, nil), testKey("a"), idempotency.Fingerprint{},
			func(context.Context, *idempotency.Run) (int, error) { return 1, nil })
		require.ErrorIs(t, err, idempotency.ErrNotRecorded)
		require.ErrorIs(t, err, errDown)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestCompletionHasADeadlineOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard, err := idempotency.New(&hangingStore{Store: idempotency.NewMemory(nil)},
			&idempotency.Options{WriteTimeout: 2 * time.Second})
		require.NoError(t, err)
		start := time.Now()
		_, err = idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
			func(context.Context, *idempotency.Run) (int, error) { return 1, nil })
		require.ErrorIs(t, err, idempotency.ErrNotRecorded)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 2*time.Second, time.Since(start))
	})
}

func TestReleaseHasADeadlineOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard := newGuard(t, &hangingStore{Store: idempotency.NewMemory(nil)}, &idempotency.Options{WriteTimeout: 2 * time.Second})
		start := time.Now()
		_, err := idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
			func(context.Context, *idempotency.Run) (int, error) { return 0, errDown })
		require.Equal(t, errDown, err)
		require.Equal(t, 2*time.Second, time.Since(start))
	})
}

// hangingStore completes and releases nothing until its context ends.
type hangingStore struct{ idempotency.Store }

func (s *hangingStore) Release(ctx context.Context, _ []idempotency.Claim) ([]error, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s *hangingStore) Complete(ctx context.Context, _ []idempotency.Completion) ([]error, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A owns the key, falls asleep beyond its lease, B runs the work: A hears that it was late, B's answer stands.
func TestOwnerThatOutlivesItsLeaseIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShopWith(t, idempotency.Options{Wait: -1, NoHeartbeat: true})
		var wg sync.WaitGroup
		wg.Go(func() {
			start := time.Now()
			_, err := s.pay(t.Context(), "a", "body", func(context.Context) error { time.Sleep(time.Minute); return nil })
			require.Equal(t, time.Minute, time.Since(start)) // at once: to ask again is of no use
			require.ErrorIs(t, err, idempotency.ErrNotRecorded)
			require.ErrorIs(t, err, idempotency.ErrLost)
		})
		synctest.Wait()
		time.Sleep(10 * time.Second)
		result, err := s.pay(t.Context(), "a", "body", nil)
		require.NoError(t, err)
		require.False(t, result.Replayed)
		wg.Wait()
		s.requireReplay(t, "a", "body")
	})
}

func TestReleaseFailureIsLoggedAndTheErrorOfWorkReturned(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.store.fail(faults{release: errDown})
	declined := errors.New("declined")
	_, err := s.pay(t.Context(), "a", "body", func(context.Context) error { return declined })
	require.Equal(t, declined, err)
	require.Contains(t, s.log.String(), "claim not released")
	_, err = s.pay(t.Context(), "a", "body", nil)
	require.ErrorIs(t, err, idempotency.ErrInFlight)
}

// A's work fails when B has the key already: there is nothing left to free, which is no failure to tell the log of.
func TestReleaseOfALostClaimIsNotLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShopWith(t, idempotency.Options{Wait: -1, NoHeartbeat: true})
		_, err := s.pay(t.Context(), "a", "body", func(context.Context) error {
			time.Sleep(10 * time.Second)
			_, err := s.pay(t.Context(), "a", "body", nil)
			require.NoError(t, err)
			return errDown
		})
		require.ErrorIs(t, err, errDown)
		require.ErrorIs(t, err, idempotency.ErrLost)
		require.Empty(t, s.log.String())
		s.requireReplay(t, "a", "body")
	})
}

func TestValueThatDoesNotEncodeOrDecode(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	do := func(key string) error {
		_, err := idempotency.Do(t.Context(), s.guard, testKey(key), idempotency.FingerprintOf([]byte("body")),
			func(context.Context, *idempotency.Run) (any, error) { return make(chan int), nil })
		return err
	}
	require.ErrorIs(t, do("a"), idempotency.ErrNotRecorded)
	again := do("a") // it has run: to run it again because nobody can read its result would be to charge again
	require.ErrorIs(t, again, idempotency.ErrNotRecorded)
	require.ErrorContains(t, again, "unsupported type")

	_, err := s.pay(t.Context(), "b", "body", nil)
	require.NoError(t, err)
	_, err = idempotency.Do(t.Context(), s.guard, testKey("b"), idempotency.FingerprintOf([]byte("body")),
		func(context.Context, *idempotency.Run) (int, error) { panic("must not run") })
	require.ErrorContains(t, err, "decode the stored result into int")
}

// The trap: text in an interface is kept as it is, and read as JSON: a receipt is lost to repeats, or one of digits is a number to them.
func TestTextInAnInterfaceIsReplayedAsText(t *testing.T) {
	t.Parallel()
	guard := newGuard(t, idempotency.NewMemory(nil), nil)
	for _, receipt := range []any{"receipt", "0042", "42", "null", "\"", "", 42.5, []any{"a"}, nil} {
		key := testKey(fmt.Sprintf("%q", receipt))
		for _, replayed := range []bool{false, true} {
			result, err := idempotency.Do(t.Context(), guard, key, idempotency.Fingerprint{},
				func(context.Context, *idempotency.Run) (any, error) { return receipt, nil })
			require.NoError(t, err)
			require.Equal(t, idempotency.Result[any]{Value: receipt, Replayed: replayed}, result)
		}
	}
}

func TestNewReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := idempotency.New(nil, &idempotency.Options{
		Lease: -1, TTL: time.Microsecond, WriteTimeout: 1 << 62, Wait: 1, MaxResponse: -1,
	})
	require.ErrorIs(t, err, idempotency.ErrInvalid)
	for _, field := range []string{
		"store is nil", "lease is shorter", "ttl is shorter", "write timeout is longer", "wait is shorter", "max response is not between",
	} {
		require.ErrorContains(t, err, field)
	}
	_, err = idempotency.New(idempotency.NewMemory(nil), &idempotency.Options{MaxResponse: 64<<20 + 1})
	require.ErrorContains(t, err, "max response is not between")
	for _, none := range []idempotency.Store{(*idempotency.Memory)(nil), (*faultyStore)(nil)} { // as left by who does not look at an error
		_, err = idempotency.New(none, nil)
		require.EqualError(t, err, "idempotency: store is nil")
	}
}

// A store may have more to say of its batch than its caller has asked.
type itemising struct{ idempotency.Store }

func (s itemising) Claim(ctx context.Context, q []idempotency.Request) ([]idempotency.Record, error) {
	records, err := s.Store.Claim(ctx, q)
	if err != nil {
		err = fmt.Errorf("store: claim: item 0: %w", err)
	}
	return records, err
}

func TestDoNamesWhatIsInvalid(t *testing.T) {
	t.Parallel()
	for _, store := range []idempotency.Store{idempotency.NewMemory(nil), itemising{idempotency.NewMemory(nil)}} {
		guard, err := idempotency.New(store, nil)
		require.NoError(t, err)
		work := func(context.Context, *idempotency.Run) (int, error) { return 1, nil }
		_, err = idempotency.Do(t.Context(), guard, idempotency.Key{Op: "o", Value: "v"}, idempotency.Fingerprint{}, work)
		require.EqualError(t, err, "idempotency: scope is empty")
		key := idempotency.Key{Scope: "s", Op: "o", Value: "v"}
		_, err = idempotency.Do[int](t.Context(), guard, key, idempotency.Fingerprint{}, nil)
		require.EqualError(t, err, "idempotency: work is nil")
		for _, none := range []*idempotency.Guard{nil, {}} {
			_, err = idempotency.Do(t.Context(), none, key, idempotency.Fingerprint{}, work)
			require.EqualError(t, err, "idempotency: guard is nil, or was not made by New")
		}
		_, err = idempotency.Do(t.Context(), guard, key, idempotency.Fingerprint{}, work)
		require.NoError(t, err)
	}
}
