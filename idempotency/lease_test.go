package idempotency_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

// do is one request whose work gets the run.
func (s *shop) do(
	ctx context.Context, key string, work func(ctx context.Context, run *idempotency.Run) (string, error),
) (idempotency.Result[string], error) {
	return idempotency.Do(ctx, s.guard, testKey(key), idempotency.FingerprintOf([]byte("body")), work)
}

// Work may take many times its lease: nobody else gets the key meanwhile.
func TestLeaseIsExtendedWhileTheWorkRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := s.pay(t.Context(), "a", "body", func(context.Context) error { time.Sleep(95 * time.Second); return nil })
			require.NoError(t, err)
		})
		for range 9 {
			time.Sleep(10 * time.Second)
			_, err := s.pay(t.Context(), "a", "body", nil)
			require.ErrorIs(t, err, idempotency.ErrInFlight)
		}
		wg.Wait()
		require.EqualValues(t, 1, s.charges.Load())
		require.Equal(t, 28, s.store.extensions) // one for each third of ten seconds
		s.requireReplay(t, "a", "body")
		time.Sleep(time.Minute)
		require.Equal(t, 28, s.store.extensions)
	})
}

func TestQuickWorkIsNotExtended(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		_, err := s.pay(t.Context(), "a", "body", func(context.Context) error { time.Sleep(3 * time.Second); return nil })
		require.NoError(t, err)
		require.Zero(t, s.store.extensions)
	})
}

// The store goes away: by the time that another may have the key, the work has been told.
func TestWorkEndsWhenItsLeaseCannotBeExtended(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]idempotency.Options{"heartbeat": {Wait: -1}, "no heartbeat": {Wait: -1, NoHeartbeat: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newShopWith(t, o)
				s.store.fail(faults{extend: errDown})
				start := time.Now()
				var detached error
				_, err := s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
					own := run.Detached()
					<-ctx.Done()
					detached = context.Cause(own)
					require.ErrorIs(t, context.Cause(ctx), idempotency.ErrLost)
					return "", ctx.Err()
				})
				require.ErrorIs(t, err, idempotency.ErrLost)
				require.ErrorIs(t, err, context.Canceled)
				require.ErrorIs(t, detached, idempotency.ErrLost)
				require.Equal(t, 9900*time.Millisecond, time.Since(start)) // a hundredth before the store's end
				require.Equal(t, o.NoHeartbeat, s.store.extensions == 0)
				require.Less(t, s.store.extensions, 20)
			})
		})
	}
}

func TestLeaseOutlastsARestartOfTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.store.fail(faults{extend: errDown})
		time.AfterFunc(9*time.Second, func() { s.store.fail(faults{}) })
		_, err := s.do(t.Context(), "a", func(ctx context.Context, _ *idempotency.Run) (string, error) {
			time.Sleep(30 * time.Second)
			return "receipt of a", ctx.Err()
		})
		require.NoError(t, err)
		s.requireReplay(t, "a", "body")
	})
}

// The store was slow to answer: by then another may have the key.
func TestWorkDoesNotBeginWhenItsLeaseIsOver(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]idempotency.Options{"heartbeat": {Wait: -1}, "no heartbeat": {Wait: -1, NoHeartbeat: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newShopWith(t, o)
				s.store.fail(faults{onClaim: func() { time.Sleep(10*time.Second - 100*time.Millisecond) }}) // a hundredth is for the clocks
				_, err := s.pay(t.Context(), "a", "body", nil)
				require.ErrorIs(t, err, idempotency.ErrLost)
				require.Zero(t, s.charges.Load())
				s.store.fail(faults{})
				_, err = s.pay(t.Context(), "a", "body", nil)
				require.NoError(t, err, "it was freed")
			})
		})
	}
}

// B has taken the key, as when the store's clock has jumped: A's work is told at its next heartbeat.
func TestWorkEndsWhenItsClaimIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var skew time.Duration
		store := idempotency.NewMemory(&idempotency.MemoryOptions{Now: func() time.Time { return time.Now().Add(skew) }})
		guard, err := idempotency.New(store, &idempotency.Options{Lease: 9 * time.Second})
		require.NoError(t, err)
		start := time.Now()
		_, err = idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{}, func(ctx context.Context, a *idempotency.Run) (int, error) {
			skew = time.Minute
			_, err := idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{}, func(_ context.Context, b *idempotency.Run) (int, error) {
				require.Greater(t, b.Token(), a.Token())
				return 2, nil
			})
			require.NoError(t, err)
			<-ctx.Done()
			require.ErrorIs(t, context.Cause(ctx), idempotency.ErrLost)
			return 0, errors.New("gave up")
		})
		require.ErrorIs(t, err, idempotency.ErrLost)
		require.ErrorContains(t, err, "gave up")
		require.Equal(t, 3*time.Second, time.Since(start))
	})
}

