package ledger

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// shape checks that the transaction has what its kind needs and nothing else. Of
// several faults it tells the one whose verdict comes first.
func (t *Transaction) shape() (Verdict, *InputError) {
	if fault := t.badID(); fault != nil {
		return InvalidID, fault
	}
	if fault := t.badPostings(); fault != nil {
		return InvalidPostings, fault
	}
	if fault := t.badCondition(Condition.overScale, "has more than 30 decimal places"); fault != nil {
		return OverScale, fault
	}
	if fault := t.badCondition(Condition.overflows, "has more than 38 digits"); fault != nil {
		return Overflow, fault
	}
	if fault := t.badKind(); fault != nil {
		return InvalidKind, fault
	}
	return Posted, nil
}

// refers tells whether the kind is about another transaction.
func (k Kind) refers() bool { return k == KindCapture || k == KindRelease || k == KindReverse }

func (t *Transaction) badID() *InputError {
	if fault := checkID("ID", string(t.ID)); fault != nil {
		return fault
	}
	if t.Kind.refers() {
		if fault := checkID("Of", string(t.Of)); fault != nil {
			return fault
		}
	}
	for i, c := range t.If {
		if fault := checkID("Account", string(c.Account)); fault != nil {
			return fault.within("If", i)
		}
	}
	return nil
}

func (t *Transaction) badPostings() *InputError {
	switch {
	case len(t.Postings) > MaxPostings:
		return &InputError{Field: "Postings", Reason: fmt.Sprintf("has %d postings, more than %d", len(t.Postings), MaxPostings)}
	case len(t.If) > MaxPostings:
		return &InputError{Field: "If", Reason: fmt.Sprintf("has %d conditions, more than %d", len(t.If), MaxPostings)}
	case len(t.Postings) > 0 && (t.Kind == KindRelease || t.Kind == KindReverse):
		return &InputError{Field: "Postings", Reason: "is not empty, but the kind has none"}
	case len(t.Postings) == 0 && (t.Kind == KindPost || t.Kind == KindHold):
		return &InputError{Field: "Postings", Reason: "is empty"}
	}
	return nil
}

func (t *Transaction) badCondition(bad func(Condition) bool, reason string) *InputError {
	for i, c := range t.If {
		if bad(c) {
			return (&InputError{Field: "Available", Reason: reason}).within("If", i)
		}
	}
	return nil
}

// Conditions are compared as they are, in the currency of an account that only
// the store knows. None of any has more decimals than these, or more digits.
func (c Condition) overScale() bool {
	return c.Available != nil && c.Available.Exponent() < -maxScale
}

func (c Condition) overflows() bool {
	return c.Available != nil && int64(c.Available.NumDigits())+int64(c.Available.Exponent()) > MaxDigits
}

func (t *Transaction) badKind() *InputError {
	switch {
	case t.Kind > KindReverse:
		return &InputError{Field: "Kind", Reason: fmt.Sprintf("%d is unknown", t.Kind)}
	case !t.Kind.refers() && t.Of != "":
		return &InputError{Field: "Of", Reason: "is not empty, but the kind refers to nothing"}
	case t.Of == t.ID:
		return &InputError{Field: "Of", Reason: "is the transaction itself"}
	case t.Expires < 0:
		return &InputError{Field: "Expires", Reason: "is negative"}
	case t.Expires > 0 && t.Kind != KindHold:
		return &InputError{Field: "Expires", Reason: "is not 0, but the kind is no hold"}
	case t.Expires%time.Microsecond != 0:
		return &InputError{Field: "Expires", Reason: "is not in whole microseconds"}
	}
	return nil
}

// fault is what is wrong with a posting whose draft is refused with v.
func (p *Posting) fault(v Verdict) *InputError {
	switch v {
	case InvalidID:
		if fault := checkID("Debit", string(p.Debit)); fault != nil {
			return fault
		}
		return checkID("Credit", string(p.Credit))
	case SameAccount:
		return &InputError{Field: "Credit", Reason: "is the same account as Debit"}
	case UnknownCurrency:
		return &InputError{Field: "Currency", Reason: fmt.Sprintf("%q is unknown", p.Currency)}
	case InvalidAmount:
		return &InputError{Field: "Amount", Reason: "is not more than 0"}
	case OverScale:
		return &InputError{Field: "Amount", Reason: "has more decimal places than the currency"}
	default:
		return &InputError{Field: "Amount", Reason: fmt.Sprintf("has more than %d digits", MaxDigits)}
	}
}

// within names the field as one of an element of list.
func (e *InputError) within(list string, i int) *InputError {
	e.Field = fmt.Sprintf("%s[%d].%s", list, i, e.Field)
	return e
}

func checkID(what, id string) *InputError {
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
