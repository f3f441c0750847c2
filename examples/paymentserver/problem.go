package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/gin-gonic/gin"
)

// problem is the answer to everything that goes wrong, after RFC 9457.
type problem struct {
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Detail string  `json:"detail"`
	Errors []fault `json:"errors,omitempty"` // the fields that are wrong
}

func refuse(c *gin.Context, status int, detail string, faults ...fault) {
	c.Abort()
	c.Header("Content-Type", "application/problem+json")
	c.JSON(status, problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Errors: faults})
}

// fail answers what is not the client's fault. What has an id may be sent again.
func (s *api) fail(c *gin.Context, err error) {
	if errors.Is(err, errUnavailable) || errors.Is(err, context.DeadlineExceeded) || s.db.unavailable(err) {
		c.Header("Retry-After", "1")
		refuse(c, http.StatusServiceUnavailable, "the server cannot do this now; try again")
		return
	}
	if errors.Is(err, context.Canceled) {
		c.AbortWithStatus(499) // the client has gone; only the metrics see it
		return
	}
	s.log.Error("request failed", slog.String("path", c.FullPath()), slog.Any("error", err))
	refuse(c, http.StatusInternalServerError, "an error of the server, which is in its log")
}
