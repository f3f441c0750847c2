package idempotency

import (
	"encoding/base64"
	"encoding/json"
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
		stored, err := json.Marshal(r)
		require.NoError(t, err)
		var got response
		require.NoError(t, json.Unmarshal(stored, &got))
		require.Equal(t, r, got)
	}
	// The stored form does not change: what a release has written, the next one reads.
	stored, err := json.Marshal(responses[3])
	require.NoError(t, err)
	const golden = `"AQCSAzsFAwxDb250ZW50LVR5cGUBEGFwcGxpY2F0aW9uL2pzb24ETGluawMBYQAC/wAERGF0ZQABA1N1bQEBMXsiYSI6Ijw+Jv8AIn0K"`
	require.Equal(t, golden, string(stored))
}

func TestStoredResponseThatIsNone(t *testing.T) {
	t.Parallel()
	encode := func(b ...byte) string { return `"` + base64.StdEncoding.EncodeToString(b) + `"` }
	for name, stored := range map[string]string{
		"number": `7`, "object": `{"a":1}`, "null in a string": `"null"`, "empty": `""`, "no base64": `"%%%"`,
		"a quote": `"`, "nothing": ``,
		"version only":         encode(1),
		"a later version":      encode(2, 0, 200, 1, 0),
		"unknown flag":         encode(1, 2, 200, 1, 3, 0, 0, 0),
		"no status":            encode(1, 0),
		"status 99":            encode(1, 0, 99, 3, 0, 0, 0),
		"status 1000":          encode(1, 0, 0xe8, 7, 3, 0, 0, 0),
		"no head":              encode(1, 0, 200, 1),
		"head over the end":    encode(1, 0, 200, 1, 4, 0, 0, 0),
		"head too short":       encode(1, 0, 200, 1, 2, 0, 0),
		"head too long":        encode(1, 0, 200, 1, 4, 0, 0, 0, 0),
		"more values than are": encode(1, 0, 200, 1, 6, 1, 1, 1, 'X', 0, 0),
		"fewer values":         encode(1, 0, 200, 1, 8, 0, 1, 1, 'X', 1, 1, 'v', 0),
		"name over the end":    encode(1, 0, 200, 1, 5, 0, 1, 9, 'X', 0),
		"unending number":      encode(1, 0, 200, 1, 12, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1),
		"unending status":      encode(1, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1),
	} {
		var r response
		require.ErrorIs(t, r.UnmarshalJSON([]byte(stored)), errUnreadable, name)
	}
}

// FuzzStoredResponse: whatever a store returns is a response, which is stored again as one that is equal, or refused.
func FuzzStoredResponse(f *testing.F) {
	for _, r := range responses {
		stored, err := json.Marshal(r)
		require.NoError(f, err)
		raw, err := base64.StdEncoding.DecodeString(strings.Trim(string(stored), `"`))
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r response
		if err := r.UnmarshalJSON([]byte(`"` + base64.StdEncoding.EncodeToString(raw) + `"`)); err != nil {
			require.ErrorIs(t, err, errUnreadable)
			return
		}
		require.True(t, r.status >= 100 && r.status <= 999)
		stored, err := json.Marshal(r)
		require.NoError(t, err)
		var again response
		require.NoError(t, json.Unmarshal(stored, &again))
		require.Equal(t, r, again)
	})
}
