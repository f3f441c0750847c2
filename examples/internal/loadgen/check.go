package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shopspring/decimal"
)

// prepare creates the customers and notes what each has paid so far.
func (l *run) prepare(ctx context.Context) error {
	status, answer, err := l.do(ctx, http.MethodPost, l.adminAddr, "admin/seed-customers", fmt.Appendf(nil, `{"count":%d}`, l.customers))
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("seed customers: %d %.200s", status, answer)
	}
	if err != nil {
		return err
	}
	l.before = make([]decimal.Decimal, l.customers)
	return each(l.customers, func(c int) error {
		balance, _, err := l.get(ctx, "customers/"+customerID(c)+"/balance")
		l.before[c] = balance.TotalPaid
		return err
	})
}

// check waits, at most -settle, until the server agrees with every receipt.
func (l *run) check(ctx context.Context) error {
	for _, r := range l.receipts {
		if r.state == unknown {
			l.unknown++
		}
	}
	deadline := time.Now().Add(l.settle)
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(time.Minute+time.Duration(len(l.receipts))*time.Millisecond))
	defer cancel()
	for {
		last := !time.Now().Before(deadline)
		fault := l.round(ctx, last)
		switch {
		case fault == nil && l.accepted == 0:
			return errors.New("the server accepted nothing")
		case fault == nil || last || ctx.Err() != nil:
			return fault
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// round compares everything once. While the backlog drains it is cheap, since
// it ends at the first few faults unless it is the last. It reads the totals
// twice: a payment posted again by a worker that came back, or posted late after
// its answer was lost, changes a total that was right a moment ago.
func (l *run) round(ctx context.Context, last bool) error {
	fault := each(len(l.receipts), func(n int) error {
		if l.receipts[n].state == acked {
			return nil
		}
		return l.verify(ctx, n)
	})
	want := make([]decimal.Decimal, l.customers)
	for n, r := range l.receipts {
		if r.state >= found {
			want[r.customer] = want[r.customer].Add(amount(n))
		}
	}
	total := func(c int) error {
		balance, _, err := l.get(ctx, "customers/"+customerID(c)+"/balance")
		if grown := balance.TotalPaid.Sub(l.before[c]); err == nil && !grown.Equal(want[c]) {
			err = fmt.Errorf("%s: total_paid grew by %s, the receipts say %s", customerID(c), grown, want[c])
		}
		return err
	}
	fault = errors.Join(fault, each(l.customers, total))
	if fault == nil || last {
		fault = errors.Join(fault, each(len(l.receipts), func(n int) error { return l.verify(ctx, n) }))
	}
	if fault == nil {
		fault = each(l.customers, total)
	}
	return fault
}

// verify demands that a payment that the server has taken is POSTED, to the
// right customer with the right amount, and takes its times. One whose answer
// was lost and that the server does not know may still arrive.
func (l *run) verify(ctx context.Context, n int) error {
	r, owner := &l.receipts[n], customerID(l.receipts[n].customer)
	if r.posted || r.state == none {
		return nil
	}
	p, status, err := l.get(ctx, "payments/"+l.reference(n))
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case status == http.StatusNotFound && r.state == unknown:
		return nil
	case status == http.StatusNotFound:
		return fmt.Errorf("%s: acknowledged to %s, and lost", l.reference(n), owner)
	case err != nil:
		return err
	}
	if r.state == unknown {
		r.state = found
		l.found++
	}
	switch {
	case p.CustomerID != owner || !p.Amount.Equal(amount(n)):
		return fmt.Errorf("%s: is %s of %s, was sent as %s of %s", l.reference(n), p.Amount, p.CustomerID, amount(n), owner)
	case p.Status != "POSTED":
		return fmt.Errorf("%s: taken, but its status is %s", l.reference(n), p.Status)
	}
	r.posted = true
	if p.AcceptedAt.IsZero() || p.PostedAt.IsZero() {
		return nil // a server that does not tell the times has lost nothing
	}
	l.toPosted = append(l.toPosted, p.PostedAt.Sub(p.AcceptedAt))
	if l.firstAccepted.IsZero() || p.AcceptedAt.Before(l.firstAccepted) {
		l.firstAccepted = p.AcceptedAt
	}
	if p.PostedAt.After(l.lastPosted) {
		l.lastPosted = p.PostedAt
	}
	return nil
}

// resource holds what a payment or a balance is asked for.
type resource struct {
	CustomerID string          `json:"customer_id"`
	Status     string          `json:"status"`
	Amount     decimal.Decimal `json:"amount"`
	AcceptedAt time.Time       `json:"accepted_at"`
	PostedAt   time.Time       `json:"posted_at"`
	TotalPaid  decimal.Decimal `json:"total_paid"`
}

// get reads a resource; every status but 200 is an error.
func (l *run) get(ctx context.Context, path string) (r resource, status int, err error) {
	status, answer, err := l.do(ctx, http.MethodGet, l.addr, path, nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: %d %.200s", path, status, answer)
	}
	if err == nil {
		err = json.Unmarshal(answer, &r)
	}
	return r, status, err
}

const checkers = 32

// each calls f for 0 to n-1 on as many goroutines as there are checkers, and
// returns the first few faults. A goroutine stops at its first, so that a server
// that hangs cannot hold the check for long.
func each(n int, f func(int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	faults := make([]error, n)
	for range checkers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if faults[i] = f(i); faults[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	faults = slices.DeleteFunc(faults, func(err error) bool { return err == nil })
	return errors.Join(faults[:min(5, len(faults))]...)
}
