// Package meter makes a server's Prometheus metrics: each has the server's name
// in front and one label at the most.
package meter

import (
	"context"
	"math"
	"net/http"
	_ "net/http/pprof" // into the default mux, which Routes serves
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"

	"github.com/safetill/safetill/examples/internal/breaker"
	"github.com/safetill/safetill/internal/queue"
)

// Meter holds the metrics of one server. Two of one name and label value are a
// fault of the programmer: the second panics. Add all before the server serves.
type Meter struct {
	server   string
	registry *prometheus.Registry
	breakers map[string]*breaker.Breaker
	queues   map[string]queue.Queue
}

// New returns a meter with the metrics of Go and of the process.
func New(server string) *Meter {
	m := &Meter{
		server: server, registry: prometheus.NewRegistry(), breakers: map[string]*breaker.Breaker{}, queues: map[string]queue.Queue{},
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Routes adds /metrics and Go's profiles, /debug/pprof/: for a port that is private.
func (m *Meter) Routes(r gin.IRoutes) {
	r.GET("/metrics", gin.WrapH(promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})))
	r.GET("/debug/pprof/*name", gin.WrapH(http.DefaultServeMux))
}

// Counter returns a counter for each value of a label. One is there once it has
// counted something.
func (m *Meter) Counter(name, help, label string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: m.server, Name: name, Help: help}, []string{label})
	m.registry.MustRegister(c)
	return c
}

// buckets go from what one commit takes to what an outage does.
var buckets = []float64{.001, .002, .005, .01, .02, .03, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60}

// Seconds returns a histogram of durations from 1 ms to a minute.
func (m *Meter) Seconds(name, help string) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: m.server, Name: name, Help: help, Buckets: buckets})
	m.registry.MustRegister(h)
	return h
}

// Gauge adds what is read at every scrape.
func (m *Meter) Gauge(name, help, label, value string, read func() int) {
	m.gauge(name, help, label, value, func() float64 { return float64(read()) })
}

func (m *Meter) gauge(name, help, label, value string, read func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: m.server, Name: name, Help: help, ConstLabels: prometheus.Labels{label: value},
	}, read))
}

// Breaker adds breaker_open.
func (m *Meter) Breaker(name string, b *breaker.Breaker) {
	m.breakers[name] = b
	m.Gauge("breaker_open", "1 while calls do not go through.", "breaker", name, func() int {
		if b.Closed() {
			return 0
		}
		return 1
	})
}

// Breakers are the states of those that were added, for people to read.
func (m *Meter) Breakers() map[string]string {
	states := make(map[string]string, len(m.breakers))
	for name, b := range m.breakers {
		states[name] = b.State()
	}
	return states
}

// Postgres adds pg_connections.
func (m *Meter) Postgres(pool *pgxpool.Pool) {
	const name, help = "pg_connections", "Connections to PostgreSQL."
	m.Gauge(name, help, "state", "used", func() int { return int(pool.Stat().AcquiredConns()) })
	m.Gauge(name, help, "state", "idle", func() int { return int(pool.Stat().IdleConns()) })
}

// Redis adds redis_connections.
func (m *Meter) Redis(rdb *redis.Client) {
	const name, help = "redis_connections", "Connections to Redis."
	m.Gauge(name, help, "state", "all", func() int { return int(rdb.PoolStats().TotalConns) })
	m.Gauge(name, help, "state", "idle", func() int { return int(rdb.PoolStats().IdleConns) })
}

// Queue adds queue_depth. nil is a queue that the server does without.
func (m *Meter) Queue(name string, q queue.Queue) {
	if q != nil {
		m.queues[name] = q
	}
	m.gauge("queue_depth", "Messages ready and claimed; NaN while the queue does not say.", "queue", name, func() float64 {
		if q == nil {
			return 0
		}
		d := depth(context.Background(), q)
		if d.Unknown {
			return math.NaN() // an alert on its depth must not take it for empty
		}
		return float64(d.Ready + d.Claimed)
	})
}

// Depth is how much a queue holds.
type Depth struct {
	Ready   int  `json:"ready"`
	Claimed int  `json:"claimed"`
	Unknown bool `json:"unknown,omitempty"` // the queue did not say
}

// Depths are those of the queues that were added, for people to read. It takes a
// second at the most for each.
func (m *Meter) Depths(ctx context.Context) map[string]Depth {
	depths := make(map[string]Depth, len(m.queues))
	for name, q := range m.queues {
		depths[name] = depth(ctx, q)
	}
	return depths
}

func depth(ctx context.Context, q queue.Queue) Depth {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	st, err := q.Stats(ctx)
	return Depth{Ready: st.Ready, Claimed: st.Claimed, Unknown: err != nil}
}
