package idempotency_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
)

func TestPermanentFailureIsReplayed(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	noFunds := errors.New("no funds")
	for name, c := range map[string]struct {
		failure       error
		code, message string
	}{
		"of an error":  {idempotency.Permanent(noFunds), "", "no funds"},
		"with a code":  {&idempotency.PermanentError{Code: "declined", Message: "card declined"}, "declined", "card declined"},
		"of a code":    {&idempotency.PermanentError{Code: "declined"}, "declined", ""},
		"wrapped":      {fmt.Errorf("pay: %w", idempotency.Permanent(noFunds)), "", "no funds"},
		"permanent of": {idempotency.Permanent(fmt.Errorf("pay: %w", noFunds)), "", "pay: no funds"},
		"odd bytes":    {idempotency.Permanent(errors.New("a\x00\"<é>")), "", "a\x00\"<é>"},
	} {
		_, err := s.pay(t.Context(), name, "body", func(context.Context) error { return c.failure })
		require.Equal(t, c.failure, err, name) // as it is
		for range 2 {
			result, err := s.pay(t.Context(), name, "body", func(context.Context) error { panic("must not run") })
			require.True(t, result.Replayed)
			require.Equal(t, &idempotency.PermanentError{Code: c.code, Message: c.message, Replayed: true}, err, name)
		}
		_, err = s.pay(t.Context(), name, "other body", nil)
		require.ErrorIs(t, err, idempotency.ErrMismatch)
	}
	require.ErrorIs(t, idempotency.Permanent(noFunds), noFunds)
	require.NoError(t, idempotency.Permanent(nil))
	require.EqualError(t, &idempotency.PermanentError{Code: "declined"}, "declined")
	require.Zero(t, s.charges.Load())
}

// A permanent failure that could not be written is not freed either.
func TestPermanentFailureThatIsNotRecorded(t *testing.T) {
	t.Parallel()
	s := newShopWith(t, idempotency.Options{Wait: -1, WriteTimeout: 1e6})
	s.store.fail(faults{complete: errDown})
	declined := errors.New("declined")
	_, err := s.pay(t.Context(), "a", "body", func(context.Context) error { return idempotency.Permanent(declined) })
	for _, want := range []error{idempotency.ErrNotRecorded, errDown, declined} {
		require.ErrorIs(t, err, want)
	}
	_, err = s.pay(t.Context(), "a", "body", nil)
	require.ErrorIs(t, err, idempotency.ErrInFlight)
}

func TestLongPermanentMessageIsCut(t *testing.T) {
	t.Parallel()
	for _, text := range []string{strings.Repeat("é", 1000), strings.Repeat("\"", 1000), strings.Repeat("\xff", 1000), strings.Repeat("x", 1000)} {
		status, response, err := idempotency.EncodeResult(0, idempotency.Permanent(errors.New(text)), 100)
		require.NoError(t, err)
		require.LessOrEqual(t, len(response), 100)
		_, err = idempotency.DecodeResult[int](status, response)
		permanent, ok := errors.AsType[*idempotency.PermanentError](err)
		require.True(t, ok)
		require.True(t, utf8.ValidString(permanent.Message))
		require.True(t, permanent.Replayed)
	}
}

// The value is too large to be kept: whoever made it gets it, and a repeat hears that it was made. Nothing runs twice.
func TestResponseOverTheLimit(t *testing.T) {
	t.Parallel()
	guard, err := idempotency.New(idempotency.NewMemory(nil), &idempotency.Options{MaxResponse: 64})
	require.NoError(t, err)
	for size, fits := range map[int]bool{64: true, 65: false, 1 << 20: false} {
		runs := 0
		for n := range 3 {
			result, err := idempotency.Do(t.Context(), guard, testKey(fmt.Sprint(size)), idempotency.Fingerprint{},
				func(context.Context, *idempotency.Run) ([]byte, error) {
					runs++
					return bytes.Repeat([]byte("x"), size), nil
				})
			require.Equal(t, n > 0, result.Replayed)
			require.Equal(t, fits || n == 0, len(result.Value) == size)
			if fits {
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, idempotency.ErrNotRecorded)
			large, ok := errors.AsType[*idempotency.TooLargeError](err)
			require.True(t, ok)
			require.Equal(t, &idempotency.TooLargeError{Size: size, Limit: 64}, large)
		}
		require.Equal(t, 1, runs)
	}
}

// badlyMarshalled is a value whose own encoder has a fault.
type badlyMarshalled struct{}

func (badlyMarshalled) MarshalJSON() ([]byte, error) { panic("nil map") }

