package locktest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
)

const (
	racers = 64
	turns  = 3 // of each
)

// oneHolderAtATime: 64 goroutines add to a plain variable, which the race detector watches, and the tokens they get only grow.
func oneHolderAtATime(s *suite) { s.race([]Locker{s.waiting()}) }

// lockersShareNames: what several lockers give away is one lock.
func lockersShareNames(s *suite) { s.race([]Locker{s.waiting(), s.waiting(), s.waiting()}) }

func (s *suite) race(lockers []Locker) {
	s.Helper()
	var wg sync.WaitGroup
	var last idempotency.Token
	sum := 0
	errs := make([]error, racers)
	for n := range racers {
		wg.Go(func() {
			for range turns {
				err := lockers[n%len(lockers)].Do(s.ctx, s.scope, "a", func(_ context.Context, held lock.Held) error {
					before := sum
					runtime.Gosched()
					sum = before + 1
					if held.Token <= last {
						return fmt.Errorf("token %d after %d", held.Token, last)
					}
					last = held.Token
					return nil
				})
				errs[n] = errors.Join(errs[n], err)
			}
		})
	}
	wg.Wait()
	s.ok(errors.Join(errs...))
	if sum != racers*turns {
		s.Fatalf("%d turns add up to %d", racers*turns, sum)
	}
}

func otherNamesAreFree(s *suite) {
	l := s.refusing()
	s.while(l, "a", func(context.Context, lock.Held) {
		s.free(l, "b")
		s.free(l, strings.Repeat("n", 255))
		s.ok(l.Do(s.ctx, s.scope+"2", "a", func(context.Context, lock.Held) error { return nil }))
	})
}

func takenNameIsRefusedAtOnce(s *suite) {
	l, other := s.refusing(), s.refusing()
	s.while(l, "a", func(context.Context, lock.Held) {
		for _, l := range []Locker{l, other} {
			err := l.Do(s.ctx, s.scope, "a", s.never)
			s.is(err, lock.ErrHeld)
			held, ok := errors.AsType[*lock.HeldError](err)
			if !ok || held.Name != "a" || held.RetryAfter < 0 || held.RetryAfter > patience {
				s.Fatalf("%#v does not say who is held and for how long", err)
			}
		}
	})
	s.free(other, "a")
}

func waitRunsOut(s *suite) {
	l := s.newLocker(s.TB, lock.Options{Lease: patience, Wait: 50 * time.Millisecond})
	s.while(l, "a", func(context.Context, lock.Held) {
		begin := time.Now()
		s.is(l.Do(s.ctx, s.scope, "a", s.never), lock.ErrHeld)
		if waited := time.Since(begin); waited < 50*time.Millisecond || waited > patience/2 {
			s.Fatalf("waited %v of 50ms", waited)
		}
	})
}

func waiterGetsTheLock(s *suite) {
	holder, waiter := s.waiting(), s.waiting()
	got := make(chan idempotency.Token, 1)
	s.while(holder, "a", func(_ context.Context, held lock.Held) {
		go func() {
			err := waiter.Do(s.ctx, s.scope, "a", func(_ context.Context, held lock.Held) error {
				got <- held.Token
				return nil
			})
			if err != nil {
				s.Error(err)
				got <- 0
			}
		}()
		select {
		case <-got:
			s.Fatal("two hold the lock")
		case <-time.After(100 * time.Millisecond): // it waits now, or will: either way it must come after
		}
		got <- held.Token
	})
	first := <-got
	second := <-got
	if second <= first {
		s.Fatalf("token %d after %d", second, first)
	}
}

