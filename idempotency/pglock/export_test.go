package pglock

import "github.com/safetill/safetill/idempotency"

// Hash is the number of a lock.
func Hash(scope, name string) int64 {
	return hash(idempotency.Key{Scope: scope, Op: op, Value: name})
}
