package main

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/go-redis/v9"

	"github.com/safetill/safetill/examples/internal/breaker"
)

// metrics are the server's own, served on the admin port.
type metrics struct {
	registry     *prometheus.Registry
	accepted     *prometheus.CounterVec
	posted       *prometheus.CounterVec
	responses    *prometheus.CounterVec
	accept       prometheus.Histogram
	postingDelay prometheus.Histogram
}

var buckets = []float64{.001, .002, .005, .01, .02, .03, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60}

func newMetrics() *metrics {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "paymentserver", Name: name, Help: help}, []string{label})
	}
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "paymentserver", Name: name, Help: help, Buckets: buckets})
	}
	m := &metrics{
		registry:     prometheus.NewRegistry(),
		accepted:     counter("payments_accepted_total", "Payments by what became of them at the edge.", "result"),
		posted:       counter("payments_posted_total", "Payments that left the queue, by their final state.", "state"),
		responses:    counter("http_responses_total", "HTTP responses.", "code"),
		accept:       histogram("accept_seconds", "From a payment's arrival until it is durable and answered."),
		postingDelay: histogram("posting_delay_seconds", "From a payment's acceptance until it is in the ledger."),
	}
	m.registry.MustRegister(m.accepted, m.posted, m.responses, m.accept, m.postingDelay,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watch adds what is read when metrics are scraped: queues, breakers, pools.
func (m *metrics) watch(a *accepter, pool *pgxpool.Pool, rdb *redis.Client) {
	for _, q := range []string{"posting", "spill"} {
		m.gauge("queue_depth", "Messages ready and claimed.", "queue", q, func() int {
			size := a.depths(context.Background())[q]
			return size.Ready + size.Claimed
		})
	}
	for name, b := range map[string]*breaker.Breaker{"database": a.db, "redis": a.redis} {
		m.gauge("breaker_open", "1 while calls do not go through.", "breaker", name, func() int {
			if b.Closed() {
				return 0
			}
			return 1
		})
	}
	if pool != nil {
		m.gauge("pg_connections", "Connections to PostgreSQL.", "state", "used", func() int { return int(pool.Stat().AcquiredConns()) })
		m.gauge("pg_connections", "Connections to PostgreSQL.", "state", "idle", func() int { return int(pool.Stat().IdleConns()) })
	}
	if rdb != nil {
		m.gauge("redis_connections", "Connections to Redis.", "state", "all", func() int { return int(rdb.PoolStats().TotalConns) })
		m.gauge("redis_connections", "Connections to Redis.", "state", "idle", func() int { return int(rdb.PoolStats().IdleConns) })
	}
}

func (m *metrics) gauge(name, help, label, value string, read func() int) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "paymentserver", Name: name, Help: help, ConstLabels: prometheus.Labels{label: value},
	}, func() float64 { return float64(read()) }))
}
