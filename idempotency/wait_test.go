package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

// counting counts the claims that reach a store.
type counting struct {
	idempotency.Store
	claims atomic.Int64
}

func (c *counting) Claim(ctx context.Context, q []idempotency.Request) ([]idempotency.Record, error) {
	c.claims.Add(1)
	return c.Store.Claim(ctx, q)
}

// newGuard stands for a process, on a store that it shares with others.
func newGuard(t *testing.T, store idempotency.Store, o *idempotency.Options) *idempotency.Guard {
	t.Helper()
	guard, err := idempotency.New(store, o)
	require.NoError(t, err)
	return guard
}

func doInt(ctx context.Context, g *idempotency.Guard, key string, work func(context.Context) (int, error)) (idempotency.Result[int], error) {
	return idempotency.Do(ctx, g, testKey(key), idempotency.Fingerprint{},
		func(ctx context.Context, _ *idempotency.Run) (int, error) { return work(ctx) })
}

// A thousand at once: one run, and 999 get its result without an error.
func TestOneThousandRequestsRunOnce(t *testing.T) {
	t.Parallel()
	store := &counting{Store: idempotency.NewMemory(nil)}
	guard := newGuard(t, store, nil)
	var runs, replays atomic.Int32
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			result, err := doInt(t.Context(), guard, "a", func(context.Context) (int, error) {
				time.Sleep(50 * time.Millisecond)
				return int(runs.Add(1)), nil
			})
			if err != nil || result.Value != 1 {
				t.Error(result, err)
			}
			if result.Replayed {
				replays.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, runs.Load())
	require.EqualValues(t, 999, replays.Load())
}

// Of a thousand that wait in two processes, one of each asks the store.
func TestWaitersShareOnePoller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := idempotency.NewMemory(nil)
		owner := newGuard(t, shared, nil)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := doInt(t.Context(), owner, "a", func(context.Context) (int, error) {
				time.Sleep(5 * time.Second)
				return 42, nil
			})
			require.NoError(t, err)
		})
		synctest.Wait()
		stores := [2]*counting{{Store: shared}, {Store: shared}}
		for i := range stores {
			guard := newGuard(t, stores[i], nil)
			for range 500 {
				wg.Go(func() {
					result, err := doInt(t.Context(), guard, "a", func(context.Context) (int, error) { panic("ran twice") })
					require.NoError(t, err)
					require.Equal(t, idempotency.Result[int]{Value: 42, Replayed: true}, result)
				})
				synctest.Wait() // so that all but the first find somebody waiting
			}
		}
		wg.Wait()
		for i := range stores {
			require.LessOrEqual(t, stores[i].claims.Load(), int64(30)) // in 5 s, not 500 or 500,000
		}
	})
}

// In the process of the run nobody polls for its result: they have it at once.
func TestWaitersAreWokenByARunInTheirProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard := newGuard(t, idempotency.NewMemory(nil), nil)
		start := time.Now()
		const took = 4567 * time.Millisecond
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				result, err := doInt(t.Context(), guard, "a", func(context.Context) (int, error) { time.Sleep(took); return 1, nil })
				require.NoError(t, err)
				require.Equal(t, 1, result.Value)
				require.Equal(t, took, time.Since(start))
			})
		}
		wg.Wait()
	})
}

// The first run fails: one of those who wait runs the work, the others get the result of that.
func TestOneWaiterTakesOverAFailedRun(t *testing.T) {
	t.Parallel()
	for name, processes := range map[string]int{"one process": 1, "three processes": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := idempotency.NewMemory(nil)
				var runs, failures, replays, running atomic.Int32
				var wg sync.WaitGroup
				guards := make([]*idempotency.Guard, processes)
				for i := range guards {
					guards[i] = newGuard(t, store, nil)
				}
				for i := range 300 {
					wg.Go(func() {
						result, err := doInt(t.Context(), guards[i%processes], "a", func(context.Context) (int, error) {
							require.EqualValues(t, 1, running.Add(1))
							defer running.Add(-1)
							n := int(runs.Add(1))
							time.Sleep(time.Second)
							if n < 4 {
								return 0, errDown
							}
							return n, nil
						})
						switch {
						case errors.Is(err, errDown):
							failures.Add(1)
						case result.Replayed:
							replays.Add(1)
							fallthrough
						default:
							require.NoError(t, err)
							require.Equal(t, 4, result.Value)
						}
					})
				}
				wg.Wait()
				require.EqualValues(t, 4, runs.Load())
				require.EqualValues(t, 3, failures.Load())
				require.EqualValues(t, 296, replays.Load())
			})
		})
	}
}

