package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/examples/internal/meter"
	"github.com/safetill/safetill/examples/internal/problem"
	"github.com/safetill/safetill/ledger"
)

// Accounts of the ledger. A customer owes for a financed asset: their account is
// a receivable, which a payment credits against the clearing account. It has no
// floor, because money that a bank says has been paid has been paid: what is
// paid beyond the debt stands on the same account, as the customer's credit.
const (
	clearing = ledger.AccountID("clearing")        // what the banks have collected for us
	financed = ledger.AccountID("financed-assets") // what the customers have bought
)

func receivable(customer string) ledger.AccountID { return ledger.AccountID("customer:" + customer) }

// assetValue is what each seeded customer owes at first.
var assetValue = decimal.New(1_000_000, 0)

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
	find(ctx context.Context, reference string) (payment, bool, error)
	// seed makes the customers GIG00001 to GIG<n> that are missing, and says how many were.
	seed(ctx context.Context, n int) (int, error)
	customers(ctx context.Context, limit, offset int) ([]string, int64, error)
	totals(ctx context.Context) (totals, error)
}

func customerID(n int) string { return fmt.Sprintf("GIG%05d", n) }

// openCustomers opens the accounts of customers and books what they owe. Doing so
// again does nothing.
func openCustomers(ctx context.Context, l *ledger.Ledger, ids []string) error {
	accounts := []ledger.Account{
		{ID: clearing, Currency: currency, Normal: ledger.Debit},
		{ID: financed, Currency: currency, Normal: ledger.Credit},
	}
	var debts []ledger.Transaction
	for _, id := range ids {
		accounts = append(accounts, ledger.Account{ID: receivable(id), Currency: currency, Normal: ledger.Debit})
		debts = append(debts, ledger.Transaction{ID: ledger.TransactionID("financed:" + id), Postings: []ledger.Posting{
			{Debit: receivable(id), Credit: financed, Amount: assetValue, Currency: currency},
		}})
	}
	if err := l.Open(ctx, accounts...); err != nil {
		return err
	}
	results, err := l.Post(ctx, debts)
	for _, r := range results {
		err = errors.Join(err, r.Err())
	}
	return err
}

// postAll posts payments, as RECEIVED as they are, and settles their state.
// The ledger's transaction id is the reference: however often and by whomever a
// payment is brought here, it moves money once.
func postAll(ctx context.Context, l *ledger.Ledger, payments []payment, now time.Time) error {
	txs := make([]ledger.Transaction, len(payments))
	for i, p := range payments {
		txs[i] = ledger.Transaction{ID: ledger.TransactionID("payment:" + p.Reference), Postings: []ledger.Posting{
			{Debit: clearing, Credit: receivable(p.CustomerID), Amount: p.Amount, Currency: currency},
		}}
	}
	results, err := l.Post(ctx, txs)
	if err != nil {
		return err
	}
	for i, r := range results {
		payments[i].PostedAt, payments[i].State = now, statePosted
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
	known    map[string]bool // customers
	ids      []string        // the same, sorted
	payments map[string]*payment
}

func newMemoryStore(l *ledger.Ledger) *memoryStore {
	return &memoryStore{ledger: l, known: map[string]bool{}, payments: map[string]*payment{}}
}

func (m *memoryStore) accept(_ context.Context, payments []*payment, _ bool) ([]acceptance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	out := make([]acceptance, len(payments))
	for i, p := range payments {
		have := m.payments[p.Reference]
		switch {
		case !m.known[p.CustomerID]:
			out[i].err = errUnknownCustomer
		case have == nil, completes(have, p):
			fresh := *p
			fresh.AcceptedAt = now
			m.payments[p.Reference] = &fresh
			out[i].first = now
		case have.fingerprint() != p.fingerprint() && !completes(p, have): // not late news of what is decided either
			out[i].err = errOtherContent
		default:
			out[i] = acceptance{first: have.AcceptedAt, repeat: true}
		}
	}
	return out, nil
}

// completes tells whether next is the outcome of a payment that was PENDING.
func completes(have, next *payment) bool {
	return have.BankStatus == bankPending && next.BankStatus != bankPending &&
		have.CustomerID == next.CustomerID && have.Amount.Equal(next.Amount)
}

func (m *memoryStore) post(ctx context.Context, references []string) ([]payment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var due []payment
	for _, ref := range references {
		if p := m.payments[ref]; p != nil && p.State == stateReceived {
			due = append(due, *p)
		}
	}
	if err := postAll(ctx, m.ledger, due, time.Now()); err != nil {
		return nil, err
	}
	for i := range due {
		*m.payments[due[i].Reference] = due[i]
	}
	return due, nil
}

// received is for what a queue has lost; the one in memory loses nothing alone.
func (m *memoryStore) received(context.Context, time.Duration, int) ([]string, error) {
	return nil, nil
}

func (m *memoryStore) find(_ context.Context, reference string) (payment, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.payments[reference]; p != nil {
		return *p, true, nil
	}
	return payment{}, false, nil
}

func (m *memoryStore) seed(ctx context.Context, n int) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var missing []string
	for i := 1; i <= n; i++ {
		if id := customerID(i); !m.known[id] {
			missing = append(missing, id)
		}
	}
	for chunk := range slices.Chunk(missing, seedChunk) {
		if err := openCustomers(ctx, m.ledger, chunk); err != nil {
			return 0, err
		}
		for _, id := range chunk {
			m.known[id], m.ids = true, append(m.ids, id)
		}
	}
	slices.Sort(m.ids)
	return len(missing), nil
}

// seedChunk is how many customers are made in one commit.
const seedChunk = 1000

func (m *memoryStore) customers(_ context.Context, limit, offset int) ([]string, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := min(offset, len(m.ids))
	return slices.Clone(m.ids[from:min(from+limit, len(m.ids))]), int64(len(m.ids)), nil
}

func (m *memoryStore) totals(ctx context.Context) (totals, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := totals{Customers: int64(len(m.ids)), Payments: map[string]int64{}}
	for _, p := range m.payments {
		t.Payments[p.State]++
	}
	if len(m.ids) > 0 {
		b, err := m.ledger.Balances(ctx, clearing)
		if err != nil {
			return t, err
		}
		t.Posted = b[0].Posted
	}
	return t, nil
}
