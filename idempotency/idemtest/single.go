package idemtest

import (
	"context"
	"errors"
	"time"

	"github.com/safetill/safetill/idempotency"
)

func replayAfterCompletion(s *suite) {
	key := s.key("a")
	token := s.won(key, "body", long)
	s.ok(s.complete(key, token, "receipt"))
	for range 3 {
		s.replayed(s.claimOne(key, "body", long), 201, []byte("receipt"))
	}
}

func inFlightSaysHowLong(s *suite) {
	key := s.key("a")
	s.won(key, "body", long)
	first := s.claimOne(key, "body", long)
	s.outcome(first, idempotency.InFlight)
	if first.Remaining <= 0 || first.Remaining > long {
		s.Fatalf("remaining %v of a lease of %v", first.Remaining, long)
	}
	for { // a repeat must not renew the lease
		again := s.claimOne(key, "body", long)
		s.outcome(again, idempotency.InFlight)
		if again.Remaining < first.Remaining {
			return
		}
		if again.Remaining > first.Remaining || s.ctx.Err() != nil {
			s.Fatalf("remaining went from %v to %v", first.Remaining, again.Remaining)
		}
	}
}

func otherPayloadIsMismatch(s *suite) {
	key := s.key("a")
	token := s.won(key, "body", long)
	s.outcome(s.claimOne(key, "other", long), idempotency.Mismatch)
	s.ok(s.complete(key, token, "receipt"))
	s.outcome(s.claimOne(key, "other", long), idempotency.Mismatch)
	s.replayed(s.claimOne(key, "body", long), 201, []byte("receipt"))
}

func releasedKeyIsFree(s *suite) {
	key := s.key("a")
	first := s.won(key, "body", long)
	s.ok(s.release(key, first))
	s.lost(s.release(key, first))
	s.lost(s.complete(key, first, "late"))
	s.lost(s.extend(key, first, long))
	second := s.won(key, "corrected body", long)
	s.ok(s.complete(key, second, "receipt"))
	s.lost(s.release(key, second)) // a completed key stays completed
	s.replayed(s.claimOne(key, "corrected body", long), 201, []byte("receipt"))
}

func completeTwiceKeepsTheFirst(s *suite) {
	key := s.key("a")
	token := s.won(key, "body", long)
	s.ok(s.complete(key, token, "first"))
	s.ok(s.complete(key, token, "second"))
	s.replayed(s.claimOne(key, "body", long), 201, []byte("first"))
}

// responseIsNotRetained: callers reuse their buffers.
func responseIsNotRetained(s *suite) {
	key := s.key("a")
	c := completion(key, s.won(key, "body", long), "receipt", long)
	items, err := s.store.Complete(s.ctx, []idempotency.Completion{c})
	s.ok(s.one(items, err))
	copy(c.Response, "scratch")
	s.replayed(s.claimOne(key, "body", long), 201, []byte("receipt"))
}

func wrongTokenIsLost(s *suite) {
	key := s.key("a")
	s.lost(s.complete(key, 1, "never claimed"))
	s.lost(s.release(key, 1))
	s.lost(s.extend(key, 1, long))
	token := s.won(key, "body", long)
	for _, wrong := range []idempotency.Token{1, token - 1, token + 1} {
		s.lost(s.complete(key, wrong, "forged"))
		s.lost(s.release(key, wrong))
		s.lost(s.extend(key, wrong, long))
	}
	s.outcome(s.claimOne(key, "body", long), idempotency.InFlight)
	s.ok(s.complete(key, token, "receipt"))
	s.lost(s.complete(key, token+1, "forged"))
	s.lost(s.extend(key, token, long))
	s.replayed(s.claimOne(key, "body", long), 201, []byte("receipt"))
}

func abandonedLeaseIsTakenOver(s *suite) {
	key := s.key("a")
	stale := s.won(key, "body", short)
	token := s.token(s.until(request(key, "body", long), idempotency.InFlight, idempotency.Won))
	if token <= stale {
		s.Fatalf("token %d after %d", token, stale)
	}
	s.lost(s.complete(key, stale, "stale"))
	s.lost(s.release(key, stale))
	s.lost(s.extend(key, stale, long))
	s.outcome(s.claimOne(key, "body", long), idempotency.InFlight)
	s.ok(s.complete(key, token, "receipt"))
	s.lost(s.complete(key, stale, "stale"))
	s.lost(s.release(key, stale))
	s.replayed(s.claimOne(key, "body", long), 201, []byte("receipt"))
}

// lateOwnerMayComplete: as long as nobody else has taken the key, what has happened can still be recorded.
func lateOwnerMayComplete(s *suite) {
	late, probe := s.key("late"), s.key("probe")
	records := s.claim(request(late, "body", short), request(probe, "body", short))
	// The lease of late, taken in the same call, is over when that of probe is.
	s.until(request(probe, "body", long), idempotency.InFlight, idempotency.Won)
	s.ok(s.complete(late, s.token(records[0]), "receipt"))
	s.replayed(s.claimOne(late, "body", long), 201, []byte("receipt"))
}

func extendedLeaseHolds(s *suite) {
	held, probe, back := s.key("held"), s.key("probe"), s.key("back")
	records := s.claim(request(held, "body", 5*short), request(probe, "body", 5*short), request(back, "body", 5*short))
	s.ok(s.extend(held, s.token(records[0]), long))
	s.until(request(probe, "body", long), idempotency.InFlight, idempotency.Won)
	again := s.claimOne(held, "body", long)
	s.outcome(again, idempotency.InFlight)
	if again.Remaining > long {
		s.Fatalf("remaining %v after an extension to %v", again.Remaining, long)
	}
	s.ok(s.extend(back, s.token(records[2]), long)) // over, but nobody has taken it
	s.outcome(s.claimOne(back, "body", long), idempotency.InFlight)
	s.ok(s.complete(held, records[0].Token, "receipt"))
}

