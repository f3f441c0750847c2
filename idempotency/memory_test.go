package idempotency_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/idemtest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	idemtest.Run(t, func(testing.TB) idempotency.Store { return idempotency.NewMemory(nil) })
}

var (
	_ idempotency.Store   = (*idempotency.Memory)(nil)
	_ idempotency.Sweeper = (*idempotency.Memory)(nil)
)

func testKey(value string) idempotency.Key {
	return idempotency.Key{Scope: "tenant", Op: "pay", Value: value}
}

func TestMemoryForgetsWhatIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := idempotency.NewMemory(nil)
		claim := func(value string) idempotency.Record {
			records, err := store.Claim(t.Context(), []idempotency.Request{{Key: testKey(value), Lease: time.Second}})
			require.NoError(t, err)
			return records[0]
		}
		for i := range 100 {
			r := claim(fmt.Sprint("abandoned", i))
			require.Equal(t, idempotency.Won, r.Outcome)
			r = claim(fmt.Sprint("completed", i))
			_, err := store.Complete(t.Context(), []idempotency.Completion{
				{Key: testKey(fmt.Sprint("completed", i)), Token: r.Token, TTL: time.Minute},
			})
			require.NoError(t, err)
		}
		swept := func(limit, want int) {
			n, err := store.Sweep(t.Context(), limit)
			require.NoError(t, err)
			require.Equal(t, want, n)
		}
		swept(1000, 0)
		time.Sleep(time.Minute - time.Nanosecond)
		swept(1000, 0)
		time.Sleep(time.Minute / 8) // the completed have been over for an eighth of their TTL, the abandoned are still remembered
		swept(30, 30)
		swept(1000, 70)
		time.Sleep(time.Second + idempotency.AbandonedFor - time.Minute - time.Minute/8 + time.Nanosecond)
		swept(1000, 100)
		swept(1000, 0)

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := store.Sweep(ended, 1)
		require.ErrorIs(t, err, context.Canceled)
	})
}

// More than a sweep takes from a part of the store at a time, of claims that were abandoned and of results: it takes what it is told to, or all.
func TestMemorySweepsAsMuchAsItIsTold(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := idempotency.NewMemory(&idempotency.MemoryOptions{Now: func() time.Time { return now }})
	const keys = 40_000
	for i := range keys {
		r, err := store.ClaimOne(t.Context(), idempotency.Request{Key: testKey(strconv.Itoa(i)), Lease: time.Second})
		require.NoError(t, err)
		if i%2 == 0 {
			_, err = store.Complete(t.Context(), []idempotency.Completion{{Key: testKey(strconv.Itoa(i)), Token: r.Token, TTL: time.Second}})
			require.NoError(t, err)
		}
	}
	now = now.Add(2 * time.Hour)
	for _, c := range [][2]int{{1, 1}, {10, 10}, {1000, 1000}, {keys, keys - 1011}, {keys, 0}} {
		n, err := store.Sweep(t.Context(), c[0])
		require.NoError(t, err)
		require.Equal(t, c[1], n)
	}
}

// Claims alone must keep the store from growing: nobody has to call Sweep.
func TestMemoryDoesNotGrowWithoutSweep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := idempotency.NewMemory(nil)
		for i := range 20_000 {
			key := testKey(fmt.Sprint(i))
			records, err := store.Claim(t.Context(), []idempotency.Request{{Key: key, Lease: time.Second}})
			require.NoError(t, err)
			_, err = store.Complete(t.Context(), []idempotency.Completion{{Key: key, Token: records[0].Token, TTL: time.Second}})
			require.NoError(t, err)
			time.Sleep(10 * time.Millisecond) // 100 are live at a time
		}
		time.Sleep(time.Second)
		left, err := store.Sweep(t.Context(), 1_000_000)
		require.NoError(t, err)
		require.Less(t, left, 500)
	})
}

// A fence outside the process outlives it: tokens of a new store must not start below those of the last one.
func TestMemoryTokensOutgrowARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var last idempotency.Token
		for range 3 {
			records, err := idempotency.NewMemory(nil).Claim(t.Context(),
				[]idempotency.Request{{Key: testKey("a"), Lease: time.Second}})
			require.NoError(t, err)
			require.Greater(t, records[0].Token, last)
			last = records[0].Token
			time.Sleep(time.Millisecond)
		}
	})
}

// A clock that begins with the zero time: nothing could be completed, and each result was reported as not recorded.
func TestMemoryWhoseClockBeginsBefore1970(t *testing.T) {
	t.Parallel()
	guard := newGuard(t, idempotency.NewMemory(&idempotency.MemoryOptions{Now: func() time.Time { return time.Time{} }}), nil)
	for _, replayed := range []bool{false, true} {
		result, err := idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
			func(context.Context, *idempotency.Run) (int, error) { return 1, nil })
		require.NoError(t, err)
		require.Equal(t, replayed, result.Replayed)
	}
}

// Tokens begin with the store's own clock, and options without one are none.
func TestMemoryTokensBeginWithItsClock(t *testing.T) {
	t.Parallel()
	start := time.Date(2222, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, o := range map[int64]*idempotency.MemoryOptions{
		start.UnixMicro():      {Now: func() time.Time { return start }},
		time.Now().UnixMicro(): {},
	} {
		r, err := idempotency.NewMemory(o).ClaimOne(t.Context(), idempotency.Request{Key: testKey("a"), Lease: time.Second})
		require.NoError(t, err)
		require.InDelta(t, want, int64(r.Token), 60e6)
	}
}

// Keys that are used again as soon as their results are over, whose bytes are not yet gone: the first result is not in the way of the second.
func TestMemoryKeysAreUsedAgain(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := idempotency.NewMemory(&idempotency.MemoryOptions{Now: func() time.Time { return now }})
	const keys = 5000
	claim := func(i int) idempotency.Record {
		r, err := store.ClaimOne(t.Context(), idempotency.Request{Key: testKey(strconv.Itoa(i)), Lease: time.Second})
		require.NoError(t, err)
		return r
	}
	for round := range 2 {
		for i := range keys {
			r := claim(i)
			require.Equal(t, idempotency.Won, r.Outcome)
			_, err := store.Complete(t.Context(), []idempotency.Completion{{
				Key: testKey(strconv.Itoa(i)), Token: r.Token, Status: int32(round), TTL: time.Hour,
			}})
			require.NoError(t, err)
		}
		for i := range keys {
			r := claim(i)
			require.Equal(t, idempotency.Completed, r.Outcome)
			require.EqualValues(t, round, r.Status)
		}
		now = now.Add(time.Hour)
	}
}

// The trap: a record ends at the very time at which the store was made, by a clock that was set back, and is taken for one that is gone.
func TestMemoryWhoseClockIsSetBackForgetsAll(t *testing.T) {
	t.Parallel()
	start := time.Now()
	now := start
	store := idempotency.NewMemory(&idempotency.MemoryOptions{Now: func() time.Time { return now }})
	claim := func() idempotency.Record {
		r, err := store.ClaimOne(t.Context(), idempotency.Request{Key: testKey("a"), Lease: time.Second})
		require.NoError(t, err)
		require.Equal(t, idempotency.Won, r.Outcome)
		return r
	}
	now = start.Add(-time.Hour)
	_, err := store.Complete(t.Context(), []idempotency.Completion{{Key: testKey("a"), Token: claim().Token, TTL: time.Hour}})
	require.NoError(t, err)
	now = start.Add(time.Hour)
	n, err := store.Sweep(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	claim()
}
