package saga

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"
)

// HandlerOptions are the optional settings of [Handler].
type HandlerOptions struct {
	// Actor says who sends a request, from what has authenticated it; the body of a
	// resolution then needs no actor, and may have no other. Its error is answered
	// with 403. Default: the actor is who the body says.
	Actor func(*http.Request) (string, error)
	// Data returns what is shown of a saga's data, as JSON. It may hold what an operator
	// is not to see. Default: nothing.
	Data func(rec *Record) []byte
	// Timeout bounds the work for one request. Default: 10 s.
	Timeout time.Duration
	// Logger gets the failures of the store, which no client is told. Default:
	// nothing is logged.
	Logger *slog.Logger
}

// Handler serves sagas to the people who look after them, as JSON:
//
//	GET  /sagas               ?status=STUCK&definition=&business_id=&after=&limit=100, 1000 at most
//	GET  /sagas/{id}          with its history
//	POST /sagas/{id}/resolve  {"action", "actor", "reason", "revision", "step"}, see Admin.Resolve
//	GET  /sagas/{id}/timeline as text
//	GET  /sagas/{id}/diagram.svg
//
// An id goes into the path as [net/url.PathEscape] makes it: the child "a/b" is at
// /sagas/a%2Fb. A list has, as unreadable, the ids of the sagas that this version does
// not understand. Refusals are problem documents, RFC 9457, that name the fields:
// 400 for what cannot be read, 403 by [HandlerOptions.Actor], 404, 405, 409 if the saga
// has changed or the action does not fit, 413, 415 and 422. Where the store fails the
// answer is 500, or 503 if it is late: a resolution may have been done then.
//
// It does no authentication, and who reaches it can skip the step that takes the
// money: put it behind something that does, on a port that is not public.
// [http.StripPrefix] mounts it below a path.
func Handler(admin *Admin, o *HandlerOptions) http.Handler {
	h := &handler{admin: admin}
	if o != nil {
		h.o = *o
	}
	if h.o.Timeout <= 0 {
		h.o.Timeout = 10 * time.Second
	}
	if h.o.Logger == nil {
		h.o.Logger = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	h.route(mux, http.MethodGet, "/sagas", h.list)
	h.route(mux, http.MethodGet, "/sagas/{id}", h.one)
	h.route(mux, http.MethodPost, "/sagas/{id}/resolve", h.resolve)
	h.route(mux, http.MethodGet, "/sagas/{id}/timeline", h.timeline)
	h.route(mux, http.MethodGet, "/sagas/{id}/diagram.svg", h.diagram)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refusal(http.StatusNotFound, "there is nothing at this path").write(w)
	})
	return mux
}

type handler struct {
	admin *Admin
	o     HandlerOptions
}

// answer is a body and its type.
type answer struct {
	kind string
	body []byte
}

// route adds a path with one method. Every other is refused.
func (h *handler) route(mux *http.ServeMux, method, path string, f func(*http.Request) (answer, error)) {
	mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), h.o.Timeout)
		defer cancel()
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		a, err := f(r.WithContext(ctx))
		if err != nil {
			h.fail(r, err).write(w)
			return
		}
		w.Header().Set("Content-Type", a.kind)
		_, _ = w.Write(a.body) // a client that is gone needs no answer
	})
	mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", method)
		refusal(http.StatusMethodNotAllowed, "only "+method+" is allowed here").write(w)
	})
}

func asJSON(v any) (answer, error) {
	body, err := json.Marshal(v)
	return answer{"application/json", body}, err
}

func (h *handler) list(r *http.Request) (answer, error) {
	f, err := listing(r.URL.Query())
	if err != nil {
		return answer{}, err
	}
	page := struct {
		Sagas      []*sagaJSON `json:"sagas"`
		Next       string      `json:"next,omitempty"`       // what to ask for after
		Unreadable []string    `json:"unreadable,omitempty"` // ids
	}{Sagas: []*sagaJSON{}}
	limit := f.Limit
	f.Limit++ // to see whether there are more
	for rec, err := range h.admin.List(r.Context(), f) {
		if odd, ok := errors.AsType[unreadable](err); ok {
			h.o.Logger.Error("sagas cannot be read", slog.Any("error", err))
			page.Unreadable = odd.Unreadable()
			break
		}
		if err != nil {
			return answer{}, err
		}
		if len(page.Sagas) == limit {
			page.Next = page.Sagas[limit-1].ID
			continue // it may be told of others yet
		}
		page.Sagas = append(page.Sagas, h.view(rec))
	}
	return asJSON(page)
}

// unreadable is the error of sagas that are there, and that the store cannot read.
type unreadable interface {
	error
	Unreadable() []string // their ids
}

func (h *handler) one(r *http.Request) (answer, error) {
	rec, err := h.admin.Inspect(r.Context(), r.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	return asJSON(h.view(rec))
}

func (h *handler) timeline(r *http.Request) (answer, error) {
	rec, err := h.admin.Inspect(r.Context(), r.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	var b bytes.Buffer
	err = WriteTimeline(&b, rec)
	return answer{"text/plain; charset=utf-8", b.Bytes()}, err
}

func (h *handler) diagram(r *http.Request) (answer, error) {
	rec, err := h.admin.Inspect(r.Context(), r.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	var b bytes.Buffer
	err = WriteSVG(&b, rec.Plan, rec.Steps)
	return answer{"image/svg+xml", b.Bytes()}, err
}

func (h *handler) resolve(r *http.Request) (answer, error) {
	action, audit, err := resolutionOf(r)
	if err != nil {
		return answer{}, err
	}
	if h.o.Actor != nil {
		actor, err := h.o.Actor(r)
		if err != nil {
			return answer{}, refusal(http.StatusForbidden, err.Error())
		}
		if audit.Actor != "" && audit.Actor != actor {
			return answer{}, refusal(http.StatusUnprocessableEntity, "the resolution has faults", fieldJSON{"actor", "is not who sends this"})
		}
		audit.Actor = actor
	}
	rec, err := h.admin.Resolve(r.Context(), r.PathValue("id"), action, audit)
	if err != nil {
		return answer{}, err
	}
	return asJSON(h.view(rec))
}

// fail makes a refusal of an error.
func (h *handler) fail(r *http.Request, err error) *problemJSON {
	if p, ok := errors.AsType[*problemJSON](err); ok {
		return p
	}
	if fields := inputFields(err); len(fields) > 0 {
		return refusal(http.StatusUnprocessableEntity, "the request has faults", fields...)
	}
	refused, ok := errors.AsType[*ActionError](err)
	switch {
	case ok:
		return refusal(http.StatusConflict, refused.Error())
	case errors.Is(err, ErrNotFound):
		return refusal(http.StatusNotFound, "there is no saga with this id")
	case errors.Is(err, ErrFenced):
		return refusal(http.StatusConflict, "the saga has changed since: look at it again", fieldJSON{"revision", "is not the saga's, or not any more"})
	}
	h.o.Logger.Error("a request about sagas failed", slog.String("path", r.URL.Path), slog.Any("error", err))
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return refusal(http.StatusServiceUnavailable, "the store does not answer; it may have been done: look at the saga before you try again")
	}
	return refusal(http.StatusInternalServerError, "an error of the server, which is in its log; it may have been done: look at the saga before you try again")
}
