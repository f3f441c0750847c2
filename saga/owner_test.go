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
		c := &callCtx{run: r, part: &part{name: "charge"}, until: r.now() + time.Hour}
		r.enter(c)
		require.NoError(t, c.Err())
		time.Sleep(50 * time.Second)
		require.False(t, r.holds())
		require.ErrorIs(t, context.Cause(c.real()), ErrFenced)
		next := &callCtx{run: r, part: c.part, until: c.until}
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

// stern is a store that takes no checkpoint.
type stern struct {
	*restive
	says  error
	calls int
	then  func()
}

func (s *stern) Save(_ context.Context, writes []*Write) error {
	s.calls++
	s.then()
	writes[0].Err = s.says
	return nil
}

// A checkpoint that the store will never take is not repeated: its saga goes to the next
// owner, when the lease is over.
func TestACheckpointThatIsRefusedIsNotRepeated(t *testing.T) {
	t.Parallel()
	store := &stern{restive: newStore(), says: &InputError{Field: "data", Reason: "is not JSON"}}
	r := owned(t, store.restive, 1)
	r.e.store = store
	store.then = func() {
		if store.calls > 1 {
			r.e.cancel() // which ends the repetition
		}
	}
	require.False(t, r.save())
	require.Equal(t, 1, store.calls)
}

// One branch is done, and its checkpoint says that the saga is another's: the other
// branch, which is under way, is told.
func TestAFencedCheckpointEndsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	r := owned(t, newStore(), 0) // the store has token 1
	c := &callCtx{run: r, part: &part{name: "charge"}, until: r.now() + time.Hour}
	r.enter(c)
	require.False(t, r.branchDone(nil))
	require.ErrorIs(t, context.Cause(c.real()), ErrFenced)
}

// A signal comes while its saga is about to be released to wait for it: the store makes
// it due, and the engine looks at once.
func TestASignalThatComesBeforeTheReleaseIsHeard(t *testing.T) {
	t.Parallel()
	store := newStore()
	r := owned(t, store, 1)
	r.e.running.Store(true)
	require.NoError(t, store.Deliver(t.Context(), "s", "first", []byte("1")))
	require.True(t, r.save())
	require.Len(t, r.rec.Signals, 1)
	require.Empty(t, r.e.nudged, "it goes on here")
	require.NoError(t, store.Deliver(t.Context(), "s", "second", []byte("1")))
	r.release(-1)
	require.Len(t, r.e.nudged, 1)
}

// What is known of already wakes nobody.
func TestASagaThatIsReleasedSleeps(t *testing.T) {
	t.Parallel()
	store := newStore()
	r := owned(t, store, 1)
	r.e.running.Store(true)
	require.NoError(t, store.Deliver(t.Context(), "s", "first", []byte("1")))
	require.True(t, r.save())
	r.release(-1)
	require.Empty(t, r.e.nudged)
}

// An engine that is full takes nothing up that it would only have to release again.
func TestAFullEngineClaimsNothing(t *testing.T) {
	t.Parallel()
	store := newStore()
	r := owned(t, store, 1)
	e := r.e
	e.names, e.o.MaxConcurrent = []string{"d"}, 1
	e.running.Store(true)
	rec := &Record{ID: "free", Definition: "d", Status: Running}
	require.NoError(t, store.Create(t.Context(), []*Create{{Record: rec}}))
	require.True(t, e.hold(r))
	require.Zero(t, e.claim(t.Context(), Claim{IDs: []string{"free"}, Limit: 1}))
	got, err := e.find(t.Context(), "free")
	require.NoError(t, err)
	require.Zero(t, got.Token)
	e.drop(r)
}

// A child was removed by hand: its parent starts another, and does not wait for ever.
func TestAChildThatWasRemovedIsStartedAgain(t *testing.T) { withoutChild(t, false, Completed) }

// Nor does it where it is cancelled.
func TestAChildThatWasRemovedDoesNotHoldACancellation(t *testing.T) {
	withoutChild(t, true, Compensated)
}

func withoutChild(t *testing.T, cancelled bool, want Status) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type data struct{}
		none := func(context.Context, *data) error { return nil }
		store := NewMemory(nil)
		inner := MustDefine("inner", 1, Sleep("pause", func(*data) time.Duration { return time.Hour }), Pivot("pay", none))
		def := MustDefine("order", 1, Child("inner", inner, func(*data) (data, error) { return data{}, nil },
			func(*data, Result[data]) error { return nil }).Undo(none))
		e, err := New(store, &Options{Definitions: []Registered{def, inner}})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- e.Run(ctx) }()
		synctest.Wait()
		h, err := def.Start(ctx, e, "o1", data{}, nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		store.lock()
		live := store.shard("o1/inner").live
		require.Contains(t, live, "o1/inner")
		delete(live, "o1/inner")
		store.unlock()
		if cancelled {
			require.NoError(t, e.Cancel(ctx, "o1"))
		}
		late, stop := context.WithTimeout(ctx, 3*time.Hour)
		defer stop()
		got, err := h.Wait(late)
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, err)
		require.Equal(t, want, got.Status)
	})
}
