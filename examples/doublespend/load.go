package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// plenty is on an account that is measured: it lasts.
const plenty = 1_000_000_000_00

// figures of one kind of load, the median of its turns.
type figures struct {
	perSecond float64       // payments decided, repeats not counted
	p99       time.Duration // of a payment, from the client's first request to its answer
	trips     float64       // round trips to the stores, a payment
	conflicts float64       // answers "ask again", a payment
}

// load is what one turn does.
type load struct {
	accounts []string
	workers  int           // on both servers together
	length   time.Duration // after a fifth of it to warm up
}

// worker is a client: it sends one payment after the other to its server, and every twentieth once more to the other one.
type worker struct {
	decided, conflicts int
	took               []time.Duration
	err                error
}

// clock tells workers what counts.
type clock struct {
	counting, over atomic.Bool
	counted        atomic.Int64
}

// measure runs one turn.
func (s *stage) measure(ctx context.Context, l load, turn int) (figures, error) {
	o := settings{conns: l.workers/2 + 2, lease: 30 * time.Second, pause: func(context.Context, payment) {}}
	both, err := s.place.servers(ctx, s.way, [2]settings{o, o})
	if err != nil {
		return figures{}, err
	}
	defer both.close()
	ctx, cancel := context.WithTimeout(ctx, 2*l.length+limit)
	defer cancel()
	var c clock
	crew := make([]worker, l.workers)
	var wg sync.WaitGroup
	for i := range crew {
		first, second := both[i%2], both[1-i%2]
		name := l.accounts[0] + "-" + strconv.Itoa(turn) + "-" + strconv.Itoa(i) + "-"
		wg.Go(func() { crew[i].work(ctx, first, second, l.accounts, name, &c) })
	}
	done := ended(&wg)
	within(l.length/5, done)
	begin, before := time.Now(), both.trips()
	c.counting.Store(true)
	for pause := l.length; !within(pause, done) && c.counted.Load() == 0; { // a slow machine gets more time
		pause = 10 * time.Millisecond
	}
	c.counting.Store(false)
	took, trips := time.Since(begin), both.trips()-before
	c.over.Store(true)
	<-done
	return sumUp(crew, took, trips)
}

func (w *worker) work(ctx context.Context, first, second *server, accounts []string, name string, c *clock) {
	for n := 0; !c.over.Load() && ctx.Err() == nil; n++ {
		p := payment{request: name + strconv.Itoa(n), account: accounts[rand.N(len(accounts))], amount: 1}
		begin := time.Now()
		_, conflicts, err := first.settle(ctx, p)
		if err != nil {
			w.err = err
			return
		}
		if c.counting.Load() {
			c.counted.Add(1)
			w.decided++
			w.conflicts += conflicts
			w.took = append(w.took, time.Since(begin))
		}
		if n%20 == 0 {
			if _, _, err := second.settle(ctx, p); err != nil {
				w.err = err
				return
			}
		}
	}
}

func sumUp(crew []worker, took time.Duration, trips int64) (figures, error) {
	var all worker
	for _, w := range crew {
		all.err = errors.Join(all.err, w.err)
		all.decided += w.decided
		all.conflicts += w.conflicts
		all.took = append(all.took, w.took...)
	}
	if all.err != nil {
		return figures{}, all.err
	}
	if all.decided == 0 {
		return figures{}, errors.New("nothing was decided in the time")
	}
	slices.Sort(all.took)
	n := float64(all.decided)
	return figures{
		perSecond: n / took.Seconds(), p99: all.took[len(all.took)*99/100], trips: float64(trips) / n,
		conflicts: float64(all.conflicts) / n,
	}, nil
}

// speed measures all ways in turn, so that what else the machine does meanwhile meets all of them alike.
func speed(ctx context.Context, stages []*stage, o *options) error {
	hot := load{[]string{"hot"}, o.workers, o.length}
	uniform := load{make([]string, o.accounts), o.workers, o.length}
	for i := range uniform.accounts {
		uniform.accounts[i] = "uniform-" + strconv.Itoa(i)
	}
	everywhere := append(slices.Clone(hot.accounts), uniform.accounts...)
	for _, s := range stages {
		if err := s.books.open(ctx, everywhere, plenty); err != nil {
			return fmt.Errorf("%s: %w", s.way.name, err)
		}
	}
	hots, uniforms := make([][]figures, len(stages)), make([][]figures, len(stages))
	for turn := range o.turns {
		for i, s := range stages {
			for _, kind := range []struct {
				load
				into *[]figures
			}{{uniform, &uniforms[i]}, {hot, &hots[i]}} {
				f, err := s.measure(ctx, kind.load, turn)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.way.name, kind.accounts[0], err)
				}
				*kind.into = append(*kind.into, f)
			}
		}
	}
	for i, s := range stages {
		s.result.uniform, s.result.hot = median(uniforms[i]), median(hots[i])
		if _, err := s.audit(ctx, everywhere); err != nil {
			return err
		}
	}
	return nil
}

func median(turns []figures) figures {
	slices.SortFunc(turns, func(a, b figures) int { return cmp.Compare(a.perSecond, b.perSecond) })
	return turns[len(turns)/2]
}
