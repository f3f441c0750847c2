package saga

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A lease is renewed by the beat and by its own run at once. The end that was told last
// is not taken back by who has read the clock before, and was held up.
func TestARenewalThatIsHeldUpDoesNotShortenALease(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64 // seconds
	var heldUp func()
	now := func() time.Time {
		at := time.Unix(clock.Load(), 0)
		if f := heldUp; f != nil {
			heldUp = nil
			f()
		}
		return at
	}
	m := NewMemory(&MemoryOptions{Now: now})
	rec := &Record{ID: "1", Definition: "d", Owner: "me", Token: 1}
	require.NoError(t, m.Create(t.Context(), []*Create{{Record: rec, Lease: 10 * time.Second}}))
	renew := func() {
		l := &Lease{ID: "1", Token: 1}
		if err := m.Renew(t.Context(), []*Lease{l}, 10*time.Second); err != nil || l.Err != nil {
			t.Errorf("renew: %v, %v", err, l.Err)
		}
	}
	var other sync.WaitGroup
	heldUp = func() {
		clock.Store(5)
		done := make(chan struct{})
		other.Go(func() { renew(); close(done) })
		select {
		case <-done:
		case <-time.After(50 * time.Millisecond): // it waits for us
		}
	}
	renew()
	other.Wait()
	clock.Store(12)
	got, err := m.Claim(t.Context(), Claim{Owner: "you", Lease: time.Second, Definitions: []string{"d"}, Limit: 1})
	require.NoError(t, err)
	require.Empty(t, got, "it was renewed at 5, for 10")
}
