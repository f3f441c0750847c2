// Package locktest holds every locker to what package lock promises. One is tested by:
//
//	func TestLocker(t *testing.T) {
//		locktest.Run(t, func(t testing.TB, o lock.Options) locktest.Locker { return mylock.New(connect(t), o) })
//	}
//
// Run it with -race. Every test uses names of its own.
package locktest

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/safetill/safetill/idempotency/lock"
)

// Locker is what is tested: *lock.Locker over a store, and *pglock.Locker.
type Locker interface {
	Do(ctx context.Context, scope, name string, fn func(context.Context, lock.Held) error) error
}

// Run runs the suite. It takes some seconds, since leases must outlive their first length.
func Run(t *testing.T, newLocker func(testing.TB, lock.Options) Locker) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"OneHolderAtATime", oneHolderAtATime},
		{"LockersShareNames", lockersShareNames},
		{"OtherNamesAreFree", otherNamesAreFree},
		{"TakenNameIsRefusedAtOnce", takenNameIsRefusedAtOnce},
		{"WaitRunsOut", waitRunsOut},
		{"WaiterGetsTheLock", waiterGetsTheLock},
		{"WaiterMayHangUp", waiterMayHangUp},
		{"HolderMayHangUp", holderMayHangUp},
		{"LongWorkIsNotDisturbed", longWorkIsNotDisturbed},
		{"ErrorsComeBackAsTheyAre", errorsComeBackAsTheyAre},
		{"PanicFrees", panicFrees},
		{"GoexitFrees", goexitFrees},
		{"InvalidNamesAreRefused", invalidNamesAreRefused},
		{"EndedContextGetsNoLock", endedContextGetsNoLock},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a locker that hangs fails
			defer cancel()
			test.run(&suite{TB: t, ctx: ctx, newLocker: newLocker, scope: "locktest-" + rand.Text()})
		})
	}
}

// patience is more than any test waits on a slow machine, and a lease that does not end meanwhile.
const patience = time.Minute

// suite is one test and a scope that no other test has.
type suite struct {
	testing.TB
	ctx       context.Context
	newLocker func(testing.TB, lock.Options) Locker
	scope     string
}

func (s *suite) waiting() Locker {
	return s.newLocker(s.TB, lock.Options{Lease: patience, Wait: patience})
}

func (s *suite) refusing() Locker { return s.newLocker(s.TB, lock.Options{Lease: patience, Wait: -1}) }

// free fails unless the name is free now. It returns the holder.
func (s *suite) free(l Locker, name string) lock.Held {
	s.Helper()
	var got lock.Held
	s.ok(l.Do(s.ctx, s.scope, name, func(_ context.Context, held lock.Held) error {
		got = held
		return nil
	}))
	if got.Token <= 0 {
		s.Fatalf("held with token %d", got.Token)
	}
	return got
}

// while holds the name while f runs.
func (s *suite) while(l Locker, name string, f func(ctx context.Context, held lock.Held)) {
	s.Helper()
	s.ok(l.Do(s.ctx, s.scope, name, func(ctx context.Context, held lock.Held) error {
		f(ctx, held)
		return nil
	}))
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("unexpected: %v", err)
	}
}

func (s *suite) is(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("got error %v, want %v", err, want)
	}
}

// never is the work of one who must not get the lock.
func (s *suite) never(context.Context, lock.Held) error {
	s.Error("the work ran without the lock")
	return nil
}
