package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/safetill/safetill/examples/internal/breaker"
	"github.com/safetill/safetill/examples/internal/problem"
	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/ledger"
)

// admin is for operators: keep its port private. A write with an Idempotency-Key
// is done once, and answered with its first answer.
func (s *api) admin() http.Handler {
	r := s.engine()
	v1 := r.Group("/api/v1/admin")
	v1.POST("/seed-customers", problem.Handle(s.seedCustomers))
	v1.POST("/refunds", problem.Handle(s.refund))
	s.settling.Routes(v1)
	v1.GET("/stats", problem.Handle(s.stats))
	v1.GET("/verify", problem.Handle(s.verify))
	s.health.Routes(r)
	s.m.Routes(r)
	return s.counted(s.once(r)) // a replay does not come to r
}

// protect makes what writes of operators go through: one commit for all who
// write at the same moment, once for each key.
func (s *api) protect() error {
	guard, err := idempotency.New(s.keys, &idempotency.Options{Logger: s.log})
	if err != nil {
		return err
	}
	if s.group, err = ledger.NewGroup(s.ledger, &ledger.GroupOptions{Timeout: callLimit}); err != nil {
		return err
	}
	s.once, err = idempotency.NewMiddleware(guard, &idempotency.HandlerOptions{
		Scope:    func(*http.Request) string { return "operators" }, // who reaches this port is one
		Required: func(r *http.Request) bool { return s.settling.Keyed(r) || strings.HasSuffix(r.URL.Path, "/refunds") },
	})
	return err
}

func (s *api) seedCustomers(c *gin.Context) (any, error) {
	var body struct {
		Count *int `json:"count"`
	}
	if err := problem.Decode(c.Request.Body, maxBody, &body); err != nil {
		return nil, err
	}
	var faults problem.Faults
	n := faults.Int("count", body.Count, 1, maxSeed)
	if len(faults) > 0 {
		return nil, faults.Err(http.StatusUnprocessableEntity, "the request has faults")
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), time.Minute)
	defer cancel()
	made, err := seed(ctx, s.store, n)
	return gin.H{"created": made, "first": customerID(1), "last": customerID(n)}, err
}

// refund gives a payment back: the customer owes again what it had paid. The
// reversal's id is made of the key, so that it is one for ever, also when the
// key's record is gone; and whatever the key, the ledger reverses a payment once.
func (s *api) refund(c *gin.Context) (any, error) {
	var body struct {
		Reference *string `json:"transaction_reference"`
	}
	if err := problem.Decode(c.Request.Body, maxBody, &body); err != nil {
		return nil, err
	}
	var faults problem.Faults
	reference := faults.Required("transaction_reference", body.Reference, problem.Identifier)
	if len(faults) > 0 {
		return nil, faults.Err(http.StatusUnprocessableEntity, "the refund has faults")
	}
	refused := func(status int, reason string) error {
		return problem.New(status, "this payment cannot be refunded", problem.Field{Field: "transaction_reference", Reason: reason})
	}
	// To ask the ledger too early would have its refusal under this id for ever.
	p, err := s.payment(c.Request.Context(), "transaction_reference", reference)
	if err == nil && p.State != statePosted {
		err = refused(http.StatusConflict, "is of a payment that is "+p.State)
	}
	if err != nil {
		return nil, err
	}
	run, _ := idempotency.RunFromContext(c.Request.Context()) // the middleware lets none past without
	result, err := s.group.PostOne(c.Request.Context(), ledger.Transaction{
		ID: ledger.TransactionID(run.Key().ID("refund")), Kind: ledger.KindReverse, Of: paymentID(reference),
	})
	switch {
	case err == nil:
		c.Status(http.StatusCreated)
	case errors.Is(err, ledger.ErrTargetClosed):
		err = refused(http.StatusUnprocessableEntity, "was refunded before")
	case errors.Is(err, ledger.ErrConflict): // the key's record is gone, which would have said so
		err = refused(http.StatusUnprocessableEntity, "is not the one that the Idempotency-Key was used for")
	}
	return gin.H{"refund": result.ID, "transaction_reference": reference, "refunded_at": result.At}, err
}

func (s *api) stats(c *gin.Context) (any, error) {
	t, err := breaker.Call(c.Request.Context(), s.db, s.store.totals)
	t.Breakers, t.Depth = s.m.Breakers(), s.m.Depths(c.Request.Context())
	return t, err
}

func (s *api) verify(c *gin.Context) (any, error) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), 5*time.Minute)
	defer cancel()
	report, err := s.ledger.Verify(ctx)
	return gin.H{
		"ok": report.OK(), "accounts": report.Accounts, "entries": report.Entries, "breaks": append([]ledger.Break{}, report.Breaks...),
		"seals": report.Seal.Number, "broken_seal": report.Broken,
	}, err
}
