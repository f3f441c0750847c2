package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	funds = 100_00 // on an account of the race
	price = 80_00  // of each of two payments

	limit = time.Minute // of what must take much less
)

// meeting makes a race certain: whoever comes to the pause waits until all have come, or until it is plain that
// some cannot come, because they wait for those who are here.
type meeting struct {
	missing  atomic.Int32
	patience time.Duration
	once     sync.Once
	open     chan struct{}
}

func newMeeting(callers int, patience time.Duration) *meeting {
	m := &meeting{patience: patience, open: make(chan struct{})}
	m.missing.Store(int32(callers))
	return m
}

func (m *meeting) pause(ctx context.Context, _ payment) {
	if m.missing.Add(-1) == 0 {
		m.once.Do(func() { close(m.open) })
	}
	over := time.NewTimer(m.patience)
	defer over.Stop()
	select {
	case <-m.open:
	case <-ctx.Done():
	case <-over.C:
		m.once.Do(func() { close(m.open) })
	}
}

// race sends, round for round, two payments of 80 on an account with 100, each of them to both servers at once: the second is
// the retry of a client that had no answer. One may be paid, once.
func (s *stage) race(ctx context.Context, rounds int, patience time.Duration) error {
	var here atomic.Pointer[meeting]
	o := settings{conns: 4, lease: 30 * time.Second, pause: func(ctx context.Context, p payment) { here.Load().pause(ctx, p) }}
	both, err := s.place.servers(ctx, s.way, [2]settings{o, o})
	if err != nil {
		return err
	}
	defer both.close()
	accounts := make([]string, rounds)
	for n := range accounts {
		accounts[n] = "race-" + strconv.Itoa(n)
	}
	if err := s.books.open(ctx, accounts, funds); err != nil {
		return err
	}
	for _, account := range accounts {
		here.Store(newMeeting(4, patience))
		a := payment{request: account + "-a", account: account, amount: price}
		b := payment{request: account + "-b", account: account, amount: price}
		if err := s.round(ctx, both, a, b); err != nil {
			return fmt.Errorf("%s: %w", s.way.name, err)
		}
	}
	s.result.rounds = rounds
	_, err = s.audit(ctx, accounts)
	return err
}

// round sends both payments to both servers and counts what a client hears.
func (s *stage) round(ctx context.Context, both servers, a, b payment) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	calls := []struct {
		*server
		payment
	}{{both[0], a}, {both[1], a}, {both[0], b}, {both[1], b}}
	answers, conflicts, errs := make([]verdict, len(calls)), make([]int, len(calls)), make([]error, len(calls))
	var wg sync.WaitGroup
	for i, c := range calls {
		wg.Go(func() { answers[i], conflicts[i], errs[i] = c.settle(ctx, c.payment) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i := range calls {
		s.result.conflicts += conflicts[i]
		switch {
		case i%2 == 0 && answers[i] == paid:
			s.result.paid++
		case i%2 == 0:
			s.result.declined++
		case answers[i] != answers[i-1] && s.way.unsafe == "":
			return fmt.Errorf("one request was answered %q and %q", answers[i-1], answers[i])
		}
	}
	return nil
}

// frost freezes a server that has read the balance and is about to write, for three times the lease of its lock. Meanwhile the
// other server gets another payment of the account, and the retry of the first. Then the frozen one goes on as if nothing had been.
func (s *stage) frost(ctx context.Context, lease time.Duration) error {
	c := &cold{arrived: make(chan struct{}), thawed: make(chan struct{})}
	free := func(context.Context, payment) {}
	both, err := s.place.servers(ctx, s.way, [2]settings{{4, lease, c.pause}, {4, lease, free}})
	if err != nil {
		return err
	}
	defer both.close()
	if err := s.books.open(ctx, []string{"frost"}, funds); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*lease+limit)
	defer cancel()
	if s.result.behind, err = c.run(ctx, both, 3*lease); err != nil {
		return fmt.Errorf("%s: %w", s.way.name, err)
	}
	_, err = s.audit(ctx, []string{"frost"})
	return err
}

// cold is where the first payment stops that comes to the pause.
type cold struct {
	first           sync.Once
	arrived, thawed chan struct{}
}

func (c *cold) pause(context.Context, payment) {
	c.first.Do(func() {
		close(c.arrived)
		<-c.thawed
	})
}

// run returns how long the other payment took.
func (c *cold) run(ctx context.Context, both servers, length time.Duration) (behind time.Duration, err error) {
	a, b := payment{"frost-a", "frost", price}, payment{"frost-b", "frost", price}
	errs := make([]error, 3)
	var frozen, awake sync.WaitGroup
	frozen.Go(func() { errs[0] = both[0].insist(ctx, a) })
	select {
	case <-c.arrived:
		both[0].wire.freeze()
		begin := time.Now()
		awake.Go(func() {
			errs[1] = both[1].insist(ctx, b)
			behind = time.Since(begin)
		})
		awake.Go(func() { errs[2] = both[1].insist(ctx, a) })
		within(length, ended(&awake))
		both[0].wire.thaw()
	case <-ctx.Done(): // it could not even begin
	}
	close(c.thawed)
	frozen.Wait()
	awake.Wait()
	return behind, errors.Join(errs...)
}

// insist asks until there is an answer, also after errors: a client cannot tell what they mean.
func (s *server) insist(ctx context.Context, p payment) error {
	for tries := 0; ; tries++ {
		_, _, err := s.settle(ctx, p)
		if err == nil || ctx.Err() != nil || tries == 20 {
			return err
		}
		time.Sleep(backoff(tries, 100*time.Millisecond))
	}
}

// ended is closed when the group has ended.
func ended(wg *sync.WaitGroup) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	return done
}

// within waits until done, or until the time is over: then it is false.
func within(limit time.Duration, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}
