package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/safetill/safetill/internal/join"
	"github.com/safetill/safetill/internal/queue"
)

// sweepAge is how long a payment may wait for its message before it is taken
// for lost: Redis was flushed, or a server died before it pushed.
const sweepAge = 5 * time.Second

// work posts payments until ctx ends, and returns when nothing is in hand.
func (a *accepter) work(ctx context.Context, workers int) error {
	var running sync.WaitGroup
	faults := make([]error, 2)
	running.Go(func() { a.sweep(ctx) })
	if a.spill != nil {
		running.Go(func() {
			faults[0] = queue.Consume(ctx, a.spill, &queue.ConsumeOptions{
				Name: "drain", Workers: 1, Batch: batchSize, PollMax: 500 * time.Millisecond, ErrorMax: time.Second, Logger: a.log,
			}, a.drain)
		})
	}
	if a.queue != nil {
		running.Go(func() {
			faults[1] = queue.Consume(ctx, a.queue, &queue.ConsumeOptions{
				Name: "post", Workers: workers, Batch: batchSize, Wake: a.wake, ErrorMax: time.Second, Logger: a.log,
			}, a.postMessages)
		})
	}
	running.Wait()
	return errors.Join(faults...)
}

func (a *accepter) postMessages(ctx context.Context, msgs []queue.Message) error {
	references := make([]string, len(msgs))
	for i, m := range msgs {
		references[i] = string(m.Body)
	}
	_, err := a.post(ctx, references)
	return err
}

// post posts what is still RECEIVED of the references. A message that comes
// twice, or beside the sweep, finds nothing to do.
func (a *accepter) post(ctx context.Context, references []string) (int, error) {
	var posted []payment
	err := guarded(ctx, a.db, func(ctx context.Context) (err error) {
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
		if a.queue == nil || !a.redis.Closed() {
			age, every = 0, 10*time.Millisecond
		}
		n, err := a.sweepOnce(ctx, age)
		switch {
		case err != nil:
			every = time.Second
			if ctx.Err() == nil && a.db.Closed() {
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
	err = guarded(ctx, a.db, func(ctx context.Context) (err error) {
		references, err = a.store.received(ctx, age, 5*batchSize)
		return err
	})
	if err != nil || len(references) == 0 {
		return 0, err
	}
	return a.post(context.WithoutCancel(ctx), references)
}

// drain moves spilled payments into the store, in order, each reference after
// the one before it.
func (a *accepter) drain(ctx context.Context, msgs []queue.Message) error {
	var b join.Batch[*request]
	for _, m := range msgs {
		p := new(payment)
		if err := json.Unmarshal(m.Body, p); err != nil {
			return fmt.Errorf("spilled payment %s: %w", m.ID, err)
		}
		b.Add(&request{payment: p}, p.Reference)
	}
	for ; len(b.Items) > 0; b = b.Next(batchSize) {
		accepted, err := a.record(ctx, b.Items, true)
		if err != nil {
			return fmt.Errorf("drain %d payments: %w", len(b.Items), err)
		}
		var due [][]byte
		for i, r := range b.Items {
			if accepted[i].err != nil {
				// It was acknowledged when nobody could look it up, so a person
				// has to see it. An unknown customer's is kept as REJECTED, too.
				a.m.accepted.WithLabelValues("drain_refused").Inc()
				a.log.Error("a spilled payment was refused", slog.String("reference", r.payment.Reference), slog.Any("error", accepted[i].err))
			} else if r.payment.posts() {
				due = append(due, []byte(r.payment.Reference))
			}
		}
		a.enqueue(ctx, due)
	}
	return nil
}
