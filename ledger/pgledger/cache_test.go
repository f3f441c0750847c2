package pgledger

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

// left is what a commit may have left of the accounts of a turn.
func left(ids ...string) map[ledger.AccountID]*ledger.State {
	states := map[ledger.AccountID]*ledger.State{}
	for _, id := range ids {
		states[ledger.AccountID(id)] = &ledger.State{ID: ledger.AccountID(id)}
	}
	return states
}

func TestTurnsComeInTheOrderOfAsking(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCache(10)
		first, err := c.take(t.Context(), []string{"a", "b"})
		require.NoError(t, err)
		var order []int
		for i := range 5 {
			go func() {
				mine, err := c.take(t.Context(), []string{"b"})
				if err == nil {
					order = append(order, i)
					mine.end(left("b"), nil)
				}
			}()
			synctest.Wait()
		}
		other, err := c.take(t.Context(), []string{"c"})
		require.NoError(t, err, "nobody has c")
		other.end(nil, nil)
		first.end(left("a", "b"), nil)
		synctest.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4}, order)
		require.Len(t, c.accounts, 2, "c is not known to exist")
	})
}

func TestHangingUpFreesWhatWasTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCache(10)
		holder, err := c.take(t.Context(), []string{"b"})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.take(ctx, []string{"a", "b", "c"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		for _, id := range []string{"a", "c"} {
			free, err := c.take(t.Context(), []string{id})
			require.NoError(t, err)
			free.end(nil, nil)
		}
		holder.end(nil, nil)
		require.Empty(t, c.accounts)
	})
}

// A turn that comes at the very moment its owner hangs up must go on to the next.
func TestTurnsAreNeitherLostNorGivenTwice(t *testing.T) {
	t.Parallel()
	const callers, rounds, accounts = 16, 300, 6
	c := newCache(accounts)
	turns := make([]int, accounts) // each is for who has the account: the race detector watches
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range rounds {
				var ids []string
				for n := range accounts {
					if rand.IntN(2) == 0 {
						ids = append(ids, strconv.Itoa(n))
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(200*time.Microsecond))
				mine, err := c.take(ctx, ids)
				cancel()
				if err != nil {
					continue
				}
				for _, id := range ids {
					turns[id[0]-'0']++
				}
				mine.end(left(ids...), nil)
			}
		})
	}
	all.Wait()
	require.NotContains(t, turns, 0)
	everything, err := c.take(t.Context(), []string{"0", "1", "2", "3", "4", "5"})
	require.NoError(t, err, "no turn was lost")
	everything.end(nil, nil)
	require.Empty(t, c.accounts)
}

func TestCacheKeepsWithinItsLimit(t *testing.T) {
	t.Parallel()
	c := newCache(100)
	for n := range 1000 {
		ids := []string{fmt.Sprintf("%04d", n), fmt.Sprintf("%04d", n+1)}
		mine, err := c.take(t.Context(), ids)
		require.NoError(t, err)
		mine.end(left(ids...), nil)
		require.LessOrEqual(t, len(c.accounts), 100)
	}
	for id, a := range c.accounts {
		require.Equal(t, id, a.state.ID)
		require.False(t, a.taken)
		require.Empty(t, a.waiting)
	}
}
