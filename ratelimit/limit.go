package ratelimit

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Algorithm is how a limit counts. What each admits at most, of a limit of L per P:
//
//	algorithm       in any P      in one instant   state          for
//	TokenBucket     Burst + L     Burst            one instant    most things
//	GCRA            Burst + L     Burst (1)        one instant    a steady flow, evenly spaced
//	SlidingLog      L             L                one entry a call   "never more than L in any P"
//	SlidingCounter  2 L           L                two counts     shared state, close to L in practice
//	FixedWindow     2 L           L                one count      quotas that begin anew with the hour or day
//	Concurrency     –             L at once        one entry a holder  work under way
//
// The sliding counter and the fixed window reach their 2 L only for callers that aim at the end of a window, which the
// clock tells.
type Algorithm uint8

const (
	// TokenBucket holds up to Burst tokens (default: Rate) and gets Rate of them every Per, one by one.
	TokenBucket Algorithm = iota
	// GCRA is the generic cell rate algorithm of ATM (ITU-T I.371): the same arithmetic as [TokenBucket], with a Burst of 1
	// unless told otherwise, so that calls are spaced Per/Rate apart.
	GCRA
	// SlidingLog remembers when each call was admitted. Exact, at the price of an entry a call for as long as Per.
	SlidingLog
	// SlidingCounter adds to the count of this window that of the one before, in proportion to how much of it the last Per
	// overlaps. Windows are aligned to the Unix epoch.
	SlidingCounter
	// FixedWindow counts in windows that are aligned to the Unix epoch.
	FixedWindow
	// Concurrency bounds how many are at work at once: Rate of them, each for as long as its lease, Per, unless it is
	// released or extended. See [Limiter.Acquire].
	Concurrency
	algorithms int = iota
)

var algorithmNames = [algorithms]string{"token_bucket", "gcra", "sliding_log", "sliding_counter", "fixed_window", "concurrency"}

func (a Algorithm) String() string {
	if int(a) < algorithms {
		return algorithmNames[a]
	}
	return fmt.Sprintf("algorithm(%d)", uint8(a))
}

// bucket tells whether the state is one instant.
func (a Algorithm) bucket() bool { return a <= GCRA }

// Bounds of a [Limit].
const (
	MaxRate = 1_000_000_000        // also of Burst
	MaxPer  = 366 * 24 * time.Hour // the smallest Per is a microsecond
	MaxLog  = 1_000_000            // Rate of a SlidingLog or Concurrency
	// MaxRefill bounds how long an empty bucket takes to fill: Burst × Per / Rate.
	MaxRefill = 10 * MaxPer
	maxExact  = 1 << 53 // what a double holds exactly, and so Redis' Lua
)

// Limit says how much is allowed: Rate units every Per. It is a value; change it at will. What was used under a limit stays used when
// another one takes its place: see [Limiter].
type Limit struct {
	// Name tells limits of one key apart: counters are kept by name and key. It is seen in headers and, as a
	// part of keys, in Redis. 1 to 64 printable ASCII characters without quotes, backslashes, braces and blanks.
	// Default: "default".
	Name string
	// Algorithm: see there. Default: TokenBucket.
	Algorithm Algorithm
	// Rate is how many units there are every Per. 1 to MaxRate; required.
	Rate int64
	// Per is in whole microseconds, 1 to MaxPer; required.
	Per time.Duration
	// Burst is how many units a bucket holds. Default: Rate for a TokenBucket, 1 for GCRA. The others have none.
	Burst int64
}

// PerSecond is a token bucket of n units a second, with room for a second's worth.
func PerSecond(n int64) Limit { return Limit{Rate: n, Per: time.Second} }

// PerMinute is a token bucket of n units a minute, with room for a minute's worth.
func PerMinute(n int64) Limit { return Limit{Rate: n, Per: time.Minute} }

// PerHour is a token bucket of n units an hour, with room for an hour's worth.
func PerHour(n int64) Limit { return Limit{Rate: n, Per: time.Hour} }

// Named returns the limit with a name.
func (l Limit) Named(name string) Limit { l.Name = name; return l }

// As returns the limit with an algorithm.
func (l Limit) As(a Algorithm) Limit { l.Algorithm = a; return l }

// WithBurst returns the limit with a burst.
func (l Limit) WithBurst(n int64) Limit { l.Burst = n; return l }

// Normal returns the limit with its defaults filled in.
func (l Limit) Normal() Limit {
	l.Name = cmp.Or(l.Name, "default")
	if l.Burst == 0 {
		l.Burst = l.Rate
		if l.Algorithm == GCRA {
			l.Burst = 1
		}
	}
	return l
}

// Capacity is the most that one call can ever be given.
func (l Limit) Capacity() int64 { return l.Normal().Burst }

// Interval is how often a unit comes back: every per/rate microseconds, in lowest terms.
func (l Limit) Interval() (per, rate int64) {
	per, rate = l.Per.Microseconds(), l.Rate
	g := gcd(per, rate)
	return per / g, rate / g
}

// Validate returns all faults at once, each an [*InvalidError], or nil.
func (l Limit) Validate() error {
	var faults []error
	refuse := func(bad bool, field, format string, args ...any) {
		if bad {
			faults = append(faults, invalid(field, fmt.Sprintf(format, args...)))
		}
	}
	refuse(!validName(l.Name), "name", "is not up to 64 printable ASCII characters without quotes, backslashes, braces and blanks")
	refuse(int(l.Algorithm) >= algorithms, "algorithm", "is unknown: %d", l.Algorithm)
	refuse(l.Rate < 1 || l.Rate > MaxRate, "rate", "is not 1 to %d: %d", MaxRate, l.Rate)
	refuse(l.Per < time.Microsecond || l.Per > MaxPer, "per", "is not 1µs to %v: %v", MaxPer, l.Per)
	refuse(l.Per%time.Microsecond != 0, "per", "is not in whole microseconds: %v", l.Per)
	refuse(l.Burst < 0 || l.Burst > MaxRate, "burst", "is not 0 to %d: %d", MaxRate, l.Burst)
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	if !l.Algorithm.bucket() {
		refuse(l.Burst != 0 && l.Burst != l.Rate, "burst", "is for buckets, not for %v", l.Algorithm)
		refuse((l.Algorithm == SlidingLog || l.Algorithm == Concurrency) && l.Rate > MaxLog, "rate", "is over %d, of which each is an entry: %d", MaxLog, l.Rate)
		return errors.Join(faults...)
	}
	burst := l.Normal().Burst
	per, rate := l.Interval()
	hi, refill := mulDiv(burst, per, rate)
	refuse(hi || refill > MaxRefill.Microseconds(), "burst", "takes over %v to refill: %d", MaxRefill, burst)
	refuse(burst > maxExact/rate, "burst", "cannot be counted exactly at this rate: %d; choose a rate that divides the period, or a smaller burst", burst)
	return errors.Join(faults...)
}

func validName(name string) bool {
	if len(name) > 64 {
		return false
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' || c == '"' || c == '\\' || c == '{' || c == '}' {
			return false
		}
	}
	return true
}
