package problem

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"
)

// read checks that an answer is a problem with the status, and returns it.
func read(t *testing.T, w *httptest.ResponseRecorder, status int) Problem {
	t.Helper()
	require.Equal(t, status, w.Code)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	var p Problem
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
	require.Equal(t, status, p.Status)
	require.Equal(t, http.StatusText(status), p.Title)
	require.NotEmpty(t, p.Detail)
	return p
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body, field string
		status      int
	}{
		{`{"count":3}`, "", 0},
		{`{"count":"3"}`, "count", http.StatusBadRequest},
		{`{"counts":3}`, "counts", http.StatusBadRequest},
		{`{"count":3}{}`, "", http.StatusBadRequest},
		{``, "", http.StatusBadRequest},
		{`{"count":` + strings.Repeat(" ", 100) + `3}`, "", http.StatusRequestEntityTooLarge},
	} {
		var into struct {
			Count *int `json:"count"`
		}
		w := httptest.NewRecorder()
		ok := Decode(w, strings.NewReader(c.body), 64, &into)
		require.Equal(t, c.status == 0, ok, c.body)
		if ok {
			require.Equal(t, 3, *into.Count)
			continue
		}
		p := read(t, w, c.status)
		require.Equal(t, c.field != "", len(p.Errors) == 1, c.body)
		if c.field != "" {
			require.Equal(t, c.field, p.Errors[0].Field)
		}
	}
}

func TestInt(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]int{"": 50, "?n=7": 7, "?n=1": 1, "?n=9": 9, "?n=": -1, "?n=0": -1, "?n=10": -1, "?n=x": -1, "?n=1.5": -1} {
		n := 50
		faults := Int(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/"+query, nil), "n", &n, 1, 9)
		if want < 0 {
			require.Equal(t, []Field{{Field: "n", Reason: "must be a whole number from 1 to 9"}}, faults, query)
			continue
		}
		require.Empty(t, faults, query)
		require.Equal(t, want, n, query)
	}
}

func TestEngineAnswersWithProblems(t *testing.T) {
	t.Parallel()
	var seen []int
	r := Engine(slog.New(slog.DiscardHandler), func(status int) { seen = append(seen, status) })
	r.GET("/fine", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	r.GET("/panics", func(*gin.Context) { panic("at the disco") })
	serve := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
		return w
	}
	require.Equal(t, http.StatusNoContent, serve(http.MethodGet, "/fine").Code)
	read(t, serve(http.MethodGet, "/nowhere"), http.StatusNotFound)
	read(t, serve(http.MethodGet, "/fine/"), http.StatusNotFound)
	w := serve(http.MethodPost, "/fine")
	require.Contains(t, read(t, w, http.StatusMethodNotAllowed).Detail, "GET")
	require.Equal(t, "GET", w.Header().Get("Allow"))
	require.NotContains(t, read(t, serve(http.MethodGet, "/panics"), http.StatusInternalServerError).Detail, "disco")
	require.Equal(t, []int{204, 404, 404, 405, 500}, seen)
}
