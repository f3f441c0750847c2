package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
	Postings []Posting
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
}

// Err returns nil for a transaction that is posted, else a [*VerdictError].
func (r Result) Err() error {
	if r.Verdict == Posted {
		return nil
	}
	return &VerdictError{ID: r.ID, Verdict: r.Verdict, Posting: r.Posting}
}

// Draft is a [Transaction] that is well formed, in minor units: what a [Store]
// is given.
type Draft struct {
	ID          TransactionID
	Fingerprint Fingerprint // of the postings; equal for equal content
	Postings    []DraftPosting
}

// DraftPosting is a [Posting] in minor units.
type DraftPosting struct {
	Debit, Credit AccountID
	Amount        Amount // > 0
	Currency      string
}

// Fingerprint tells transactions of one id and different content apart. It is
// the first half of a SHA-256.
type Fingerprint [16]byte

// draft checks what can be checked without the ledger's state. scales maps a
// currency to its decimal places.
func (t *Transaction) draft(postings []DraftPosting, scale func(string) (uint8, bool)) (Draft, Verdict, int) {
	if checkID("", string(t.ID)) != nil {
		return Draft{}, InvalidID, 0
	}
	if len(t.Postings) == 0 || len(t.Postings) > MaxPostings {
		return Draft{}, InvalidPostings, 0
	}
	for i, p := range t.Postings {
		d, v := p.draft(scale)
		if v != Posted {
			return Draft{}, v, i
		}
		postings = append(postings, d)
	}
	return Draft{ID: t.ID, Postings: postings, Fingerprint: fingerprint(postings)}, Posted, 0
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
	return DraftPosting{Debit: p.Debit, Credit: p.Credit, Amount: amount, Currency: p.Currency}, Posted
}

// fingerprint hashes the postings with every part behind its length, so that no
// two contents run together into one.
func fingerprint(postings []DraftPosting) Fingerprint {
	var room [256]byte
	b := room[:0]
	for _, p := range postings {
		for _, part := range [...]string{string(p.Debit), string(p.Credit), p.Currency} {
			b = binary.AppendUvarint(b, uint64(len(part)))
			b = append(b, part...)
		}
		b = binary.BigEndian.AppendUint64(b, uint64(p.Amount.hi))
		b = binary.BigEndian.AppendUint64(b, p.Amount.lo)
	}
	sum := sha256.Sum256(b)
	return Fingerprint(sum[:16])
}

func checkID(what, id string) error {
	switch {
	case id == "":
		return &InputError{Field: what, Reason: "is empty"}
	case len(id) > MaxIDLength:
		return &InputError{Field: what, Reason: "is longer than 128 bytes"}
	case !utf8.ValidString(id):
		return &InputError{Field: what, Reason: "is not valid UTF-8"}
	case strings.ContainsFunc(id, unicode.IsControl):
		return &InputError{Field: what, Reason: "has a control character"}
	}
	return nil
}
