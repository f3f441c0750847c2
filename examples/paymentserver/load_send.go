package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/shopspring/decimal"
)

// loadState is the best answer that a reference has had, in rising order.
type loadState uint8

const (
	loadUnanswered loadState = iota
	loadRefused              // 4xx: it must not be posted
	loadUnknown              // no answer, or 5xx: it may be posted
	loadFound                // unknown, but the server has it: it must be posted
	loadAcked                // 202 or 200: it must be posted
)

// loadReceipt is what the client knows about one reference.
type loadReceipt struct {
	customer int32
	state    loadState
	posted   bool
}

// loadAmount is the amount of the nth reference, in kobo. No two of a million
// are alike, so that one that is lost cannot hide behind one that is doubled.
func loadAmount(n int) int64 { return 1 + int64(n)*649_657%(1<<20) }

func (l *loadRun) reference(n int) string { return "LOAD-" + l.id + "-" + strconv.Itoa(n) }

func loadCustomer(n int) string { return fmt.Sprintf("GIG%05d", n+1) }

// send is the open loop: request i has its time of sending, start + i/rate,
// whatever became of those before it, and its latency counts from that time. A
// closed loop would stop asking while the server stalls, and measure one slow
// answer where thousands of customers had waited.
func (l *loadRun) send(ctx context.Context) error {
	total := max(1, int(l.length*time.Duration(l.rate)/time.Second))
	l.receipts = make([]loadReceipt, 0, total)
	l.tally.accept = make([]time.Duration, 0, total)
	slots := make(chan struct{}, l.inFlight)
	start := time.Now()
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range total {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(l.rate))
		if early := time.Until(due); early > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(early):
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case slots <- struct{}{}:
		}
		n := l.next()
		wg.Go(func() {
			l.pay(ctx, n, due)
			<-slots
		})
	}
	wg.Wait()
	l.tally.took = time.Since(start)
	return ctx.Err()
}

// next chooses the reference of the next request: a new one, or one already sent.
func (l *loadRun) next() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.sent++
	n := len(l.receipts)
	if n > 0 && l.random.Float64() < l.duplicates {
		return l.random.IntN(n)
	}
	var customer int32
	if l.customers > 1 && l.random.Float64() >= l.hot {
		customer = 1 + l.random.Int32N(int32(l.customers-1))
	}
	l.receipts = append(l.receipts, loadReceipt{customer: customer})
	return n
}

// pay sends reference n and keeps what became of it. A request is sent once: a
// retry here would hide what a client without one sees.
func (l *loadRun) pay(ctx context.Context, n int, due time.Time) {
	l.mu.Lock()
	customer := l.receipts[n].customer
	l.mu.Unlock()
	reference := l.reference(n)
	body := fmt.Appendf(make([]byte, 0, 256), `{"customer_id":%q,"payment_status":"COMPLETE","transaction_amount":%q,"transaction_date":%q,"transaction_reference":%q}`,
		loadCustomer(int(customer)), decimal.New(loadAmount(n), -2), l.date, reference)
	status, answer, err := l.do(ctx, http.MethodPost, "http://"+l.addr+"/api/v1/payments", body)
	latency := time.Since(due)

	l.mu.Lock()
	defer l.mu.Unlock()
	t, state, fault := &l.tally, loadUnknown, err
	if err == nil {
		fault = fmt.Errorf("%s: %d %.200s", reference, status, answer)
	}
	switch {
	case (status == http.StatusAccepted || status == http.StatusOK) && bytes.Contains(answer, []byte(reference)):
		state, fault = loadAcked, nil
		if l.receipts[n].state == loadAcked {
			t.repeats++
		} else {
			t.accepted++
		}
	case status == http.StatusServiceUnavailable:
		t.refused++
	case status >= 400 && status < 500:
		t.refused++
		state = loadRefused
	default:
		t.failed++
	}
	if state == loadAcked || status < 400 || status > 503 { // a refusal is fast, and would flatter the rest
		t.accept = append(t.accept, latency)
	}
	if fault != nil && t.trouble == "" {
		t.trouble = fault.Error()
	}
	l.receipts[n].state = max(l.receipts[n].state, state)
}

// do is one request, with a deadline of its own. The status is 0 if err is not nil.
func (l *loadRun) do(ctx context.Context, method, url string, body []byte) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header["Content-Type"] = loadJSON
	resp, err := l.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, answer, nil
}

var loadJSON = []string{"application/json"}
