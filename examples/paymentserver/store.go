package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/examples/internal/meter"
	"github.com/safetill/safetill/examples/internal/problem"
	"github.com/safetill/safetill/examples/internal/receivables"
	"github.com/safetill/safetill/ledger"
)

func paymentID(reference string) ledger.TransactionID {
	return ledger.TransactionID("payment:" + reference)
}

// Why a store refuses a payment.
var (
	errUnknownCustomer = problem.New(http.StatusUnprocessableEntity, paymentFaults, problem.Field{Field: "customer_id", Reason: "is unknown"})
	errOtherContent    = problem.New(http.StatusUnprocessableEntity, paymentFaults,
		problem.Field{Field: "transaction_reference", Reason: "was used for a payment with other content"})
)

// acceptance is what became of one payment offered to a store.
type acceptance struct {
	first  time.Time // when the payment was first accepted
	repeat bool
	err    error // errUnknownCustomer or errOtherContent
}

// totals are the payments and the customers there are.
type totals struct {
	Customers int64                  `json:"customers"`
	Payments  map[string]int64       `json:"payments"` // by state
	Posted    decimal.Decimal        `json:"total_posted"`
	Depth     map[string]meter.Depth `json:"queues"`
	Breakers  map[string]string      `json:"circuit_breakers,omitempty"`
}

// store holds the payments: what it has returned without error is durable.
type store interface {
	// accept records payments, in one commit; references are distinct. Where they
	// are acknowledged already, one of an unknown customer is kept as REJECTED.
	accept(ctx context.Context, payments []*payment, acknowledged bool) ([]acceptance, error)
	// post posts those of the payments that are RECEIVED and marks them, in one
	// commit, and returns them as they are now.
	post(ctx context.Context, references []string) ([]payment, error)
	// received returns up to limit RECEIVED payments, oldest first, that were
	// accepted before age ago.
	received(ctx context.Context, age time.Duration, limit int) ([]string, error)
	// find returns those of the payments that there are, in any order.
	find(ctx context.Context, references ...string) ([]payment, error)
	// open opens accounts for those of the customers that have none, in one commit,
	// and says how many had none.
	open(ctx context.Context, ids []string) (int, error)
	// customers returns a page in the order of their ids, and how many there are.
	customers(ctx context.Context, limit, offset int) ([]string, int64, error)
	totals(ctx context.Context) (totals, error)
}

func customerID(n int) string { return fmt.Sprintf("GIG%05d", n) }

// seed makes the customers GIG00001 to GIG<n> that are missing, and says how many were.
func seed(ctx context.Context, s store, n int) (made int, err error) {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = customerID(i + 1)
	}
	for chunk := range slices.Chunk(ids, 1000) { // a commit each
		opened, err := s.open(ctx, chunk)
		if err != nil {
			return made, err
		}
		made += opened
	}
	return made, nil
}

// postAll posts payments, as RECEIVED as they are, and settles what they become.
// The ledger's transaction id is the reference: however often and by whomever a
// payment is brought here, it moves money once.
func postAll(ctx context.Context, l *ledger.Ledger, payments []payment) error {
	txs := make([]ledger.Transaction, len(payments))
	for i, p := range payments {
		txs[i] = receivables.Payment(paymentID(p.Reference), p.CustomerID, p.Amount)
	}
	results, err := l.Post(ctx, txs)
	if err != nil {
		return err
	}
	for i, r := range results {
		payments[i].State = statePosted
		if r.Verdict != ledger.Posted {
			payments[i].State, payments[i].Reason = stateRejected, r.Verdict.String()
		}
	}
	return nil
}

// memoryStore is a store without durability.
type memoryStore struct {
	ledger *ledger.Ledger

	mu       sync.Mutex
	ids      []string // of the customers, sorted
	payments map[string]payment
}

func newMemoryStore(l *ledger.Ledger) *memoryStore {
	return &memoryStore{ledger: l, payments: map[string]payment{}}
}

// known tells whether there is such a customer; the caller holds the lock.
func (m *memoryStore) known(id string) bool {
	_, found := slices.BinarySearch(m.ids, id)
	return found
}

func (m *memoryStore) accept(_ context.Context, payments []*payment, _ bool) ([]acceptance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	out := make([]acceptance, len(payments))
	for i, p := range payments {
		first, taken := m.payments[p.Reference]
		switch {
		case !m.known(p.CustomerID):
			out[i].err = errUnknownCustomer
		case taken && !first.completedBy(p):
			out[i] = first.again(p)
		default:
			fresh := *p
			fresh.AcceptedAt = now
			m.payments[p.Reference] = fresh
			out[i].first = now
		}
	}
	return out, nil
}

func (m *memoryStore) post(ctx context.Context, references []string) ([]payment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var due []payment
	for _, ref := range references {
		if p := m.payments[ref]; p.State == stateReceived {
			p.PostedAt = time.Now()
			due = append(due, p)
		}
	}
	if err := postAll(ctx, m.ledger, due); err != nil {
		return nil, err
	}
	for _, p := range due {
		m.payments[p.Reference] = p
	}
	return due, nil
}

// received is for what a queue has lost; the one in memory loses nothing alone.
func (m *memoryStore) received(context.Context, time.Duration, int) ([]string, error) {
	return nil, nil
}

func (m *memoryStore) find(_ context.Context, references ...string) (found []payment, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ref := range references {
		if p, ok := m.payments[ref]; ok {
			found = append(found, p)
		}
	}
	return found, nil
}

func (m *memoryStore) open(ctx context.Context, ids []string) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	missing := slices.DeleteFunc(slices.Clone(ids), m.known)
	if err := receivables.Open(ctx, m.ledger, missing); err != nil {
		return 0, err
	}
	m.ids = append(m.ids, missing...)
	slices.Sort(m.ids)
	return len(missing), nil
}

func (m *memoryStore) customers(_ context.Context, limit, offset int) ([]string, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := min(offset, len(m.ids))
	return slices.Clone(m.ids[from:min(from+limit, len(m.ids))]), int64(len(m.ids)), nil
}

func (m *memoryStore) totals(context.Context) (totals, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := totals{Customers: int64(len(m.ids)), Payments: map[string]int64{}}
	for _, p := range m.payments {
		t.Payments[p.State]++
		if p.State == statePosted {
			t.Posted = t.Posted.Add(p.Amount)
		}
	}
	return t, nil
}
