package idempotency

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// effectKind is how the work makes its effect, and what keeps it from being made twice.
type effectKind int

const (
	keyed  effectKind = iota // the bank remembers the key's permanent id
	fenced                   // the bank remembers the highest token: it is taken, then written under
	naked                    // nothing but Do; for a gentle world
)

// bank makes effects. Its content survives whatever happens to processes.
type bank struct {
	mu       sync.Mutex
	effects  map[string]int
	receipts map[string]string
	fences   map[string]Token
	recorded map[string]Token // steps, by which run
	replies  map[string]string
}

func newBank() bank {
	return bank{
		effects: map[string]int{}, receipts: map[string]string{}, fences: map[string]Token{}, recorded: map[string]Token{},
		replies: map[string]string{},
	}
}

var errStale = errors.New("the bank has seen a higher token")

// charge makes the effect called id for a run.
func (s *simulation) charge(ctx context.Context, p *process, req *simRequest, run *Run, id string) (receipt string, err error) {
	b := &s.bank
	at := func(name string, do func() error) error {
		return s.gate(ctx, p, req, fmt.Sprintf("%v bank %s %s", req, name, id), func() error {
			b.mu.Lock()
			defer b.mu.Unlock()
			return do()
		})
	}
	write := func() error {
		receipt = fmt.Sprintf("%s by %d", id, run.Token())
		b.receipts[id] = receipt
		b.effects[id]++
		s.count(simEffects)
		return nil
	}
	switch s.kind.effect {
	case naked:
		return receipt, at("charge", write)
	case keyed:
		err = at("charge", func() error {
			if receipt = b.receipts[id]; receipt == "" {
				return write()
			}
			s.count(simRefused)
			return nil
		})
		return receipt, err
	case fenced:
	}
	err = at("fence", func() error {
		if run.Token() < b.fences[id] {
			s.count(simRefused)
			return errStale
		}
		b.fences[id] = run.Token()
		receipt = b.receipts[id]
		return nil
	})
	if err != nil || receipt != "" {
		return receipt, err
	}
	return receipt, at("charge", func() error {
		if run.Token() != b.fences[id] { // 0 rows
			s.count(simRefused)
			return errStale
		}
		return write()
	})
}

// simRequest is one request as a process serves it.
type simRequest struct {
	name   string
	r      *rand.Rand
	hangUp context.CancelCauseFunc
}

func (q *simRequest) String() string {
	if q == nil {
		return "nobody"
	}
	return q.name
}

type simRequestKey struct{}

// simReply is what a client hears; it hears nothing of a process that was killed.
type simReply struct {
	result Result[string]
	err    error
}

// client wants each key done, and asks until it is.
func (s *simulation) client(c int) {
	r := rand.New(rand.NewPCG(s.seed, uint64(1_000_000+c)))
	for k := range simKeys {
		for attempt := 0; ; attempt++ {
			s.mu.Lock()
			p, healthy, over := s.procs[r.IntN(simProcesses)], s.healthy(), s.over
			s.mu.Unlock()
			if over {
				return
			}
			patience := time.Duration(r.Int64N(int64(8 * time.Second)))
			if healthy || r.IntN(2) == 0 {
				patience = time.Hour
			}
			if s.ask(p, r.Uint64(), fmt.Sprintf("client %d.%d.%02d", c, k, attempt), k, patience) {
				break
			}
			time.Sleep(time.Duration(1 + r.Int64N(int64(5*time.Second))))
		}
	}
}

// ask sends one request and waits for as long as the client has patience; then it hangs up.
func (s *simulation) ask(p *process, seed uint64, name string, k int, patience time.Duration) (done bool) {
	ctx, hangUp := context.WithCancelCause(context.Background())
	defer hangUp(errors.New("hung up"))
	req := &simRequest{name: name, r: rand.New(rand.NewPCG(seed, 1)), hangUp: hangUp}
	ctx = context.WithValue(ctx, simRequestKey{}, req)
	answers := make(chan simReply, 1)
	s.spawn(func() {
		defer close(answers)
		defer func() {
			if v := recover(); v != nil && v != any(errSim) {
				panic(v)
			}
		}()
		key := Key{Scope: "tenant", Op: "pay", Value: fmt.Sprint("k", k)}
		result, err := Do(ctx, p.guard, key, FingerprintOf([]byte("body")), func(ctx context.Context, run *Run) (string, error) {
			return s.work(ctx, p, req, run)
		})
		answers <- simReply{result, err}
	})
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-timer.C:
		s.count(simHangUps)
		return false
	case reply, ok := <-answers:
		return ok && s.hear(fmt.Sprint("k", k), reply)
	}
}

