package saga_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// ask sends a request, with a JSON body if there is one.
func ask(t *testing.T, h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// refused is a problem document.
type refused struct {
	Title, Detail string
	Status        int
	Errors        []struct{ Field, Reason string }
}

func problem(t *testing.T, w *httptest.ResponseRecorder, status int) refused {
	t.Helper()
	require.Equal(t, status, w.Code, w.Body)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	var p refused
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
	require.Equal(t, status, p.Status)
	require.Equal(t, http.StatusText(status), p.Title)
	return p
}

// stuckShop is one whose order is stuck at notify.
func stuckShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{}
	set(t, &s.notifyFails)
	newShop(t, s).wait(t, saga.Stuck)
	return s
}

func TestHandlerLetsPeopleHelp(t *testing.T) {
	t.Parallel()
	s := stuckShop(t)
	h := saga.Handler(s.admin, &saga.HandlerOptions{Data: func(r *saga.Record) []byte { return r.Data }})

	w := ask(t, h, "GET", "/sagas?status=STUCK&definition=order&limit=1", "")
	require.Equal(t, 200, w.Code)
	var list struct {
		Sagas []struct {
			ID, Status string
			Revision   int64
			Blocked    []string
		}
		Next string
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &list))
	require.Len(t, list.Sagas, 1)
	require.Equal(t, "STUCK", list.Sagas[0].Status)
	require.Equal(t, []string{"notify"}, list.Sagas[0].Blocked)
	require.Empty(t, list.Next)

	w = ask(t, h, "GET", "/sagas/o1", "")
	require.Equal(t, 200, w.Code)
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.Contains(t, w.Body.String(), `"kind":"stuck"`)
	require.Contains(t, w.Body.String(), `"data":{"Customer":"c"`)

	w = ask(t, h, "GET", "/sagas/o1/timeline", "")
	require.Equal(t, 200, w.Code)
	require.Contains(t, w.Body.String(), "it needs a person at notify")
	w = ask(t, h, "GET", "/sagas/o1/diagram.svg", "")
	require.Equal(t, 200, w.Code)
	require.Equal(t, "image/svg+xml", w.Header().Get("Content-Type"))

	resolution := fmt.Sprintf(`{"action":"skip","actor":"ada","reason":"told by phone","revision":%d}`, list.Sagas[0].Revision)
	w = ask(t, h, "POST", "/sagas/o1/resolve", resolution)
	require.Equal(t, 200, w.Code, w.Body)
	require.Contains(t, w.Body.String(), `"kind":"resolved","step":"notify","actor":"ada","text":"skip: told by phone"`)
	s.wait(t, saga.Completed)
	require.Equal(t, "revision", problem(t, ask(t, h, "POST", "/sagas/o1/resolve", resolution), 409).Errors[0].Field)
}

func TestHandlerRefuses(t *testing.T) {
	t.Parallel()
	h := saga.Handler(stuckShop(t).admin, nil)
	const good = `"action":"skip","actor":"a","reason":"r","revision":1`
	for _, c := range []struct {
		method, path, body string
		status             int
		fields             string
	}{
		{"GET", "/", "", 404, ""},
		{"GET", "/sagas/o2", "", 404, ""},
		{"GET", "/sagas/o2/timeline", "", 404, ""},
		{"GET", "/sagas/o2/diagram.svg", "", 404, ""},
		{"GET", "/sagas/a/b/c", "", 404, ""},
		{"GET", "/sagas/%00", "", 422, "id"},
		{"POST", "/sagas", "{}", 405, ""},
		{"GET", "/sagas/o1/resolve", "", 405, ""},
		{"GET", "/sagas?status=GONE&limit=0&color=red&after=" + strings.Repeat("x", 256), "", 400, "after color limit status"},
		{"GET", "/sagas?limit=1001", "", 400, "limit"},
		{"GET", "/sagas?after=a&after=b", "", 400, "after"},
		{"POST", "/sagas/o1/resolve", "", 415, ""},
		{"POST", "/sagas/o1/resolve", "{", 400, ""},
		{"POST", "/sagas/o1/resolve", "[]", 400, ""},
		{"POST", "/sagas/o1/resolve", "{} {}", 400, ""},
		{"POST", "/sagas/o1/resolve", `{"Actor":"a"}`, 400, "Actor"},
		{"POST", "/sagas/o1/resolve", `{"force":true}`, 400, "force"},
		{"POST", "/sagas/o1/resolve", `{"actor":"a","actor":"b"}`, 400, "actor"},
		{"POST", "/sagas/o1/resolve", `{"actor":7}`, 400, "actor"},
		{"POST", "/sagas/o1/resolve", `{"revision":"7"}`, 400, "revision"},
		{"POST", "/sagas/o1/resolve", `{"revision":1.5}`, 400, "revision"},
		{"POST", "/sagas/o1/resolve", `{}`, 422, "action actor reason revision"},
		{"POST", "/sagas/o1/resolve", `{"reason":"` + strings.Repeat("x", 17000) + `"}`, 413, ""},
		{"POST", "/sagas/o1/resolve", "{" + good + "}", 409, "revision"},
		{"POST", "/sagas/o2/resolve", "{" + good + "}", 404, ""},
	} {
		p := problem(t, ask(t, h, c.method, c.path, c.body), c.status)
		require.NotEmpty(t, p.Detail)
		var fields []string
		for _, f := range p.Errors {
			require.NotEmpty(t, f.Reason)
			fields = append(fields, f.Field)
		}
		require.Equal(t, c.fields, strings.Join(fields, " "), "%s %s %s", c.method, c.path, c.body)
	}
}

func TestHandlerRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	s := stuckShop(t)
	rec, err := s.admin.Inspect(within(t), "o1")
	require.NoError(t, err)
	body := fmt.Sprintf(`{"action":"cancel","actor":"ada","reason":"r","revision":%d}`, rec.Revision)
	p := problem(t, ask(t, saga.Handler(s.admin, nil), "POST", "/sagas/o1/resolve", body), 409)
	require.Contains(t, p.Detail, "cannot go back any more")
}

// The ids of children have slashes, and those of people anything else.
func TestHandlerTakesAnyID(t *testing.T) {
	t.Parallel()
	def := five()
	e := engine(t, saga.NewMemory(nil), &saga.Options{Definitions: []saga.Registered{def}})
	mounted := http.StripPrefix("/ops", saga.Handler(e.Admin(), nil))
	for _, id := range []string{"a/b", "a/resolve", "%2F", "ü ?#&+", "..", "a//b", "timeline"} {
		h, err := def.Start(within(t), e, id, order{}, nil)
		require.NoError(t, err)
		_, err = h.Wait(within(t))
		require.NoError(t, err)
		path := "/ops/sagas/" + strings.ReplaceAll(url.PathEscape(id), ".", "%2E")
		for _, end := range []string{"", "/timeline", "/diagram.svg"} {
			w := ask(t, mounted, "GET", path+end, "")
			require.Equal(t, 200, w.Code, path+end)
			if end == "" {
				var got struct{ ID string }
				require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
				require.Equal(t, id, got.ID)
			}
		}
	}
	var page struct {
		Sagas []struct{ ID string }
		Next  string
	}
	after, seen := "", 0
	for {
		w := ask(t, mounted, "GET", "/ops/sagas?limit=2&after="+url.QueryEscape(after), "")
		page.Next = ""
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &page))
		seen += len(page.Sagas)
		if after = page.Next; after == "" {
			break
		}
	}
	require.Equal(t, 7, seen)
}

func TestHandlerKnowsTheActor(t *testing.T) {
	t.Parallel()
	s := stuckShop(t)
	rec, err := s.admin.Inspect(within(t), "o1")
	require.NoError(t, err)
	var denied error
	h := saga.Handler(s.admin, &saga.HandlerOptions{Actor: func(*http.Request) (string, error) { return "ada", denied }})
	body := func(actor string) string {
		return fmt.Sprintf(`{"action":"retry","actor":%q,"reason":"r","revision":%d}`, actor, rec.Revision)
	}
	require.Equal(t, "actor", problem(t, ask(t, h, "POST", "/sagas/o1/resolve", body("obi")), 422).Errors[0].Field)
	denied = errors.New("you may look only")
	require.Equal(t, "you may look only", problem(t, ask(t, h, "POST", "/sagas/o1/resolve", body("")), 403).Detail)
	denied = nil
	require.Equal(t, 200, ask(t, h, "POST", "/sagas/o1/resolve", body("")).Code)
}

// No time at all is none to answer in.
func TestHandlerOfATimeoutBelowZeroHasTheUsualOne(t *testing.T) {
	t.Parallel()
	h := saga.Handler(stuckShop(t).admin, &saga.HandlerOptions{Timeout: -1})
	require.Equal(t, 200, ask(t, h, "GET", "/sagas/o1", "").Code)
}

func TestHandlerDoesNotTellOfTheStore(t *testing.T) {
	t.Parallel()
	h := saga.Handler(stuckShop(t).admin, &saga.HandlerOptions{Timeout: time.Nanosecond})
	for _, path := range []string{"/sagas", "/sagas/o1"} {
		require.NotContains(t, problem(t, ask(t, h, "GET", path, ""), 503).Detail, "context")
	}
}
