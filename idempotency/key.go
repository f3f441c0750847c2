package idempotency

import "strconv"

// maxPart bounds each part of a key, so that a key fits in every store's index.
const maxPart = 255

// Key names one piece of work. Two keys are equal only when all three parts are: a value that one tenant or one route
// has used never replays the answer of another.
type Key struct {
	Scope string // who asks: the tenant or account that the caller has proven to be, 1 to 255 bytes
	Op    string // what is asked: the route or operation, 1 to 255 bytes
	Value string // the client's own key, 1 to 255 bytes, any bytes
}

// NewKey returns the key of its three parts, or an [*InvalidError] that names the part at fault.
func NewKey(scope, op, value string) (Key, error) {
	k := Key{Scope: scope, Op: op, Value: value}
	if err := k.Validate(); err != nil {
		return Key{}, err
	}
	return k, nil
}

// Validate returns an [*InvalidError] for the first part that is empty or too long.
func (k Key) Validate() error {
	switch {
	case len(k.Scope) == 0 || len(k.Scope) > maxPart:
		return invalidLength("scope", k.Scope)
	case len(k.Op) == 0 || len(k.Op) > maxPart:
		return invalidLength("op", k.Op)
	case len(k.Value) == 0 || len(k.Value) > maxPart:
		return invalidLength("value", k.Value)
	}
	return nil
}

func invalidLength(field, part string) error {
	if part == "" {
		return &InvalidError{Field: field, Reason: "is empty"}
	}
	return &InvalidError{Field: field, Reason: "is " + strconv.Itoa(len(part)) + " bytes long, more than 255"}
}

// String returns the form under which stores keep the key: each part after its length, as in "8:tenant-74:send3:abc".
// Different keys have different strings, whatever bytes they hold: a mere separator would let ("a:b", "c") meet
// ("a", "b:c").
func (k Key) String() string {
	b := make([]byte, 0, len(k.Scope)+len(k.Op)+len(k.Value)+12)
	for _, part := range [...]string{k.Scope, k.Op, k.Value} {
		b = strconv.AppendInt(b, int64(len(part)), 10)
		b = append(b, ':')
		b = append(b, part...)
	}
	return string(b)
}
