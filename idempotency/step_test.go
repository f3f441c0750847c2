package idempotency_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

// journal is work of three steps that notes which have run.
type journal struct {
	ran   []string
	fails string // the step that fails
}

func (j *journal) step(ctx context.Context, run *idempotency.Run, name string) (string, error) {
	return idempotency.Step(ctx, run, name, func(context.Context) (string, error) {
		if j.fails == name {
			return "", errDown
		}
		j.ran = append(j.ran, name)
		return "result of " + name, nil
	})
}

func (j *journal) work(ctx context.Context, run *idempotency.Run) (string, error) {
	var results []string
	for _, name := range []string{"charge", "post", "receipt"} {
		result, err := j.step(ctx, run, name)
		if err != nil {
			return "", err
		}
		results = append(results, result)
	}
	return strings.Join(results, ", "), nil
}

const allSteps = "result of charge, result of post, result of receipt"

// The last step fails twice: the steps before it are not run again.
func TestStepsAreNotRepeated(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	j := &journal{fails: "receipt"}
	for range 2 {
		_, err := s.do(t.Context(), "a", j.work)
		require.ErrorIs(t, err, errDown)
	}
	j.fails = ""
	result, err := s.do(t.Context(), "a", j.work)
	require.NoError(t, err)
	require.Equal(t, idempotency.Result[string]{Value: allSteps}, result)
	require.Equal(t, []string{"charge", "post", "receipt"}, j.ran)
	result, err = s.do(t.Context(), "a", j.work)
	require.NoError(t, err)
	require.Equal(t, idempotency.Result[string]{Value: allSteps, Replayed: true}, result)
}

func TestStepsSurvivePanicGoexitAndTheLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShopWith(t, idempotency.Options{NoHeartbeat: true, Wait: -1})
		j := &journal{}
		require.Panics(t, func() {
			_, _ = s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
				_, err := j.step(ctx, run, "charge")
				require.NoError(t, err)
				panic("killed")
			})
		})
		// Asleep beyond its lease, with which its steps must not end; another owner runs to the end.
		_, err := s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
			_, err := j.step(ctx, run, "post")
			require.NoError(t, err)
			time.Sleep(11 * time.Second)
			_, err = j.step(ctx, run, "receipt") // nothing more is begun
			require.ErrorIs(t, err, idempotency.ErrLost)
			result, err := s.do(t.Context(), "a", j.work)
			require.NoError(t, err)
			require.Equal(t, allSteps, result.Value)
			return "", errors.New("late")
		})
		require.ErrorIs(t, err, idempotency.ErrLost)
		require.Equal(t, []string{"charge", "post", "receipt"}, j.ran)
	})
}

// A key whose steps have had effects is not free for another payload, for as long as they are kept.
func TestStepsHoldTheKeyToItsPayload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		j := &journal{fails: "post"}
		_, err := s.do(t.Context(), "a", j.work)
		require.ErrorIs(t, err, errDown)
		_, err = s.pay(t.Context(), "a", "corrected body", nil)
		require.ErrorIs(t, err, idempotency.ErrMismatch)
		time.Sleep(time.Hour) // the TTL
		_, err = s.pay(t.Context(), "a", "corrected body", nil)
		require.NoError(t, err)
	})
}

func TestStepRefusals(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	var kept *idempotency.Run
	never := func(context.Context) (string, error) { panic("must not run") }
	_, err := s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
		kept = run
		refused := func(name, reason string) {
			t.Helper()
			_, err := idempotency.Step(ctx, run, name, never)
			require.ErrorIs(t, err, idempotency.ErrInvalid)
			require.ErrorContains(t, err, reason)
		}
		refused("", "is empty")
		refused(strings.Repeat("x", 256), "256 bytes long")
		_, err := idempotency.Step(ctx, run, "outer", func(context.Context) (int, error) {
			refused("inner", `begins before the step "outer" has ended`)
			return 1, nil
		})
		require.NoError(t, err)
		refused("outer", "comes twice")
		_, err = idempotency.Step(ctx, run, strings.Repeat("x", 255), func(context.Context) (int, error) { return 1, nil })
		require.NoError(t, err)
		return "receipt", nil
	})
	require.NoError(t, err)
	_, err = idempotency.Step(t.Context(), kept, "late", never)
	require.ErrorContains(t, err, "comes after the work has returned")
}

