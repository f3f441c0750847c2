package idempotency

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// responses are some of every kind.
var responses = []response{
	{status: 200, body: []byte{}},
	{status: 599, body: []byte("body")},
	{status: 201, omitted: true, body: []byte{}},
	{
		status:  402,
		header:  []field{{"Content-Type", []string{"application/json"}}, {"Link", []string{"a", "", "\xff\x00"}}, {"Date", []string{}}},
		trailer: []field{{"Sum", []string{"1"}}},
		body:    []byte("{\"a\":\"<>&\xff\x00\"}\n"),
	},
	{status: 200, trailer: []field{{http.TrailerPrefix + "Sum", []string{strings.Repeat("x", 300)}}}, body: make([]byte, 300)},
}

func TestStoredResponse(t *testing.T) {
	t.Parallel()
	for _, r := range responses {
		got, err := decodeResponse(r.encode())
		require.NoError(t, err)
		require.Equal(t, r, got)
	}
	// The stored form does not change: what a release has written, the next one reads.
	require.Equal(t, "\x01\x00\x92\x03\x3b\x05\x03"+
		"\x0cContent-Type\x01\x10application/json"+"\x04Link\x03\x01a\x00\x02\xff\x00"+"\x04Date\x00"+
		"\x01"+"\x03Sum\x01\x011"+"{\"a\":\"<>&\xff\x00\"}\n", string(responses[3].encode()))
}

func TestStoredResponseThatIsNone(t *testing.T) {
	t.Parallel()
	for name, stored := range map[string][]byte{
		"nothing":              nil,
		"JSON":                 []byte(`{"a":1}`),
		"version only":         {1},
		"a later version":      {2, 0, 200, 1, 0},
		"unknown flag":         {1, 2, 200, 1, 3, 0, 0, 0},
		"no status":            {1, 0},
		"status 99":            {1, 0, 99, 3, 0, 0, 0},
		"status 1000":          {1, 0, 0xe8, 7, 3, 0, 0, 0},
		"no head":              {1, 0, 200, 1},
		"head over the end":    {1, 0, 200, 1, 4, 0, 0, 0},
		"head too short":       {1, 0, 200, 1, 2, 0, 0},
		"head too long":        {1, 0, 200, 1, 4, 0, 0, 0, 0},
		"more values than are": {1, 0, 200, 1, 6, 1, 1, 1, 'X', 0, 0},
		"fewer values":         {1, 0, 200, 1, 8, 0, 1, 1, 'X', 1, 1, 'v', 0},
		"name over the end":    {1, 0, 200, 1, 5, 0, 1, 9, 'X', 0},
		"unending number":      {1, 0, 200, 1, 12, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1},
		"unending status":      {1, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1},
	} {
		_, err := decodeResponse(stored)
		require.ErrorIs(t, err, errUnreadable, name)
	}
}

// FuzzStoredResponse: whatever a store returns is a response, which is stored again as one that is equal, or refused.
func FuzzStoredResponse(f *testing.F) {
	for _, r := range responses {
		f.Add(r.encode())
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		r, err := decodeResponse(stored)
		if err != nil {
			require.ErrorIs(t, err, errUnreadable)
			return
		}
		require.True(t, r.status >= 100 && r.status <= 999)
		again, err := decodeResponse(r.encode())
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}
