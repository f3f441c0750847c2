package idemtest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/safetill/safetill/idempotency"
)

// save records a step with the result "result of" and its name, and sets the lease.
func (s *suite) save(key idempotency.Key, token idempotency.Token, name string, lease, keep time.Duration) error {
	s.Helper()
	return s.one(s.store.Extend(s.ctx, []idempotency.Extension{step(key, token, name, lease, keep)}))
}

func step(key idempotency.Key, token idempotency.Token, name string, lease, keep time.Duration) idempotency.Extension {
	return idempotency.Extension{
		Key: key, Token: token, Lease: lease, Keep: keep,
		Step: idempotency.StepRecord{Name: name, Result: []byte("result of " + name)},
	}
}

// wonSteps claims a key that must be free and have these steps.
func (s *suite) wonSteps(key idempotency.Key, payload string, lease time.Duration, names ...string) idempotency.Token {
	s.Helper()
	r := s.claimOne(key, payload, lease)
	s.steps(r, names...)
	return s.token(r)
}

func (s *suite) steps(r idempotency.Record, names ...string) {
	s.Helper()
	s.outcome(r, idempotency.Won)
	var got []string
	for _, saved := range r.Steps {
		got = append(got, saved.Name)
		if string(saved.Result) != "result of "+saved.Name {
			s.Fatalf("step %q has the result %.40q", saved.Name, saved.Result)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		s.Fatalf("steps %q, want %q", got, names)
	}
}

func stepsSurviveARelease(s *suite) {
	key := s.key("a")
	token := s.wonSteps(key, "body", long)
	s.ok(s.save(key, token, "charge", long, long))
	s.ok(s.save(key, token, "post", long, long))
	s.outcome(s.claimOne(key, "body", long), idempotency.InFlight)
	s.ok(s.release(key, token))
	s.lost(s.save(key, token, "late", long, long))
	s.outcome(s.claimOne(key, "other", long), idempotency.Mismatch) // charged for "body"
	next := s.wonSteps(key, "body", long, "charge", "post")
	if next <= token {
		s.Fatalf("token %d after %d", next, token)
	}
	s.lost(s.save(key, token, "stale", long, long))
	s.ok(s.save(key, next, "receipt", long, long))
	s.ok(s.release(key, next))
	last := s.wonSteps(key, "body", long, "charge", "post", "receipt")
	s.ok(s.complete(key, last, "done"))
	s.lost(s.save(key, last, "too late", long, long))
	s.replayed(s.claimOne(key, "body", long), 201, []byte("done"))
}

func stepsSurviveAnAbandonedLease(s *suite) {
	key, probe := s.key("a"), s.key("probe")
	stale := s.won(key, "body", long)
	s.ok(s.save(key, stale, "charge", short, long))
	s.won(probe, "body", 2*short)
	s.until(request(probe, "body", long), idempotency.InFlight, idempotency.Won)
	s.outcome(s.claimOne(key, "other", long), idempotency.Mismatch)
	token := s.wonSteps(key, "body", long, "charge")
	s.lost(s.save(key, stale, "stale", long, long))
	s.ok(s.complete(key, token, "done"))
}

// stepsGoWithTheRecord: what is completed has no steps any more, also when its TTL is over.
func stepsGoWithTheRecord(s *suite) {
	key := s.key("a")
	token := s.won(key, "body", long)
	s.ok(s.save(key, token, "charge", long, long))
	items, err := s.store.Complete(s.ctx, []idempotency.Completion{completion(key, token, "done", short)})
	s.ok(s.one(items, err))
	s.steps(s.until(request(key, "other", long), idempotency.Mismatch, idempotency.Won))

	key = s.key("b")
	token = s.won(key, "body", long)
	s.ok(s.save(key, token, "charge", long, long))
	items, err = s.store.Complete(s.ctx, []idempotency.Completion{completion(key, token, "done", short)})
	s.ok(s.one(items, err))
	s.steps(s.until(request(key, "body", long), idempotency.Completed, idempotency.Won))
}

// stepsRunOut: kept for as long as was asked for, they then leave the key to any payload.
func stepsRunOut(s *suite) {
	key := s.key("a")
	token := s.won(key, "body", long)
	s.ok(s.save(key, token, "charge", long, short))
	s.ok(s.release(key, token))
	s.steps(s.until(request(key, "other", long), idempotency.Mismatch, idempotency.Won))

	key = s.key("c") // abandoned: the record is remembered for longer than its steps, which are no other payload's
	s.ok(s.save(key, s.won(key, "body", long), "charge", short, short))
	s.steps(s.until(request(key, "other", long), idempotency.Mismatch, idempotency.Won))

	key = s.key("b") // the longest counts
	token = s.won(key, "body", long)
	s.ok(s.save(key, token, "charge", long, long))
	s.ok(s.save(key, token, "post", long, time.Millisecond))
	probe := s.key("probe") // whose lease ends when the millisecond is over
	s.won(probe, "body", 2*time.Millisecond)
	s.until(request(probe, "body", long), idempotency.InFlight, idempotency.Won)
	s.ok(s.release(key, token))
	s.wonSteps(key, "body", long, "charge", "post")
}

// stepSavedTwiceIsOne: whoever does not know whether the first call arrived repeats it.
func stepSavedTwiceIsOne(s *suite) {
	key := s.key("a")
	token := s.won(key, "body", long)
	s.ok(s.save(key, token, "charge", long, long))
	again := step(key, token, "charge", long, long)
	again.Step.Result = []byte("another")
	s.ok(s.one(s.store.Extend(s.ctx, []idempotency.Extension{again})))
	s.ok(s.extend(key, token, long)) // a heartbeat leaves them alone
	s.ok(s.release(key, token))
	s.wonSteps(key, "body", long, "charge")
}

func stepsInABatch(s *suite) {
	a, b := s.key("a"), s.key("b")
	tokenA, tokenB := s.won(a, "body", long), s.won(b, "body", long)
	items, err := s.store.Extend(s.ctx, []idempotency.Extension{
		step(a, tokenA, "one", long, long),
		step(b, tokenB, "one", long, long),
		step(a, tokenA+1, "forged", long, long),
		step(a, tokenA, "two", long, long),
		{Key: b, Token: tokenB, Lease: long / 2},
		step(a, tokenA, "one", long, long),
		step(s.key("never"), 1, "never", long, long),
	})
	s.ok(err)
	s.results(items, []error{nil, nil, idempotency.ErrLost, nil, nil, nil, idempotency.ErrLost})
	if r := s.claimOne(b, "body", long); r.Remaining > long/2 {
		s.Fatalf("%v remain, the last lease counts", r.Remaining)
	}
	s.ok(s.release(a, tokenA))
	s.ok(s.release(b, tokenB))
	records := s.claim(request(b, "body", long), request(a, "body", long), request(a, "body", long))
	s.steps(records[0], "one")
	s.steps(records[1], "one", "two")
	s.outcome(records[2], idempotency.InFlight)
}

// oddSteps: any name, any result, and the caller's buffer is its own.
func oddSteps(s *suite) {
	key := s.key("a")
	token := s.won(key, "body", long)
	var every [256]byte
	for i := range every {
		every[i] = byte(i)
	}
	var want []idempotency.StepRecord
	for i, name := range []string{"\x00", "\xff\xfe", "'", "{}", "\\x", " ", "é", strings.Repeat("n", 255)} {
		result := bytes.Repeat(every[:], i*i*20)
		want = append(want, idempotency.StepRecord{Name: name, Result: bytes.Clone(result)})
		s.ok(s.one(s.store.Extend(s.ctx, []idempotency.Extension{
			{Key: key, Token: token, Lease: long, Keep: long, Step: idempotency.StepRecord{Name: name, Result: result}},
		})))
		clear(result)
	}
	s.ok(s.release(key, token))
	r := s.claimOne(key, "body", long)
	s.outcome(r, idempotency.Won)
	if len(r.Steps) != len(want) {
		s.Fatalf("%d steps, want %d", len(r.Steps), len(want))
	}
	for i, saved := range r.Steps {
		if saved.Name != want[i].Name || !bytes.Equal(saved.Result, want[i].Result) {
			s.Fatalf("step %d is %q with %d bytes, want %q with %d", i, saved.Name, len(saved.Result), want[i].Name, len(want[i].Result))
		}
	}
}

// manySteps: a batch of steps of many keys, as many runs at once make it.
func manySteps(s *suite) {
	const keys, each = 50, 5
	var requests []idempotency.Request
	for i := range keys {
		requests = append(requests, request(s.key(strconv.Itoa(i)), "body", long))
	}
	var extensions []idempotency.Extension
	var claims []idempotency.Claim
	for i, r := range s.claim(requests...) {
		token := s.token(r)
		claims = append(claims, idempotency.Claim{Key: requests[i].Key, Token: token})
		for n := range each {
			extensions = append(extensions, step(requests[i].Key, token, strconv.Itoa(n), long, long))
		}
	}
	items, err := s.store.Extend(s.ctx, extensions)
	s.ok(err)
	s.results(items, make([]error, len(extensions)))
	items, err = s.store.Release(s.ctx, claims)
	s.ok(err)
	s.results(items, make([]error, keys))
	for _, r := range s.claim(requests...) {
		s.steps(r, "0", "1", "2", "3", "4")
	}
}
