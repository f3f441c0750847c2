// Package idemtest holds every idempotency.Store to its contract. A backend is tested by one line:
//
//	func TestStore(t *testing.T) {
//		idemtest.Run(t, func(t testing.TB) idempotency.Store { return mystore.New(connect(t)) })
//	}
//
// Run it with -race. Every test uses keys of its own, so newStore may return the same store or stores on the same
// tables each time.
package idemtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/safetill/safetill/idempotency"
)

// Run runs the suite. It takes some seconds, since leases and TTLs of the store must run out.
func Run(t *testing.T, newStore func(testing.TB) idempotency.Store) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"ReplayAfterCompletion", replayAfterCompletion},
		{"InFlightSaysHowLong", inFlightSaysHowLong},
		{"OtherPayloadIsMismatch", otherPayloadIsMismatch},
		{"ReleasedKeyIsFree", releasedKeyIsFree},
		{"CompleteTwiceKeepsTheFirst", completeTwiceKeepsTheFirst},
		{"ResponseIsNotRetained", responseIsNotRetained},
		{"WrongTokenIsLost", wrongTokenIsLost},
		{"AbandonedLeaseIsTakenOver", abandonedLeaseIsTakenOver},
		{"LateOwnerMayComplete", lateOwnerMayComplete},
		{"ExtendedLeaseHolds", extendedLeaseHolds},
		{"TTLRunsOut", ttlRunsOut},
		{"TokensOfAKeyGrow", tokensOfAKeyGrow},
		{"StepsSurviveARelease", stepsSurviveARelease},
		{"StepsSurviveAnAbandonedLease", stepsSurviveAnAbandonedLease},
		{"StepsGoWithTheRecord", stepsGoWithTheRecord},
		{"StepsRunOut", stepsRunOut},
		{"StepSavedTwiceIsOne", stepSavedTwiceIsOne},
		{"StepsInABatch", stepsInABatch},
		{"OddSteps", oddSteps},
		{"ManySteps", manySteps},
		{"ClaimOneIsAClaim", claimOneIsAClaim},
		{"SweepLeavesWhatMatters", sweepLeavesWhatMatters},
		{"DuplicatesInABatch", duplicatesInABatch},
		{"EachItemIsDecidedOnItsOwn", eachItemIsDecidedOnItsOwn},
		{"LargeBatch", largeBatch},
		{"EmptyBatch", emptyBatch},
		{"OddBytes", oddBytes},
		{"PartsOfAKeyDoNotRunTogether", partsOfAKeyDoNotRunTogether},
		{"InvalidItemWritesNothing", invalidItemWritesNothing},
		{"EndedContextIsAnError", endedContextIsAnError},
		{"RandomOperationsAgreeWithAModel", randomOperationsAgreeWithAModel},
		{"OneWinnerOfManyClaims", oneWinnerOfManyClaims},
		{"OneWinnerOfAnAbandonedKey", oneWinnerOfAnAbandonedKey},
		{"OneOwnerAtATime", oneOwnerAtATime},
		{"BatchesInOppositeOrder", batchesInOppositeOrder},
		{"ClaimsRaceWithCompletion", claimsRaceWithCompletion},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			// A store that deadlocks fails here instead of hanging the run.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			test.run(&suite{TB: t, ctx: ctx, store: newStore(t), scope: "idemtest-" + rand.Text()})
		})
	}
}

const (
	long  = time.Minute           // a lease or TTL that outlives the test on a slow machine
	short = 60 * time.Millisecond // one that the test waits for
)

// suite is one test's store and a scope that no other test has.
type suite struct {
	testing.TB
	ctx   context.Context
	store idempotency.Store
	scope string
}

func (s *suite) key(value string) idempotency.Key {
	return idempotency.Key{Scope: s.scope, Op: "test", Value: value}
}