// A step that fails may be tried again by the next run, not by this one.
// Whatever context the work gives it.
func TestStepDoesNotBeginWhenItsContextHasEnded(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	gone := errors.New("gone")
	_, err := s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
		ctx, leave := context.WithCancelCause(ctx)
		leave(gone)
		return idempotency.Step(ctx, run, "charge", func(context.Context) (string, error) { panic("charged") })
	})
	require.Equal(t, gone, err)
}

// The trap: the step has a context of its own, which the loss of the claim does not end: another may be charging by then.
func TestStepDoesNotBeginWhenTheClaimIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard := newGuard(t, idempotency.NewMemory(nil), &idempotency.Options{NoHeartbeat: true})
		own := context.WithoutCancel(t.Context())
		_, err := idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
			func(ctx context.Context, run *idempotency.Run) (string, error) {
				<-ctx.Done()
				return idempotency.Step(own, run, "charge", func(context.Context) (string, error) { panic("charged") })
			})
		require.ErrorIs(t, err, idempotency.ErrLost)
	})
}

func TestStepFailureIsNotRecorded(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for n := range 3 {
		_, err := s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
			return idempotency.Step(ctx, run, "charge", func(context.Context) (string, error) {
				if n < 2 {
					return "", errDown
				}
				return "charged", nil
			})
		})
		require.Equal(t, n < 2, errors.Is(err, errDown))
	}
}

// The step has had its effect and cannot be recorded: no further step begins, and the key is not freed before its lease
// ends.
func TestStepThatIsNotRecordedKeepsTheKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.store.fail(faults{extend: errDown})
		_, err := s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
			charge := func(context.Context) (string, error) { return "charged", nil }
			value, err := idempotency.Step(ctx, run, "charge", charge)
			require.ErrorIs(t, err, idempotency.ErrNotRecorded)
			require.ErrorIs(t, err, errDown)
			require.Equal(t, "charged", value)
			_, next := idempotency.Step(ctx, run, "post", charge)
			require.ErrorContains(t, next, "comes after a step that could not be recorded")
			return "", err
		})
		require.ErrorIs(t, err, idempotency.ErrNotRecorded)
		_, err = s.pay(t.Context(), "a", "body", nil)
		require.ErrorIs(t, err, idempotency.ErrInFlight)
		time.Sleep(10 * time.Second)
		_, err = s.pay(t.Context(), "a", "body", nil)
		require.NoError(t, err)
	})
}

// Work that panics because its step is not recorded has had the step's effect too.
func TestPanicAfterAStepThatIsNotRecordedKeepsTheKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		j := &journal{}
		s.store.fail(faults{extend: errDown})
		require.Panics(t, func() {
			_, _ = s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
				_, err := j.step(ctx, run, "charge")
				panic(err)
			})
		})
		s.store.fail(faults{})
		_, err := s.do(t.Context(), "a", j.work)
		require.ErrorIs(t, err, idempotency.ErrInFlight)
		require.Equal(t, []string{"charge"}, j.ran)
	})
}

// The store has recorded the step and then reports failure, again and again: the next run has it once.
func TestStepThatArrivedIsReplayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.store.fail(faults{extend: errDown, after: true})
		j := &journal{}
		_, err := s.do(t.Context(), "a", j.work)
		require.ErrorIs(t, err, idempotency.ErrNotRecorded)
		s.store.fail(faults{})
		time.Sleep(15 * time.Second) // the lease, which the reports of failure did not keep from growing
		result, err := s.do(t.Context(), "a", j.work)
		require.NoError(t, err)
		require.Equal(t, allSteps, result.Value)
		require.Equal(t, []string{"charge", "post", "receipt"}, j.ran)
	})
}

