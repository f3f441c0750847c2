package idemtest

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/safetill/safetill/idempotency"
)

func duplicatesInABatch(s *suite) {
	a, b := s.key("a"), s.key("b")
	records := s.claim(
		request(a, "body", long), request(b, "body", long), request(a, "body", long), request(a, "other", long))
	tokenA, tokenB := s.token(records[0]), s.token(records[1])
	s.outcome(records[2], idempotency.InFlight)
	if records[2].Remaining <= 0 || records[2].Remaining > long {
		s.Fatalf("remaining %v of a lease of %v", records[2].Remaining, long)
	}
	s.outcome(records[3], idempotency.Mismatch)

	items, err := s.store.Complete(s.ctx, []idempotency.Completion{
		completion(a, tokenA-1, "stale", long), completion(a, tokenA, "first", long), completion(a, tokenA, "second", long),
	})
	s.ok(err)
	s.results(items, []error{idempotency.ErrLost, nil, nil})

	records = s.claim(
		request(a, "other", long), request(a, "body", long), request(b, "body", long), request(a, "body", long))
	s.outcome(records[0], idempotency.Mismatch)
	s.replayed(records[1], 201, []byte("first"))
	s.outcome(records[2], idempotency.InFlight)
	s.replayed(records[3], 201, []byte("first"))

	items, err = s.store.Release(s.ctx, []idempotency.Claim{{Key: b, Token: tokenB}, {Key: b, Token: tokenB}})
	s.ok(err)
	s.results(items, []error{nil, idempotency.ErrLost})
	items, err = s.store.Extend(s.ctx, []idempotency.Extension{{Key: b, Token: tokenB, Lease: long}})
	s.ok(err)
	s.results(items, []error{idempotency.ErrLost})
}

func eachItemIsDecidedOnItsOwn(s *suite) {
	won, flying, done, other := s.key("won"), s.key("flying"), s.key("done"), s.key("other")
	flyingToken, doneToken := s.won(flying, "body", long), s.won(done, "body", long)
	s.won(other, "body", long)
	s.ok(s.complete(done, doneToken, "receipt"))

	records := s.claim(
		request(other, "changed", long), request(done, "body", long), request(won, "body", long), request(flying, "body", long))
	s.outcome(records[0], idempotency.Mismatch)
	s.replayed(records[1], 201, []byte("receipt"))
	wonToken := s.token(records[2])
	s.outcome(records[3], idempotency.InFlight)

	items, err := s.store.Extend(s.ctx, []idempotency.Extension{
		{Key: done, Token: doneToken, Lease: long}, {Key: won, Token: wonToken, Lease: long},
	})
	s.ok(err)
	s.results(items, []error{idempotency.ErrLost, nil})
	items, err = s.store.Complete(s.ctx, []idempotency.Completion{
		completion(won, wonToken+1, "forged", long), completion(flying, flyingToken, "flown", long),
		completion(s.key("never"), 1, "never", long), completion(won, wonToken, "won", long),
	})
	s.ok(err)
	s.results(items, []error{idempotency.ErrLost, nil, idempotency.ErrLost, nil})
	s.replayed(s.claimOne(won, "body", long), 201, []byte("won"))
	s.replayed(s.claimOne(flying, "body", long), 201, []byte("flown"))
}

func largeBatch(s *suite) {
	const n = 1000
	requests := make([]idempotency.Request, n)
	for i := range requests {
		requests[i] = request(s.key(strconv.Itoa(i)), "body", long)
	}
	completions := make([]idempotency.Completion, 0, n)
	claims := make([]idempotency.Claim, 0, n)
	for i, r := range s.claim(requests...) {
		if token := s.token(r); i%2 == 0 {
			completions = append(completions, completion(requests[i].Key, token, strconv.Itoa(i), long))
		} else {
			claims = append(claims, idempotency.Claim{Key: requests[i].Key, Token: token})
		}
	}
	items, err := s.store.Complete(s.ctx, completions)
	s.ok(err)
	s.results(items, make([]error, len(completions)))
	items, err = s.store.Release(s.ctx, claims)
	s.ok(err)
	s.results(items, make([]error, len(claims)))
	for i, r := range s.claim(requests...) {
		if i%2 == 0 {
			s.replayed(r, 201, []byte(strconv.Itoa(i)))
		} else {
			s.token(r)
		}
	}
}

func emptyBatch(s *suite) {
	if records, err := s.store.Claim(s.ctx, nil); err != nil || len(records) != 0 {
		s.Fatalf("Claim: %v, %v", records, err)
	}
	if items, err := s.store.Complete(s.ctx, nil); err != nil || len(items) != 0 {
		s.Fatalf("Complete: %v, %v", items, err)
	}
	if items, err := s.store.Release(s.ctx, nil); err != nil || len(items) != 0 {
		s.Fatalf("Release: %v, %v", items, err)
	}
	if items, err := s.store.Extend(s.ctx, nil); err != nil || len(items) != 0 {
		s.Fatalf("Extend: %v, %v", items, err)
	}
}

