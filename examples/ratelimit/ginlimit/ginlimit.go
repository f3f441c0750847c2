// Package ginlimit limits what a Gin router serves: package ratelimit's middleware for net/http, as a handler of Gin's.
package ginlimit

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/safetill/safetill/ratelimit"
)

// New returns a handler that goes in front of others, of the whole router, a group or a route. It refuses as [ratelimit.NewMiddleware] says, and then no other
// handler runs. Costs that differ by route are best given to a handler for each of the routes.
//
// Gin's own ClientIP believes every peer until SetTrustedProxies is called; [ratelimit.ClientIP] believes none that it is not told of.
func New(d ratelimit.Decider, o *ratelimit.HandlerOptions) (gin.HandlerFunc, error) {
	middleware, err := ratelimit.NewMiddleware(d, o)
	if err != nil {
		return nil, err
	}
	return func(c *gin.Context) {
		admitted := false
		next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { admitted = true })
		middleware(next).ServeHTTP(c.Writer, c.Request)
		if !admitted {
			c.Abort()
		}
	}, nil
}
