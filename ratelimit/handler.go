package ratelimit

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"

	"github.com/safetill/safetill/internal/absent"
)

// HandlerOptions of [NewMiddleware]. Key or Checks is required; all others have a default.
type HandlerOptions struct {
	// Key returns whose request it is, or false for nobody's. It is held to the decider's limit. [ClientIP], [HeaderKey] and
	// [SubjectKey] make such functions. Whoever can choose the key has no limit: never take it from what a client writes as it likes.
	Key func(r *http.Request) (key string, ok bool)
	// Checks, in place of Key, returns all limits that the request is held to, such as its user's, its address' and everybody's: all are
	// charged or none, which takes a [Limiter]. Without checks the request passes. False means that it is nobody's.
	Checks func(r *http.Request) (checks []Check, ok bool)
	// Anonymous is the key that all requests share for which Key returns false. Choose one that nobody can have.
	// Default: none. They are refused with 400, or to leave the key away would be a way past the limit.
	Anonymous string
	// Cost returns how many units the request costs; of Checks, those whose N is 0. 0 counts as 1, since nothing is free of charge by
	// mistake, and less is a fault of the server's, such as the ContentLength of a body of unknown length.
	// Default: 1.
	Cost func(r *http.Request) int64
	// Skip returns true for a request that is neither counted nor told of limits. Preflight requests of browsers (OPTIONS) come without
	// credentials and so without most keys: skip them, or answer them further out.
	// Default: none. HEAD, OPTIONS and all other methods are counted alike.
	Skip func(r *http.Request) bool
	// Fields writes the fields that tell clients what is left, on answers of both kinds. Beside RateLimit, Retry-After decides.
	// Default: Draft11.
	Fields Encoder
	// Docs is the URL of the page that tells your clients about limits. Refusals link to it: their type is this URL, "#" and the code.
	// Default: none; the type is the draft's "quota-exceeded" of those with 429, and "about:blank" of others.
	Docs string
	// Refuse writes a refusal in a form of your own. Retry-After and the fields are set already.
	// Default: a problem document (RFC 9457) with the members "code" and, of those with 429 and 422, "violated-policies".
	Refuse func(w http.ResponseWriter, r *http.Request, refusal *Refusal)
	// Logger is told of limits and costs that are out of bounds.
	// Default: that of the decider.
	Logger *slog.Logger
}

// middleware is what NewMiddleware returns, with options that are complete.
type middleware struct {
	decider keeper
	limiter *Limiter // the decider, where it is one
	opts    HandlerOptions
}

// NewMiddleware returns a middleware for net/http that runs a handler only for requests within their limits, or all faults of the options at once, each an
// [*InvalidError]. The decider is a [Limiter], [Hybrid], [Leased] or [Owned].
//
// # Answers
//
// A request that is admitted is charged before the handler runs and stays charged, whatever becomes of it: also when the handler fails or panics. The
// handler gets the writer and the request as they are. The fields are in the header when it begins; it may set its own in their place.
//
// A request that is refused is charged to no limit, and answered with a [Refusal]: 429 with Retry-After, in whole seconds and never below the true wait,
// so that a client that is alone and waits for it is admitted; 422 without, when it asks for more than a limit can ever give: clients repeat a 429, and
// this would be refused for ever; 400 when nothing says whose it is.
//
// # When the store is down
//
// What the decider's [OnError] says. By default requests are admitted, and RateLimit is left out since nothing was counted; under FailClosed they get
// 503 with Retry-After. It takes the decider's timeout at the most, and no time once its breaker is open.
//
// # Where it belongs
//
// Behind authentication if the key is what that has proven; a limit by address belongs in front of it, since to check a password is work. In front of
// package idempotency's middleware: a refusal is not to be kept, and a replay costs little but not nothing.
//
// Cost: that of [Decider.AllowN] or [Limiter.All], and with Key three allocations beside the key's.
func NewMiddleware(d Decider, o *HandlerOptions) (func(http.Handler) http.Handler, error) {
	m := &middleware{}
	m.decider, _ = d.(keeper)
	m.limiter, _ = d.(*Limiter)
	if o != nil {
		m.opts = *o
	}
	if err := m.validate(d); err != nil {
		return nil, err
	}
	if m.opts.Fields == nil {
		m.opts.Fields = Draft11
	}
	if m.opts.Logger == nil {
		m.opts.Logger = m.decider.settings().Logger
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.serve(w, r, next) })
	}, nil
}

func (m *middleware) validate(d Decider) error {
	o := &m.opts
	var faults []error
	refuse := func(bad bool, field, reason string) {
		if bad {
			faults = append(faults, invalid(field, reason))
		}
	}
	none := absent.Is(d)
	refuse(none, "decider", "is nil")
	refuse(!none && m.decider == nil, "decider", "is none of package ratelimit's")
	refuse(!none && m.limiter == nil && o.Checks != nil, "HandlerOptions.Checks", "is for a Limiter, which can hold a request to several limits at once")
	refuse(m.limiter != nil && o.Key != nil && m.limiter.limit.Algorithm == Concurrency, "decider", "is of concurrency, which a request would have to release")
	refuse(o.Key == nil && o.Checks == nil, "HandlerOptions.Key", "is nil, and so is Checks")
	refuse(o.Key != nil && o.Checks != nil, "HandlerOptions.Key", "is there beside Checks, which takes its place")
	refuse(o.Anonymous != "" && o.Checks != nil, "HandlerOptions.Anonymous", "is for Key, not for Checks")
	refuse(len(o.Anonymous) > MaxKey, "HandlerOptions.Anonymous", fmt.Sprintf("has over %d bytes", MaxKey))
	return errors.Join(faults...)
}

// serve is the middleware for one request.
func (m *middleware) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if m.opts.Skip != nil && m.opts.Skip(r) {
		next.ServeHTTP(w, r)
		return
	}
	d := m.hold(r)
	m.opts.Fields(w.Header(), d.Quotas)
	if d.Refusal != nil {
		m.refuse(w, r, d.Refusal)
		return
	}
	next.ServeHTTP(w, r)
}

// hold holds a request to its limits.
func (m *middleware) hold(r *http.Request) Decision {
	cost := int64(1)
	if m.opts.Cost != nil {
		cost = m.opts.Cost(r)
	}
	if cost < 0 {
		return Decision{Refusal: misconfigured.because(invalid("cost", fmt.Sprintf("is negative: %d", cost)))}
	}
	cost = max(cost, 1)
	if m.opts.Checks != nil {
		return m.holdAll(r, cost)
	}
	key, ok := m.opts.Key(r)
	if !ok {
		key = m.opts.Anonymous
	}
	if !ok && key == "" {
		return Decision{Refusal: keyMissing.because(nil)}
	}
	return holdOne(r.Context(), m.decider, key, cost)
}

func (m *middleware) holdAll(r *http.Request, cost int64) Decision {
	checks, ok := m.opts.Checks(r)
	if !ok {
		return Decision{Refusal: keyMissing.because(nil)}
	}
	if cost > 1 {
		checks = slices.Clone(checks) // they may be shared by all requests
		for i := range checks {
			checks[i].N = cmp.Or(checks[i].N, cost)
		}
	}
	return Hold(r.Context(), m.limiter, checks...)
}