func ttlRunsOut(s *suite) {
	key := s.key("a")
	token := s.won(key, "body", long)
	items, err := s.store.Complete(s.ctx, []idempotency.Completion{completion(key, token, "receipt", short)})
	s.ok(s.one(items, err))
	next := s.token(s.until(request(key, "body", long), idempotency.Completed, idempotency.Won))
	if next <= token {
		s.Fatalf("token %d after %d", next, token)
	}
	s.lost(s.complete(key, token, "stale"))
	s.outcome(s.claimOne(key, "body", long), idempotency.InFlight)
}

// claimOneIsAClaim: a store that has the short way goes the same way.
func claimOneIsAClaim(s *suite) {
	store, ok := s.store.(idempotency.Single)
	if !ok {
		s.Skip("the store is no Single")
	}
	one := func(q idempotency.Request) idempotency.Record {
		s.Helper()
		r, err := store.ClaimOne(s.ctx, q)
		s.ok(err)
		return r
	}
	key := s.key("a")
	token := s.token(one(request(key, "body", long)))
	if r := one(request(key, "body", long)); r.Outcome != idempotency.InFlight || r.Remaining <= 0 || r.Remaining > long {
		s.Fatalf("record %+v", r)
	}
	s.outcome(one(request(key, "other", long)), idempotency.Mismatch)
	s.ok(s.save(key, token, "charge", long, long))
	s.ok(s.release(key, token))
	r := one(request(key, "body", long))
	s.steps(r, "charge")
	s.ok(s.complete(key, r.Token, "receipt"))
	s.replayed(one(request(key, "body", long)), 201, []byte("receipt"))
	_, err := store.ClaimOne(s.ctx, request(idempotency.Key{}, "body", long))
	s.invalid(err, "scope")
	ended, cancel := context.WithCancel(s.ctx)
	cancel()
	if _, err := store.ClaimOne(ended, request(s.key("b"), "body", long)); !errors.Is(err, context.Canceled) {
		s.Fatalf("ClaimOne: %v", err)
	}
	s.won(s.key("b"), "body", long)
}

// sweepLeavesWhatMatters: a claim in flight, one whose owner is merely late, a result, and the steps of a key that is free.
func sweepLeavesWhatMatters(s *suite) {
	store, ok := s.store.(idempotency.Sweeper)
	if !ok {
		s.Skip("the store is no Sweeper")
	}
	flying, late, done, stepped, over := s.key("flying"), s.key("late"), s.key("done"), s.key("stepped"), s.key("over")
	records := s.claim(request(flying, "body", long), request(late, "body", short), request(done, "body", long),
		request(stepped, "body", long), request(over, "body", long))
	s.ok(s.complete(done, s.token(records[2]), "receipt"))
	s.ok(s.save(stepped, s.token(records[3]), "charge", long, long))
	s.ok(s.release(stepped, records[3].Token))
	items, err := s.store.Complete(s.ctx, []idempotency.Completion{completion(over, s.token(records[4]), "receipt", short)})
	s.ok(s.one(items, err))
	s.until(request(over, "body", long), idempotency.Completed, idempotency.Won) // so the lease of late is over too
	for n := 1; n > 0; {
		n, err = store.Sweep(s.ctx, 1000)
		s.ok(err)
	}
	s.outcome(s.claimOne(flying, "body", long), idempotency.InFlight)
	s.outcome(s.claimOne(over, "body", long), idempotency.InFlight)
	s.ok(s.complete(late, s.token(records[1]), "receipt"))
	s.replayed(s.claimOne(late, "body", long), 201, []byte("receipt"))
	s.replayed(s.claimOne(done, "body", long), 201, []byte("receipt"))
	s.wonSteps(stepped, "body", long, "charge")
}

func tokensOfAKeyGrow(s *suite) {
	key := s.key("a")
	last := idempotency.Token(0)
	for range 50 {
		token := s.won(key, "body", long)
		if token <= last {
			s.Fatalf("token %d after %d", token, last)
		}
		last = token
		s.ok(s.release(key, token))
	}
}

func endedContextIsAnError(s *suite) {
	key := s.key("a")
	token := s.won(key, "body", long)
	ended, cancel := context.WithCancel(s.ctx)
	cancel()
	if _, err := s.store.Claim(ended, []idempotency.Request{request(s.key("b"), "body", long)}); !errors.Is(err, context.Canceled) {
		s.Fatalf("Claim: %v", err)
	}
	if _, err := s.store.Complete(ended, []idempotency.Completion{completion(key, token, "x", long)}); !errors.Is(err, context.Canceled) {
		s.Fatalf("Complete: %v", err)
	}
	if _, err := s.store.Release(ended, []idempotency.Claim{{Key: key, Token: token}}); !errors.Is(err, context.Canceled) {
		s.Fatalf("Release: %v", err)
	}
	if _, err := s.store.Extend(ended, []idempotency.Extension{{Key: key, Token: token, Lease: time.Second}}); !errors.Is(err, context.Canceled) {
		s.Fatalf("Extend: %v", err)
	}
	s.ok(s.complete(key, token, "receipt"))
}
