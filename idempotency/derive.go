package idempotency

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"math"
	"time"
)

// ID returns the permanent name of what is done under the key: 44 letters, digits, "-" and "_", the first of them "k". It
// is the same in every version of this package. Behind the TTL, when the store has forgotten the key, it goes on refusing the
// second effect: hand it to whatever makes the effect and remembers ids for ever.
//
//	Transaction{ID: TransactionID(run.Key().ID("transfer")), …} // package ledger: the id is the primary key
//	provider.Charge(ctx, amount, run.Key().ID("charge"))        // a card network's own idempotency key
//
// Parts tell several effects under one key apart. Different keys or parts have different ids, whatever bytes they hold:
// it is the SHA-256 of all of them, each after its length.
func (k Key) ID(parts ...string) string {
	h := newPartHash("safetill/idempotency/id/1")
	for _, part := range [...]string{k.Scope, k.Op, k.Value} {
		h.add(part)
	}
	for _, part := range parts {
		h.add(part)
	}
	return "k" + h.sum()
}

// DerivedKey returns a key for requests whose client sends none: its value is the SHA-256 of the window of time that at
// is in, and of the parts, such as the payer, the payee and the body. It is a guess, and a client's own key is always
// better: two equal requests in one window are taken for one, so a customer who buys a second equal coffee within
// it gets the receipt of the first. So choose a window as short as the retries it is to catch, seconds rather than
// minutes, or ask the customer.
//
// Windows do not slide: they are [n*window, (n+1)*window) since 1970 in UTC. Two equal requests in one are one, however
// far apart in it; on the two sides of a boundary they are two, however close. So a repeat that comes after d, shorter
// than the window, is recognised with a probability of 1 - d/window, and one that comes after the window never. Processes
// whose clocks differ by d see a boundary d apart; take at from one clock, such as when the request entered the system,
// where that matters. A window that is changed is another key.
//
// The error is an [*InvalidError]: a scope or op that is empty or over 255 bytes, no parts, a window shorter than a
// millisecond or longer than 100 years, a time before 1678 or after 2261, such as one that was never set.
func DerivedKey(scope, op string, at time.Time, window time.Duration, parts ...[]byte) (Key, error) {
	if err := validateSpan("window", window); err != nil {
		return Key{}, err
	}
	if len(parts) == 0 { // every request of the scope would be one
		return Key{}, &InvalidError{Field: "parts", Reason: "are missing"}
	}
	since := at.Sub(time.Unix(0, 0))
	if since == math.MinInt64 || since == math.MaxInt64 { // as far as a Duration goes: all times beyond would be in one window
		return Key{}, &InvalidError{Field: "time", Reason: "is before 1678 or after 2261"}
	}
	h := newPartHash("safetill/idempotency/derived/1")
	h.addNumber(int64(window))
	h.addNumber(windowOf(since, window))
	for _, part := range parts {
		h.add(string(part))
	}
	return NewKey(scope, op, "derived-"+h.sum())
}

// windowOf returns the number of the window that a time since 1970 is in.
func windowOf(since, window time.Duration) int64 {
	n := since / window
	if since%window < 0 { // division cuts towards 0, and windows before 1970 begin below it
		n--
	}
	return int64(n)
}

// partHash is SHA-256 over parts, each after its length in eight bytes, so that no two lists of parts are one text.
type partHash struct{ text []byte }

func newPartHash(purpose string) *partHash {
	h := new(partHash)
	h.add(purpose)
	return h
}

func (h *partHash) add(part string) {
	h.addNumber(int64(len(part)))
	h.text = append(h.text, part...)
}

func (h *partHash) addNumber(n int64) { h.text = binary.BigEndian.AppendUint64(h.text, uint64(n)) }

func (h *partHash) sum() string {
	sum := sha256.Sum256(h.text)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
