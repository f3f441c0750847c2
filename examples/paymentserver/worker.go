package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/safetill/safetill/internal/queue"
)

// sweepAge is how long a payment may wait for its message before it is taken
// for lost: Redis was flushed, or a server died before it pushed.
const sweepAge = 5 * time.Second

// work posts payments until ctx ends, and returns when nothing is in hand.
func (a *accepter) work(ctx context.Context, workers int) error {
	var running sync.WaitGroup
	running.Go(func() { a.sweep(ctx) })
	faults := make(chan error, 2)
	if a.spill != nil {
		running.Go(func() {
			faults <- queue.Consume(ctx, a.spill, &queue.ConsumeOptions{
				Name: "drain", Workers: 1, Batch: batchSize, Wake: nil, PollMax: 500 * time.Millisecond, ErrorMax: time.Second, Logger: a.log,
			}, a.drain)
		})
	}
	if a.queue != nil {
		running.Go(func() {
			faults <- queue.Consume(ctx, a.queue, &queue.ConsumeOptions{
				Name: "post", Workers: workers, Batch: batchSize, Wake: a.wake, ErrorMax: time.Second, Logger: a.log,
			}, func(ctx context.Context, msgs []queue.Message) error {
				references := make([]string, len(msgs))
				for i, m := range msgs {
					references[i] = string(m.Body)
				}
				_, err := a.post(ctx, references)
				return err
			})
		})
	}
	running.Wait()
	close(faults)
	for err := range faults {
		if err != nil {
			return err
		}
	}
	return nil
}

// post posts what is still RECEIVED of the references. A message that comes
// twice, or beside the sweep, finds nothing to do.
func (a *accepter) post(ctx context.Context, references []string) (int, error) {
	var posted []payment
	err := a.db.do(func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		posted, err = a.store.post(ctx, references)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("post %d payments: %w", len(references), err)
	}
	for _, p := range posted {
		a.m.posted.WithLabelValues(p.State).Inc()
		a.m.postingDelay.Observe(p.PostedAt.Sub(p.AcceptedAt).Seconds())
		if p.State == stateRejected {
			a.log.Error("a payment was rejected by the ledger", slog.String("reference", p.Reference), slog.String("reason", p.Reason))
		}
	}
	return len(posted), nil
}

// sweep posts what no message tells of. Without Redis that is everything, and it
// goes on as fast as there is work.
func (a *accepter) sweep(ctx context.Context) {
	pause := time.NewTimer(0)
	for {
		age, every := sweepAge, time.Second
		select {
		case <-ctx.Done():
			return
		case <-a.missed:
			age = 0
		case <-pause.C:
		}
		if a.queue == nil || !a.redis.closed() {
			age, every = 0, 10*time.Millisecond
		}
		n, err := a.sweepOnce(ctx, age)
		switch {
		case err != nil:
			every = time.Second
			if ctx.Err() == nil && a.db.closed() {
				a.log.Warn("sweep failed", slog.Any("error", err))
			}
		case n > 0:
			every = 0
		}
		pause.Reset(every)
	}
}

func (a *accepter) sweepOnce(ctx context.Context, age time.Duration) (n int, err error) {
	var references []string
	err = a.db.do(func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		references, err = a.store.received(ctx, age, 5*batchSize)
		return err
	})
	if err != nil || len(references) == 0 {
		return 0, err
	}
	return a.post(context.WithoutCancel(ctx), references)
}

// drain moves spilled payments into the store, in order.
func (a *accepter) drain(ctx context.Context, msgs []queue.Message) error {
	b := newBatch()
	for _, m := range msgs {
		p := new(payment)
		if err := json.Unmarshal(m.Body, p); err != nil {
			return fmt.Errorf("spilled payment %s: %w", m.ID, err)
		}
		b.add(&request{payment: p})
	}
	for ; len(b.requests) > 0; b = b.next() {
		if err := a.drainBatch(ctx, b.requests); err != nil {
			return err
		}
	}
	return nil
}

func (a *accepter) drainBatch(ctx context.Context, requests []*request) error {
	payments := make([]*payment, len(requests))
	for i, r := range requests {
		payments[i] = r.payment
	}
	var accepted []acceptance
	err := a.db.do(func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		accepted, err = a.store.accept(ctx, payments, true)
		return err
	})
	if err != nil {
		return fmt.Errorf("drain %d payments: %w", len(payments), err)
	}
	var due [][]byte
	for i, p := range payments {
		if accepted[i].err != nil {
			// It was acknowledged when nobody could look it up. A person has to
			// see it: an unknown customer's is kept as REJECTED, too.
			a.m.accepted.WithLabelValues("drain_refused").Inc()
			a.log.Error("a spilled payment was refused", slog.String("reference", p.Reference), slog.Any("error", accepted[i].err))
		} else if p.posts() && !accepted[i].repeat {
			due = append(due, []byte(p.Reference))
		}
	}
	a.enqueue(due)
	return nil
}
