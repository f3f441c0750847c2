package idempotency

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// HandlerOptions of [NewMiddleware]. All but Scope have a default.
type HandlerOptions struct {
	// Scope returns whose key it is: the tenant or account that the request has proven to be, as your authentication has
	// left it in the context. Never take it from a header that a client writes as it likes. A request for which it is
	// empty is refused; keys of nobody would be shared by everybody. If the users of one tenant must not see each
	// other's responses, the scope is the user. At most 255 bytes. Required.
	Scope func(r *http.Request) string
	// Op returns what is asked. It is part of the key: on two routes one Idempotency-Key is two keys.
	// Default: the method and the pattern of http.ServeMux, as in "POST /accounts/{id}/debits", or where there is none
	// the method and the path. Of more than 255 bytes, their SHA-256.
	Op func(r *http.Request) string
	// Required tells whether a request that has no Idempotency-Key is refused. If not, it goes to the handler as it is.
	// It is not asked about GET, HEAD, OPTIONS and TRACE: they have nothing to repeat, and go to the handler with or
	// without a key.
	// Default: POST and PATCH are refused.
	Required func(r *http.Request) bool
	// Fingerprint returns what tells a repeat from another request with the same key. The values of path wildcards
	// belong into it. body is not to be modified or kept.
	// Default: FingerprintOf(method, escaped path, raw query, Content-Type, body).
	Fingerprint func(r *http.Request, body []byte) Fingerprint
	// MaxBody is how many bytes the body of a request with a key may have. It is held in memory.
	// Default: 1 MiB.
	MaxBody int
	// MaxResponse is how many bytes the body of a response may have to be kept. It is held in memory. Beyond it the first
	// client gets the response all the same, but a repeat is refused with the code response_not_kept.
	// Default: 1 MiB.
	MaxResponse int
	// Stored tells whether a response with this status is kept for repeats; if not, the key is free again. It is not
	// asked about 1xx, 429 and 5xx, which are never kept.
	// Default: 2xx, 3xx, and those 4xx that a repeat would get again, whoever sends it and whenever; see NewMiddleware.
	Stored func(status int) bool
	// Timeout ends the context of the handler. The client's hanging up does not.
	// Default: one minute.
	Timeout time.Duration
	// EndWithClient lets the client's hanging up end the context of the handler too. Only for handlers that can then
	// tell for certain that they had no effect: a charge that is cut off in the middle is neither done nor undone, and
	// the key is free again.
	// Default: false.
	EndWithClient bool
	// Marker is the header field that is "true" on a replay.
	// Default: "Idempotency-Replayed".
	Marker string
	// Docs is the URL of the page that tells your clients about keys and for how long you keep them. Refusals link to
	// it: their type is this URL, "#" and the code.
	// Default: none; the type is "about:blank".
	Docs string
	// Refuse writes a refusal in a form of your own. Retry-After and Connection are set already.
	// Default: a problem document (RFC 9457) with the additional member "code".
	Refuse func(w http.ResponseWriter, r *http.Request, refusal *Refusal)
	// Logger is told of refusals with 5xx, and of responses that could not be kept.
	// Default: that of the Guard.
	Logger *slog.Logger
}

// middleware is what NewMiddleware returns, with options that are complete.
type middleware struct {
	guard *Guard
	opts  HandlerOptions
}