// Work that returns why its context has ended is not told so once more.
func TestLossIsToldOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard := newGuard(t, idempotency.NewMemory(nil), &idempotency.Options{Lease: time.Second, NoHeartbeat: true})
		_, err := idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{}, func(ctx context.Context, _ *idempotency.Run) (int, error) {
			<-ctx.Done()
			return 0, context.Cause(ctx)
		})
		require.Equal(t, idempotency.ErrLost, err)
	})
}

// A store that hangs must not keep Do from returning, nor the work from being told.
func TestHeartbeatThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard, err := idempotency.New(hangingExtend{idempotency.NewMemory(nil)}, &idempotency.Options{Lease: 10 * time.Second})
		require.NoError(t, err)
		do := func(key string, work time.Duration) (int, error) {
			result, err := idempotency.Do(t.Context(), guard, testKey(key), idempotency.Fingerprint{},
				func(ctx context.Context, _ *idempotency.Run) (int, error) {
					time.Sleep(work)
					return 1, context.Cause(ctx)
				})
			return result.Value, err
		}
		start := time.Now()
		value, err := do("a", 5*time.Second)
		require.NoError(t, err)
		require.Equal(t, 1, value)
		require.Equal(t, 5*time.Second, time.Since(start))
		_, err = do("b", 11*time.Second)
		require.ErrorIs(t, err, idempotency.ErrLost)
		require.ErrorIs(t, err, context.DeadlineExceeded) // why the lease could not be extended
	})
}

// One call that hangs is not waited for until the lease is over: the next one extends it.
func TestHeartbeatThatHangsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := idempotency.NewMemory(nil)
		guard := newGuard(t, &hangsOnce{Store: store, first: hangingExtend{store}}, &idempotency.Options{Lease: 10 * time.Second})
		_, err := idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
			func(ctx context.Context, _ *idempotency.Run) (int, error) {
				time.Sleep(time.Minute)
				return 1, context.Cause(ctx)
			})
		require.NoError(t, err)
	})
}

// hangsOnce has first extend the first time.
type hangsOnce struct {
	idempotency.Store
	first idempotency.Store
	hung  atomic.Bool
}

func (s *hangsOnce) Extend(ctx context.Context, e []idempotency.Extension) ([]error, error) {
	if s.hung.CompareAndSwap(false, true) {
		return s.first.Extend(ctx, e)
	}
	return s.Store.Extend(ctx, e)
}

// hangingExtend extends nothing until its context ends.
type hangingExtend struct{ idempotency.Store }

func (hangingExtend) Extend(ctx context.Context, _ []idempotency.Extension) ([]error, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// The client of the store does not heed a context, as that of go-redis does not unless it is told to: the work is told all the
// same before another can have the key.
func TestWorkEndsWhileTheStoreDoesNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard, err := idempotency.New(deafExtend{idempotency.NewMemory(nil)}, &idempotency.Options{Lease: 10 * time.Second})
		require.NoError(t, err)
		start := time.Now()
		_, err = idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
			func(ctx context.Context, run *idempotency.Run) (int, error) {
				own := run.Detached()
				<-ctx.Done()
				require.Less(t, time.Since(start), 10*time.Second)
				require.ErrorIs(t, context.Cause(own), idempotency.ErrLost)
				return 0, context.Cause(ctx)
			})
		require.ErrorIs(t, err, idempotency.ErrLost)
	})
}

// The store counts a lease from when it was asked, not from when its answer has come.
func TestLeaseCountsFromTheQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, o := range map[string]idempotency.Options{"claim": {NoHeartbeat: true}, "heartbeat": {}} {
			store := &slowAnswers{Store: idempotency.NewMemory(nil)}
			o.Lease = 10 * time.Second
			guard, err := idempotency.New(store, &o)
			require.NoError(t, err)
			_, err = idempotency.Do(t.Context(), guard, testKey(name), idempotency.Fingerprint{},
				func(ctx context.Context, _ *idempotency.Run) (int, error) {
					<-ctx.Done()
					require.Less(t, time.Since(store.held), 10*time.Second)
					return 0, context.Cause(ctx)
				})
			require.ErrorIs(t, err, idempotency.ErrLost)
		}
	})
}

