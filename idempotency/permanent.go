package idempotency

import (
	"encoding/json"
	"strings"
)

// PermanentError is a failure of the work that is final: to run it again would fail again, as for a declined card or an
// account that does not exist. It is the only failure that [Do] stores and replays. Its code and message are kept for as
// long as a result and shown to whoever repeats the request: they are no place for secrets. One that is nil, returned as an
// error, is a failure like any other, without code and message.
type PermanentError struct {
	Code     string // for programs, such as "card_declined"; may be empty
	Message  string // for people
	Replayed bool   // it comes from an earlier run; the work was not run now

	cause error
}

// Permanent returns err as a [*PermanentError] with err's text as its message; nil stays nil, and an err that is one already
// stays as it is. The first caller's error wraps err, that of a repeat has its text.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(*PermanentError); ok { //nolint:errorlint // one that is wrapped gets the text of what wraps it
		return err
	}
	return &PermanentError{Message: err.Error(), cause: err}
}

func (e *PermanentError) Error() string {
	if e == nil {
		return "idempotency: permanent error without a text"
	}
	if e.Message == "" {
		return e.Code
	}
	return e.Message
}

// Unwrap returns the error that was given to [Permanent]; nil on a replay.
func (e *PermanentError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.cause
}

// storedFailure is a PermanentError as it is stored.
type storedFailure struct {
	Code    string `json:"code,omitzero"`
	Message string `json:"message"`
}

// encode cuts a message that is over the limit: that it is final is worth more than why.
func (e *PermanentError) encode(limit int) ([]byte, error) {
	var failure storedFailure
	if e != nil {
		failure = storedFailure{e.Code, e.Message}
	}
	for {
		text, err := json.Marshal(failure)
		over := len(text) - limit
		if err != nil || over <= 0 || failure.Message == "" {
			return text, err
		}
		keep := max(0, len(failure.Message)-over)
		failure.Message = strings.ToValidUTF8(failure.Message[:keep], "")
	}
}
