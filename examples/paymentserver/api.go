package main

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/safetill/safetill/examples/internal/breaker"
	"github.com/safetill/safetill/examples/internal/limits"
	"github.com/safetill/safetill/examples/internal/problem"
	"github.com/safetill/safetill/examples/internal/receivables"
	"github.com/safetill/safetill/examples/internal/service"
	"github.com/safetill/safetill/examples/internal/settlement"
	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/join"
	"github.com/safetill/safetill/ledger"
)

const (
	maxBody      = 64 << 10
	maxPage      = 1000
	maxSeed      = 100_000
	requestLimit = 4 * time.Second // less than a stop waits for
)

// api is the HTTP side of the server.
type api struct {
	*accepter
	ledger *ledger.Ledger
	group  *ledger.Group
	keys   interface { // of operators' writes
		idempotency.Store
		idempotency.Sweeper
	}
	settling *settlement.Service
	once     func(http.Handler) http.Handler
	gate     *limits.Gate
	health   service.Health // ready as long as payments can be taken durably by anyone
}

// public is what customers' banks and nginx see.
func (s *api) public() http.Handler {
	r := s.engine()
	v1 := r.Group("/api/v1")
	v1.POST("/payments", problem.Handle(s.postPayment))
	v1.GET("/payments/:reference", problem.Handle(s.getPayment))
	v1.GET("/customers/:customer_id/balance", problem.Handle(s.getBalance))
	v1.GET("/customers", problem.Handle(s.listCustomers))
	s.health.Routes(r)
	return s.counted(r)
}

func (s *api) engine() *gin.Engine {
	unavailable := func(err error) bool { // what has an id may be sent again
		return errors.Is(err, errUnavailable) || errors.Is(err, join.ErrStopped) || errors.Is(err, ledger.ErrGroupStopped) || s.db.Unavailable(err)
	}
	return problem.Engine(s.log, unavailable)
}

// counted counts the answers of a port.
func (s *api) counted(h http.Handler) http.Handler {
	return problem.Counted(h, func(status int) { s.m.responses.WithLabelValues(strconv.Itoa(status)).Inc() })
}

func (s *api) postPayment(c *gin.Context) (any, error) {
	start := time.Now()
	var body paymentBody
	if err := problem.Decode(c.Request.Body, maxBody, &body); err != nil {
		return nil, err
	}
	p, faults := body.payment()
	if len(faults) > 0 {
		return nil, faults.Err(http.StatusUnprocessableEntity, paymentFaults)
	}
	// What has arrived whole is taken, also from a client that has gone since.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), requestLimit)
	defer cancel()
	if err := s.gate.Admit(ctx, c.Writer.Header(), c.Request, p.CustomerID); err != nil {
		s.m.accepted.WithLabelValues("limited").Inc()
		return nil, err
	}
	got, err := s.joiner.Do(ctx, p)
	result := "accepted"
	switch _, refused := errors.AsType[*problem.Problem](err); {
	case refused:
		result = "refused"
	case err != nil:
		result = "unavailable"
	case got.repeat:
		result = "repeated"
	default:
		c.Header("Location", got.StatusURL)
		c.Status(http.StatusAccepted)
		s.m.accept.Observe(time.Since(start).Seconds())
	}
	s.m.accepted.WithLabelValues(result).Inc()
	return got, err
}

func (s *api) getPayment(c *gin.Context) (any, error) {
	reference, err := problem.PathID(c, "reference")
	if err != nil {
		return nil, err
	}
	return s.payment(c.Request.Context(), "reference", reference)
}

// payment finds the payment that a request's field names.
func (s *api) payment(ctx context.Context, field, reference string) (payment, error) {
	found, err := s.find(ctx, reference)
	if err == nil && len(found) == 0 && s.spill != nil {
		// It may have been acknowledged and not be there yet.
		if err = s.drained(ctx); err == nil {
			found, err = s.find(ctx, reference)
		}
	}
	if err == nil && len(found) == 0 {
		err = unknown("payment", field)
	}
	return append(found, payment{})[0], err
}

func (s *api) find(ctx context.Context, reference string) ([]payment, error) {
	return breaker.Call(ctx, s.db, func(ctx context.Context) ([]payment, error) { return s.store.find(ctx, reference) })
}

func unknown(what, field string) error {
	return problem.New(http.StatusNotFound, "no such "+what, problem.Field{Field: field, Reason: "is unknown"})
}

// customers returns the balances of customers, in their order.
func (s *api) customers(ctx context.Context, ids ...string) ([]receivables.Balance, error) {
	found, err := receivables.Balances(ctx, s.ledger, ids...)
	if errors.Is(err, ledger.ErrUnknownAccount) {
		err = unknown("customer", "customer_id")
	}
	return found, err
}

func (s *api) getBalance(c *gin.Context) (any, error) {
	id, err := problem.PathID(c, "customer_id")
	if err != nil {
		return nil, err
	}
	return breaker.Call(c.Request.Context(), s.db, func(ctx context.Context) (any, error) {
		found, err := s.customers(ctx, id)
		return append(found, receivables.Balance{})[0], err
	})
}

func (s *api) listCustomers(c *gin.Context) (any, error) {
	var faults problem.Faults
	limit, offset := faults.Query(c, "limit", 50, 1, maxPage), faults.Query(c, "offset", 0, 0, 1<<30)
	if len(faults) > 0 {
		return nil, faults.Err(http.StatusBadRequest, "the query has faults")
	}
	return breaker.Call(c.Request.Context(), s.db, func(ctx context.Context) (any, error) {
		ids, total, err := s.store.customers(ctx, limit, offset)
		if err != nil {
			return nil, err
		}
		page, err := s.customers(ctx, ids...)
		return gin.H{"customers": page, "limit": limit, "offset": offset, "total": total}, err
	})
}
