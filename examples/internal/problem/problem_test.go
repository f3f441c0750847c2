package problem

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
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
		err := Decode(strings.NewReader(c.body), 64, &into)
		if c.status == 0 {
			require.NoError(t, err)
			require.Equal(t, 3, *into.Count)
			continue
		}
		w := httptest.NewRecorder()
		bad, ok := errors.AsType[*Problem](err)
		require.True(t, ok, c.body)
		bad.write(w)
		p := read(t, w, c.status)
		require.Equal(t, c.status == http.StatusRequestEntityTooLarge, w.Header().Get("Connection") == "close")
		require.Equal(t, c.field != "", len(p.Errors) == 1, c.body)
		if c.field != "" {
			require.Equal(t, c.field, p.Errors[0].Field)
		}
	}
}

func TestAProblemIsAnError(t *testing.T) {
	t.Parallel()
	one, other := New(http.StatusNotFound, "no tea", Field{"kind", "is unknown"}), New(http.StatusNotFound, "no tea", Field{"kind", "is unknown"})
	require.EqualError(t, one, "no tea: kind is unknown")
	wrapped := fmt.Errorf("serve: %w", one)
	require.ErrorIs(t, wrapped, one)
	require.NotErrorIs(t, wrapped, other)
}

func TestEngineAnswersWithProblems(t *testing.T) {
	t.Parallel()
	var seen []int
	r := Engine(slog.New(slog.DiscardHandler), func(error) bool { return false })
	counting := Counted(r, func(status int) { seen = append(seen, status) })
	r.GET("/fine", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	r.GET("/panics", func(*gin.Context) { panic("at the disco") }, func(*gin.Context) { t.Error("goes on after a panic") })
	serve := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		counting.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
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

func TestEngineAnswersWhatHandlersReturn(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var seen []int
	busy := errors.New("busy")
	r := Engine(slog.New(slog.NewTextHandler(&log, nil)), func(err error) bool { return errors.Is(err, busy) })
	counting := Counted(r, func(status int) { seen = append(seen, status) })
	serve := func(path string, err error) *httptest.ResponseRecorder {
		r.GET(path, Handle(func(c *gin.Context) (any, error) {
			if path == "/made" {
				c.Status(http.StatusCreated)
			}
			return gin.H{"path": path}, err
		}))
		w := httptest.NewRecorder()
		counting.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return w
	}
	for path, status := range map[string]int{"/fine": http.StatusOK, "/made": http.StatusCreated} {
		w := serve(path, nil)
		require.Equal(t, status, w.Code)
		require.JSONEq(t, fmt.Sprintf(`{"path":%q}`, path), w.Body.String())
	}
	seen = nil
	wrong := fmt.Errorf("wrapped: %w", New(http.StatusConflict, "no", Field{"kind", "is gone"}))
	require.Equal(t, []Field{{"kind", "is gone"}}, read(t, serve("/problem", wrong), http.StatusConflict).Errors)
	require.Empty(t, log.String())
	for path, err := range map[string]error{"/busy": fmt.Errorf("now: %w", busy), "/slow": context.DeadlineExceeded} {
		w := serve(path, err)
		read(t, w, http.StatusServiceUnavailable)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
	}
	require.Equal(t, 499, serve("/gone", context.Canceled).Code)
	require.Empty(t, log.String())
	require.NotContains(t, read(t, serve("/broken", errors.New("secret")), http.StatusInternalServerError).Detail, "secret")
	require.Contains(t, log.String(), "secret")
	require.Equal(t, []int{409, 503, 503, 499, 500}, seen)
}

// The status that counts is the first one that ends the request, as for the client.
func TestCountedSeesTheStatusOfTheAnswer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    int
	}{
		"nothing said": {func(http.ResponseWriter, *http.Request) {}, http.StatusOK},
		"a body alone": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("x"))
			w.WriteHeader(http.StatusTeapot)
		}, http.StatusOK},
		"a hint before": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusTeapot)
		}, http.StatusTeapot},
		"a second status": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			w.WriteHeader(http.StatusOK)
		}, http.StatusTeapot},
	} {
		var seen []int
		h := Counted(c.handler, func(status int) { seen = append(seen, status) })
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		require.Equal(t, []int{c.want}, seen, name)
	}
}

// hungUp is the connection of a client that has gone.
type hungUp struct{ *httptest.ResponseRecorder }

func (hungUp) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// Any client can hang up while it is answered: that is no fault of the server, and its
// log must not fill with it.
func TestAClientThatHangsUpIsNoFault(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	r := Engine(slog.New(slog.NewTextHandler(&log, nil)), func(error) bool { return false })
	r.GET("/", Handle(func(*gin.Context) (any, error) { return gin.H{"much": "text"}, nil }))
	w := hungUp{httptest.NewRecorder()}
	r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	require.Equal(t, http.StatusOK, w.Code)
	require.Empty(t, log.String())
}
