package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/safetill/safetill/examples/internal/breaker"
	"github.com/safetill/safetill/examples/internal/strictjson"
	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/join"
	"github.com/safetill/safetill/internal/queue"
)

const (
	batchSize  = 100
	callLimit  = 3 * time.Second // for one call of a store
	dbLimit    = 1 * time.Second // for one that clients wait for: the database may hang, and they have somewhere else to go
	cacheLimit = time.Second / 2 // for what Redis is asked or told beside: it may hang, and no payment depends on it
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
}

func newAnswer(p *payment, a acceptance) answer {
	got := answer{Message: "accepted", Reference: p.Reference, StatusURL: "/api/v1/payments/" + p.Reference, AcceptedAt: a.first}
	if a.repeat {
		return got.repeated()
	}
	return got
}

func (a answer) repeated() answer {
	a.Message, a.repeat = "already processed", true
	return a
}

// request is one payment on its way through the accepter.
type request struct {
	*payment
	call   *join.Call[*payment, answer] // nil for one from the spill list: it has its answer
	cached idempotency.Record           // what the cache knows of it
	copies []*request                   // the same payment again, in the same batch
}

// reply answers the client, and those that have sent the same.
func (r *request) reply(got answer, err error) {
	r.call.Answer(got, err)
	for _, c := range r.copies {
		c.call.Answer(got.repeated(), err)
	}
}

// rounds parts a batch so that a reference comes once in each round. A copy goes
// with the first of its kind; other content under the same reference is for the
// next round, when the first is known.
func rounds(batch []*request) [][]*request {
	reference := func(r *request) string { return r.Reference }
	return join.Rounds(batch, reference, func(first, next *request) bool {
		if first.fingerprint() != next.fingerprint() {
			return false
		}
		first.copies = append(first.copies, next)
		return true
	})
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
	joiner  *join.Joiner[*payment, answer]
}

// accept answers every call of a batch. Its clients may hang up: nothing here
// depends on them.
func (a *accepter) accept(calls []*join.Call[*payment, answer]) {
	batch := make([]*request, len(calls))
	for i, c := range calls {
		batch[i] = &request{payment: c.Item, call: c}
	}
	for _, requests := range rounds(batch) {
		a.acceptRound(context.Background(), requests)
	}
}

func (a *accepter) acceptRound(ctx context.Context, requests []*request) {
	if requests = a.claim(ctx, requests); len(requests) == 0 {
		return
	}
	limited, cancel := context.WithTimeout(ctx, dbLimit)
	defer cancel()
	accepted, err := a.record(limited, requests, false)
	spilled := a.db.Unavailable(err)
	if spilled {
		accepted, err = a.divert(ctx, requests, err)
	}
	if err != nil {
		a.log.Error("payments could not be accepted", slog.Int("payments", len(requests)), slog.Any("error", err))
		for _, r := range requests {
			r.reply(answer{}, err)
		}
		return
	}
	a.answer(ctx, requests, accepted, spilled)
}

// claim asks the cache and answers what it knows. What it does not know, and
// everything when it is gone, is for the store to decide.
func (a *accepter) claim(ctx context.Context, requests []*request) (open []*request) {
	if a.cache == nil {
		return requests
	}
	claims := make([]idempotency.Request, len(requests))
	for i, r := range requests {
		claims[i] = idempotency.Request{Key: r.key(), Fingerprint: r.fingerprint(), Lease: claimLease}
	}
	ctx, cancel := context.WithTimeout(ctx, cacheLimit)
	defer cancel()
	records, err := breaker.Call(ctx, a.redis, func(ctx context.Context) ([]idempotency.Record, error) {
		return a.cache.Claim(ctx, claims)
	})
	if err != nil {
		return requests
	}
	for i, r := range requests {
		var first answer
		r.cached = records[i]
		if r.cached.Outcome == idempotency.Completed && json.Unmarshal(r.cached.Response, &first) == nil {
			r.reply(first.repeated(), nil)
			continue
		}
		open = append(open, r) // one in flight is in the hands of another server, or that died with it
	}
	return open
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

// divert puts payments on the spill list while the database is down. A commit
// whose answer was lost puts a payment in both places: the drain finds its
// reference taken by itself.
func (a *accepter) divert(ctx context.Context, requests []*request, cause error) ([]acceptance, error) {
	accepted := make([]acceptance, len(requests))
	var bodies [][]byte
	now := time.Now().UTC().Truncate(time.Microsecond) // which is what PostgreSQL keeps
	for i, r := range requests {
		if r.cached.Outcome == idempotency.Mismatch { // to what was taken, or to what was refused
			accepted[i].err = errUnavailable
			continue
		}
		accepted[i].first = now
		p := *r.payment
		p.AcceptedAt = now
		bodies = append(bodies, strictjson.Encode(&p))
	}
	err := a.durable(ctx)
	if err == nil {
		err = a.redis.Do(ctx, func(ctx context.Context) error { return a.spill.Push(ctx, bodies...) })
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w; %w", errUnavailable, cause, err)
	}
	a.m.accepted.WithLabelValues("spilled").Add(float64(len(bodies)))
	return accepted, nil
}

// answer gives each client its answer, which is committed, and then tells the
// workers and the cache. If this process dies in between, the sweep finds the
// payments and the primary key the repeats. The claims of refused payments just
// run out: to a cache in two minds the store is asked.
func (a *accepter) answer(ctx context.Context, requests []*request, accepted []acceptance, spilled bool) {
	var due [][]byte
	var done []idempotency.Completion
	for i, r := range requests {
		got := newAnswer(r.payment, accepted[i])
		r.reply(got, accepted[i].err)
		if accepted[i].err != nil {
			continue
		}
		if r.posts() && !got.repeat && !spilled {
			due = append(due, []byte(r.Reference))
		}
		if r.cached.Outcome == idempotency.Won {
			done = append(done, idempotency.Completion{Key: r.key(), Token: r.cached.Token, Response: strictjson.Encode(got), TTL: answerKept})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cacheLimit) // the next batch waits for it
	defer cancel()
	a.enqueue(ctx, due)
	if len(done) > 0 {
		_ = a.redis.Do(ctx, func(ctx context.Context) error { // it is the cache alone that suffers
			_, err := a.cache.Complete(ctx, done)
			return err
		})
	}
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
