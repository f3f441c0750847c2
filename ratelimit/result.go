package ratelimit

import (
	"fmt"
	"time"
)

// Result is the answer to a caller. A refusal is a result, not an error.
type Result struct {
	Allowed bool
	Source  Source
	// Limit is the most that one call can be given: the burst of a bucket, else the rate.
	Limit int64
	// Remaining is what is left of it, at least 0.
	Remaining int64
	// RetryAfter is after what time the same call is admitted if nobody else comes, rounded up to a microsecond. 0 if it is allowed, [Never]
	// if it asks for more than the limit can ever give.
	RetryAfter time.Duration
	// ResetAt is when all is as if nothing had been used, by the clock that decided.
	ResetAt time.Time
}

// Source tells who has decided.
type Source uint8

const (
	// FromStore is the counter itself.
	FromStore Source = iota
	// FromLocal is this process, out of what it has been granted or has not reported yet.
	FromLocal
	// FromDenyCache is this process, since the counter has refused a moment ago and nothing can have come back.
	FromDenyCache
	// FromFallback is the local limiter that stands in for a store that fails.
	FromFallback
	// FromFailOpen is nobody: the store failed, and nothing was counted.
	FromFailOpen
	// FromFailClosed is nobody: the store failed, and so everything is refused.
	FromFailClosed
	// NotAsked is nobody: another check of the same call was in the deny cache, so this one was not looked at.
	NotAsked
	sources int = iota
)

var sourceNames = [sources]string{"store", "local", "deny_cache", "fallback", "fail_open", "fail_closed", "not_asked"}

func (s Source) String() string {
	if int(s) < sources {
		return sourceNames[s]
	}
	return fmt.Sprintf("source(%d)", uint8(s))
}

// result shows an outcome to a caller.
func (p *plan) result(o *Outcome, s Source, r *Result) {
	r.Allowed, r.Source, r.Limit, r.Remaining = o.Allowed, s, p.Burst, max(0, o.Remaining)
	r.ResetAt = time.UnixMicro(o.At + int64(o.Reset/time.Microsecond))
	if !o.Allowed {
		r.RetryAfter = o.Wait
	}
}
