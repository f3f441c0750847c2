package settlement

import (
	"errors"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/examples/internal/problem"
	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/saga"
)

const maxBody = 4096

// Routes adds POST /settlements {"amount": "10000"}, which needs the middleware of
// package idempotency before it, GET /settlements/ID, and what [saga.Handler] serves,
// at /sagas, for those that need a person.
func (s *Service) Routes(r gin.IRoutes) {
	r.POST("/settlements", problem.Handle(s.post))
	r.GET("/settlements/:id", problem.Handle(s.get))
	people := saga.Handler(s.Admin(), &saga.HandlerOptions{Logger: s.log})
	queue := func(c *gin.Context) {
		above, _, _ := strings.Cut(c.FullPath(), "/sagas")
		http.StripPrefix(above, people).ServeHTTP(c.Writer, c.Request)
	}
	r.GET("/sagas", queue)
	r.Any("/sagas/*path", queue)
}

// Keyed tells whether a request begins a settlement, and so needs a key.
func (s *Service) Keyed(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/settlements") }

// post begins a settlement. Its id is made of the request's key, so that it is the
// same for ever, also when the key's record is gone.
func (s *Service) post(c *gin.Context) (any, error) {
	var body struct {
		Amount *string `json:"amount"`
	}
	if err := problem.Decode(c.Request.Body, maxBody, &body); err != nil {
		return nil, err
	}
	var faults problem.Faults
	text := faults.Required("amount", body.Amount, problem.Amount)
	if len(faults) > 0 {
		return nil, faults.Err(http.StatusUnprocessableEntity, "the settlement has faults")
	}
	amount, err := decimal.NewFromString(text)
	if err != nil {
		return nil, err
	}
	run, ok := idempotency.RunFromContext(c.Request.Context())
	if !ok {
		return nil, problem.New(http.StatusBadRequest, "the header Idempotency-Key is missing")
	}
	id := run.Key().ID("settlement")
	err = s.Begin(c.Request.Context(), id, amount)
	if errors.Is(err, saga.ErrConflict) { // the key's record is gone, which would have said so
		faults = append(faults, problem.Field{Field: "amount", Reason: "is not the one that the Idempotency-Key was used for"})
		err = faults.Err(http.StatusUnprocessableEntity, "the settlement has faults")
	}
	if err != nil {
		return nil, err
	}
	c.Status(http.StatusAccepted)
	return gin.H{"settlement": id, "status_url": c.Request.URL.Path + "/" + id}, nil
}

func (s *Service) get(c *gin.Context) (any, error) {
	id, err := problem.PathID(c, "id")
	if err != nil {
		return nil, err
	}
	found, err := s.Find(c.Request.Context(), id)
	if errors.Is(err, saga.ErrNotFound) {
		return nil, problem.New(http.StatusNotFound, "no such settlement", problem.Field{Field: "id", Reason: "is unknown"})
	}
	return found, err
}
