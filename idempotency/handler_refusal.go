package idempotency

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Refusal is an answer of the middleware itself: the handler was not run.
type Refusal struct {
	// Code tells programs what is wrong; it is in the answer, so that a client can tell a 409 or 422 of the middleware
	// from one of the handler:
	//
	//	key_missing           400  the request needs a key and has none
	//	key_invalid           400  the header is there, but is no key; Err is an [*InvalidError]
	//	body_unreadable       400  the body ended before its end
	//	key_in_flight         409  another request with the key is running; Err is an [*InFlightError]
	//	body_too_large        413  the body is longer than MaxBody
	//	key_reused            422  the key was used with another request; Err is [ErrMismatch]
	//	response_not_kept     500  the request was carried out before, but its response was longer than MaxResponse
	//	response_unreadable   500  the request was carried out before, but what is stored for it is no response
	//	misconfigured         500  scope or op is empty or too long, or the body was read before it got here; Err says which
	//	unavailable           503  the store failed
	Code   string
	Status int
	Title  string // the same for every refusal with this code
	Detail string // for people
	// RetryAfter is how long the client is asked to wait, or 0. It is in the header already, in whole seconds.
	RetryAfter time.Duration
	// FirstStatus is the status of the response that was not kept, or 0.
	FirstStatus int
	// Err is what went wrong. It is for logs, not for clients.
	Err error
}

// The refusals, but for their details.
var (
	keyMissing         = Refusal{Code: "key_missing", Status: http.StatusBadRequest, Title: "Idempotency-Key is missing"}
	keyInvalid         = Refusal{Code: "key_invalid", Status: http.StatusBadRequest, Title: "Idempotency-Key is invalid"}
	bodyUnreadable     = Refusal{Code: "body_unreadable", Status: http.StatusBadRequest, Title: "Request body is unreadable"}
	keyInFlight        = Refusal{Code: "key_in_flight", Status: http.StatusConflict, Title: "Request with this Idempotency-Key is running"}
	bodyTooLarge       = Refusal{Code: "body_too_large", Status: http.StatusRequestEntityTooLarge, Title: "Request body is too large"}
	keyReused          = Refusal{Code: "key_reused", Status: http.StatusUnprocessableEntity, Title: "Idempotency-Key belongs to another request"}
	responseNotKept    = Refusal{Code: "response_not_kept", Status: http.StatusInternalServerError, Title: "First response was not kept"}
	responseUnreadable = Refusal{Code: "response_unreadable", Status: http.StatusInternalServerError, Title: "First response is unreadable"}
	misconfigured      = Refusal{Code: "misconfigured", Status: http.StatusInternalServerError, Title: "Server is misconfigured"}
	unavailable        = Refusal{Code: "unavailable", Status: http.StatusServiceUnavailable, Title: "Idempotency keys are unavailable"}
)

// because returns the refusal with its reasons.
func (r Refusal) because(detail string, err error) *Refusal {
	r.Detail, r.Err = detail, err
	return &r
}

// after returns the refusal with a time to wait.
func (r *Refusal) after(wait time.Duration) *Refusal {
	r.RetryAfter = wait
	return r
}

// problem is a problem document (RFC 9457) with two members of its own.
type problem struct {
	Type        string `json:"type"`
	Title       string `json:"title"`
	Status      int    `json:"status"`
	Detail      string `json:"detail"`
	Code        string `json:"code"`
	FirstStatus int    `json:"first_status,omitzero"`
}

// refuse answers with a refusal.
func (m *middleware) refuse(w http.ResponseWriter, r *http.Request, refusal *Refusal) {
	if refusal.RetryAfter > 0 {
		w.Header().Set("Retry-After", retryAfter(refusal.RetryAfter))
	}
	if refusal.Status == http.StatusRequestEntityTooLarge {
		w.Header().Set("Connection", "close") // the rest of the body is not read
	}
	if m.opts.Refuse != nil {
		m.opts.Refuse(w, r, refusal)
		return
	}
	p := problem{
		Type: "about:blank", Title: http.StatusText(refusal.Status), // what RFC 9457 asks for beside about:blank
		Status: refusal.Status, Detail: refusal.Detail, Code: refusal.Code, FirstStatus: refusal.FirstStatus,
	}
	if m.opts.Docs != "" {
		p.Type, p.Title = m.opts.Docs+"#"+refusal.Code, refusal.Title
	}
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and ints always encode
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(refusal.Status)
	_, _ = w.Write(body) // a client that is gone needs no answer
}

// retryAfter returns the value of a Retry-After header: whole seconds, at least one.
func retryAfter(d time.Duration) string {
	return strconv.FormatInt(int64(max(d+time.Second-1, time.Second)/time.Second), 10)
}
