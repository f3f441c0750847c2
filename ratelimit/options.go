package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// OnError is what a [Limiter] answers while its store fails.
type OnError uint8

const (
	// FailOpen admits everything. The default: a limiter that is out of order must not be the outage.
	FailOpen OnError = iota
	// FailClosed refuses everything.
	FailClosed
	// FailLocal lets a limiter in memory stand in, with this process' share of the limit: see [Options.Share].
	FailLocal
)

// Options are the optional settings of a [Limiter]. The zero value means the defaults.
type Options struct {
	// LimitFor returns the limit of a key, for limits that differ by customer or plan. An invalid one is an error of the call.
	// Default: the limit that New was given, for all.
	LimitFor func(ctx context.Context, key string) Limit
	// OnError is the policy while the store fails. Faults of the call itself are errors under every policy.
	// Default: FailOpen.
	OnError OnError
	// Share is the part of a limit that this process has under FailLocal, in parts of one: of N processes each has 1/N.
	// Not above 1. Default: 1.
	Share float64
	// Timeout bounds every question to the store; questions have up to an eighth less, so that many share a timer. A store in memory is not bounded.
	// Default: 20 ms.
	Timeout time.Duration
	// Failures in a row open the breaker: the store is left alone and the policy answers at once.
	// Default: 5. Negative: there is no breaker.
	Failures int
	// Cooldown is after what time an open breaker lets one call through, and one only, to see whether the store is back.
	// Default: 1 s.
	Cooldown time.Duration
	// DenyCache is for how many refused keys this process remembers until when they are refused, and answers for the store.
	// Default: 10,000; a store in memory needs none. Negative: none.
	DenyCache int
	// Now is the clock of the breaker, the deny cache and of waiting. The counters have the store's.
	// Default: time.Now.
	Now func() time.Time
	// Hooks are told of what happens.
	Hooks Hooks
	// Logger is told when the breaker opens and closes.
	// Default: none.
	Logger *slog.Logger
}

// Hooks are told of what happens, in the goroutine of the caller or, of what Run asks, in that of Run; they must be quick. Any may be nil.
type Hooks struct {
	// OnDecision is told of each result, of a refusal too.
	OnDecision func(limit Limit, key string, r Result)
	// OnStoreError is told of each question that the store did not answer.
	OnStoreError func(err error)
	// OnBreaker is told that the breaker has opened or closed.
	OnBreaker func(open bool)
}

func (o *Options) validate() error {
	var faults []error
	refuse := func(bad bool, field, reason string) {
		if bad {
			faults = append(faults, invalid("Options."+field, reason))
		}
	}
	refuse(o.OnError > FailLocal, "OnError", "is unknown")
	refuse(!(o.Share >= 0 && o.Share <= 1), "Share", "is not 0 to 1")
	refuse(o.Timeout < 0, "Timeout", "is negative")
	refuse(o.Cooldown < 0, "Cooldown", "is negative")
	return errors.Join(faults...)
}

func (o *Options) setDefaults() {
	if o.Share == 0 {
		o.Share = 1
	}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Millisecond
	}
	if o.Failures == 0 {
		o.Failures = 5
	}
	if o.Cooldown == 0 {
		o.Cooldown = time.Second
	}
	if o.DenyCache == 0 {
		o.DenyCache = 10_000
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}