// The trap: the work has charged, and then its receipt cannot be encoded, by a panic. The panic took the claim with it: a repeat charged
// again as soon as the lease was over, and the next one again.
func TestResultWhoseEncoderPanicsIsNotRunAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard := newGuard(t, idempotency.NewMemory(nil), nil)
		charges := 0
		for n := range 3 {
			result, err := idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
				func(context.Context, *idempotency.Run) (badlyMarshalled, error) {
					charges++
					return badlyMarshalled{}, nil
				})
			require.ErrorIs(t, err, idempotency.ErrNotRecorded)
			require.ErrorContains(t, err, "nil map")
			require.Equal(t, n > 0, result.Replayed)
			time.Sleep(time.Minute) // the lease is over
		}
		require.Equal(t, 1, charges)
	})
}

// The trap: why a value does not encode is text of its own encoder, of whatever length. Over what a store takes it was not stored that the work has
// run.
func TestReasonWhyAResultDoesNotEncodeIsCut(t *testing.T) {
	t.Parallel()
	long := badlyEncoded{errors.New(strings.Repeat("é", 1000))}
	for limit := -1; limit < 200; limit++ {
		_, response, err := idempotency.EncodeResult(long, nil, limit)
		require.ErrorIs(t, err, long.why)
		require.LessOrEqual(t, len(response), max(0, limit))
		require.True(t, utf8.Valid(response))
		require.True(t, strings.HasPrefix(err.Error(), string(response)))
	}
}

// badlyEncoded says why.
type badlyEncoded struct{ why error }

func (b badlyEncoded) MarshalJSON() ([]byte, error) { return nil, b.why }

// The trap: the work returns a variable of the type *PermanentError in which there is none, and which as an error is not nil. To read its text
// was a panic, after the charge and before anything was stored.
func TestPermanentErrorThatIsNilIsNotRunAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		guard := newGuard(t, idempotency.NewMemory(nil), nil)
		charges := 0
		for n := range 3 {
			result, err := idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
				func(context.Context, *idempotency.Run) (string, error) {
					var declined *idempotency.PermanentError
					charges++
					return "receipt", declined
				})
			require.Error(t, err)
			require.NotErrorIs(t, err, errDown)
			require.Equal(t, n > 0, result.Replayed)
			_ = fmt.Sprint(err)
			time.Sleep(time.Minute) // the lease is over
		}
		require.Equal(t, 1, charges)
	})
}

func TestResultOfAnyType(t *testing.T) {
	t.Parallel()
	requireKept(t, "")
	requireKept(t, "plain")
	requireKept(t, "\x00 \"\\ é \u2028 <&> \xff\xfe")
	requireKept(t, 42)
	requireKept(t, []byte("\x00\xff"))
	requireKept(t, []byte{})
	requireKept(t, json.RawMessage(`{"a":1}`))
	requireKept(t, [][]byte{[]byte("a"), nil})
	requireKept(t, struct {
		ID string `json:"id"`
		N  *int
	}{"pay-1", new(3)})
	requireKept(t, map[string]any{"a": "b"})
	requireKept(t, (*int)(nil))
	requireKept[any](t, nil)
	type name string
	requireKept(t, name("named"))
}

func requireKept[T any](t *testing.T, value T) {
	t.Helper()
	status, response, err := idempotency.EncodeResult(value, nil, 1000)
	require.NoError(t, err)
	result, err := idempotency.DecodeResult[T](status, response)
	require.NoError(t, err)
	require.Equal(t, idempotency.Result[T]{Value: value, Replayed: true}, result)
}

// What a repeat does with its copy is no other's business.
func TestReplayedBytesAreTheCallersOwn(t *testing.T) {
	t.Parallel()
	guard, err := idempotency.New(idempotency.NewMemory(nil), nil)
	require.NoError(t, err)
	for range 3 {
		result, err := idempotency.Do(t.Context(), guard, testKey("a"), idempotency.Fingerprint{},
			func(context.Context, *idempotency.Run) ([]byte, error) { return []byte("receipt"), nil })
		require.NoError(t, err)
		require.Equal(t, "receipt", string(result.Value))
		clear(result.Value)
	}
}

func TestEncodeResultReturnsOtherFailures(t *testing.T) {
	t.Parallel()
	_, _, err := idempotency.EncodeResult(1, errDown, 1000)
	require.Equal(t, errDown, err)
}

func TestDecodeResultOfAnotherFormat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status   int32
		response string
	}{{0, "{"}, {0, `"text"`}, {1, "{"}, {2, "x"}, {4, "1"}, {-1, "1"}} {
		result, err := idempotency.DecodeResult[int](c.status, []byte(c.response))
		require.Error(t, err, c)
		require.False(t, result.Replayed)
	}
}