// hear checks a reply, and tells whether it is final.
func (s *simulation) hear(key string, reply simReply) bool {
	permanent, failed := errors.AsType[*PermanentError](reply.err)
	value := reply.result.Value
	switch err := reply.err; {
	case errors.Is(err, ErrNotRecorded): // it is not known to others
		s.count(simUnrecorded)
		if errors.Is(err, ErrLost) {
			s.count(simLost)
		}
		return false
	case failed:
		s.count(simPermanents)
		value = "refused: " + permanent.Message
	case errors.Is(err, ErrLost):
		s.count(simLost)
		return false
	case errors.Is(err, ErrInFlight):
		s.count(simWaits)
		return false
	case err != nil:
		return false
	}
	if reply.result.Replayed {
		s.count(simReplays)
	}
	s.bank.mu.Lock()
	defer s.bank.mu.Unlock()
	if before, ok := s.bank.replies[key]; ok && before != value {
		s.fail("%s was answered %q and then %q", key, before, value)
	}
	s.bank.replies[key] = value
	return true
}

// work is what a process does under a key.
func (s *simulation) work(ctx context.Context, p *process, req *simRequest, run *Run) (string, error) {
	if s.kind.gentle || req.r.IntN(2) == 0 {
		ctx = context.WithValue(run.Detached(), simRequestKey{}, req)
	}
	if s.pauses(ctx, p, req) != nil {
		return "", context.Cause(ctx)
	}
	s.mu.Lock()
	healthy := s.healthy()
	s.mu.Unlock()
	if n := req.r.IntN(8); !healthy && n < 2 {
		if n == 0 {
			s.count(simPanics)
			panic(errSim)
		}
		s.count(simFailures)
		return "", errSim
	}
	if run.Key().Value == "k1" && s.seed%5 == 0 {
		return "", Permanent(fmt.Errorf("declined by %d", run.Token()))
	}
	if !s.kind.steps {
		return s.charge(ctx, p, req, run, run.Key().ID())
	}
	var receipts string
	for _, name := range []string{"a", "b"} {
		receipt, err := s.step(ctx, p, req, run, name)
		if err != nil {
			return "", err
		}
		receipts += receipt + ";"
		if s.pauses(ctx, p, req) != nil {
			return "", context.Cause(ctx)
		}
	}
	return receipts, nil
}

// pauses has the work take its time: sometimes longer than its lease, without looking up.
func (s *simulation) pauses(ctx context.Context, p *process, req *simRequest) error {
	d := time.Duration(1 + req.r.Int64N(int64(time.Second)))
	if req.r.IntN(4) == 0 {
		d *= 20
	}
	time.Sleep(d)
	if p.dead.Load() || s.kind.deaf {
		return nil
	}
	return ctx.Err()
}

// step is a charge under a recovery point. One that a run has recorded is not run by a later one.
func (s *simulation) step(ctx context.Context, p *process, req *simRequest, run *Run, name string) (string, error) {
	id := run.Key().ID(name)
	ran := false
	receipt, err := Step(ctx, run, name, func(ctx context.Context) (string, error) {
		ran = true
		s.bank.mu.Lock()
		by, recorded := s.bank.recorded[id]
		s.bank.mu.Unlock()
		if recorded && run.Token() > by {
			s.fail("step %s was recorded by %d and is run by %d", name, by, run.Token())
		}
		return s.charge(ctx, p, req, run, id)
	})
	s.bank.mu.Lock()
	defer s.bank.mu.Unlock()
	switch {
	case err != nil:
	case ran:
		if _, ok := s.bank.recorded[id]; !ok {
			s.bank.recorded[id] = run.Token()
		}
	default:
		s.count(simSteps)
		if receipt != s.bank.receipts[id] {
			s.fail("step %s replays %q, the bank has %q", name, receipt, s.bank.receipts[id])
		}
	}
	return receipt, err
}

// verdict looks at the bank when all clients are content.
func (s *simulation) verdict() string {
	if s.fault != "" {
		return s.fault
	}
	for id, n := range s.bank.effects {
		if n > 1 {
			return fmt.Sprintf("%s had its effect %d times", id, n)
		}
	}
	want := simKeys
	if s.seed%5 == 0 {
		want-- // k1 is refused
	}
	if s.kind.steps {
		want *= 2
	}
	if len(s.bank.effects) != want {
		return fmt.Sprintf("%d effects, want %d", len(s.bank.effects), want)
	}
	if len(s.bank.replies) != simKeys {
		return fmt.Sprintf("%d replies", len(s.bank.replies))
	}
	return ""
}
