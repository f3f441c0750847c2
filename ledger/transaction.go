package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strconv"
	"time"

	"github.com/shopspring/decimal"
)

// Limits of what [Ledger.Post] takes.
const (
	MaxIDLength = 128  // bytes of an account's or a transaction's id
	MaxBatch    = 8192 // transactions in one call
	MaxPostings = 8192 // postings in one transaction
)

// TransactionID names a transaction: 1 to 128 bytes of UTF-8 without control
// characters, chosen by the client. It is what makes a repeat harmless.
type TransactionID string

// Transaction is a set of postings that stand or fall together.
type Transaction struct {
	ID       TransactionID
	Kind     Kind // Default: KindPost.
	Postings []Posting

	// Of names the hold that is captured or released, or the transaction whose
	// postings are reversed.
	Of TransactionID

	// Expires is how long a hold can be captured, by the store's clock, in whole
	// microseconds. Default: 0, for ever.
	Expires time.Duration

	// If are conditions, which must hold just before the transaction.
	If []Condition

	// Linked ties the transaction to the next one of the same call: a chain of
	// them is done as a whole or refused as a whole. The last one is not linked.
	Linked bool
}

// Kind is what a transaction does.
type Kind uint8

// The kinds. The numbers are stored: they never change.
const (
	// KindPost makes the postings.
	KindPost Kind = 0
	// KindHold reserves their amounts: they are not available to others, but
	// neither account has an entry yet.
	KindHold Kind = 1
	// KindCapture posts what the hold Of has, or less: Postings name the accounts
	// in the hold's order and how much of each. None stands for all. What is not
	// captured is released; a hold is captured once.
	KindCapture Kind = 2
	// KindRelease gives up the hold Of.
	KindRelease Kind = 3
	// KindReverse makes the postings of the transaction Of the other way round,
	// once.
	KindReverse Kind = 4
)

// Condition is what must be so for a transaction to be done.
type Condition struct {
	Account AccountID

	// Available is the least that must be available on the account, on its
	// normal side, with 38 digits and 30 decimal places at most. Default: nil, any.
	Available *decimal.Decimal

	// Version is the version that the account must have. Default: nil, any.
	Version *int64
}

// Posting moves Amount from Credit to Debit: the first is credited, the second
// debited. Both accounts must be in Currency.
type Posting struct {
	Debit, Credit AccountID
	Amount        decimal.Decimal // more than 0, with no more decimals than Currency has
	Currency      string
}

// Result is what was decided of one transaction.
type Result struct {
	ID        TransactionID
	Verdict   Verdict
	Posting   int       // index of the posting that a refusal is about, else 0
	Duplicate bool      // decided by an earlier call, whose result this is
	At        time.Time // when it was decided, by the store's clock; zero if not recorded

	// Fault is the field that is wrong with a transaction that is malformed in
	// itself, such as Postings[2].Currency, and why.
	Fault *InputError
}

// Err returns nil for a transaction that is posted, else a [*VerdictError].
func (r Result) Err() error {
	if r.Verdict == Posted {
		return nil
	}
	return &VerdictError{ID: r.ID, Verdict: r.Verdict, Posting: r.Posting, Fault: r.Fault}
}

// Draft is a [Transaction] that is well formed, in minor units: what a [Store]
// is given.
type Draft struct {
	ID          TransactionID
	Fingerprint Fingerprint // of all but the id; equal for equal content
	Kind        Kind
	Postings    []DraftPosting
	Of          TransactionID
	Expires     time.Duration
	If          []DraftCondition
	Linked      bool // the next draft belongs to the same chain
}

// DraftCondition is a [Condition]. Its amount stays as it was given: the currency
// is the account's, which only the store knows.
type DraftCondition struct {
	Account   AccountID
	Available *decimal.Decimal // in the account's currency
	Version   *int64
}

// DraftPosting is a [Posting] in minor units.
type DraftPosting struct {
	Debit, Credit AccountID
	Amount        Amount // > 0
	Currency      string
	Scale         uint8 // decimal places of Currency, for who made the draft
}

// Fingerprint tells transactions of one id and different content apart. It is
// the first half of a SHA-256.
type Fingerprint [16]byte

// draft checks what can be checked without the ledger's state, and appends the
// postings in minor units to room. scale maps a currency to its decimal places.
func (t *Transaction) draft(room []DraftPosting, scale func(string) (uint8, bool)) (_ Draft, verdict Verdict, posting int, _ *InputError) {
	first, fault := t.shape()
	at := 0
	for i := range t.Postings {
		d, v := t.Postings[i].draft(scale)
		if v != Posted && (first == Posted || v < first) {
			first, at, fault = v, i, nil
		}
		if first == Posted {
			room = append(room, d)
		}
	}
	if first != Posted {
		if fault == nil {
			fault = t.Postings[at].fault(first).within("Postings", at)
		}
		return Draft{}, first, at, fault
	}
	d := Draft{ID: t.ID, Kind: t.Kind, Postings: room, Of: t.Of, Expires: t.Expires, Linked: t.Linked}
	for _, c := range t.If {
		d.If = append(d.If, DraftCondition(c))
	}
	d.Fingerprint = d.fingerprint()
	return d, Posted, 0, nil
}

func (p *Posting) draft(scaleOf func(string) (uint8, bool)) (DraftPosting, Verdict) {
	if checkID("", string(p.Debit)) != nil || checkID("", string(p.Credit)) != nil {
		return DraftPosting{}, InvalidID
	}
	if p.Debit == p.Credit {
		return DraftPosting{}, SameAccount
	}
	scale, ok := scaleOf(p.Currency)
	if !ok {
		return DraftPosting{}, UnknownCurrency
	}
	if p.Amount.Sign() <= 0 {
		return DraftPosting{}, InvalidAmount
	}
	amount, err := AmountOf(p.Amount, scale)
	switch {
	case errors.Is(err, ErrOverScale):
		return DraftPosting{}, OverScale
	case err != nil:
		return DraftPosting{}, Overflow
	}
	return DraftPosting{Debit: p.Debit, Credit: p.Credit, Amount: amount, Currency: p.Currency, Scale: scale}, Posted
}

// fingerprint hashes the content with every part behind its length, so that no
// two contents run together into one. A plain post has its postings alone.
func (d *Draft) fingerprint() Fingerprint {
	var room [256]byte
	b := room[:0]
	text := func(parts ...string) {
		for _, part := range parts {
			b = binary.AppendUvarint(b, uint64(len(part)))
			b = append(b, part...)
		}
	}
	for _, p := range d.Postings {
		text(string(p.Debit), string(p.Credit), p.Currency)
		b = binary.BigEndian.AppendUint64(b, uint64(p.Amount.hi))
		b = binary.BigEndian.AppendUint64(b, p.Amount.lo)
	}
	if d.Kind != KindPost || len(d.If) > 0 || d.Linked {
		b = append(b, 0, byte(d.Kind)) // no posting begins with an empty id
		text(string(d.Of))
		b = binary.AppendVarint(b, int64(d.Expires))
		b = strconv.AppendBool(b, d.Linked)
		for _, c := range d.If {
			text(string(c.Account), c.String())
		}
	}
	sum := sha256.Sum256(b)
	return Fingerprint(sum[:16])
}

// String returns what is asked of the account.
func (c *DraftCondition) String() string {
	var asked []byte
	if c.Available != nil {
		asked = append(append(asked, " available "...), c.Available.String()...)
	}
	if c.Version != nil {
		asked = strconv.AppendInt(append(asked, " version "...), *c.Version, 10)
	}
	return string(asked)
}
