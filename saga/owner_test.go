package saga

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// restive is a store whose first renewals fail.
type restive struct {
	*Memory
	fail int
}

func (s *restive) Renew(ctx context.Context, leases []*Lease, d time.Duration) error {
	if s.fail--; s.fail >= 0 {
		return errors.New("the server restarts")
	}
	return s.Memory.Renew(ctx, leases, d)
}

// owned is the run of a saga that is in the store, claimed as often as its token says.
func owned(t *testing.T, store *restive, token int64) *run {
	t.Helper()
	e, err := New(store, &Options{Lease: time.Minute})
	require.NoError(t, err)
	rec := &Record{ID: "s", Definition: "d", Status: Running, Owner: "o", Token: 1}
	require.NoError(t, store.Create(t.Context(), []*Create{{Record: rec, Lease: time.Minute}}))
	r := newRun(e, nil)
	r.rec.ID, r.rec.Token = "s", token
	r.clock(time.Now(), time.Now(), time.Now())
	return r
}

func newStore() *restive { return &restive{Memory: NewMemory(nil)} }

// Before anything begins, an old lease is renewed, however often it must be asked for.
func TestAnOldLeaseIsRenewedFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		store.fail = 3
		r := owned(t, store, 1)
		time.Sleep(50 * time.Second)
		require.True(t, r.holds())
		require.Negative(t, store.fail)
		require.Less(t, time.Since(r.asked), time.Second)
		time.Sleep(30 * time.Second)
		claimed, err := store.Claim(t.Context(), Claim{Owner: "p", Lease: time.Minute, Limit: 1, Definitions: []string{"d"}})
		require.NoError(t, err)
		require.Empty(t, claimed)
	})
}

// The next owner has it: what is under way here ends, and nothing begins.
func TestALostSagaIsLetGoOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := owned(t, newStore(), 0) // the store has token 1
		c := &callCtx{run: r, part: &part{name: "charge"}, deadline: time.Now().Add(time.Hour)}
		r.enter(c)
		require.NoError(t, c.Err())
		time.Sleep(50 * time.Second)
		require.False(t, r.holds())
		require.ErrorIs(t, context.Cause(c.real()), ErrFenced)
		next := &callCtx{run: r, part: c.part, deadline: c.deadline}
		r.enter(next)
		require.Error(t, next.Err(), "begun on a saga that is lost")
		r.extended(time.Now())
		require.False(t, r.holds(), "however young the lease is")
	})
}

// Of two claims the newer counts, whichever comes to the saga first.
func TestOfTwoClaimsTheNewerCounts(t *testing.T) {
	t.Parallel()
	store := newStore()
	older := owned(t, store, 2)
	newer := newRun(older.e, nil)
	newer.rec.Token = 3
	newer.clock(time.Now(), time.Now(), time.Now())
	require.False(t, newer.yields(older))
	require.True(t, newer.holds())
	require.True(t, older.yields(newer))
	require.False(t, older.holds())
}