// slowAnswers holds a key at once, says so two seconds later, and extends it once.
type slowAnswers struct {
	idempotency.Store
	held     time.Time
	extended bool
}

func (s *slowAnswers) Claim(ctx context.Context, q []idempotency.Request) ([]idempotency.Record, error) {
	s.held = time.Now()
	defer time.Sleep(2 * time.Second)
	return s.Store.Claim(ctx, q)
}

func (s *slowAnswers) Extend(ctx context.Context, e []idempotency.Extension) ([]error, error) {
	if s.extended {
		return nil, errDown
	}
	s.extended, s.held = true, time.Now()
	defer time.Sleep(2 * time.Second)
	return s.Store.Extend(ctx, e)
}

// The heartbeat has no answer, but a step has: that extends the lease too.
func TestStepKeepsTheLeaseWhileAHeartbeatHasNoAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard, err := idempotency.New(deafExtend{idempotency.NewMemory(nil)}, &idempotency.Options{Lease: 10 * time.Second})
		require.NoError(t, err)
		start := time.Now()
		_, err = idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
			func(ctx context.Context, run *idempotency.Run) (int, error) {
				time.Sleep(9 * time.Second)
				_, err := idempotency.Step(ctx, run, "charge", func(context.Context) (int, error) { return 1, nil })
				require.NoError(t, err)
				<-ctx.Done()
				require.Greater(t, time.Since(start), 15*time.Second)
				require.Less(t, time.Since(start), 19*time.Second)
				return 0, context.Cause(ctx)
			})
		require.ErrorIs(t, err, idempotency.ErrLost)
	})
}

// A step extends also a lease that is not extended otherwise, once, and the work ends with it.
func TestStepExtendsALeaseWithoutHeartbeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShopWith(t, idempotency.Options{Wait: -1, NoHeartbeat: true})
		start := time.Now()
		_, err := s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
			time.Sleep(5 * time.Second)
			_, err := idempotency.Step(ctx, run, "charge", func(context.Context) (int, error) { return 1, nil })
			require.NoError(t, err)
			<-ctx.Done()
			return "", context.Cause(ctx)
		})
		require.Equal(t, idempotency.ErrLost, err)
		require.Equal(t, 15*time.Second-100*time.Millisecond, time.Since(start))
		require.Equal(t, 1, s.store.extensions)
	})
}

// sayingStore says whether it can do several things at once.
type sayingStore struct {
	*faultyStore
	concurrent bool
}

func (s sayingStore) Concurrent() bool { return s.concurrent }

// A store over a connection that is the work's too is asked nothing beside it.
func TestOnlyAConcurrentStoreIsAskedBesideTheWork(t *testing.T) {
	t.Parallel()
	for concurrent, extensions := range map[bool]int{true: 2, false: 0} {
		synctest.Test(t, func(t *testing.T) {
			store := sayingStore{&faultyStore{Store: idempotency.NewMemory(nil)}, concurrent}
			guard := newGuard(t, store, &idempotency.Options{Lease: 9 * time.Second})
			_, err := doInt(t.Context(), guard, "a", func(context.Context) (int, error) { time.Sleep(8 * time.Second); return 1, nil })
			require.NoError(t, err)
			require.Equal(t, extensions, store.extensions)
		})
	}
}

// deafExtend extends nothing but with a step, and takes its time to say so.
type deafExtend struct{ idempotency.Store }

func (s deafExtend) Extend(ctx context.Context, e []idempotency.Extension) ([]error, error) {
	if e[0].Step.Name != "" {
		return s.Store.Extend(ctx, e)
	}
	time.Sleep(4 * time.Second)
	return nil, errDown
}

// A goroutine that outlived Do would be nobody's.
func TestDoWaitsForItsHeartbeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &slowExtend{Store: idempotency.NewMemory(nil)}
		guard, err := idempotency.New(store, &idempotency.Options{Lease: 9 * time.Second})
		require.NoError(t, err)
		_, err = idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
			func(context.Context, *idempotency.Run) (int, error) { time.Sleep(4 * time.Second); return 1, nil })
		require.NoError(t, err)
		require.True(t, store.ended.Load())
	})
}

