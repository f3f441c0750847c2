package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/examples/internal/meter"
	"github.com/safetill/safetill/examples/internal/problem"
	"github.com/safetill/safetill/examples/internal/service"
	"github.com/safetill/safetill/internal/join"
	"github.com/safetill/safetill/internal/queue"
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
	health service.Health // ready as long as payments can be taken durably by anyone
}

// public is what customers' banks and nginx see.
func (s *api) public() http.Handler {
	r := s.engine()
	v1 := r.Group("/api/v1")
	v1.POST("/payments", s.postPayment)
	v1.GET("/payments/:reference", s.getPayment)
	v1.GET("/customers/:id/balance", s.getBalance)
	v1.GET("/customers", s.listCustomers)
	s.health.Routes(r)
	return r
}

// admin is for operators: keep its port private.
func (s *api) admin() http.Handler {
	r := s.engine()
	v1 := r.Group("/api/v1/admin")
	v1.POST("/seed-customers", s.seedCustomers)
	v1.GET("/stats", s.stats)
	v1.GET("/verify", s.verify)
	s.health.Routes(r)
	s.m.Routes(r)
	return r
}

func (s *api) engine() *gin.Engine {
	return problem.Engine(s.log, func(status int) { s.m.responses.WithLabelValues(strconv.Itoa(status)).Inc() })
}

func (s *api) postPayment(c *gin.Context) {
	start := time.Now()
	var body paymentBody
	if !problem.Decode(c.Writer, c.Request.Body, maxBody, &body) {
		return
	}
	p, faults := body.payment()
	if len(faults) > 0 {
		problem.Write(c.Writer, http.StatusUnprocessableEntity, "the payment has faults", faults...)
		return
	}
	// What has arrived whole is taken, also from a client that has gone since.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), requestLimit)
	defer cancel()
	got := s.submit(ctx, p)
	result := "accepted"
	refused, ok := errors.AsType[*refusal](got.err)
	switch {
	case ok:
		result = "refused"
		problem.Write(c.Writer, http.StatusUnprocessableEntity, "the payment has faults", problem.Field(*refused))
	case got.err != nil:
		result = "unavailable"
		s.fail(c, got.err)
	case got.repeat:
		result = "repeated"
		c.JSON(http.StatusOK, got)
	default:
		c.Header("Location", got.StatusURL)
		c.JSON(http.StatusAccepted, got)
		s.m.accept.Observe(time.Since(start).Seconds())
	}
	s.m.accepted.WithLabelValues(result).Inc()
}

func (s *api) getPayment(c *gin.Context) {
	reference := c.Param("reference")
	if reason := checkIdentifier(reference); reason != "" {
		problem.Write(c.Writer, http.StatusBadRequest, "not a reference", problem.Field{Field: "reference", Reason: reason})
		return
	}
	var p payment
	var found bool
	if !s.read(c, func(ctx context.Context) (err error) {
		p, found, err = s.store.find(ctx, reference)
		return err
	}) {
		return
	}
	if !found {
		problem.Write(c.Writer, http.StatusNotFound, "no payment with this reference", problem.Field{Field: "reference", Reason: "is unknown"})
		return
	}
	c.JSON(http.StatusOK, p)
}

// customer is a customer's account. What was paid beyond the debt is credit.
type customer struct {
	ID          string          `json:"customer_id"`
	Currency    string          `json:"currency"`
	Outstanding decimal.Decimal `json:"outstanding_balance"`
	Credit      decimal.Decimal `json:"credit_balance"`
	Paid        decimal.Decimal `json:"total_paid"`
	Version     int64           `json:"version"`
}

func newCustomer(id string, b ledger.Balance) customer {
	return customer{
		ID: id, Currency: b.Currency, Paid: b.Credits, Version: b.Version,
		Outstanding: decimal.Max(b.Posted, decimal.Zero), Credit: decimal.Max(b.Posted.Neg(), decimal.Zero),
	}
}

func (s *api) getBalance(c *gin.Context) {
	id := c.Param("id")
	var balances []ledger.Balance
	if reason := checkIdentifier(id); reason != "" {
		problem.Write(c.Writer, http.StatusBadRequest, "not a customer", problem.Field{Field: "customer_id", Reason: reason})
		return
	}
	if s.read(c, func(ctx context.Context) (err error) {
		balances, err = s.ledger.Balances(ctx, receivable(id))
		return err
	}) {
		c.JSON(http.StatusOK, newCustomer(id, balances[0]))
	}
}

