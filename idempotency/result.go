package idempotency

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// The Status of a Completion that Do has written says what its Response is.
const (
	statusValue     int32 = iota // the value: bytes and strings as they are, anything else as JSON
	statusPermanent              // a PermanentError, as JSON
	statusTooLarge               // a TooLargeError, as JSON: the value was not kept
	statusUnencoded              // why the value could not be encoded, as text
)

// EncodeResult returns what Do stores of a run: Status and Response of a [Completion], from which [DecodeResult] makes
// what a repeat gets. failure is the error of the work: nil, or one that is a [*PermanentError]; any other is returned as it
// is. limit bounds the Response in bytes.
//
// A value that does not encode, or is over the limit, is an error, in the latter case a [*TooLargeError]; Status and
// Response then say this to repeats. To store them is right where the effect of the work stands, as in Do: without them a
// repeat would have it again. Where it can still be rolled back, roll it back.
func EncodeResult[T any](value T, failure error, limit int) (status int32, response []byte, err error) {
	if failure != nil {
		permanent, ok := errors.AsType[*PermanentError](failure)
		if !ok {
			return 0, nil, failure
		}
		response, err = permanent.encode(limit)
		return statusPermanent, response, err
	}
	response, err = encode(value)
	if err != nil {
		err = fmt.Errorf("idempotency: encode the result: %w", err)
		text := err.Error()
		return statusUnencoded, []byte(strings.ToValidUTF8(text[:max(0, min(len(text), limit))], "")), err
	}
	if len(response) <= limit {
		return statusValue, response, nil
	}
	large := &TooLargeError{Size: len(response), Limit: limit}
	response, err = json.Marshal(large)
	return statusTooLarge, response, errors.Join(large, err)
}

// DecodeResult returns what a repeat gets of a [Completed] record that Do has written: the value of the first run, its
// [*PermanentError], or an error that is [ErrNotRecorded] where that could not be kept. Only a record that does not
// decode into T gives a result that is not Replayed.
func DecodeResult[T any](status int32, response []byte) (Result[T], error) {
	switch status {
	case statusValue:
		value, err := decode[T](response)
		if err != nil {
			return Result[T]{}, fmt.Errorf("idempotency: decode the stored result into %T: %w", value, err)
		}
		return Result[T]{Value: value, Replayed: true}, nil
	case statusPermanent:
		var failure storedFailure
		if err := json.Unmarshal(response, &failure); err != nil {
			return Result[T]{}, fmt.Errorf("idempotency: decode the stored failure: %w", err)
		}
		return Result[T]{Replayed: true}, &PermanentError{Code: failure.Code, Message: failure.Message, Replayed: true}
	case statusTooLarge:
		large := new(TooLargeError)
		if err := json.Unmarshal(response, large); err != nil {
			return Result[T]{}, fmt.Errorf("idempotency: decode the stored result: %w", err)
		}
		return Result[T]{Replayed: true}, fmt.Errorf("%w: %w", ErrNotRecorded, large)
	case statusUnencoded:
		return Result[T]{Replayed: true}, fmt.Errorf("%w: %s", ErrNotRecorded, response)
	}
	return Result[T]{}, fmt.Errorf("idempotency: decode the stored result: unknown status %d", status)
}

// encode and decode are one format for each T: bytes and strings as they are, exactly (JSON has no way to write the bytes
// of a string that is not UTF-8), and anything else as JSON.
func encode[T any](value T) ([]byte, error) {
	switch raw := any(&value).(type) { // by T, as decode must: an interface may hold either
	case *[]byte:
		return *raw, nil
	case *string:
		return []byte(*raw), nil
	}
	return encodeJSON(value)
}

// encodeJSON makes an error of a panic of the value's own encoder. It is the caller's, and comes when the effect stands:
//
//	the work charges; MarshalJSON of its receipt panics; the panic takes the claim, or the step, with it unrecorded;
//	a repeat charges again, and panics again.
func encodeJSON(value any) (text []byte, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			text, err = nil, fmt.Errorf("its encoder panics: %v", fault)
		}
	}()
	return json.Marshal(value)
}

func decode[T any](response []byte) (T, error) {
	var value T
	switch v := any(&value).(type) {
	case *[]byte:
		*v = bytes.Clone(response) // the store's copy is shared
		return value, nil
	case *string:
		*v = string(response)
		return value, nil
	}
	return decodeJSON[T](response)
}

// decodeJSON is apart from decode, because what json.Unmarshal is given is allocated.
func decodeJSON[T any](response []byte) (value T, err error) {
	err = json.Unmarshal(response, &value)
	return value, err
}
