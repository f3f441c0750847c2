package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/safetill/safetill/examples/internal/breaker"
	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/join"
	"github.com/safetill/safetill/internal/queue"
)

const (
	batchSize  = 100
	callLimit  = 3 * time.Second // for one call of a store
	dbLimit    = 1 * time.Second // for one that clients wait for: the database may hang, and they have somewhere else to go
	claimLease = 10 * time.Second
	answerKept = time.Hour // by the cache; the primary key keeps references for ever
)

// errUnavailable says that no server can take a payment durably.
var errUnavailable = errors.New("no store is available")

// answer is the body of a 202, and of the 200 that repeats it.
type answer struct {
	Message    string    `json:"message"`
	Reference  string    `json:"reference"`
	StatusURL  string    `json:"status_url"`
	AcceptedAt time.Time `json:"accepted_at"`
	repeat     bool
	err        error
}

func newAnswer(p *payment, first time.Time) answer {
	return answer{Message: "accepted", Reference: p.Reference, StatusURL: "/api/v1/payments/" + p.Reference, AcceptedAt: first}
}

func (a answer) repeated() answer {
	a.Message, a.repeat = "already processed", true
	return a
}

// request is one payment on its way through the accepter.
type request struct {
	payment  *payment
	done     chan answer       // holds one, so that nobody waits for a client that is gone
	token    idempotency.Token // > 0: the claim in the cache is ours
	mismatch bool              // the cache knows the key with other content
	copies   []*request        // the same payment again, in the same batch
}

// reply answers the client, and those that have sent the same.
func (r *request) reply(got answer) {
	r.done <- got
	for _, c := range r.copies {
		c.done <- got.repeated()
	}
}

// distinct returns each reference once: a copy goes with the first, and what has
// other content under the same reference is for later, when the first is known.
func distinct(requests []*request) (first, later []*request) {
	seen := make(map[string]*request, len(requests))
	for _, r := range requests {
		f := seen[r.payment.Reference]
		switch {
		case f == nil:
			seen[r.payment.Reference] = r
			first = append(first, r)
		case f.payment.fingerprint() == r.payment.fingerprint():
			f.copies = append(f.copies, r)
		default:
			later = append(later, r)
		}
	}
	return first, later
}

// accepter makes payments durable, many in one commit. A payment is refused a
// second time by three layers: the cache's record, the primary key of its
// reference, and the ledger's transaction id.
type accepter struct {
	store   store
	cache   idempotency.Store           // nil: none
	queue   queue.Queue                 // references to post; nil: the sweep finds them
	spill   queue.Queue                 // whole payments while the database is down; nil: none
	durable func(context.Context) error // tells why the spill list cannot be trusted
	db      *breaker.Breaker
	redis   *breaker.Breaker
	wake    *queue.Waker
	missed  chan struct{} // tells the sweep that a push has failed
	m       *metrics
	log     *slog.Logger
	joiner  *join.Joiner[*request]
}

// submit waits until the payment is durable or refused. A client that hangs up
// changes nothing about that.
func (a *accepter) submit(ctx context.Context, p *payment) answer {
	r := &request{payment: p, done: make(chan answer, 1)}
	if err := a.joiner.Put(ctx, r); err != nil {
		return answer{err: err}
	}
	select {
	case got := <-r.done:
		return got
	case <-ctx.Done():
		return answer{err: ctx.Err()}
	}
}

// accept answers every request of a batch. Its clients may hang up: nothing here
// depends on them.
func (a *accepter) accept(requests []*request) {
	for len(requests) > 0 {
		first, later := distinct(requests)
		a.acceptDistinct(context.Background(), first)
		requests = later
	}
}

func (a *accepter) acceptDistinct(ctx context.Context, requests []*request) {
	if requests = a.claim(ctx, requests); len(requests) == 0 {
		return
	}
	limited, cancel := context.WithTimeout(ctx, dbLimit)
	accepted, err := a.record(limited, requests, false)
	cancel()
	switch {
	case err == nil:
		a.answer(ctx, requests, accepted)
	case a.db.Unavailable(err):
		a.divert(ctx, requests, err)
	default:
		a.log.Error("payments could not be accepted", slog.Int("payments", len(requests)), slog.Any("error", err))
		for _, r := range requests {
			r.reply(answer{err: err})
		}
	}
}

// record offers payments to the store. Those on the spill list are acknowledged.
func (a *accepter) record(ctx context.Context, requests []*request, acknowledged bool) ([]acceptance, error) {
	payments := make([]*payment, len(requests))
	for i, r := range requests {
		payments[i] = r.payment
	}
	return breaker.Call(ctx, a.db, func(ctx context.Context) ([]acceptance, error) {
		return a.store.accept(ctx, payments, acknowledged)
	})
}