// NewMiddleware returns a middleware for net/http that runs a handler once for each Idempotency-Key, after
// draft-ietf-httpapi-idempotency-key-header, or all faults of the options at once, each an [*InvalidError].
//
// # Which requests
//
// Those that are not GET, HEAD, OPTIONS or TRACE and have a key or need one ([HandlerOptions.Required]). See [ParseKey]
// for the header's grammar. Authentication and permission are to be checked further out: a replay does not come past
// anything further in.
//
// # Answers
//
// The handler's response is held back until it is recorded, then sent. A repeat gets it again: its status, the header
// fields that the handler has set, its body and trailers, byte for byte, and [HandlerOptions.Marker]. While the first
// request runs it waits for that, for [Options.Wait]; the server's WriteTimeout is to be longer.
//
// Not kept are Set-Cookie (a session is nobody else's), Date, what concerns the connection (Connection and what it names,
// Keep-Alive, Transfer-Encoding, Upgrade, …), informational responses, and what middlewares further out have set: they
// set it on the replay themselves. Content-Length is always that of the body.
//
// Anything else is a [Refusal]: 400 for a key that is missing or malformed, 409 with Retry-After when the first request still
// runs after the wait, 422 for a key that belongs to another request, 413 for a body over the limit.
//
// # What is kept
//
// Success, redirects, and refusals that are final, such as a declined card (402). Not kept are 5xx, 429 and panics, and of
// the other 4xx those that somebody else (401, 403, 407), another header (406, 411, 412, 416, 417, 426, 428, 431) or
// another time (404, 408, 409, 421, 423, 424, 425, 499) may turn into a success. After one of these the key is free, and
// a repeat runs the handler again. So a handler that does not know whether it had an effect must be safe to repeat: hand an
// id ([Key.ID]) on to the provider, write [Run.Token] with what you write, or divide the work by [Step]; the run is in the
// context ([RunFromContext]).
//
// # Clients that hang up
//
// The handler runs to its end: its context has the values of the request's, but neither its end nor its deadline. It ends
// after [HandlerOptions.Timeout], and with the cause [ErrLost] when another may run the handler; see [Do]. What it writes
// is recorded, never an error because nobody reads it. A client that is gone before the handler has begun has asked for
// nothing.
//
// # Streaming
//
// A response that is recorded before it is sent cannot be streamed: Flush and Hijack of http.ResponseController answer an
// error that is http.ErrNotSupported, and the writer is no http.Flusher. Server-sent events and upgrades belong on routes
// without the middleware. A response of more than [HandlerOptions.MaxResponse] bytes is passed on while it is written,
// since its effect has happened; only its status is kept, and a repeat is refused with 500 and the code
// response_not_kept. That is no 2xx, because there is nothing to show, and no 4xx, because a client may take that for
// "not done" and send the request again with another key. The same holds where header and body together are over the
// Guard's [Options.MaxResponse].
//
// # When the store is down
//
// Closed: 503 with Retry-After, and the handler is not run; so it is where the store does not answer within
// [Options.WriteTimeout]. If it fails after the handler has run, the client gets the handler's response, since the truth
// about its money is better than a 503 that makes it try again; that the response is not recorded is logged. See [Do] for
// what repeats get.
//
// Cost: that of [Do]; the body of the request and of the response in memory.
func NewMiddleware(g *Guard, opts *HandlerOptions) (func(http.Handler) http.Handler, error) {
	m := &middleware{guard: g}
	if opts != nil {
		m.opts = *opts
	}
	if err := errors.Join(m.faults()...); err != nil {
		return nil, err
	}
	m.setDefaults()
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.serve(w, r, next) })
	}, nil
}

func (m *middleware) faults() (faults []error) {
	o := &m.opts
	for _, c := range [...]struct {
		wrong         bool
		field, reason string
	}{
		{m.guard == nil || m.guard.store == nil, "guard", "is nil, or was not made by New"},
		{o.Scope == nil, "scope", "is nil"},
		{o.MaxBody < 0, "max body", "is negative"},
		{o.MaxResponse < 0, "max response", "is negative"},
		{o.Timeout < 0, "timeout", "is negative"},
		{strings.ContainsFunc(o.Marker, notInName), "marker", "is not the name of a header field"},
	} {
		if c.wrong {
			faults = append(faults, &InvalidError{Field: c.field, Reason: c.reason})
		}
	}
	return faults
}

// notInName tells whether a character must not be in the name of a header field (RFC 9110, section 5.6.2).
func notInName(c rune) bool {
	return c <= ' ' || c > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
}

