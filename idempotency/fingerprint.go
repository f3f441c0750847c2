package idempotency

import (
	"crypto/sha256"
	"encoding/binary"
)

// Fingerprint identifies the payload that came with a key, so that a key used again with another payload is told apart
// from a repeat.
type Fingerprint [sha256.Size]byte

// FingerprintOf returns the SHA-256 of the parts, each after its length in eight bytes, so that ("ab", "c") and
// ("a", "bc") differ. Give it what makes two requests the same request: method, path and body, or the fields that matter.
func FingerprintOf(parts ...[]byte) Fingerprint {
	h := sha256.New()
	var length [8]byte
	for _, part := range parts {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write(part)
	}
	var f Fingerprint
	h.Sum(f[:0])
	return f
}
