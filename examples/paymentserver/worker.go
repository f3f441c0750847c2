package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/safetill/safetill/examples/internal/breaker"
	"github.com/safetill/safetill/examples/internal/service"
	"github.com/safetill/safetill/internal/queue"
)

// sweepAge is how long a payment may wait for its message before it is taken
// for lost: Redis was flushed, or a server died before it pushed.
const sweepAge = 5 * time.Second

// work posts payments until ctx ends, and returns when nothing is in hand.
func (a *accepter) work(ctx context.Context, workers int) error {
	works := []func(context.Context) error{a.sweep}
	consume := func(q queue.Queue, handle queue.Handler, o queue.ConsumeOptions) {
		if q != nil {
			o.Batch, o.ErrorMax, o.Logger = batchSize, time.Second, a.log
			works = append(works, func(ctx context.Context) error { return queue.Consume(ctx, q, &o, handle) })
		}
	}
	consume(a.queue, a.postMessages, queue.ConsumeOptions{Name: "post", Workers: workers, Wake: a.wake})
	consume(a.spill, a.drain, queue.ConsumeOptions{Name: "drain", Workers: 1, PollMax: 500 * time.Millisecond})
	return service.Together(ctx, works...)
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
	posted, err := breaker.Call(ctx, a.db, func(ctx context.Context) ([]payment, error) { return a.store.post(ctx, references) })
	if err != nil {
		return 0, fmt.Errorf("post %d payments: %w", len(references), err)
	}
	for _, p := range posted {
		a.m.posted.WithLabelValues(p.State).Inc()
		a.m.postingDelay.Observe(max(0, p.PostedAt.Sub(p.AcceptedAt).Seconds())) // two clocks, of one that was spilled
		if p.State == stateRejected {
			a.log.Error("a payment was rejected by the ledger", slog.String("reference", p.Reference), slog.String("reason", p.Reason))
		}
	}
	return len(posted), nil
}

// sweep posts what no message tells of. Without Redis that is everything, and it
// goes on as fast as there is work.
func (a *accepter) sweep(ctx context.Context) error {
	for pause, limit := time.Duration(0), 5*batchSize; ; {
		age := sweepAge
		select {
		case <-ctx.Done():
			return nil
		case <-a.missed:
			age = 0
		case <-time.After(pause):
		}
		if a.queue != nil && !a.redis.Closed() { // is it back? No payment may come to find out
			_, _ = breaker.Call(ctx, a.redis, a.queue.Stats)
		}
		pause = time.Second
		if a.queue == nil || !a.redis.Closed() {
			age, pause = 0, 10*time.Millisecond
		}
		n, err := a.sweepOnce(ctx, age, limit)
		switch {
		case err != nil:
			pause, limit = time.Second, batchSize // what was too much for its time would be so for ever
			if ctx.Err() == nil && a.db.Closed() {
				a.log.Warn("sweep failed", slog.Any("error", err))
			}
		case n > 0:
			pause = 0
		default:
			limit = 5 * batchSize
		}
	}
}

func (a *accepter) sweepOnce(ctx context.Context, age time.Duration, limit int) (int, error) {
	references, err := breaker.Call(ctx, a.db, func(ctx context.Context) ([]string, error) {
		return a.store.received(ctx, age, limit)
	})
	if err != nil || len(references) == 0 {
		return 0, err
	}
	return a.post(context.WithoutCancel(ctx), references)
}

// drain moves spilled payments into the store, in order, each reference after
// the one before it.
func (a *accepter) drain(ctx context.Context, msgs []queue.Message) error {
	requests := make([]*request, len(msgs))
	for i, m := range msgs {
		requests[i] = &request{payment: new(payment)}
		if err := json.Unmarshal(m.Body, requests[i].payment); err != nil {
			return fmt.Errorf("spilled payment %s: %w", m.ID, err)
		}
	}
	for _, round := range rounds(requests) {
		if err := a.drainRound(ctx, round); err != nil {
			return fmt.Errorf("drain %d payments: %w", len(round), err)
		}
	}
	return nil
}

func (a *accepter) drainRound(ctx context.Context, requests []*request) error {
	accepted, err := a.record(ctx, requests, true)
	if err != nil {
		return err
	}
	var due [][]byte
	for i, r := range requests {
		if accepted[i].err != nil {
			// It was acknowledged when nobody could look it up, so a person has
			// to see it. An unknown customer's is kept as REJECTED, too.
			a.m.accepted.WithLabelValues("drain_refused").Inc()
			a.log.Error("a spilled payment was refused", slog.String("reference", r.Reference), slog.Any("error", accepted[i].err))
		} else if r.posts() {
			due = append(due, []byte(r.Reference))
		}
	}
	a.enqueue(ctx, due)
	return nil
}

// drained returns an error as long as there may be something on the spill list.
func (a *accepter) drained(ctx context.Context) error {
	st, err := breaker.Call(ctx, a.redis, a.spill.Stats)
	switch n := st.Ready + st.Claimed; {
	case err != nil:
		return fmt.Errorf("%w to tell what is spilled: %w", errUnavailable, err)
	case n > 0:
		return fmt.Errorf("%w: %d payments are spilled", errUnavailable, n)
	}
	return nil
}