func (s *suite) claim(requests ...idempotency.Request) []idempotency.Record {
	s.Helper()
	records, err := s.store.Claim(s.ctx, requests)
	if err != nil {
		s.Fatalf("Claim: %v", err)
	}
	if len(records) != len(requests) {
		s.Fatalf("Claim of %d requests: %d records", len(requests), len(records))
	}
	return records
}

func (s *suite) claimOne(key idempotency.Key, payload string, lease time.Duration) idempotency.Record {
	s.Helper()
	return s.claim(request(key, payload, lease))[0]
}

// won claims a key that must be free and returns its token.
func (s *suite) won(key idempotency.Key, payload string, lease time.Duration) idempotency.Token {
	s.Helper()
	return s.token(s.claimOne(key, payload, lease))
}

func (s *suite) token(r idempotency.Record) idempotency.Token {
	s.Helper()
	s.outcome(r, idempotency.Won)
	if r.Token <= 0 {
		s.Fatalf("won with token %d", r.Token)
	}
	return r.Token
}

func (s *suite) outcome(r idempotency.Record, want idempotency.Outcome) {
	s.Helper()
	if r.Outcome != want {
		s.Fatalf("outcome %v, want %v (record %+v)", r.Outcome, want, r)
	}
}

func (s *suite) replayed(r idempotency.Record, status int32, response []byte) {
	s.Helper()
	s.outcome(r, idempotency.Completed)
	if r.Status != status || !bytes.Equal(r.Response, response) {
		s.Fatalf("replayed status %d and %d bytes %.40q, want %d and %d bytes %.40q",
			r.Status, len(r.Response), r.Response, status, len(response), response)
	}
}

func (s *suite) complete(key idempotency.Key, token idempotency.Token, response string) error {
	s.Helper()
	items, err := s.store.Complete(s.ctx, []idempotency.Completion{completion(key, token, response, long)})
	return s.one(items, err)
}

func (s *suite) release(key idempotency.Key, token idempotency.Token) error {
	s.Helper()
	return s.one(s.store.Release(s.ctx, []idempotency.Claim{{Key: key, Token: token}}))
}

func (s *suite) extend(key idempotency.Key, token idempotency.Token, lease time.Duration) error {
	s.Helper()
	return s.one(s.store.Extend(s.ctx, []idempotency.Extension{{Key: key, Token: token, Lease: lease}}))
}

func (s *suite) one(items []error, err error) error {
	s.Helper()
	if err != nil {
		s.Fatalf("the call failed: %v", err)
	}
	if len(items) != 1 {
		s.Fatalf("%d results for one item", len(items))
	}
	return items[0]
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("unexpected: %v", err)
	}
}

func (s *suite) lost(err error) {
	s.Helper()
	if !errors.Is(err, idempotency.ErrLost) {
		s.Fatalf("got %v, want ErrLost", err)
	}
}

func (s *suite) results(got, want []error) {
	s.Helper()
	if !slices.EqualFunc(got, want, errors.Is) {
		s.Fatalf("results %v, want %v", got, want)
	}
}

// until claims the key again and again until the wanted outcome; before that it must always see the other one.
func (s *suite) until(q idempotency.Request, meanwhile, want idempotency.Outcome) idempotency.Record {
	s.Helper()
	for {
		r := s.claim(q)[0]
		if r.Outcome == want {
			return r
		}
		s.outcome(r, meanwhile)
		select {
		case <-s.ctx.Done():
			s.Fatalf("still %v: %v", r.Outcome, s.ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func request(key idempotency.Key, payload string, lease time.Duration) idempotency.Request {
	return idempotency.Request{Key: key, Fingerprint: idempotency.FingerprintOf([]byte(payload)), Lease: lease}
}

func completion(
	key idempotency.Key, token idempotency.Token, response string, ttl time.Duration,
) idempotency.Completion {
	return idempotency.Completion{Key: key, Token: token, Status: 201, Response: []byte(response), TTL: ttl}
}
