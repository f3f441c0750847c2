package ginlimit_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/gin-gonic/gin"

	"github.com/safetill/safetill/examples/ratelimit/ginlimit"
	"github.com/safetill/safetill/ratelimit"
)

func ExampleNew() {
	limiter, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerHour(1), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	limit, err := ginlimit.New(limiter, &ratelimit.HandlerOptions{Key: ratelimit.ClientIP()})
	if err != nil {
		fmt.Println(err)
		return
	}
	r := gin.New()
	r.GET("/rates", limit, func(c *gin.Context) { c.Status(http.StatusOK) })
	for range 2 {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/rates", nil))
		fmt.Println(w.Code, w.Header().Get("RateLimit"))
	}
	// Output:
	// 200 "default";r=0;t=3600
	// 429 "default";r=0;t=3600
}
