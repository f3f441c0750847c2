package main

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/examples/internal/problem"
	"github.com/safetill/safetill/idempotency"
)

// currency is what all payments are in.
const currency = "NGN"

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

// dateLayout is how banks write transaction_date; it has no zone.
const dateLayout = "2006-01-02 15:04:05"

// payment is one notification of a bank, and what has become of it.
type payment struct {
	Reference  string          `json:"reference"`
	CustomerID string          `json:"customer_id"`
	BankStatus string          `json:"payment_status"`
	Amount     decimal.Decimal `json:"amount"`
	Date       string          `json:"transaction_date"`
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

// paymentBody is the body of POST /payments. Pointers tell absent from empty.
type paymentBody struct {
	CustomerID *string `json:"customer_id"`
	Status     *string `json:"payment_status"`
	Amount     *string `json:"transaction_amount"`
	Date       *string `json:"transaction_date"`
	Reference  *string `json:"transaction_reference"`
}

var (
	identifier = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$`)
	// 13 digits of naira keep a payment's kobo within int64 a thousand times over.
	plainAmount = regexp.MustCompile(`^[0-9]{1,13}(\.[0-9]{1,2})?$`)
)

// payment returns what the body says, or all that is wrong with it.
func (b *paymentBody) payment() (*payment, []problem.Field) {
	p := &payment{}
	var faults []problem.Field
	read := func(field string, value *string, check func(string) string) string {
		reason := "is required"
		if value != nil {
			if reason = check(*value); reason == "" {
				return *value
			}
		}
		faults = append(faults, problem.Field{Field: field, Reason: reason})
		return ""
	}
	p.Reference = read("transaction_reference", b.Reference, checkIdentifier)
	p.CustomerID = read("customer_id", b.CustomerID, checkIdentifier)
	p.BankStatus = read("payment_status", b.Status, func(s string) string {
		if slices.Contains(bankStatuses, s) {
			return ""
		}
		return "must be one of " + strings.Join(bankStatuses, ", ")
	})
	p.Date = read("transaction_date", b.Date, func(s string) string {
		// Parse takes more than the layout says, such as a blank for a zero.
		if t, err := time.Parse(dateLayout, s); err != nil || t.Format(dateLayout) != s || t.Year() < 1 {
			return "must be a date and time like 2025-11-07 14:54:16"
		}
		return ""
	})
	read("transaction_amount", b.Amount, func(s string) string {
		if !plainAmount.MatchString(s) {
			return "must be a plain decimal number with at most 13 digits and 2 decimals, like 10000 or 99.50"
		}
		if p.Amount = decimal.RequireFromString(s); p.Amount.Sign() <= 0 {
			return "must be more than 0"
		}
		return ""
	})
	if p.State = p.firstState(); len(faults) > 0 {
		return nil, faults
	}
	return p, nil
}

func checkIdentifier(s string) string {
	switch {
	case s == "":
		return "must not be empty"
	case len(s) > 64:
		return "must have at most 64 characters"
	case !identifier.MatchString(s):
		return "must be letters, digits and . _ : - and begin with a letter or digit"
	}
	return ""
}
