package lock_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
)

// cut is a store whose connection can be lost, and whose clock can be set.
type cut struct {
	*idempotency.Memory
	down  atomic.Bool
	ahead atomic.Int64
}

var errDown = errors.New("store is down")

func newCut() *cut {
	c := &cut{}
	c.Memory = idempotency.NewMemory(&idempotency.MemoryOptions{Now: func() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }})
	return c
}

func (c *cut) ClaimOne(ctx context.Context, q idempotency.Request) (idempotency.Record, error) {
	if c.down.Load() {
		return idempotency.Record{}, errDown
	}
	return c.Memory.ClaimOne(ctx, q)
}

func (c *cut) Extend(ctx context.Context, e []idempotency.Extension) ([]error, error) {
	if c.down.Load() {
		return nil, errDown
	}
	return c.Memory.Extend(ctx, e)
}

func (c *cut) Release(ctx context.Context, r []idempotency.Claim) ([]error, error) {
	if c.down.Load() || ctx.Err() != nil {
		return nil, errDown
	}
	return c.Memory.Release(ctx, r)
}

// The store is gone for longer than the lease: the work is told in time, before anybody else can have the lock.
func TestLeaseThatCannotBeExtendedEndsTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newCut()
		l := locker(t, store, lock.Options{Lease: 30 * time.Second, Wait: -1})
		begin := time.Now()
		work := func(result error) func(context.Context, lock.Held) error {
			return func(ctx context.Context, _ lock.Held) error {
				store.down.Store(true)
				<-ctx.Done()
				require.ErrorIs(t, context.Cause(ctx), lock.ErrLost)
				require.ErrorIs(t, context.Cause(ctx), errDown)
				require.Less(t, time.Since(begin), 30*time.Second)
				return result
			}
		}
		mine := errors.New("half of it is done")
		err := l.Do(t.Context(), "s", "a", work(mine))
		require.ErrorIs(t, err, lock.ErrLost)
		require.ErrorIs(t, err, mine)
		store.down.Store(false)
		require.ErrorIs(t, l.Do(t.Context(), "s", "a", work(nil)), lock.ErrHeld) // its release did not arrive
		time.Sleep(30*time.Second - time.Since(begin))
		begin = time.Now()
		require.ErrorIs(t, l.Do(t.Context(), "s", "a", work(nil)), lock.ErrLost) // fn returned nil: it says so all the same
	})
}

// The client hangs up, the work goes on by a context of its own, and the lease ends meanwhile: Do says so.
func TestLossIsToldAfterAHangUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newCut()
		l := locker(t, store, lock.Options{Lease: 30 * time.Second, Wait: -1})
		for _, failure := range []error{nil, errors.New("half of it is done")} {
			client, hangUp := context.WithCancel(t.Context())
			err := l.Do(client, "s", "a", func(context.Context, lock.Held) error {
				hangUp()
				store.down.Store(true)
				time.Sleep(time.Minute)
				store.down.Store(false)
				return failure
			})
			require.ErrorIs(t, err, lock.ErrLost)
			require.ErrorIs(t, err, errDown)
			if failure != nil {
				require.ErrorIs(t, err, failure)
			}
		}
	})
}

// The store is gone for a part of the lease: nobody notices.
func TestStoreBackInTimeKeepsTheLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newCut()
		l := locker(t, store, lock.Options{Lease: 30 * time.Second, Wait: -1})
		require.NoError(t, l.Do(t.Context(), "s", "a", func(ctx context.Context, _ lock.Held) error {
			for range 5 {
				store.down.Store(true)
				time.Sleep(15 * time.Second)
				store.down.Store(false)
				time.Sleep(15 * time.Second)
				require.NoError(t, ctx.Err())
				require.ErrorIs(t, l.Do(ctx, "s", "a", never), lock.ErrHeld)
			}
			return nil
		}))
	})
}

// No answer, no lock.
func TestStoreDownIsClosed(t *testing.T) {
	t.Parallel()
	store := newCut()
	store.down.Store(true)
	err := locker(t, store, lock.Options{}).Do(t.Context(), "s", "a", never)
	require.ErrorIs(t, err, errDown)
	require.NotErrorIs(t, err, lock.ErrHeld)
}

// The store's clock is set back by half an hour while A holds the lock and is cut off: A's number must be below B's, and below that
// of C, who comes when the clock is right again.
func TestTokensGrowWhenTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newCut()
		store.ahead.Store(int64(30 * time.Minute))
		l := locker(t, store, lock.Options{Lease: 30 * time.Second, Wait: time.Hour})
		var tokens []idempotency.Token
		for range 3 {
			require.NoError(t, l.Do(t.Context(), "s", "a", func(_ context.Context, held lock.Held) error {
				tokens = append(tokens, held.Token)
				store.ahead.Add(-int64(30 * time.Minute))
				return nil
			}))
			require.IsIncreasing(t, append([]idempotency.Token{0}, tokens...))
		}
	})
}