// In the process of the run that failed nobody waits for the next poll.
func TestWaiterIsWokenByAFailureInItsProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard := newGuard(t, idempotency.NewMemory(nil), nil)
		start := time.Now()
		var wg sync.WaitGroup
		var began []time.Duration
		for range 3 {
			wg.Go(func() {
				_, err := doInt(t.Context(), guard, "a", func(context.Context) (int, error) {
					began = append(began, time.Since(start))
					time.Sleep(1234567 * time.Microsecond)
					return 0, errDown
				})
				require.ErrorIs(t, err, errDown)
			})
		}
		wg.Wait()
		require.Equal(t, []time.Duration{0, 1234567 * time.Microsecond, 2 * 1234567 * time.Microsecond}, began)
	})
}

// What could not be recorded is nobody's result: those who wait are not told of it.
func TestWaitersAreNotToldOfWhatIsNotRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &faultyStore{Store: idempotency.NewMemory(nil)}
		store.fail(faults{complete: errDown})
		guard := newGuard(t, store, nil)
		var wg sync.WaitGroup
		var runs, unrecorded, inFlight atomic.Int32
		for range 10 {
			wg.Go(func() {
				_, err := doInt(t.Context(), guard, "a", func(context.Context) (int, error) {
					runs.Add(1)
					time.Sleep(time.Second)
					return 1, nil
				})
				switch {
				case errors.Is(err, idempotency.ErrNotRecorded):
					unrecorded.Add(1)
				case errors.Is(err, idempotency.ErrInFlight):
					inFlight.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, runs.Load())
		require.EqualValues(t, 1, unrecorded.Load())
		require.EqualValues(t, 9, inFlight.Load())
	})
}

// Those who wait are of one payload: another is refused at once, and does not wait with them.
func TestAnotherPayloadDoesNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard := newGuard(t, idempotency.NewMemory(nil), nil)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := doInt(t.Context(), guard, "a", func(context.Context) (int, error) { time.Sleep(5 * time.Second); return 1, nil })
				require.NoError(t, err)
			})
		}
		time.Sleep(time.Second)
		_, err := idempotency.Do(t.Context(), guard, testKey("a"), idempotency.FingerprintOf([]byte("other")),
			func(context.Context, *idempotency.Run) (int, error) { panic("must not run") })
		require.ErrorIs(t, err, idempotency.ErrMismatch)
		wg.Wait()
	})
}

// The owner was killed: whoever still waits when its lease ends takes over then.
func TestWaiterTakesOverFromTheDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := idempotency.NewMemory(nil)
		_, err := store.Claim(t.Context(), []idempotency.Request{{Key: testKey("a"), Lease: 7 * time.Second}})
		require.NoError(t, err)
		start := time.Now()
		result, err := doInt(t.Context(), newGuard(t, store, nil), "a", func(context.Context) (int, error) { return 1, nil })
		require.NoError(t, err)
		require.False(t, result.Replayed)
		require.GreaterOrEqual(t, time.Since(start), 7*time.Second)
		require.Less(t, time.Since(start), 7500*time.Millisecond)
	})
}

