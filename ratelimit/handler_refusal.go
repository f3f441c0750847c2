package ratelimit

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// Refusal is an answer of the edge itself: the handler was not run, and nothing was charged.
type Refusal struct {
	// Code tells programs what is wrong; it is in the answer, so that a client can tell the middleware's from the handler's:
	//
	//	key_missing    400  nothing says whose request it is
	//	key_invalid    400  what says whose request it is is no key: it is empty or over MaxKey bytes
	//	cost_too_high  422  the request costs more than a limit can ever give: to send it again is of no use, and there is no Retry-After
	//	limited        429  a limit is used up; Retry-After says when there is room
	//	misconfigured  500  a limit, a cost or the checks are out of bounds; Err says which
	//	unavailable    503  the store failed, under FailClosed; or the request's time was up
	Code   string
	Status int
	Title  string // the same for every refusal with this code
	Detail string // for people
	// RetryAfter is after what time the request would be admitted if nobody else came, or 0. It is in the header already, in whole
	// seconds, rounded up, at least 1.
	RetryAfter time.Duration
	// Violated are the names of the limits that have refused.
	Violated []string
	// Err is what went wrong, or nil. It is for logs, not for clients.
	Err error
}

// The refusals, but for what differs from one to the other.
var (
	keyMissing = Refusal{
		Code: "key_missing", Status: http.StatusBadRequest, Title: "Sender is unknown",
		Detail: "Nothing in the request says whose it is, so it cannot be held to anyone's limit.",
	}
	keyInvalid = Refusal{
		Code: "key_invalid", Status: http.StatusBadRequest, Title: "Sender is invalid",
		Detail: "What says whose request it is has no valid length.",
	}
	costTooHigh = Refusal{
		Code: "cost_too_high", Status: http.StatusUnprocessableEntity, Title: "Request is over the whole limit",
		Detail: "The request costs more than the limit can ever give. Divide it; to send it again is of no use.",
	}
	limited = Refusal{
		Code: "limited", Status: http.StatusTooManyRequests, Title: "Quota Exceeded", // as the type is registered
		Detail: "The limit is used up. Send the request again when the time of Retry-After is over.",
	}
	misconfigured = Refusal{
		Code: "misconfigured", Status: http.StatusInternalServerError, Title: "Server is misconfigured",
		Detail: "The server's limits are not in order.",
	}
	unavailable = Refusal{
		Code: "unavailable", Status: http.StatusServiceUnavailable, Title: "Limits are unavailable",
		Detail: "Whether there is room for the request cannot be told now, so it was not carried out. Send it again a little later.",
	}
)

// because returns the refusal with what went wrong.
func (r Refusal) because(err error) *Refusal {
	r.Err = err
	return &r
}

// after returns the refusal with a time to wait.
func (r *Refusal) after(wait time.Duration) *Refusal {
	r.RetryAfter = wait
	return r
}

// RetrySeconds is the value of Retry-After, as a number of seconds (RFC 9110, section 10.2.3): RetryAfter rounded up, at least 1; or 0 for none.
func (r *Refusal) RetrySeconds() int64 {
	if r.RetryAfter <= 0 {
		return 0
	}
	return wholeSeconds(r.RetryAfter)
}

// quotaExceeded is the problem type of draft-ietf-httpapi-ratelimit-headers-11, section 5.1; its member violated-policies has the names of limits.
const quotaExceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded"

// problem is a problem document (RFC 9457).
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Detail   string   `json:"detail"`
	Code     string   `json:"code"`
	Violated []string `json:"violated-policies,omitempty"`
}

// problem is what the refusal's answer has in its body.
func (r *Refusal) problem(docs string) problem {
	p := problem{Title: r.Title, Status: r.Status, Detail: r.Detail, Code: r.Code, Violated: r.Violated}
	switch {
	case docs != "":
		p.Type = docs + "#" + r.Code
	case r.Code == limited.Code:
		p.Type = quotaExceeded
	default:
		p.Type, p.Title = "about:blank", http.StatusText(r.Status) // what RFC 9457 asks for beside about:blank
	}
	return p
}

// refuse answers with a refusal.
func (m *middleware) refuse(w http.ResponseWriter, r *http.Request, refusal *Refusal) {
	if refusal.Code == misconfigured.Code { // of a store that fails the limiter tells
		m.opts.Logger.LogAttrs(r.Context(), slog.LevelError, "rate limits: request refused",
			slog.String("code", refusal.Code), slog.Any("error", refusal.Err))
	}
	if s := refusal.RetrySeconds(); s > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(s, 10))
	}
	if m.opts.Refuse != nil {
		m.opts.Refuse(w, r, refusal)
		return
	}
	body, err := json.Marshal(refusal.problem(m.opts.Docs))
	if err != nil {
		panic(err) // strings and ints always encode
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(refusal.Status)
	_, _ = w.Write(body) // a client that is gone needs no answer
}