func oddBytes(s *suite) {
	var every [256]byte
	for i := range every {
		every[i] = byte(i)
	}
	values := []string{
		"\x00", "a\x00", "\xff\xfe", "{", "}", "{}", "{a}b", "'; --", "%", "\\x00", "é", "e\u0301", " ", "  ", "\r\n", "1:a",
		strings.Repeat("\xf0", 255), string(every[:255]), string(every[1:]),
	}
	responses := [][]byte{nil, {}, {0}, every[:], bytes.Repeat([]byte("\x00\xff'"), 100_000)}
	requests := make([]idempotency.Request, len(values))
	for i, value := range values {
		requests[i] = request(s.key(value), value, long)
	}
	for i, r := range s.claim(requests...) {
		c := completion(requests[i].Key, s.token(r), "", long)
		c.Response, c.Status = responses[i%len(responses)], -1<<31
		items, err := s.store.Complete(s.ctx, []idempotency.Completion{c})
		s.ok(s.one(items, err))
	}
	for i, r := range s.claim(requests...) {
		s.replayed(r, -1<<31, responses[i%len(responses)])
	}
}

// partsOfAKeyDoNotRunTogether: the answer of one tenant or operation is never another's.
func partsOfAKeyDoNotRunTogether(s *suite) {
	sc := s.scope
	keys := []idempotency.Key{
		{Scope: sc, Op: "ab", Value: "c"},
		{Scope: sc, Op: "a", Value: "bc"},
		{Scope: sc + "a", Op: "b", Value: "c"},
		{Scope: sc, Op: "a:b", Value: "c"},
		{Scope: sc, Op: "a", Value: "b:c"},
		{Scope: sc + ":a", Op: "b", Value: "c"},
		{Scope: sc, Op: "a", Value: "1:b1:c"},
		{Scope: sc + "1:a", Op: "1:b", Value: "c"},
		{Scope: sc + "\x00", Op: "a", Value: "b"},
		{Scope: sc, Op: "\x00a", Value: "b"},
		{Scope: sc, Op: "A", Value: "bc"},
		{Scope: sc, Op: "a", Value: "bc "},
	}
	for _, key := range keys {
		s.ok(s.complete(key, s.won(key, "body", long), key.String()))
	}
	for _, key := range keys {
		s.replayed(s.claimOne(key, "body", long), 201, []byte(key.String()))
	}
}

func invalidItemWritesNothing(s *suite) {
	good := s.key("good")
	tooLong := strings.Repeat("x", 256)
	for field, bad := range map[string]idempotency.Request{
		"scope": request(idempotency.Key{Op: "o", Value: "v"}, "body", long),
		"op":    request(idempotency.Key{Scope: s.scope, Op: tooLong, Value: "v"}, "body", long),
		"value": request(idempotency.Key{Scope: s.scope, Op: "o", Value: tooLong}, "body", long),
		"lease": request(s.key("bad"), "body", time.Microsecond),
	} {
		_, err := s.store.Claim(s.ctx, []idempotency.Request{request(good, "body", long), bad})
		s.invalid(err, field)
	}
	token := s.won(good, "body", long) // so nothing was written

	c := completion(good, token, "receipt", long)
	noTTL, noToken := c, c
	noTTL.TTL, noToken.Token = 0, 0
	_, err := s.store.Complete(s.ctx, []idempotency.Completion{c, noTTL})
	s.invalid(err, "ttl")
	_, err = s.store.Complete(s.ctx, []idempotency.Completion{c, noToken})
	s.invalid(err, "token")
	_, err = s.store.Release(s.ctx, []idempotency.Claim{{Key: good, Token: token}, {Key: good, Token: -1}})
	s.invalid(err, "token")
	_, err = s.store.Extend(s.ctx, []idempotency.Extension{{Key: good, Token: token, Lease: long}, {Key: good, Token: token}})
	s.invalid(err, "lease")
	tooMuch, tooLong256 := step(good, token, "s", long, long), step(good, token, tooLong, long, long)
	tooMuch.Step.Result = make([]byte, 64<<20+1)
	for _, bad := range []struct {
		field string
		step  idempotency.Extension
	}{{"keep", step(good, token, "s", long, 0)}, {"step", tooLong256}, {"step", tooMuch}} {
		_, err = s.store.Extend(s.ctx, []idempotency.Extension{step(good, token, "good", long, long), bad.step})
		s.invalid(err, bad.field)
	}
	c.Response = tooMuch.Step.Result
	_, err = s.store.Complete(s.ctx, []idempotency.Completion{c})
	s.invalid(err, "response")
	s.outcome(s.claimOne(good, "body", long), idempotency.InFlight)
	s.ok(s.release(good, token))
	s.wonSteps(good, "body", long)
}

func (s *suite) invalid(err error, field string) {
	s.Helper()
	if e, ok := errors.AsType[*idempotency.InvalidError](err); !ok || e.Field != field {
		s.Fatalf("got %v, want an InvalidError of %s", err, field)
	}
}
