package meter

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/examples/internal/breaker"
	"github.com/safetill/safetill/examples/internal/connect"
	"github.com/safetill/safetill/internal/queue"
	"github.com/safetill/safetill/internal/testdb"
)

// get asks the meter's routes.
func get(t *testing.T, m *Meter, path string) string {
	t.Helper()
	gin.SetMode(gin.TestMode)
	r := gin.New()
	m.Routes(r)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	require.Equal(t, http.StatusOK, w.Code)
	return w.Body.String()
}

// own are the lines of a scrape that are about the server.
func own(t *testing.T, m *Meter) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(get(t, m, "/metrics")) {
		if strings.HasPrefix(line, "shop_") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func TestMetersHaveTheServersName(t *testing.T) {
	t.Parallel()
	m := New("shop")
	sold, took := m.Counter("sold_total", "Things.", "kind"), m.Seconds("sale_seconds", "Time.")
	m.Gauge("shelves", "Shelves.", "room", "back", func() int { return 4 })
	require.Contains(t, get(t, m, "/metrics"), "go_goroutines")
	require.NotContains(t, strings.Join(own(t, m), " "), "sold_total", "it has counted nothing")
	sold.WithLabelValues("tea").Add(3)
	took.Observe(0.04)
	lines := own(t, m)
	for _, want := range []string{
		`shop_sold_total{kind="tea"} 3`, `shop_shelves{room="back"} 4`, `shop_sale_seconds_count 1`,
		`shop_sale_seconds_bucket{le="0.03"} 0`, `shop_sale_seconds_bucket{le="0.05"} 1`,
	} {
		require.Contains(t, lines, want)
	}
	require.Panics(t, func() { m.Counter("sold_total", "Things.", "kind") })
	require.Contains(t, get(t, m, "/debug/pprof/"), "goroutine")
}

func TestABreakerThatOpensShows(t *testing.T) {
	t.Parallel()
	m := New("shop")
	b := breaker.New("till", time.Second, func(err error) bool { return err != nil })
	m.Breaker("till", b)
	require.Equal(t, []string{`shop_breaker_open{breaker="till"} 0`}, own(t, m))
	for range breaker.Trips {
		require.Error(t, b.Do(t.Context(), func(context.Context) error { return errors.New("down") }))
	}
	require.Equal(t, []string{`shop_breaker_open{breaker="till"} 1`}, own(t, m))
	require.Equal(t, map[string]string{"till": "open"}, m.Breakers())
}

// silent is a queue that does not answer.
type silent struct{ queue.Queue }

func (silent) Stats(context.Context) (queue.Stats, error) {
	return queue.Stats{}, errors.New("no answer")
}

func TestDepthOfQueues(t *testing.T) {
	t.Parallel()
	q, err := queue.NewMemory(nil)
	require.NoError(t, err)
	require.NoError(t, q.Push(t.Context(), []byte("a"), []byte("b"), []byte("c")))
	_, err = q.Claim(t.Context(), "worker", 1)
	require.NoError(t, err)
	m := New("shop")
	m.Queue("in", q)
	m.Queue("none", nil)
	require.Equal(t, []string{`shop_queue_depth{queue="in"} 3`, `shop_queue_depth{queue="none"} 0`}, own(t, m))
	m.Queue("out", silent{})
	require.Contains(t, own(t, m), `shop_queue_depth{queue="out"} NaN`, "0 would say that it is empty")
	require.Equal(t, map[string]Depth{"in": {Ready: 2, Claimed: 1}, "out": {Unknown: true}}, m.Depths(t.Context()))
}

func TestPools(t *testing.T) {
	t.Parallel()
	m := New("shop")
	pool, err := connect.Postgres(t.Context(), testdb.PostgresURL(t), 3)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	rdb, err := connect.Redis(testdb.RedisURL(t), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { _ = rdb.Close() })
	m.Postgres(pool)
	m.Redis(rdb)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	require.NoError(t, rdb.Ping(t.Context()).Err())
	require.Equal(t, []string{
		`shop_pg_connections{state="idle"} 0`, `shop_pg_connections{state="used"} 1`,
		`shop_redis_connections{state="all"} 1`, `shop_redis_connections{state="idle"} 1`,
	}, own(t, m))
}
