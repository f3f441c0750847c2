package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/safetill/safetill/examples/internal/meter"
)

// metrics are the server's own, served on the admin port.
type metrics struct {
	*meter.Meter
	accepted, posted, responses *prometheus.CounterVec
	accept, postingDelay        prometheus.Histogram
}

func newMetrics() *metrics {
	m := meter.New("paymentserver")
	return &metrics{
		Meter:        m,
		accepted:     m.Counter("payments_accepted_total", "Payments by what became of them at the edge.", "result"),
		posted:       m.Counter("payments_posted_total", "Payments that left the queue, by their final state.", "state"),
		responses:    m.Counter("http_responses_total", "HTTP responses.", "code"),
		accept:       m.Seconds("accept_seconds", "From a payment's arrival until it is durable and answered."),
		postingDelay: m.Seconds("posting_delay_seconds", "From a payment's acceptance until it is in the ledger."),
	}
}