// The client hangs up while the step runs: its result is recorded all the same, and no further step begins.
func TestStepIsRecordedAfterTheClientHasHungUp(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	j := &journal{}
	ctx, hangUp := context.WithCancel(t.Context())
	_, err := s.do(ctx, "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
		_, err := idempotency.Step(ctx, run, "charge", func(context.Context) (string, error) {
			hangUp()
			j.ran = append(j.ran, "charge")
			return "result of charge", nil
		})
		require.NoError(t, err)
		return j.work(ctx, run)
	})
	require.Error(t, err)
	result, err := s.do(t.Context(), "a", j.work)
	require.NoError(t, err)
	require.Equal(t, allSteps, result.Value)
	require.Equal(t, []string{"charge", "post", "receipt"}, j.ran)
}

// The client hangs up while the step runs: what is detached goes on to the last one.
func TestDetachedStepsGoOnAfterTheClientHasHungUp(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	j := &journal{}
	client, hangUp := context.WithCancel(t.Context())
	result, err := s.do(client, "a", func(_ context.Context, run *idempotency.Run) (string, error) {
		hangUp()
		return j.work(run.Detached(), run)
	})
	require.NoError(t, err)
	require.Equal(t, allSteps, result.Value)
	require.Equal(t, []string{"charge", "post", "receipt"}, j.ran)
}

func TestStepOfAnyType(t *testing.T) {
	t.Parallel()
	type charge struct {
		ID     string
		Amount int
	}
	guard, err := idempotency.New(idempotency.NewMemory(nil), &idempotency.Options{MaxResponse: 100})
	require.NoError(t, err)
	for n := range 2 {
		_, err = idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
			func(ctx context.Context, run *idempotency.Run) (int, error) {
				c, err := idempotency.Step(ctx, run, "charge", func(context.Context) (charge, error) { return charge{"c-1", 80}, nil })
				require.NoError(t, err)
				require.Equal(t, charge{"c-1", 80}, c)
				raw, err := idempotency.Step(ctx, run, "raw", func(context.Context) ([]byte, error) { return []byte("\x00\xff"), nil })
				require.NoError(t, err)
				require.Equal(t, []byte("\x00\xff"), raw)
				_, err = idempotency.Step(ctx, run, "none", func(context.Context) (struct{}, error) { return struct{}{}, nil })
				require.NoError(t, err)
				if n == 1 {
					_, err := idempotency.Step(ctx, run, "large", func(context.Context) ([]byte, error) { return make([]byte, 101), nil })
					large, ok := errors.AsType[*idempotency.TooLargeError](err)
					require.True(t, ok)
					require.Equal(t, &idempotency.TooLargeError{Size: 101, Limit: 100}, large)
					require.ErrorIs(t, err, idempotency.ErrNotRecorded)
				}
				return 0, errDown
			})
		require.ErrorIs(t, err, errDown)
	}
}

func TestStepThatDoesNotDecode(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	j := &journal{fails: "post"}
	_, err := s.do(t.Context(), "a", j.work)
	require.ErrorIs(t, err, errDown)
	_, err = s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
		_, err := idempotency.Step(ctx, run, "charge", func(context.Context) (int, error) { panic("must not run") })
		return "", err
	})
	require.ErrorContains(t, err, `step "charge": idempotency: decode the stored result into int`)
}

// The result of a step cannot be kept. It has had its effect, and a later run hears so instead of having it again.
func TestStepWhoseResultCannotBeKept(t *testing.T) {
	t.Parallel()
	guard, err := idempotency.New(idempotency.NewMemory(nil), &idempotency.Options{MaxResponse: 10})
	require.NoError(t, err)
	for name, value := range map[string]any{"large": strings.Repeat("x", 20), "no JSON": make(chan int), "panics": badlyMarshalled{}} {
		charges := 0
		for n := range 3 {
			_, err := idempotency.Do(t.Context(), guard, testKey(name), idempotency.Fingerprint{},
				func(ctx context.Context, run *idempotency.Run) (int, error) {
					got, err := idempotency.Step(ctx, run, "charge", func(context.Context) (any, error) {
						charges++
						return value, nil
					})
					if n == 0 {
						require.Equal(t, value, got)
					} else {
						require.Nil(t, got)
					}
					return 0, err
				})
			require.ErrorIs(t, err, idempotency.ErrNotRecorded)
			_, tooLarge := errors.AsType[*idempotency.TooLargeError](err)
			require.Equal(t, name == "large", tooLarge)
		}
		require.Equal(t, 1, charges)
	}
}

