package ratelimit

import (
	"context"
	"net/http"
)

// HeaderKey returns a key function of a header field, such as one in which a gateway names the consumer that it has authenticated. A request
// has no key if the field is missing, empty, or there more than once, so that nobody has a choice of keys.
//
// What the field holds must have been proven before it gets here: a client that can write what it likes has a fresh limit for every request. It
// is part of a counter's key, readable in a store like Redis; a secret belongs in no such place.
func HeaderKey(name string) func(*http.Request) (string, bool) {
	name = http.CanonicalHeaderKey(name)
	return func(r *http.Request) (string, bool) {
		lines := r.Header[name]
		if len(lines) != 1 {
			return "", false
		}
		return lines[0], lines[0] != ""
	}
}

// SubjectKey returns a key function of who the request has proven to be: subject takes it from the context, where your authentication has left
// it, such as the claim "sub" of a JWT. A request for which it is empty has no key.
//
// Nothing is verified here. A token that was only decoded must not be a key: whoever makes up a subject for each request has no limit, and
// whoever makes up somebody else's uses up theirs.
func SubjectKey(subject func(ctx context.Context) string) func(*http.Request) (string, bool) {
	return func(r *http.Request) (string, bool) {
		s := subject(r.Context())
		return s, s != ""
	}
}