func (m *middleware) setDefaults() {
	const mebibyte = 1 << 20
	o := &m.opts
	if o.Op == nil {
		o.Op = routeOf
	}
	if o.Required == nil {
		o.Required = func(r *http.Request) bool { return r.Method == http.MethodPost || r.Method == http.MethodPatch }
	}
	if o.Fingerprint == nil {
		o.Fingerprint = requestFingerprint
	}
	if o.MaxBody == 0 {
		o.MaxBody = mebibyte
	}
	if o.MaxResponse == 0 {
		o.MaxResponse = mebibyte
	}
	if o.Stored == nil {
		o.Stored = finalStatus
	}
	o.Timeout = orDefault(o.Timeout, time.Minute)
	if o.Marker == "" {
		o.Marker = "Idempotency-Replayed"
	}
	o.Marker = http.CanonicalHeaderKey(o.Marker)
	if o.Logger == nil {
		o.Logger = m.guard.logger
	}
}

// stored tells whether a response with this status is kept.
func (m *middleware) stored(status int) bool {
	return status >= 200 && status < 500 && status != http.StatusTooManyRequests && m.opts.Stored(status)
}

// finalStatus is the default of HandlerOptions.Stored. The 4xx that it does not know are kept: to replay one that might have
// changed costs the client a new key, to run again one that had an effect costs somebody's money.
func finalStatus(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired: // somebody else
		return false
	case http.StatusNotAcceptable, http.StatusLengthRequired, http.StatusPreconditionFailed,
		http.StatusRequestedRangeNotSatisfiable, http.StatusExpectationFailed, http.StatusUpgradeRequired,
		http.StatusPreconditionRequired, http.StatusRequestHeaderFieldsTooLarge: // other headers
		return false
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusMisdirectedRequest,
		http.StatusLocked, http.StatusFailedDependency, http.StatusTooEarly, 499: // another time
		return false
	}
	return true
}

// errNotKept is what the work returns whose response is not to be kept: its key is free again.
var errNotKept = errors.New("idempotency: response is not kept")

// serve is the middleware for one request.
func (m *middleware) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	lines := r.Header[headerName]
	if safeMethod(r.Method) || len(lines) == 0 && !m.opts.Required(r) {
		next.ServeHTTP(w, r)
		return
	}
	q, refusal := m.read(w, r, lines)
	if refusal != nil {
		m.logRefusal(r, q.key, refusal)
		m.refuse(w, r, refusal)
		return
	}
	var answer *capture
	result, err := Do(r.Context(), m.guard, q.key, q.fingerprint, func(ctx context.Context, run *Run) ([]byte, error) {
		if !m.opts.EndWithClient {
			ctx = run.Detached()
		}
		ctx, cancel := context.WithTimeout(context.WithValue(ctx, runKey{}, run), m.opts.Timeout)
		defer cancel()
		answer = newCapture(w, ctx.Err, m.opts.MaxResponse)
		serveInner(next, answer, r, r.WithContext(ctx), q.body)
		if !m.stored(answer.status) {
			return nil, errNotKept
		}
		return answer.record(m.guard.maxResponse), nil
	})
	if answer == nil {
		m.repeat(w, r, q.key, result.Value, err)
		return
	}
	m.logUnkept(r, q.key, answer.omitted, err)
	answer.send()
}

// repeat answers a request for which the handler was not run: with what is stored for it, or why there is nothing.
func (m *middleware) repeat(w http.ResponseWriter, r *http.Request, key Key, stored []byte, err error) {
	var first response
	if err == nil {
		first, err = decodeResponse(stored)
	}
	var refusal *Refusal
	switch {
	case err != nil:
		refusal = refusalOf(err)
	case first.omitted:
		refusal = refusalOfOmitted(first.status)
	default:
		first.replay(w, m.opts.Marker)
		return
	}
	m.logRefusal(r, key, refusal)
	m.refuse(w, r, refusal)
}