func TestWaitEnds(t *testing.T) {
	t.Parallel()
	reset := errors.New("connection reset")
	for _, c := range []struct {
		name   string
		wait   time.Duration
		caller func(context.Context) (context.Context, context.CancelFunc)
		takes  time.Duration
		errs   []error
	}{
		{"by default", 0, nil, 10 * time.Second, nil},
		{"as asked for", 3 * time.Second, nil, 3 * time.Second, nil},
		{"before the store is asked again", time.Millisecond, nil, time.Millisecond, nil},
		{"at once", -1, nil, 0, nil},
		{"with the caller's deadline", 0, func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 2*time.Second)
		}, 2 * time.Second, []error{context.DeadlineExceeded}},
		{"with the caller", 0, func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(time.Second, func() { cancel(reset) })
			return ctx, func() { cancel(nil) }
		}, time.Second, []error{reset}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := idempotency.NewMemory(nil)
				_, err := store.Claim(t.Context(), []idempotency.Request{{Key: testKey("a"), Lease: time.Minute}})
				require.NoError(t, err)
				guard := newGuard(t, store, &idempotency.Options{Wait: c.wait})
				var wg sync.WaitGroup
				for range 3 { // who leads and who follows hears the same
					wg.Go(func() {
						ctx, cancel := t.Context(), func() {}
						if c.caller != nil {
							var stop context.CancelFunc
							ctx, stop = c.caller(ctx)
							cancel = func() { stop() }
						}
						defer cancel()
						start := time.Now()
						_, err := doInt(ctx, guard, "a", func(context.Context) (int, error) { panic("must not run") })
						require.ErrorIs(t, err, idempotency.ErrInFlight)
						for _, want := range c.errs {
							require.ErrorIs(t, err, want)
						}
						require.Equal(t, c.takes, time.Since(start))
						inFlight, ok := errors.AsType[*idempotency.InFlightError](err)
						require.True(t, ok)
						require.Equal(t, testKey("a"), inFlight.Key)
						require.Equal(t, time.Minute-c.takes, inFlight.RetryAfter)
					})
				}
				wg.Wait()
			})
		})
	}
}

// slowToSay is a store that answers a question about what is in flight once, and from then on when it is too late.
type slowToSay struct {
	idempotency.Store
	asked atomic.Int32
}

func (s *slowToSay) Claim(ctx context.Context, q []idempotency.Request) ([]idempotency.Record, error) {
	if s.asked.Add(1) > 1 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.Store.Claim(ctx, q)
}

// The trap: the client hangs up just while the store is asked for it. That is no failure of the store, and none to tell those who go on
// waiting of.
func TestWaitThatEndsAmidAQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := idempotency.NewMemory(nil)
		_, err := memory.Claim(t.Context(), []idempotency.Request{{Key: testKey("a"), Lease: time.Minute}})
		require.NoError(t, err)
		guard := newGuard(t, &slowToSay{Store: memory}, nil)
		ctx, hangUp := context.WithTimeout(t.Context(), time.Second)
		defer hangUp()
		_, err = doInt(ctx, guard, "a", func(context.Context) (int, error) { panic("must not run") })
		require.ErrorIs(t, err, idempotency.ErrInFlight)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// The leader gives up before the others: another leads, and they get the result.
func TestAnotherLeadsWhenTheLeaderLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := idempotency.NewMemory(nil)
		records, err := store.Claim(t.Context(), []idempotency.Request{{Key: testKey("a"), Lease: time.Minute}})
		require.NoError(t, err)
		guard := newGuard(t, store, nil)
		var wg sync.WaitGroup
		var replays atomic.Int32
		for i := range 10 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*500*time.Millisecond)
				defer cancel()
				result, err := doInt(ctx, guard, "a", func(context.Context) (int, error) { panic("must not run") })
				if err == nil {
					require.Equal(t, idempotency.Result[int]{Value: 5, Replayed: true}, result)
					replays.Add(1)
				}
			})
			synctest.Wait()
		}
		time.Sleep(2200 * time.Millisecond)
		_, err = store.Complete(t.Context(), []idempotency.Completion{
			{Key: testKey("a"), Token: records[0].Token, Response: []byte("5"), TTL: time.Hour},
		})
		require.NoError(t, err)
		wg.Wait()
		require.GreaterOrEqual(t, replays.Load(), int32(5)) // those with 3 s or more
	})
}