func (s *api) listCustomers(c *gin.Context) {
	limit, offset := 50, 0
	faults := append(problem.Int(c.Request, "limit", &limit, 1, maxPage), problem.Int(c.Request, "offset", &offset, 0, 1<<30)...)
	if len(faults) > 0 {
		problem.Write(c.Writer, http.StatusBadRequest, "the query has faults", faults...)
		return
	}
	page := make([]customer, 0, limit)
	var total int64
	if s.read(c, func(ctx context.Context) error {
		ids, n, err := s.store.customers(ctx, limit, offset)
		if err != nil {
			return err
		}
		accounts := make([]ledger.AccountID, len(ids))
		for i, id := range ids {
			accounts[i] = receivable(id)
		}
		balances, err := s.ledger.Balances(ctx, accounts...)
		for i, b := range balances {
			page = append(page, newCustomer(ids[i], b))
		}
		total = n
		return err
	}) {
		c.JSON(http.StatusOK, gin.H{"customers": page, "limit": limit, "offset": offset, "total": total})
	}
}

func (s *api) seedCustomers(c *gin.Context) {
	var body struct {
		Count *int `json:"count"`
	}
	if !problem.Decode(c.Writer, c.Request.Body, maxBody, &body) {
		return
	}
	if body.Count == nil || *body.Count < 1 || *body.Count > maxSeed {
		problem.Write(c.Writer, http.StatusUnprocessableEntity, "the request has faults", problem.Field{Field: "count", Reason: fmt.Sprintf("must be from 1 to %d", maxSeed)})
		return
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), time.Minute)
	defer cancel()
	made, err := s.store.seed(ctx, *body.Count)
	if err != nil {
		s.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, gin.H{"created": made, "first": customerID(1), "last": customerID(*body.Count)})
}

func (s *api) stats(c *gin.Context) {
	var t totals
	if !s.read(c, func(ctx context.Context) (err error) {
		t, err = s.store.totals(ctx)
		return err
	}) {
		return
	}
	t.Breakers = map[string]string{"database": s.db.State(), "redis": s.redis.State()}
	t.Depth = map[string]meter.Depth{}
	for name, q := range map[string]queue.Queue{"posting": s.queue, "spill": s.spill} {
		if q != nil {
			t.Depth[name] = meter.DepthOf(c.Request.Context(), q)
		}
	}
	c.JSON(http.StatusOK, t)
}

func (s *api) verify(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), 5*time.Minute)
	defer cancel()
	report, err := s.ledger.Verify(ctx)
	if err != nil {
		s.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, gin.H{"ok": report.OK(), "accounts": report.Accounts, "entries": report.Entries, "breaks": append([]ledger.Break{}, report.Breaks...)})
}

// read runs a query of the database, or answers why it cannot.
func (s *api) read(c *gin.Context, f func(context.Context) error) bool {
	err := s.db.Do(c.Request.Context(), f)
	if errors.Is(err, ledger.ErrUnknownAccount) {
		problem.Write(c.Writer, http.StatusNotFound, "no such customer", problem.Field{Field: "customer_id", Reason: "is unknown"})
	} else if err != nil {
		s.fail(c, err)
	}
	return err == nil
}

// fail answers what is not the client's fault. What has an id may be sent again.
func (s *api) fail(c *gin.Context, err error) {
	switch {
	case errors.Is(err, errUnavailable), errors.Is(err, join.ErrStopped), errors.Is(err, context.DeadlineExceeded), s.db.Unavailable(err):
		c.Header("Retry-After", "1")
		problem.Write(c.Writer, http.StatusServiceUnavailable, "the server cannot do this now; try again")
	case errors.Is(err, context.Canceled):
		c.AbortWithStatus(499) // the client has gone; only the metrics see it
	default:
		s.log.Error("request failed", slog.String("path", c.FullPath()), slog.Any("error", err))
		problem.Write(c.Writer, http.StatusInternalServerError, "an error of the server, which is in its log")
	}
}
