package ginlimit_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/examples/ratelimit/ginlimit"
	"github.com/safetill/safetill/ratelimit"
)

func init() { gin.SetMode(gin.ReleaseMode) }

// answer is a response whose body has been read.
type answer struct {
	StatusCode int
	Header     http.Header
	body       string
}

// serve serves a router with a route that is limited to two an hour and says how often it ran, and one that is not limited.
func serve(t *testing.T, o *ratelimit.HandlerOptions) (get func(path string) answer, ran *int) {
	t.Helper()
	noon := func() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }
	l, err := ratelimit.New(ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: noon}), ratelimit.PerHour(2), nil)
	require.NoError(t, err)
	limit, err := ginlimit.New(l, o)
	require.NoError(t, err)
	ran = new(int)
	r := gin.New()
	r.Use(gin.CustomRecoveryWithWriter(io.Discard, func(c *gin.Context, _ any) { c.AbortWithStatus(http.StatusInternalServerError) }))
	r.GET("/limited", limit, func(c *gin.Context) {
		*ran++
		c.String(http.StatusOK, "served")
	})
	r.GET("/panics", limit, func(*gin.Context) { panic("at the disco") })
	r.GET("/free", func(c *gin.Context) { c.String(http.StatusOK, "served") })
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return func(path string) answer {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		require.NoError(t, err)
		resp, err := server.Client().Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, errors.Join(err, resp.Body.Close()))
		return answer{resp.StatusCode, resp.Header, string(body)}
	}, ran
}

func TestGinRefusesWhatIsOverTheLimit(t *testing.T) {
	t.Parallel()
	get, ran := serve(t, &ratelimit.HandlerOptions{Key: ratelimit.ClientIP()})
	for _, limit := range []string{`"default";r=1;t=1800`, `"default";r=0;t=3600`} {
		resp := get("/limited")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, "served", resp.body)
		require.Equal(t, limit, resp.Header.Get("RateLimit"))
		require.Equal(t, `"default";q=2;w=3600`, resp.Header.Get("RateLimit-Policy"))
	}
	resp := get("/limited")
	require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
	require.Equal(t, "1800", resp.Header.Get("Retry-After"))
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	require.Contains(t, resp.body, `"violated-policies":["default"]`)
	require.NotContains(t, resp.body, "served")
	require.Equal(t, 2, *ran)
	resp = get("/free")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Empty(t, resp.Header.Get("RateLimit"))
}

func TestGinHandlerThatPanicsIsCharged(t *testing.T) {
	t.Parallel()
	get, _ := serve(t, &ratelimit.HandlerOptions{Key: ratelimit.ClientIP()})
	resp := get("/panics")
	require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
	resp = get("/limited")
	require.Equal(t, `"default";r=0;t=3600`, resp.Header.Get("RateLimit"))
}

func TestGinRefusesBadOptions(t *testing.T) {
	t.Parallel()
	h, err := ginlimit.New(nil, nil)
	require.ErrorIs(t, err, ratelimit.ErrInvalid)
	require.Nil(t, h)
}
