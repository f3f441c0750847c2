package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
)

// bank is a client that pays until it is told that it has paid, as banks do, and
// keeps what it was told. All that the tests claim they judge from its receipts.
type bank struct {
	name    string // begins its references
	servers []*program
	client  *http.Client

	mu       sync.Mutex
	receipts []*receipt
	answers  map[string]int // attempts by status, or "lost"
	before   map[string]decimal.Decimal
	paying   sync.WaitGroup
}

// receipt is one payment, as its sender knows it.
type receipt struct {
	reference, customer string
	amount              decimal.Decimal
	answered            map[int]int // by status
	acknowledged        bool
	acceptedAt          time.Time
	took                time.Duration // from its first attempt to its acknowledgement
}

const (
	bankCustomers  = 10 // as many as a server makes by itself
	bankPatience   = 60 * time.Second
	attemptLimit   = 12 * time.Second
	bankPauseFirst = 20 * time.Millisecond
	bankPauseMost  = 500 * time.Millisecond
)

// newBank notes what everybody has paid so far. It pays at the servers in turn.
func newBank(t testing.TB, name string, servers ...*program) *bank {
	t.Helper()
	b := &bank{
		name: name, servers: servers, answers: map[string]int{}, before: map[string]decimal.Decimal{},
		client: &http.Client{Timeout: attemptLimit, Transport: &http.Transport{MaxIdleConnsPerHost: 512, IdleConnTimeout: 30 * time.Second}},
	}
	t.Cleanup(func() { b.paying.Wait(); b.client.CloseIdleConnections() })
	for n := range bankCustomers {
		var c customerView
		require.NoError(t, b.get(t.Context(), servers[0].addr, "customers/"+loadedCustomer(n)+"/balance", &c))
		b.before[loadedCustomer(n)] = c.Paid
	}
	return b
}

func loadedCustomer(n int) string { return fmt.Sprintf("GIG%05d", n%bankCustomers+1) }

// next makes a payment that nobody has sent yet. Every amount is another.
func (b *bank) next() *receipt {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.receipts)
	r := &receipt{
		reference: fmt.Sprintf("%s-%06d", b.name, n), customer: loadedCustomer(n),
		amount: decimal.New(int64(n)+1, -2), answered: map[int]int{},
	}
	b.receipts = append(b.receipts, r)
	return r
}

func (r *receipt) body() string {
	return fmt.Sprintf(`{"customer_id":%q,"payment_status":"COMPLETE","transaction_amount":%q,"transaction_date":"2025-11-07 14:54:16","transaction_reference":%q}`,
		r.customer, r.amount.StringFixed(2), r.reference)
}

// reply is an answer to a payment.
type reply struct {
	status     int
	header     http.Header
	body       string
	Reference  string    `json:"reference"`
	AcceptedAt time.Time `json:"accepted_at"`
}

// attempt sends r to a server once.
func (b *bank) attempt(ctx context.Context, p *program, r *receipt) (reply, error) {
	begin := time.Now()
	got, err := b.send(ctx, p, r)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.answers["lost"]++
		return got, err
	}
	b.answers[strconv.Itoa(got.status)]++
	r.answered[got.status]++
	if got.status/100 == 2 && !r.acknowledged {
		r.acknowledged, r.acceptedAt, r.took = true, got.AcceptedAt, time.Since(begin)
	}
	return got, nil
}

func (b *bank) send(ctx context.Context, p *program, r *receipt) (got reply, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.addr+"/api/v1/payments", strings.NewReader(r.body()))
	if err != nil {
		return got, err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return got, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return got, err
	}
	got.status, got.header, got.body = resp.StatusCode, resp.Header, string(body)
	if got.status/100 == 2 {
		if err = json.Unmarshal(body, &got); err == nil && got.Reference != r.reference {
			err = fmt.Errorf("%s was answered with %.200s", r.reference, body)
		}
	}
	return got, err
}

// pay repeats a payment at one server after the other until it is acknowledged.
func (b *bank) pay(ctx context.Context, r *receipt) error {
	ctx, cancel := context.WithTimeout(ctx, bankPatience)
	defer cancel()
	pause := bankPauseFirst
	for n := 0; ; n++ {
		got, err := b.attempt(ctx, b.servers[n%len(b.servers)], r)
		switch {
		case err == nil && got.status/100 == 2:
			return nil
		case err == nil && got.status/100 == 4:
			return fmt.Errorf("%s was refused: %s", r.reference, got.body)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", r.reference, errors.Join(ctx.Err(), err))
		case <-time.After(pause):
		}
		pause = min(2*pause, bankPauseMost)
	}
}

// flow begins a payment every 1/rate s, whatever becomes of the others, until ctx
// ends. All of them are acknowledged, or have been given up, when paying is done.
func (b *bank) flow(ctx context.Context, rate int) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r := b.next()
			b.paying.Go(func() { _ = b.pay(context.WithoutCancel(ctx), r) }) // the receipt tells
		}
	}
}

// during pays at rate while f runs, and waits until all is acknowledged.
func (b *bank) during(t testing.TB, rate int, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	b.paying.Go(func() { b.flow(ctx, rate) })
	err := f(ctx)
	cancel()
	b.paying.Wait()
	require.NoError(t, err)
	t.Logf("%s: %d payments, answers %v", b.name, len(b.receipts), b.answers)
}