// waiterMayHangUp: whoever leaves is told why, and does not get the lock later.
func waiterMayHangUp(s *suite) {
	l, other := s.waiting(), s.waiting()
	gone := errors.New("client hung up")
	s.while(l, "a", func(context.Context, lock.Held) {
		for _, l := range []Locker{l, other} {
			ctx, cancel := context.WithCancelCause(s.ctx)
			time.AfterFunc(50*time.Millisecond, func() { cancel(gone) })
			err := l.Do(ctx, s.scope, "a", s.never)
			if !errors.Is(err, gone) && !errors.Is(err, context.Canceled) { // a driver may know the one or the other
				s.Fatalf("got %v, want that the client hung up", err)
			}
		}
	})
	s.free(s.refusing(), "a")
}

// holderMayHangUp: the work is told, and the lock is free when it returns, not a lease later.
func holderMayHangUp(s *suite) {
	l := s.waiting()
	gone := errors.New("client hung up")
	ctx, cancel := context.WithCancelCause(s.ctx)
	err := l.Do(ctx, s.scope, "a", func(ctx context.Context, _ lock.Held) error {
		cancel(gone)
		<-ctx.Done()
		return context.Cause(ctx)
	})
	s.is(err, gone)
	if errors.Is(err, lock.ErrLost) {
		s.Fatalf("the lock was not lost: %v", err)
	}
	s.free(s.refusing(), "a")
}

// longWorkIsNotDisturbed: the lease is extended for as long as the work takes.
func longWorkIsNotDisturbed(s *suite) {
	const lease = 2 * time.Second
	l, other := s.newLocker(s.TB, lock.Options{Lease: lease}), s.refusing()
	s.while(l, "a", func(ctx context.Context, _ lock.Held) {
		over := time.After(2*lease + lease/2)
		for {
			select {
			case <-ctx.Done():
				s.Fatalf("the work was ended: %v", context.Cause(ctx))
			case <-over:
				return
			case <-time.After(lease / 10):
				s.is(other.Do(s.ctx, s.scope, "a", s.never), lock.ErrHeld)
			}
		}
	})
	s.free(other, "a")
}

// errorsComeBackAsTheyAre: also one that idempotency.Do would keep and replay.
func errorsComeBackAsTheyAre(s *suite) {
	l := s.refusing()
	var last idempotency.Token
	for _, want := range []error{errors.New("no"), idempotency.Permanent(errors.New("never")), context.Canceled} {
		err := l.Do(s.ctx, s.scope, "a", func(context.Context, lock.Held) error { return want })
		if err != want { //nolint:errorlint // as it is
			s.Fatalf("got %v, want %v", err, want)
		}
		held := s.free(l, "a")
		if held.Token <= last {
			s.Fatalf("token %d after %d", held.Token, last)
		}
		last = held.Token
	}
}

func panicFrees(s *suite) {
	l := s.refusing()
	func() {
		defer func() {
			if got := recover(); got != "boom" {
				s.Fatalf("recovered %v", got)
			}
		}()
		_ = l.Do(s.ctx, s.scope, "a", func(context.Context, lock.Held) error { panic("boom") })
	}()
	s.free(l, "a")
}

func goexitFrees(s *suite) {
	l := s.refusing()
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = l.Do(s.ctx, s.scope, "a", func(context.Context, lock.Held) error { runtime.Goexit(); return nil })
	})
	wg.Wait()
	s.free(l, "a")
}

func invalidNamesAreRefused(s *suite) {
	l := s.refusing()
	long := strings.Repeat("n", 256)
	for _, c := range []struct{ scope, name string }{{"", "a"}, {s.scope, ""}, {long, "a"}, {s.scope, long}} {
		err := l.Do(s.ctx, c.scope, c.name, s.never)
		if _, ok := errors.AsType[*idempotency.InvalidError](err); !ok {
			s.Fatalf("scope of %d bytes, name of %d: %v", len(c.scope), len(c.name), err)
		}
	}
	s.ok(l.Do(s.ctx, s.scope, "\x00\xff'; --", func(context.Context, lock.Held) error { return nil })) // any bytes
}

func endedContextGetsNoLock(s *suite) {
	l := s.waiting()
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	s.is(l.Do(ctx, s.scope, "a", s.never), context.Canceled)
	s.free(s.refusing(), "a")
}
