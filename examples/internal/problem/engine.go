package problem

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"

	"github.com/gin-gonic/gin"
)

// Handle makes a handler of f. It answers with what f returns, as JSON, and 200
// or the status that f has set; an error is for the [Engine] to answer.
func Handle(f func(*gin.Context) (any, error)) gin.HandlerFunc {
	return func(c *gin.Context) {
		body, err := f(c)
		if err != nil {
			_ = c.Error(err) // returns what it has noted
			return
		}
		c.JSON(c.Writer.Status(), body)
	}
}

// Engine returns a router that answers unknown paths, wrong methods, panics and
// errors with problems. An error that is a [Problem] is answered as it is; 503
// and Retry-After is for a deadline that has passed and for what unavailable says
// is no fault of anyone here; all else is 500 and logged.
func Engine(log *slog.Logger, unavailable func(error) bool) *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.HandleMethodNotAllowed, r.RedirectTrailingSlash = true, false
	r.Use(func(c *gin.Context) {
		defer func() {
			if recovered := recover(); recovered != nil {
				log.Error("handler panicked", slog.String("path", c.FullPath()), slog.Any("panic", recovered), slog.String("stack", string(debug.Stack())))
				errInternal.write(c.Writer)
				c.Abort()
			}
		}()
		c.Next()
		if failed := c.Errors.Last(); failed != nil && !c.Writer.Written() { // else it is that the client has gone
			fail(c, log, unavailable, failed.Err)
		}
	})
	r.NoRoute(func(c *gin.Context) { New(http.StatusNotFound, "no such path: "+c.Request.URL.Path).write(c.Writer) })
	r.NoMethod(func(c *gin.Context) {
		allow := c.Writer.Header().Get("Allow")
		New(http.StatusMethodNotAllowed, c.Request.Method+" is not allowed here, only "+allow).write(c.Writer)
	})
	return r
}

var (
	errInternal = New(http.StatusInternalServerError, "an error of the server, which is in its log")
	errLater    = New(http.StatusServiceUnavailable, "the server cannot do this now; try again")
)

func fail(c *gin.Context, log *slog.Logger, unavailable func(error) bool, err error) {
	p, ok := errors.AsType[*Problem](err)
	switch {
	case ok:
		p.write(c.Writer)
	case errors.Is(err, context.DeadlineExceeded), unavailable(err):
		c.Header("Retry-After", "1")
		errLater.write(c.Writer)
	case errors.Is(err, context.Canceled):
		c.AbortWithStatus(499) // the client has gone; only the metrics see it
	default:
		log.Error("request failed", slog.String("path", c.FullPath()), slog.Any("error", err))
		errInternal.write(c.Writer)
	}
}