// The trap: a result of 64 MiB is as large as any that a guard may allow. With its status it was a byte more than a store takes of a step, so
// that the step was not recorded, and run again.
func TestStepOfTheLargestSizeIsNotRunAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const largest = 64 << 20
		guard := newGuard(t, idempotency.NewMemory(nil), &idempotency.Options{MaxResponse: largest})
		for _, size := range []int{largest - 1, largest} {
			charges := 0
			for range 2 {
				_, err := idempotency.Do(t.Context(), guard, testKey(strconv.Itoa(size)), idempotency.Fingerprint{},
					func(ctx context.Context, run *idempotency.Run) (int, error) {
						_, err := idempotency.Step(ctx, run, "charge", func(context.Context) (string, error) {
							charges++
							return strings.Repeat("x", size), nil
						})
						return 0, errors.Join(err, errDown)
					})
				_, tooLarge := errors.AsType[*idempotency.TooLargeError](err)
				require.Equal(t, size == largest, tooLarge)
				time.Sleep(time.Minute) // the lease is over
			}
			require.Equal(t, 1, charges)
		}
	})
}

// The trap: the work returns while its step is still charging, as behind http.TimeoutHandler or a select on the context. That is no step
// without an effect: with the key freed, a repeat would charge beside it.
func TestWorkThatReturnsBeforeItsStepKeepsTheKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		var charges atomic.Int32
		charge := func(ctx context.Context, run *idempotency.Run) (string, error) {
			return idempotency.Step(ctx, run, "charge", func(context.Context) (string, error) {
				time.Sleep(time.Second)
				charges.Add(1)
				return "charged", nil
			})
		}
		_, err := s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
			go func() { _, _ = charge(ctx, run) }()
			synctest.Wait()
			return "", errDown
		})
		require.Equal(t, errDown, err)
		_, err = s.do(t.Context(), "a", charge)
		require.ErrorIs(t, err, idempotency.ErrInFlight)
		time.Sleep(20 * time.Second) // the lease, which the step has extended
		result, err := s.do(t.Context(), "a", charge)
		require.NoError(t, err)
		require.Equal(t, "charged", result.Value)
		require.EqualValues(t, 1, charges.Load())
	})
}

// Work that runs two steps at once is refused one of them, whatever the order.
func TestStepsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		_, err := s.do(t.Context(), "a", func(ctx context.Context, run *idempotency.Run) (string, error) {
			var wg sync.WaitGroup
			errs := make([]error, 2)
			for i := range errs {
				wg.Go(func() {
					_, errs[i] = idempotency.Step(ctx, run, string(rune('a'+i)), func(context.Context) (int, error) {
						time.Sleep(time.Second)
						return 1, nil
					})
				})
			}
			wg.Wait()
			require.Len(t, slices.DeleteFunc(errs, func(err error) bool { return err == nil }), 1)
			return "receipt", nil
		})
		require.NoError(t, err)
	})
}

func TestStepRefusesWhatIsNil(t *testing.T) {
	t.Parallel()
	guard, err := idempotency.New(idempotency.NewMemory(nil), nil)
	require.NoError(t, err)
	key := idempotency.Key{Scope: "s", Op: "o", Value: "v"}
	one := func(context.Context) (int, error) { return 1, nil }
	_, err = idempotency.Do(t.Context(), guard, key, idempotency.Fingerprint{}, func(ctx context.Context, run *idempotency.Run) (int, error) {
		_, err := idempotency.Step[int](ctx, run, "charge", nil)
		require.EqualError(t, err, `idempotency: step "charge" is nil`)
		none, _ := idempotency.RunFromContext(ctx) // of a request without a key
		_, err = idempotency.Step(ctx, none, "charge", one)
		require.ErrorIs(t, err, idempotency.ErrInvalid)
		require.ErrorContains(t, err, "run is nil")
		return idempotency.Step(ctx, run, "charge", one)
	})
	require.NoError(t, err)
}
