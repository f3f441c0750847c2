package idemtest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/safetill/safetill/idempotency"
)

const racers = 64

// race runs do in 64 goroutines at once; do returns an error instead of ending the test.
func (s *suite) race(do func(n int) error) {
	s.Helper()
	var wg sync.WaitGroup
	start := make(chan struct{})
	errs := make([]error, racers)
	for n := range racers {
		wg.Go(func() {
			<-start
			errs[n] = do(n)
		})
	}
	close(start)
	wg.Wait()
	s.ok(errors.Join(errs...))
}

// tally counts the outcomes of one request made by all racers at once.
func (s *suite) tally(q idempotency.Request) map[idempotency.Outcome]int {
	s.Helper()
	outcomes := make([]idempotency.Outcome, racers)
	s.race(func(n int) error {
		records, err := s.store.Claim(s.ctx, []idempotency.Request{q})
		if err == nil {
			outcomes[n] = records[0].Outcome
		}
		return err
	})
	counts := make(map[idempotency.Outcome]int)
	for _, o := range outcomes {
		counts[o]++
	}
	return counts
}

func oneWinnerOfManyClaims(s *suite) {
	for round := range 5 {
		counts := s.tally(request(s.key(strconv.Itoa(round)), "body", long))
		if counts[idempotency.Won] != 1 || counts[idempotency.InFlight] != racers-1 {
			s.Fatalf("outcomes of %d claims of one key: %v", racers, counts)
		}
	}
}

func oneWinnerOfAnAbandonedKey(s *suite) {
	a, probe := s.key("a"), s.key("probe")
	records := s.claim(request(a, "body", short), request(probe, "body", short))
	s.until(request(probe, "body", long), idempotency.InFlight, idempotency.Won)
	counts := s.tally(request(a, "body", long))
	if counts[idempotency.Won] != 1 || counts[idempotency.InFlight] != racers-1 {
		s.Fatalf("outcomes of %d claims of one abandoned key: %v", racers, counts)
	}
	s.lost(s.complete(a, s.token(records[0]), "stale"))
}

// oneOwnerAtATime: the key goes from hand to hand by releases, is never in two hands, and its token only grows.
func oneOwnerAtATime(s *suite) {
	q := request(s.key("a"), "body", long)
	var owners, turns atomic.Int32
	var last atomic.Int64
	s.race(func(int) error {
		for turns.Load() < 100 {
			records, err := s.store.Claim(s.ctx, []idempotency.Request{q})
			if err != nil {
				return err
			}
			r := records[0]
			if r.Outcome != idempotency.Won {
				continue
			}
			if owners.Add(1) != 1 {
				return errors.New("two owners at a time")
			}
			if before := last.Swap(int64(r.Token)); before >= int64(r.Token) {
				return fmt.Errorf("token %d after %d", r.Token, before)
			}
			turns.Add(1)
			owners.Add(-1)
			items, err := s.store.Release(s.ctx, []idempotency.Claim{{Key: q.Key, Token: r.Token}})
			if err := errors.Join(append(items, err)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// batchesInOppositeOrder: a store that locks in the order of the batch deadlocks here.
func batchesInOppositeOrder(s *suite) {
	const n = 50
	requests := make([]idempotency.Request, n)
	for i := range requests {
		requests[i] = request(s.key(strconv.Itoa(i)), "body", long)
	}
	backward := slices.Clone(requests)
	slices.Reverse(backward)
	var completed [n]atomic.Int32
	s.race(func(g int) error {
		batch := requests
		if g%2 == 1 {
			batch = backward
		}
		records, err := s.store.Claim(s.ctx, batch)
		if err != nil {
			return err
		}
		var completions []idempotency.Completion
		var extensions []idempotency.Extension
		for i, r := range records {
			k, t := batch[i].Key, r.Token
			if r.Outcome != idempotency.Won { // somebody else's: refused, but its lock is taken all the same
				t = 1
			}
			completions = append(completions, completion(k, t, "by "+strconv.Itoa(g), long))
			extensions = append(extensions, idempotency.Extension{Key: k, Token: t, Lease: long})
		}
		if _, err := s.store.Extend(s.ctx, extensions); err != nil {
			return err
		}
		items, err := s.store.Complete(s.ctx, completions)
		for i, item := range items {
			if item == nil {
				at, _ := strconv.Atoi(batch[i].Key.Value)
				completed[at].Add(1)
			}
		}
		return err
	})
	for i := range completed {
		if got := completed[i].Load(); got != 1 {
			s.Fatalf("key %d was completed %d times", i, got)
		}
	}
}

// claimsRaceWithCompletion: from the first replay on, nobody wins, and every replay is the same.
func claimsRaceWithCompletion(s *suite) {
	for round := range 5 {
		key := s.key(strconv.Itoa(round))
		token := s.won(key, "body", long)
		var replays atomic.Int32
		s.race(func(n int) error {
			if n == 0 {
				items, err := s.store.Complete(s.ctx, []idempotency.Completion{completion(key, token, "receipt", long)})
				return errors.Join(append(items, err)...)
			}
			records, err := s.store.Claim(s.ctx, []idempotency.Request{request(key, "body", long)})
			if err != nil {
				return err
			}
			switch r := records[0]; {
			case r.Outcome == idempotency.Completed && string(r.Response) == "receipt":
				replays.Add(1)
			case r.Outcome != idempotency.InFlight:
				return errors.New("a racing claim got " + r.Outcome.String())
			}
			return nil
		})
		s.replayed(s.claimOne(key, "body", long), 201, []byte("receipt"))
		s.Logf("%d of %d racing claims were replays", replays.Load(), racers-1)
	}
}
