package loadgen

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/shopspring/decimal"
	"github.com/valyala/fasthttp"
)

// receipt is what the client knows about one reference.
type receipt struct {
	customer int
	state    state
	posted   bool
}

// state is the best answer that a reference has had, in rising order.
type state uint8

const (
	none    state = iota // no answer yet, or 4xx: it must not be posted
	unknown              // the answer was lost, or 5xx: it may be posted
	found                // the answer was lost, but the server has it: it must be posted
	acked                // 202 or 200: it must be posted
)

// amount is the amount of reference n. No two of a million are alike, so
// that one that is lost cannot hide behind one that is doubled.
func amount(n int) decimal.Decimal { return decimal.New(1+int64(n)*649_657%(1<<20), -2) }

func (l *run) reference(n int) string { return "LOAD-" + l.id + "-" + strconv.Itoa(n) }

func customerID(n int) string { return fmt.Sprintf("GIG%05d", n+1) }

// send is the open loop: request i has its time of sending, start + i/rate,
// whatever became of those before it, and its latency counts from that time. A
// closed loop would stop asking while the server stalls, and measure one slow
// answer where thousands of customers had waited.
func (l *run) send(ctx context.Context) error {
	slots := make(chan struct{}, l.inFlight)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range max(1, int(l.length*time.Duration(l.rate)/time.Second)) {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(l.rate))
		if early := time.Until(due); early > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(early):
			}
		}
		slots <- struct{}{} // each request frees its slot after timeout at most
		if ctx.Err() != nil {
			break
		}
		l.progress(start)
		n, customer := l.next()
		wg.Go(func() {
			l.pay(ctx, n, customer, due)
			<-slots
		})
	}
	wg.Wait()
	l.took = time.Since(start)
	if l.bar != nil {
		fmt.Fprint(l.bar, "\r\x1b[K")
	}
	return ctx.Err()
}

// next chooses the reference of the next request: a new one, or one already sent.
func (l *run) next() (n, customer int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	n = len(l.receipts)
	if n > 0 && l.random.Float64() < l.duplicates {
		n = l.random.IntN(n)
		return n, l.receipts[n].customer
	}
	if l.customers > 1 && l.random.Float64() >= l.hot {
		customer = 1 + l.random.IntN(l.customers-1)
	}
	l.receipts = append(l.receipts, receipt{customer: customer})
	return n, customer
}

// pay sends reference n and keeps what became of it. A request is sent once: a
// retry would hide what a client without one sees.
func (l *run) pay(ctx context.Context, n, customer int, due time.Time) {
	reference := l.reference(n)
	body := fmt.Appendf(nil, `{"customer_id":%q,"payment_status":"COMPLETE","transaction_amount":%q,"transaction_date":%q,"transaction_reference":%q}`,
		customerID(customer), amount(n), l.date, reference)
	status, answer, err := l.do(ctx, http.MethodPost, l.addr, "payments", body)
	latency := time.Since(due)
	ok := (status == http.StatusAccepted || status == http.StatusOK) && bytes.Contains(answer, []byte(reference))
	refused := status/100 == 4 || status == http.StatusServiceUnavailable

	l.mu.Lock()
	defer l.mu.Unlock()
	before, state := l.receipts[n].state, unknown
	switch {
	case ok && before == acked:
		l.repeats++
	case ok:
		l.accepted++
		state = acked
	case refused:
		l.refused++
	default:
		l.failed++
	}
	if status/100 == 4 {
		state = none
	}
	l.receipts[n].state = max(before, state)
	if !refused { // a refusal is fast, and would flatter the rest
		l.accept = append(l.accept, latency)
	}
	if !ok && l.trouble == "" {
		l.trouble = fmt.Sprintf("%s: %d %.200s %v", reference, status, answer, err)
	}
}

const timeout = 10 * time.Second

// do is one request, with timeout as its deadline, which the end of ctx does not
// shorten. The status is 0 if there is an error.
func (l *run) do(ctx context.Context, method, addr, path string, body []byte) (status int, answer []byte, err error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI("http://" + addr + "/api/v1/" + path)
	req.Header.SetMethod(method)
	req.Header.SetContentType("application/json")
	req.SetBodyRaw(body)
	if err := l.client.DoTimeout(req, resp, timeout); err != nil {
		return 0, nil, err
	}
	return resp.StatusCode(), bytes.Clone(resp.Body()), nil
}