// claim asks the cache and answers what it knows. What it does not know, and
// everything when it is gone, is for the store to decide.
func (a *accepter) claim(ctx context.Context, requests []*request) []*request {
	if a.cache == nil {
		return requests
	}
	claims := make([]idempotency.Request, len(requests))
	for i, r := range requests {
		claims[i] = idempotency.Request{Key: r.payment.key(), Fingerprint: r.payment.fingerprint(), Lease: claimLease}
	}
	records, err := breaker.Call(ctx, a.redis, func(ctx context.Context) ([]idempotency.Record, error) {
		return a.cache.Claim(ctx, claims)
	})
	if err != nil {
		return requests
	}
	var open []*request
	for i, r := range requests {
		var first answer
		switch records[i].Outcome {
		case idempotency.Completed:
			if err := json.Unmarshal(records[i].Response, &first); err == nil {
				r.reply(first.repeated())
				continue
			}
		case idempotency.Won:
			r.token = records[i].Token
		case idempotency.Mismatch:
			r.mismatch = true
		case idempotency.Unknown, idempotency.InFlight: // another server has it in hand, or died with it
		}
		open = append(open, r)
	}
	return open
}

// answer gives each client its answer, which is committed, and then tells the
// workers and the cache. If this process dies in between, the sweep finds the
// payments and the primary key the repeats.
func (a *accepter) answer(ctx context.Context, requests []*request, accepted []acceptance) {
	var due [][]byte
	var done []idempotency.Completion
	for i, r := range requests {
		got := newAnswer(r.payment, accepted[i].first)
		switch {
		case accepted[i].err != nil:
			r.reply(answer{err: accepted[i].err})
			continue
		case accepted[i].repeat:
			r.reply(got.repeated())
		default:
			r.reply(got)
			if r.payment.posts() {
				due = append(due, []byte(r.payment.Reference))
			}
		}
		done = append(done, r.completion(got)...)
	}
	a.enqueue(ctx, due)
	a.settle(ctx, done)
}

// completion is what the cache shall remember, if its claim is ours.
func (r *request) completion(got answer) []idempotency.Completion {
	body, err := json.Marshal(got)
	if r.token == 0 || err != nil {
		return nil
	}
	return []idempotency.Completion{{Key: r.payment.key(), Token: r.token, Response: body, TTL: answerKept}}
}

// enqueue tells the workers, or the sweep that it could not.
func (a *accepter) enqueue(ctx context.Context, references [][]byte) {
	if a.queue == nil || len(references) == 0 {
		return
	}
	if err := a.redis.Do(ctx, func(ctx context.Context) error { return a.queue.Push(ctx, references...) }); err != nil {
		select {
		case a.missed <- struct{}{}:
		default:
		}
		return
	}
	a.wake.Wake()
}

// settle tells the cache. The claims of refused payments just run out: to a cache
// in two minds the store is asked.
func (a *accepter) settle(ctx context.Context, done []idempotency.Completion) {
	if len(done) > 0 {
		_ = a.redis.Do(ctx, func(ctx context.Context) error { // it is the cache alone that suffers
			_, err := a.cache.Complete(ctx, done)
			return err
		})
	}
}

// divert puts payments on the spill list while the database is down. A commit
// whose answer was lost puts a payment in both places: the drain finds its
// reference taken by itself.
func (a *accepter) divert(ctx context.Context, requests []*request, cause error) {
	var bodies [][]byte
	var open []*request
	now := time.Now().UTC()
	for _, r := range requests {
		p := *r.payment
		p.AcceptedAt = now
		body, err := json.Marshal(&p)
		switch {
		case r.mismatch:
			r.reply(answer{err: errOtherContent})
		case err != nil:
			r.reply(answer{err: fmt.Errorf("payment %q: %w", p.Reference, err)})
		default:
			bodies, open = append(bodies, body), append(open, r)
		}
	}
	err := a.durable(ctx)
	if err == nil {
		err = a.redis.Do(ctx, func(ctx context.Context) error { return a.spill.Push(ctx, bodies...) })
	}
	if err != nil {
		a.log.Warn("payments refused: no store", slog.Int("payments", len(open)), slog.Any("database", cause), slog.Any("redis", err))
		for _, r := range open {
			r.reply(answer{err: errUnavailable})
		}
		return
	}
	var done []idempotency.Completion
	for _, r := range open {
		got := newAnswer(r.payment, now)
		a.m.accepted.WithLabelValues("spilled").Inc()
		r.reply(got)
		done = append(done, r.completion(got)...)
	}
	a.settle(ctx, done)
}
