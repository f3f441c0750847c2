package pglock

import "github.com/safetill/safetill/idempotency"

// Hash is the number of a lock.
func Hash(scope, name string) int64 {
	return hash(idempotency.Key{Scope: scope, Op: op, Value: name})
}

// Names is how many names somebody of this process has or waits for.
func (l *Locker) Names() int {
	l.line.mu.Lock()
	defer l.line.mu.Unlock()
	return len(l.line.places)
}
