package saga

import (
	"cmp"
	"math/rand/v2"
	"time"
)

// Retry says how often a step is attempted and how long it waits in between:
// First, doubled each time up to Max, and of that a random part between the half
// and the whole, so that the sagas that a provider has failed do not come back all
// at once. The attempts are counted in the store: a crash does not renew them.
type Retry struct {
	// Attempts is how many there are in all. Default: 5; for compensations and
	// Retriable steps, which have no other way to go, 20.
	Attempts int
	// First is the wait after the first attempt. Default: 200 ms.
	First time.Duration
	// Max is the longest wait. Default: 10 s; for compensations and Retriable steps
	// 1 min.
	Max time.Duration
	// Permanent tells the errors that another attempt would not mend. Default: none.
	// Unlike with [Reject], the step may have taken effect.
	Permanent func(error) bool
}

func (r Retry) or(d Retry) Retry {
	r.Attempts = cmp.Or(r.Attempts, d.Attempts)
	r.First = cmp.Or(r.First, d.First)
	r.Max = max(cmp.Or(r.Max, d.Max), r.First)
	return r
}

func (r Retry) permanent(err error) bool { return r.Permanent != nil && r.Permanent(err) }

// delay is the wait after so many attempts.
func (r Retry) delay(attempts int) time.Duration {
	d := r.Max
	if shift := attempts - 1; shift < 30 && r.First<<shift>>shift == r.First {
		d = min(r.First<<shift, r.Max)
	}
	return d/2 + rand.N(d/2+1)
}

var (
	patient = Retry{Attempts: 20, First: 200 * time.Millisecond, Max: time.Minute}
	brief   = Retry{Attempts: 5, First: 200 * time.Millisecond, Max: 10 * time.Second}
)

const defaultTimeout = 30 * time.Second
