package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"
)

func up(context.Context) error { return nil }

func down(context.Context) error { return errors.New("down") }

func helps(context.Context) error { return fmt.Errorf("no file: %w", ErrNotAlone) }

// hangs answers when it is given up.
func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// look asks for a path and returns the status and the body.
func look(t *testing.T, h *Health, path string) (int, map[string]any) {
	t.Helper()
	gin.SetMode(gin.TestMode)
	r := gin.New()
	h.Routes(r)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	var body map[string]any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body))
	return w.Code, body
}

func TestHealthIsThatOfTheStores(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		stores map[string]func(context.Context) error
		code   int
		status string
		states map[string]any
	}{
		{nil, 200, "ok", map[string]any{}},
		{map[string]func(context.Context) error{"a": up, "b": up}, 200, "ok", map[string]any{"a": "up", "b": "up"}},
		{map[string]func(context.Context) error{"a": up, "b": down}, 200, "degraded", map[string]any{"a": "up", "b": "down"}},
		{map[string]func(context.Context) error{"a": up, "b": helps}, 200, "ok", map[string]any{"a": "up", "b": "helps"}},
		{map[string]func(context.Context) error{"a": down, "b": helps}, 503, "unavailable", map[string]any{"a": "down", "b": "helps"}},
		{map[string]func(context.Context) error{"a": down, "b": down}, 503, "unavailable", map[string]any{"a": "down", "b": "down"}},
	} {
		var h Health
		for name, ping := range c.stores {
			h.Watch(name, ping)
		}
		for _, path := range []string{"/readyz", "/api/v1/health"} {
			code, body := look(t, &h, path)
			require.Equal(t, c.code, code)
			require.Equal(t, map[string]any{"status": c.status, "stores": c.states}, body)
		}
		h.Drain()
		code, body := look(t, &h, "/readyz")
		require.Equal(t, 503, code)
		require.Equal(t, "draining", body["status"])
		code, body = look(t, &h, "/livez")
		require.Equal(t, 200, code)
		require.Equal(t, map[string]any{"status": "alive"}, body)
	}
}

// One store hangs and is asked first: the second had no time left to answer, and
// the balancer took a server away that could work.
func TestAStoreThatHangsDoesNotHideOneThatWorks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var h Health
		h.Watch("a", hangs)
		h.Watch("b", up)
		h.Watch("c", hangs)
		begin := time.Now()
		code, body := look(t, &h, "/readyz")
		require.Equal(t, 200, code)
		require.Equal(t, map[string]any{"a": "down", "b": "up", "c": "down"}, body["stores"])
		require.Equal(t, pingLimit, time.Since(begin))
	})
}