// What the server tells of itself.
type (
	paymentView struct {
		Customer string          `json:"customer_id"`
		Status   string          `json:"status"`
		Amount   decimal.Decimal `json:"amount"`
	}
	customerView struct {
		Paid decimal.Decimal `json:"total_paid"`
	}
	verifyView struct {
		OK bool `json:"ok"`
	}
	queueView struct {
		Ready, Claimed int
		Unknown        bool
	}
	statsView struct {
		Payments map[string]int       `json:"payments"`
		Posted   decimal.Decimal      `json:"total_posted"`
		Queues   map[string]queueView `json:"queues"`
		Breakers map[string]string    `json:"circuit_breakers"`
	}
)

// get reads a resource. Every status but 200 is a statusError.
func (b *bank) get(ctx context.Context, addr, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/api/v1/"+path, nil)
	if err != nil {
		return err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = statusError{path, resp.StatusCode, string(body)}
	}
	if err != nil {
		return err
	}
	return json.NewDecoder(bytes.NewReader(body)).Decode(into)
}

// metrics returns what p tells Prometheus.
func (b *bank) metrics(t testing.TB, p *program) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.admin+"/metrics", nil)
	require.NoError(t, err)
	resp, err := b.client.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Contains(t, string(text), "http_responses_total")
	return string(text)
}

type statusError struct {
	path   string
	status int
	body   string
}

func (e statusError) Error() string { return fmt.Sprintf("%s: %d %.300s", e.path, e.status, e.body) }

// eventually asks until f has no objection.
func eventually(t testing.TB, within time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			require.NoError(t, err, "still so after %v", within)
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
}

// settle waits until the server has posted all that it took, and compares it with
// the receipts: each payment once, each customer's sum, the ledger with itself.
func (b *bank) settle(t testing.TB, within time.Duration) {
	t.Helper()
	begin := time.Now()
	b.paying.Wait()
	p := b.servers[0]
	eventually(t, within, func() error {
		var s statsView
		if err := b.get(t.Context(), p.admin, "admin/stats", &s); err != nil {
			return err
		}
		// What a dead worker held comes once more, when its lease ends: the worst
		// of it has been posted already.
		for name, q := range s.Queues {
			if q.Unknown || q.Ready+q.Claimed > 0 {
				return fmt.Errorf("the queue %s holds %+v", name, q)
			}
		}
		if n := s.Payments["RECEIVED"]; n > 0 {
			return fmt.Errorf("%d payments are not posted", n)
		}
		return b.agree(t.Context(), p)
	})
	t.Logf("%s: settled in %v", b.name, time.Since(begin).Round(time.Millisecond))
	var v verifyView
	require.NoError(t, b.get(t.Context(), p.admin, "admin/verify", &v))
	require.True(t, v.OK, "the ledger agrees with itself")
	require.NoError(t, b.agree(t.Context(), p), "a moment later")
}

// agree compares the receipts with what the server has.
func (b *bank) agree(ctx context.Context, p *program) error {
	want, unknown := map[string]decimal.Decimal{}, 0
	var sum decimal.Decimal
	posted := 0
	for _, r := range b.receipts {
		var got paymentView
		err := b.get(ctx, p.addr, "payments/"+r.reference, &got)
		if e := (statusError{}); errors.As(err, &e) && e.status == http.StatusNotFound && !r.acknowledged {
			unknown++
			continue // its sender does not know, and it is not here
		}
		switch {
		case err != nil:
			return fmt.Errorf("acknowledged %v: %w", r.acknowledged, err)
		case got.Status != "POSTED" || got.Customer != r.customer || !got.Amount.Equal(r.amount):
			return fmt.Errorf("%s is %+v, not %s of %s, POSTED", r.reference, got, r.amount, r.customer)
		}
		want[r.customer], sum, posted = want[r.customer].Add(r.amount), sum.Add(r.amount), posted+1
	}
	for customer, before := range b.before {
		var c customerView
		if err := b.get(ctx, p.addr, "customers/"+customer+"/balance", &c); err != nil {
			return err
		}
		if grown := c.Paid.Sub(before); !grown.Equal(want[customer]) {
			return fmt.Errorf("%s has paid %s, the receipts say %s (%d unknown)", customer, grown, want[customer], unknown)
		}
		sum = sum.Add(before)
	}
	var s statsView
	if err := b.get(ctx, p.admin, "admin/stats", &s); err != nil {
		return err
	}
	if !s.Posted.Equal(sum) || s.Payments["REJECTED"] > 0 || s.Payments["POSTED"] < posted {
		return fmt.Errorf("stats say %+v, the receipts %s in %d payments", s, sum, posted)
	}
	return nil
}

// allAcknowledged demands that no payment was given up.
func (b *bank) allAcknowledged(t testing.TB) {
	t.Helper()
	require.NotEmpty(t, b.receipts)
	for _, r := range b.receipts {
		require.True(t, r.acknowledged, "%s was answered %v", r.reference, r.answered)
	}
}