// slowExtend takes a second to notice that its context has ended.
type slowExtend struct {
	idempotency.Store
	ended atomic.Bool
}

func (s *slowExtend) Extend(ctx context.Context, _ []idempotency.Extension) ([]error, error) {
	<-ctx.Done()
	time.Sleep(time.Second)
	s.ended.Store(true)
	return nil, ctx.Err()
}

// While the completion is repeated nobody else gets the key: its effect has happened.
func TestLeaseIsExtendedWhileTheResultIsWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShopWith(t, idempotency.Options{Wait: -1, WriteTimeout: time.Minute})
		s.store.fail(faults{complete: errDown})
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := s.pay(t.Context(), "a", "body", nil)
			require.NoError(t, err)
		})
		time.Sleep(50 * time.Second)
		_, err := s.pay(t.Context(), "a", "body", nil)
		require.ErrorIs(t, err, idempotency.ErrInFlight)
		s.store.fail(faults{})
		wg.Wait()
		s.requireReplay(t, "a", "body")
		require.EqualValues(t, 1, s.charges.Load())
	})
}

// The client hangs up half-way: what is detached goes on, the lease is extended, and the result is recorded.
func TestDetachedOutlivesTheClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		type tenant struct{}
		ctx, hangUp := context.WithTimeout(context.WithValue(t.Context(), tenant{}, 7), time.Second)
		defer hangUp()
		var kept *idempotency.Run
		result, err := s.do(ctx, "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
			<-ctx.Done()
			kept = run
			own := run.Detached()
			require.NoError(t, own.Err())
			require.Equal(t, 7, own.Value(tenant{}))
			time.Sleep(time.Minute)
			return "receipt of a", own.Err()
		})
		require.NoError(t, err)
		require.Equal(t, "receipt of a", result.Value)
		require.ErrorIs(t, kept.Detached().Err(), context.Canceled) // Do has returned
		s.requireReplay(t, "a", "body")
	})
}

// The client hangs up, then the claim is lost: the context that has ended for the first reason cannot tell the second.
func TestLossIsToldAfterAHangUp(t *testing.T) {
	t.Parallel()
	for _, early := range []bool{true, false} { // the work has asked for its detached context by then
		synctest.Test(t, func(t *testing.T) {
			s := newShop(t)
			s.store.fail(faults{extend: errDown})
			client, hangUp := context.WithCancel(t.Context())
			_, err := s.do(client, "a", func(_ context.Context, run *idempotency.Run) (string, error) {
				own := t.Context()
				if early {
					own = run.Detached()
				}
				hangUp()
				time.Sleep(10 * time.Second) // its lease
				if !early {
					own = run.Detached()
				}
				require.ErrorIs(t, context.Cause(own), idempotency.ErrLost)
				_, err := idempotency.Step(t.Context(), run, "charge", func(context.Context) (int, error) { panic("must not run") })
				require.ErrorIs(t, err, idempotency.ErrLost)
				return "", errors.New("gave up")
			})
			require.ErrorIs(t, err, idempotency.ErrLost)
			require.ErrorContains(t, err, "gave up")
		})
	}
}

func TestDetachedAfterDoHasEnded(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	var kept *idempotency.Run
	_, err := s.do(t.Context(), "a", func(_ context.Context, run *idempotency.Run) (string, error) {
		kept = run
		return "", nil
	})
	require.NoError(t, err)
	require.Error(t, kept.Detached().Err())
}

// Whoever has hung up before the work begins has asked for nothing, and the key is free.
func TestNothingRunsForAClientThatIsGone(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	ctx, hangUp := context.WithCancelCause(t.Context())
	gone := errors.New("connection reset")
	s.store.fail(faults{onClaim: func() { hangUp(gone) }})
	_, err := s.pay(ctx, "a", "body", nil)
	require.ErrorIs(t, err, gone)
	require.Zero(t, s.charges.Load())
	s.store.fail(faults{})
	_, err = s.pay(t.Context(), "a", "body", nil)
	require.NoError(t, err)
}

func TestRunNamesItsKeyAndToken(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	var last idempotency.Token
	for range 3 {
		_, err := s.do(t.Context(), "a", func(_ context.Context, run *idempotency.Run) (string, error) {
			require.Equal(t, testKey("a"), run.Key())
			require.Greater(t, run.Token(), last)
			last = run.Token()
			return "", errDown
		})
		require.ErrorIs(t, err, errDown)
	}
}
