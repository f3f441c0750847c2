package problem

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"
)

func TestFaultsAreAllCollected(t *testing.T) {
	t.Parallel()
	var f Faults
	require.NoError(t, f.Err(http.StatusUnprocessableEntity, "the tea has faults"))
	short := func(s string) string {
		if len(s) > 3 {
			return "is too long"
		}
		return ""
	}
	require.Equal(t, "tea", f.Required("kind", new("tea"), short))
	require.Equal(t, 7, f.Int("cups", new(7), 1, 9))
	require.Empty(t, f)

	require.Empty(t, f.Required("kind", nil, short))
	require.Empty(t, f.Required("sort", new("oolong"), short))
	require.Zero(t, f.Int("cups", nil, 1, 9))
	require.Zero(t, f.Int("pots", new(10), 1, 9))
	require.Zero(t, f.Int("spoons", new(0), 1, 9))
	want := []Field{
		{"kind", "is required"},
		{"sort", "is too long"},
		{"cups", "must be a whole number from 1 to 9"},
		{"pots", "must be a whole number from 1 to 9"},
		{"spoons", "must be a whole number from 1 to 9"},
	}
	err := f.Err(http.StatusUnprocessableEntity, "the tea has faults")
	require.Equal(t, New(http.StatusUnprocessableEntity, "the tea has faults", want...), err)
}

func TestQuery(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]int{"": 50, "?n=7": 7, "?n=1": 1, "?n=9": 9, "?n=": -1, "?n=0": -1, "?n=10": -1, "?n=x": -1, "?n=1.5": -1} {
		c, _ := gin.CreateTestContext(httptest.NewRecorder())
		c.Request = httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/"+query, nil)
		var f Faults
		n := f.Query(c, "n", 50, 1, 9)
		if want < 0 {
			require.Equal(t, Faults{{"n", "must be a whole number from 1 to 9"}}, f, query)
			continue
		}
		require.Empty(t, f, query)
		require.Equal(t, want, n, query)
	}
	c, _ := gin.CreateTestContext(httptest.NewRecorder())
	c.Request = httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?n=x", nil)
	var f Faults
	f.Query(c, "n", 50, 0, 9)
	require.Len(t, f, 1, "what is no number is not 0")
	// What two readers understand differently, or skip, is not taken for what was not given.
	for query, reason := range map[string]string{
		"?n=1&n=2": "must be given once", "?n=%zz": "cannot be read in this query", "?n=5;m=2": "cannot be read in this query", "?%": "cannot be read in this query",
	} {
		c, _ := gin.CreateTestContext(httptest.NewRecorder())
		c.Request = &http.Request{URL: &url.URL{RawQuery: query[1:]}}
		var f Faults
		f.Query(c, "n", 50, 1, 9)
		require.Equal(t, Faults{{"n", reason}}, f, query)
	}
}

func TestIdentifiers(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"a", "7", "A-1", "bank:2025-11-07_a.b", "a..", strings.Repeat("r", 64)} {
		require.Empty(t, Identifier(good), good)
	}
	for _, bad := range []string{"", " ", "-a", ".a", "a b", "a/b", "a\n", "a\x00", "é", "a%41", strings.Repeat("r", 65)} {
		require.NotEmpty(t, Identifier(bad), "%q", bad)
		c, _ := gin.CreateTestContext(httptest.NewRecorder())
		c.Params = gin.Params{{Key: "name", Value: bad}}
		_, err := PathID(c, "name")
		require.Equal(t, New(http.StatusBadRequest, "the path has faults", Field{"name", Identifier(bad)}), err)
	}
	c, _ := gin.CreateTestContext(httptest.NewRecorder())
	c.Params = gin.Params{{Key: "name", Value: "A-1"}}
	name, err := PathID(c, "name")
	require.NoError(t, err)
	require.Equal(t, "A-1", name)
}

func TestOneOf(t *testing.T) {
	t.Parallel()
	check := OneOf("black", "green")
	require.Empty(t, check("green"))
	for _, bad := range []string{"", "Green", " green", "green\n", "black, green"} {
		require.Equal(t, "must be one of black, green", check(bad), "%q", bad)
	}
}

func TestDateTime(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"2025-11-07 14:54:16", "2024-02-29 00:00:00", "0001-01-01 00:00:00", "9999-12-31 23:59:59"} {
		require.Empty(t, DateTime(good), good)
	}
	for _, bad := range []string{
		"", "2025-02-29 10:00:00", "0000-01-01 00:00:00", "2025-11-07 24:00:00", "2025-11-07 23:59:60", "2025-11-07T14:54:16", "2025-11-07 14:54:16Z",
		"2025-11-07 14:54:16.5", "2025-11-07 4:54:16", "2025-11-07  4:54:16", "2025-11-7 14:54:16", " 2025-11-07 14:54:16", "now",
	} {
		require.NotEmpty(t, DateTime(bad), bad)
	}
}

func TestAmount(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"1", "0.01", "10000", "99.50", "0099.5", "9999999999999.99", "10", "100.00"} {
		require.Empty(t, Amount(good), good)
	}
	for _, bad := range []string{"", "0", "0.00", "000", "-1", "+1", "1e3", "1,000", ".5", "1.", "1.234", "12345678901234", " 1", "1\n", "0x1", "NaN", "٣"} {
		require.NotEmpty(t, Amount(bad), "%q", bad)
	}
}
