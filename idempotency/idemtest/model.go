package idemtest

import (
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/safetill/safetill/idempotency"
)

// model is the contract in its plainest form: one map, no clock (the leases and TTLs of this test outlive it).
type model struct {
	records map[idempotency.Key]*modelRecord
	tokens  map[idempotency.Key][]idempotency.Token // all that were won, the last of which may be current
}

type modelRecord struct {
	fingerprint idempotency.Fingerprint
	token       idempotency.Token // 0 when it was released
	completed   bool
	response    string
	steps       []string
}

// claim returns the outcome that a store must give, but for the token, which only the store knows.
func (m *model) claim(q idempotency.Request) (idempotency.Outcome, string) {
	r := m.records[q.Key]
	switch {
	case r == nil:
		m.records[q.Key] = &modelRecord{fingerprint: q.Fingerprint}
		return idempotency.Won, ""
	case r.fingerprint != q.Fingerprint:
		return idempotency.Mismatch, ""
	case r.completed:
		return idempotency.Completed, r.response
	case r.token == 0:
		return idempotency.Won, ""
	}
	return idempotency.InFlight, ""
}

func (m *model) complete(key idempotency.Key, token idempotency.Token, response string) error {
	r := m.records[key]
	if r == nil || r.token != token {
		return idempotency.ErrLost
	}
	if !r.completed {
		r.completed, r.response, r.steps = true, response, nil
	}
	return nil
}

// release keeps a record that has steps.
func (m *model) release(key idempotency.Key) {
	if r := m.records[key]; len(r.steps) > 0 {
		r.token = 0
		return
	}
	delete(m.records, key)
}

func (m *model) holds(key idempotency.Key, token idempotency.Token) error {
	if r := m.records[key]; r == nil || r.token != token || r.completed {
		return idempotency.ErrLost
	}
	return nil
}

// randomOperationsAgreeWithAModel: random batches of every operation, with repeats, stale tokens and other payloads.
func randomOperationsAgreeWithAModel(s *suite) {
	seed := rand.Uint64()
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("seed %d", seed)
		}
	})
	r := rand.New(rand.NewPCG(seed, 0))
	m := &model{records: map[idempotency.Key]*modelRecord{}, tokens: map[idempotency.Key][]idempotency.Token{}}
	for step := range 150 {
		keys := make([]idempotency.Key, 1+r.IntN(12))
		for i := range keys {
			keys[i] = s.key(strconv.Itoa(r.IntN(20)))
		}
		switch r.IntN(5) {
		case 0, 1:
			s.modelClaims(m, r, keys)
		case 2:
			s.modelCompletions(m, r, keys, step)
		case 3:
			s.modelReleases(m, r, keys)
		case 4:
			s.modelExtensions(m, r, keys)
		}
	}
}

func (s *suite) modelClaims(m *model, r *rand.Rand, keys []idempotency.Key) {
	s.Helper()
	requests := make([]idempotency.Request, len(keys))
	for i, key := range keys {
		requests[i] = request(key, strconv.Itoa(r.IntN(8)/7), long)
	}
	for i, got := range s.claim(requests...) {
		outcome, response := m.claim(requests[i])
		s.outcome(got, outcome)
		switch outcome {
		default:
		case idempotency.Won:
			key := keys[i]
			for _, before := range m.tokens[key] {
				if got.Token <= before {
					s.Fatalf("token %d after %d", got.Token, before)
				}
			}
			m.records[key].token = got.Token
			m.tokens[key] = append(m.tokens[key], got.Token)
			s.steps(got, m.records[key].steps...)
		case idempotency.Completed:
			s.replayed(got, 201, []byte(response))
		}
	}
}

// token picks one that was given for the key, mostly the last.
func (m *model) token(r *rand.Rand, key idempotency.Key) idempotency.Token {
	tokens := m.tokens[key]
	switch {
	case len(tokens) == 0:
		return 1
	case r.IntN(4) == 0:
		return tokens[r.IntN(len(tokens))]
	}
	return tokens[len(tokens)-1]
}

func (s *suite) modelCompletions(m *model, r *rand.Rand, keys []idempotency.Key, step int) {
	s.Helper()
	var completions []idempotency.Completion
	var want []error
	for i, key := range keys[:(len(keys)+1)/2] { // fewer, or soon all keys are completed
		response := strconv.Itoa(step) + "." + strconv.Itoa(i)
		c := completion(key, m.token(r, key), response, long)
		completions = append(completions, c)
		want = append(want, m.complete(key, c.Token, response))
	}
	got, err := s.store.Complete(s.ctx, completions)
	s.ok(err)
	s.results(got, want)
}

func (s *suite) modelReleases(m *model, r *rand.Rand, keys []idempotency.Key) {
	s.Helper()
	var claims []idempotency.Claim
	var want []error
	for _, key := range keys {
		c := idempotency.Claim{Key: key, Token: m.token(r, key)}
		err := m.holds(c.Key, c.Token)
		if err == nil {
			m.release(key)
		}
		claims, want = append(claims, c), append(want, err)
	}
	got, err := s.store.Release(s.ctx, claims)
	s.ok(err)
	s.results(got, want)
}

func (s *suite) modelExtensions(m *model, r *rand.Rand, keys []idempotency.Key) {
	s.Helper()
	var extensions []idempotency.Extension
	var want []error
	for _, key := range keys {
		e := idempotency.Extension{Key: key, Token: m.token(r, key), Lease: long}
		err := m.holds(e.Key, e.Token)
		if r.IntN(3) == 0 {
			name := strconv.Itoa(r.IntN(4))
			e = step(key, e.Token, name, long, long)
			if record := m.records[key]; err == nil && !slices.Contains(record.steps, name) {
				record.steps = append(record.steps, name)
			}
		}
		extensions, want = append(extensions, e), append(want, err)
	}
	got, err := s.store.Extend(s.ctx, extensions)
	s.ok(err)
	s.results(got, want)
}