// The payload that took the key meanwhile is another: those who wait are told, and wait no longer.
func TestWaiterMeetsAnotherPayload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := idempotency.NewMemory(nil)
		records, err := store.Claim(t.Context(), []idempotency.Request{{Key: testKey("a"), Lease: time.Minute}})
		require.NoError(t, err)
		guard := newGuard(t, store, nil)
		start := time.Now()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := doInt(t.Context(), guard, "a", func(context.Context) (int, error) { panic("must not run") })
				require.ErrorIs(t, err, idempotency.ErrMismatch)
				require.Less(t, time.Since(start), time.Second)
			})
		}
		synctest.Wait()
		_, err = store.Release(t.Context(), []idempotency.Claim{{Key: testKey("a"), Token: records[0].Token}})
		require.NoError(t, err)
		_, err = store.Claim(t.Context(), []idempotency.Request{
			{Key: testKey("a"), Lease: time.Minute, Fingerprint: idempotency.FingerprintOf([]byte("other"))},
		})
		require.NoError(t, err)
		wg.Wait()
	})
}

// The store fails while they wait: they go on, and only if it stays away do they hear of it.
func TestWaitOutlastsARestartOfTheStore(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]bool{"comes back": true, "stays away": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				memory := idempotency.NewMemory(nil)
				records, err := memory.Claim(t.Context(), []idempotency.Request{{Key: testKey("a"), Lease: time.Minute}})
				require.NoError(t, err)
				store := &faultyStore{Store: memory}
				guard := newGuard(t, store, nil)
				time.AfterFunc(time.Second, func() { store.fail(faults{claim: errDown}) })
				if back {
					time.AfterFunc(5*time.Second, func() {
						store.fail(faults{})
						_, _ = memory.Complete(t.Context(), []idempotency.Completion{
							{Key: testKey("a"), Token: records[0].Token, Response: []byte("5"), TTL: time.Hour},
						})
					})
				}
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						result, err := doInt(t.Context(), guard, "a", func(context.Context) (int, error) { panic("must not run") })
						if back {
							require.NoError(t, err)
							require.Equal(t, idempotency.Result[int]{Value: 5, Replayed: true}, result)
							return
						}
						require.ErrorIs(t, err, errDown)
					})
				}
				wg.Wait()
			})
		})
	}
}

// A permanent failure, and a result that is not to be kept, reach those who wait as they reach those who come later.
func TestWaitersGetWhateverIsReplayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard := newGuard(t, idempotency.NewMemory(nil), &idempotency.Options{MaxResponse: 100})
		declined := idempotency.Permanent(errors.New("card declined"))
		for key, work := range map[string]func() (string, error){
			"declined": func() (string, error) { return "", declined },
			"large":    func() (string, error) { return fmt.Sprintf("%0200d", 0), nil },
		} {
			var wg sync.WaitGroup
			var replays atomic.Int32
			for range 10 {
				wg.Go(func() {
					result, err := idempotency.Do(t.Context(), guard, testKey(key), idempotency.Fingerprint{},
						func(context.Context, *idempotency.Run) (string, error) { time.Sleep(time.Second); return work() })
					require.Error(t, err)
					if result.Replayed {
						replays.Add(1)
					}
					if key == "declined" {
						require.EqualError(t, err, "card declined")
						permanent, ok := errors.AsType[*idempotency.PermanentError](err)
						require.True(t, ok)
						require.Equal(t, result.Replayed, permanent.Replayed)
						return
					}
					large, ok := errors.AsType[*idempotency.TooLargeError](err)
					require.True(t, ok)
					require.Equal(t, &idempotency.TooLargeError{Size: 200, Limit: 100}, large)
				})
			}
			wg.Wait()
			require.EqualValues(t, 9, replays.Load())
		}
	})
}

// Work that asks for its own key must not wait for itself for ever.
func TestWorkThatAsksForItsOwnKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard := newGuard(t, idempotency.NewMemory(nil), nil)
		_, err := doInt(t.Context(), guard, "a", func(ctx context.Context) (int, error) {
			_, err := doInt(ctx, guard, "a", func(context.Context) (int, error) { panic("must not run") })
			require.ErrorIs(t, err, idempotency.ErrInFlight)
			return 1, nil
		})
		require.NoError(t, err)
	})
}
