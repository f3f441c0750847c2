package main

import (
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/examples/internal/problem"
	"github.com/safetill/safetill/idempotency"
)

// What the bank says of a payment. Only a complete one is money.
const (
	bankComplete = "COMPLETE"
	bankPending  = "PENDING"
)

var bankStatuses = []string{bankComplete, bankPending, "FAILED", "CANCELLED"}

// What has become of a payment here.
const (
	stateReceived = "RECEIVED" // durable, not posted yet
	statePosted   = "POSTED"   // in the ledger
	stateRecorded = "RECORDED" // nothing to post: the bank does not call it complete
	stateRejected = "REJECTED" // the ledger refused it, Reason says why
)

// payment is one notification of a bank, and what has become of it.
type payment struct {
	Reference  string          `json:"reference"`
	CustomerID string          `json:"customer_id"`
	BankStatus string          `json:"payment_status"`
	Amount     decimal.Decimal `json:"amount"`
	Date       string          `json:"transaction_date"` // as the bank wrote it; it has no zone
	State      string          `json:"status"`
	Reason     string          `json:"reason,omitempty"`
	AcceptedAt time.Time       `json:"accepted_at,omitzero"`
	PostedAt   time.Time       `json:"posted_at,omitzero"`
}

// posts tells whether the payment moves money.
func (p *payment) posts() bool { return p.BankStatus == bankComplete }

// firstState is a payment's state when it is accepted.
func (p *payment) firstState() string {
	if p.posts() {
		return stateReceived
	}
	return stateRecorded
}

// key is what the duplicate protection knows the notification by. A PENDING
// payment that completes comes under the same reference, so the status is part.
func (p *payment) key() idempotency.Key {
	return idempotency.Key{Scope: "payments", Op: p.BankStatus, Value: p.Reference}
}

func (p *payment) fingerprint() idempotency.Fingerprint {
	return idempotency.FingerprintOf([]byte(p.CustomerID), []byte(p.BankStatus), []byte(p.Amount.String()), []byte(p.Date))
}

// completedBy tells whether next is the outcome of p, which was PENDING.
func (p *payment) completedBy(next *payment) bool {
	return p.BankStatus == bankPending && next.BankStatus != bankPending &&
		p.CustomerID == next.CustomerID && p.Amount.Equal(next.Amount)
}

// again is what becomes of next, whose reference p has taken: it is a repeat, or
// late news of what is decided, or something else.
func (p *payment) again(next *payment) acceptance {
	if p.fingerprint() != next.fingerprint() && !next.completedBy(p) {
		return acceptance{err: errOtherContent}
	}
	return acceptance{first: p.AcceptedAt, repeat: true}
}

// paymentFaults is the detail of a problem that names a payment's fields.
const paymentFaults = "the payment has faults"

// paymentBody is the body of POST /payments. Pointers tell absent from empty.
type paymentBody struct {
	CustomerID *string `json:"customer_id"`
	Status     *string `json:"payment_status"`
	Amount     *string `json:"transaction_amount"`
	Date       *string `json:"transaction_date"`
	Reference  *string `json:"transaction_reference"`
}

// payment returns what the body says, or all that is wrong with it.
func (b *paymentBody) payment() (*payment, problem.Faults) {
	var faults problem.Faults
	p := &payment{
		Reference:  faults.Required("transaction_reference", b.Reference, problem.Identifier),
		CustomerID: faults.Required("customer_id", b.CustomerID, problem.Identifier),
		BankStatus: faults.Required("payment_status", b.Status, problem.OneOf(bankStatuses...)),
		Date:       faults.Required("transaction_date", b.Date, problem.DateTime),
	}
	amount := faults.Required("transaction_amount", b.Amount, problem.Amount)
	if len(faults) > 0 {
		return nil, faults
	}
	p.Amount, p.State = decimal.RequireFromString(amount), p.firstState()
	return p, nil
}