// serveInner runs the handler on inner, a copy of the request. What the handler leaves in it for whoever is further out
// goes back to outer: the pattern for logs, and the form whose files the server removes.
func serveInner(next http.Handler, w *capture, outer, inner *http.Request, body []byte) {
	inner.Body = newRequestBody(body)
	defer func() { outer.Pattern, outer.MultipartForm = inner.Pattern, inner.MultipartForm }()
	next.ServeHTTP(w, inner)
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
}

// A run that is in flight is asked about again after at most maxRetryAfter: its lease, which grows while it lives, says
// only when it is dead. An outage is not over sooner for being asked about.
const maxRetryAfter = 5 * time.Second

// refusalOf returns what the client is told when Do has failed without running the handler.
func refusalOf(err error) *Refusal {
	inFlight, isInFlight := errors.AsType[*InFlightError](err)
	_, isFailure := errors.AsType[*PermanentError](err) // of a Do under the same key, which is no handler
	switch {
	case isInFlight:
		return keyInFlight.because("A request with this Idempotency-Key has not been answered yet. Send this one again, unchanged, a little later.",
			err).after(min(max(inFlight.RetryAfter, time.Second), maxRetryAfter))
	case errors.Is(err, ErrMismatch):
		return keyReused.because("This Idempotency-Key was sent with another request. Send that one again, unchanged, or take a new key.", err)
	case errors.Is(err, ErrNotRecorded):
		return responseNotKept.because("The request was carried out before, but its response could not be kept. Do not send it with another key.", err)
	case errors.Is(err, errUnreadable), isFailure:
		return responseUnreadable.because("The request was carried out before. Do not send it with another key.", err)
	}
	return unavailable.because("Whether this request was carried out before cannot be told now, so it was not carried out. Send it again, unchanged, a little later.",
		err).after(maxRetryAfter)
}

// refusalOfOmitted returns what a repeat is told whose first response was too large.
func refusalOfOmitted(status int) *Refusal {
	refusal := responseNotKept.because("The request was carried out before, and answered with the status "+strconv.Itoa(status)+
		". That response was too large to be kept. Do not send the request with another key.", errOmitted)
	refusal.FirstStatus = status
	return refusal
}

// errOmitted is why a response was not kept.
var errOmitted = &InvalidError{Field: "response", Reason: "is longer than can be kept"}

// logRefusal tells the log what is the server's fault. A client that is gone is nobody's.
func (m *middleware) logRefusal(r *http.Request, key Key, refusal *Refusal) {
	if refusal.Status < 500 || r.Context().Err() != nil {
		return
	}
	m.opts.Logger.LogAttrs(r.Context(), slog.LevelError, "idempotency: request refused",
		slog.String("op", key.Op), slog.String("code", refusal.Code), slog.Any("error", refusal.Err))
}

// logUnkept tells the log of a response that is sent but cannot be replayed: nobody else hears of it.
func (m *middleware) logUnkept(r *http.Request, key Key, omitted bool, err error) {
	switch {
	case err != nil && !errors.Is(err, errNotKept):
		m.opts.Logger.LogAttrs(r.Context(), slog.LevelError, "idempotency: response not recorded, a repeat may run the handler again",
			slog.String("op", key.Op), slog.Any("error", err))
	case omitted:
		m.opts.Logger.LogAttrs(r.Context(), slog.LevelWarn, "idempotency: response not kept, repeats will be refused",
			slog.String("op", key.Op), slog.Any("error", errOmitted))
	}
}

// runKey is the key of a context's value.
type runKey struct{}

// RunFromContext returns the run that a handler behind [NewMiddleware] serves, or false for a request without a key.
func RunFromContext(ctx context.Context) (*Run, bool) {
	run, ok := ctx.Value(runKey{}).(*Run)
	return run, ok
}

// TokenFromContext returns the fencing number of the run that a handler behind [NewMiddleware] serves, to be written with
// its effect; see [Run.Token]. It is false for a request without a key.
func TokenFromContext(ctx context.Context) (Token, bool) {
	run, ok := RunFromContext(ctx)
	if !ok {
		return 0, false
	}
	return run.Token(), true
}
