package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shopspring/decimal"
)

// prepare creates the customers and notes what each has paid so far.
func (l *loadRun) prepare(ctx context.Context) error {
	body := fmt.Appendf(nil, `{"count":%d}`, l.customers)
	status, answer, err := l.do(ctx, http.MethodPost, "http://"+l.adminAddr+"/api/v1/admin/seed-customers", body)
	if err != nil {
		return err
	}
	if status < 200 || status > 299 {
		return fmt.Errorf("seed customers: %d %.200s", status, answer)
	}
	l.before = make([]decimal.Decimal, l.customers)
	return l.each(l.customers, loadNamed, func(c int) (err error) {
		l.before[c], err = l.totalPaid(ctx, c)
		return err
	})
}

// check waits, at most -settle, until the server agrees with every receipt. A
// round is cheap while the backlog drains, since it ends at the first few
// customers that are not there yet; what it found settled it does not ask again.
// The last word is a round that asks for every total anew: a payment posted
// again by a worker that came back, or posted late after its answer was lost,
// changes a total that was right a moment ago.
func (l *loadRun) check(ctx context.Context) error {
	for i := range l.receipts {
		if l.receipts[i].state == loadUnknown {
			l.tally.unknown++
		}
	}
	deadline := time.Now().Add(l.settle)
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(time.Minute+time.Duration(len(l.receipts))*time.Millisecond))
	defer cancel()
	settled := make([]bool, l.customers)
	for {
		last := !time.Now().Before(deadline)
		fault := l.round(ctx, settled, last)
		switch {
		case ctx.Err() != nil:
			return errors.Join(fault, fmt.Errorf("load: receipts not checked to the end: %w", ctx.Err()))
		case fault == nil && l.tally.accepted == 0:
			return errors.New("load: the server accepted nothing")
		case fault == nil || last:
			return fault
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// round compares once, and returns what does not agree.
func (l *loadRun) round(ctx context.Context, settled []bool, last bool) error {
	limit := loadNamed
	if last {
		limit = 100 // enough to see how bad it is, and an end if the server hangs
	}
	unknown := l.each(len(l.receipts), limit, func(n int) error { return l.find(ctx, n) })
	want := make([]int64, l.customers)
	for n, r := range l.receipts {
		if r.state >= loadFound {
			want[r.customer] += loadAmount(n)
		}
	}
	total := func(c int) error {
		if settled[c] {
			return nil
		}
		got, err := l.totalPaid(ctx, c)
		if err != nil {
			return err
		}
		grown, receipts := got.Sub(l.before[c]), decimal.New(want[c], -2)
		if settled[c] = grown.Equal(receipts); !settled[c] {
			return fmt.Errorf("%s: total_paid grew by %s, the receipts say %s", loadCustomer(c), grown, receipts)
		}
		return nil
	}
	fault := errors.Join(unknown, l.each(l.customers, limit, total))
	if fault != nil && !last {
		return fault
	}
	fault = errors.Join(fault, l.each(len(l.receipts), limit, func(n int) error { return l.posted(ctx, n) }))
	if fault == nil {
		clear(settled)
		fault = l.each(l.customers, limit, total)
	}
	return fault
}

// find asks for a reference whose answer was lost. One that the server does not
// know may still arrive, so each round asks again.
func (l *loadRun) find(ctx context.Context, n int) error {
	if l.receipts[n].state != loadUnknown {
		return nil
	}
	_, status, err := l.payment(ctx, n)
	if err == nil && status == http.StatusOK {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.receipts[n].state = loadFound
		l.tally.found++
	}
	return err
}

// posted demands that a payment that the server has taken is POSTED, to the
// right customer with the right amount, and takes its times.
func (l *loadRun) posted(ctx context.Context, n int) error {
	r := &l.receipts[n]
	if r.posted || r.state < loadFound {
		return nil
	}
	p, status, err := l.payment(ctx, n)
	customer, amount := loadCustomer(int(r.customer)), decimal.New(loadAmount(n), -2)
	switch {
	case err != nil:
		return err
	case status == http.StatusNotFound:
		return fmt.Errorf("%s: acknowledged to %s, and lost", l.reference(n), customer)
	case p.CustomerID != customer || !p.Amount.Equal(amount):
		return fmt.Errorf("%s: is %s of %s, was sent as %s of %s", l.reference(n), p.Amount, p.CustomerID, amount, customer)
	case p.Status != "POSTED":
		return fmt.Errorf("%s: acknowledged, but %s", l.reference(n), p.Status)
	}
	r.posted = true
	from, errFrom := time.Parse(time.RFC3339Nano, p.AcceptedAt)
	to, errTo := time.Parse(time.RFC3339Nano, p.PostedAt)
	if errFrom != nil || errTo != nil {
		return nil // a server that does not tell the times is no loss
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.tally
	t.posted = append(t.posted, to.Sub(from))
	if t.firstAccepted.IsZero() || from.Before(t.firstAccepted) {
		t.firstAccepted = from
	}
	if to.After(t.lastPosted) {
		t.lastPosted = to
	}
	return nil
}

// loadPayment is what GET /payments/{reference} answers.
type loadPayment struct {
	CustomerID string          `json:"customer_id"`
	Status     string          `json:"status"`
	Amount     decimal.Decimal `json:"amount"`
	AcceptedAt string          `json:"accepted_at"`
	PostedAt   string          `json:"posted_at"`
}

// payment reads a payment; 404 is an answer, and no error.
func (l *loadRun) payment(ctx context.Context, n int) (p loadPayment, status int, err error) {
	status, err = l.get(ctx, "payments/"+l.reference(n), &p)
	if status == http.StatusNotFound {
		err = nil
	}
	return p, status, err
}

// totalPaid reads what a customer has paid in all.
func (l *loadRun) totalPaid(ctx context.Context, c int) (decimal.Decimal, error) {
	var balance struct {
		TotalPaid *decimal.Decimal `json:"total_paid"`
	}
	_, err := l.get(ctx, "customers/"+loadCustomer(c)+"/balance", &balance)
	if err == nil && balance.TotalPaid == nil {
		err = fmt.Errorf("%s: the balance has no total_paid", loadCustomer(c))
	}
	if err != nil {
		return decimal.Decimal{}, err
	}
	return *balance.TotalPaid, nil
}

// get reads a resource; every status but 200 is an error.
func (l *loadRun) get(ctx context.Context, path string, into any) (int, error) {
	status, answer, err := l.do(ctx, http.MethodGet, "http://"+l.addr+"/api/v1/"+path, nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: %d %.200s", path, status, answer)
	}
	if err != nil {
		return status, err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return status, fmt.Errorf("%s: %w", path, err)
	}
	return status, nil
}

// each calls f for 0 to n-1 on loadReaders goroutines, stops after limit faults,
// and returns them in order, all but the first few as a number.
func (l *loadRun) each(n, limit int, f func(int) error) error {
	faults := map[int]error{}
	var next atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range min(n, loadReaders) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !stop.Load(); i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					l.mu.Lock()
					faults[i] = err
					stop.Store(len(faults) >= limit)
					l.mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	var errs []error
	for _, i := range slices.Sorted(maps.Keys(faults)) {
		if len(errs) == loadNamed {
			errs = append(errs, fmt.Errorf("and at least %d more", len(faults)-loadNamed))
			break
		}
		errs = append(errs, faults[i])
	}
	return errors.Join(errs...)
}
