package saga

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxBody  = 16 << 10
	maxLimit = 1000
)

// sagaJSON is a saga as people see it.
type sagaJSON struct {
	ID         string          `json:"id"`
	BusinessID string          `json:"business_id,omitempty"`
	Definition string          `json:"definition"`
	Version    int             `json:"version"`
	Parent     string          `json:"parent,omitempty"`
	Status     Status          `json:"status"`
	Undoing    bool            `json:"undoing"`
	Step       string          `json:"step,omitempty"`    // that is executed or undone next
	Blocked    []string        `json:"blocked,omitempty"` // what a person can do something about
	Failed     string          `json:"failed,omitempty"`
	Error      string          `json:"error,omitempty"`
	Crashes    int             `json:"crashes,omitempty"`
	Revision   int64           `json:"revision"`
	Owner      string          `json:"owner,omitempty"`
	Created    time.Time       `json:"created"`
	Updated    time.Time       `json:"updated"`
	Steps      []stepJSON      `json:"steps"`
	Signals    []string        `json:"signals,omitempty"` // their names
	Events     []eventJSON     `json:"events,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
}

type stepJSON struct {
	Name     string    `json:"name"`
	Kind     string    `json:"kind"`
	Mark     string    `json:"mark"`
	Attempts int       `json:"attempts,omitempty"`
	At       time.Time `json:"at,omitzero"`
	Group    int       `json:"group,omitempty"`
	Undo     bool      `json:"undo,omitempty"`
	Tx       bool      `json:"tx,omitempty"`
}

type eventJSON struct {
	At      time.Time `json:"at"`
	Kind    EventKind `json:"kind"`
	Step    string    `json:"step,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	Actor   string    `json:"actor,omitempty"`
	Text    string    `json:"text,omitempty"`
}

func (h *handler) view(r *Record) *sagaJSON {
	v := &sagaJSON{
		ID: r.ID, BusinessID: r.BusinessID, Definition: r.Definition, Version: r.Version, Parent: r.Parent, Status: r.Status, Undoing: r.Undoing,
		Blocked: r.Blocked(), Failed: r.Failed, Error: r.Error, Crashes: r.Crashes, Revision: r.Revision, Owner: r.Owner,
		Created: r.Created, Updated: r.Updated, Steps: make([]stepJSON, len(r.Steps)),
	}
	if !r.Status.Over() {
		v.Step = r.Step()
	}
	for i, s := range r.Steps {
		p := r.Plan[i]
		v.Steps[i] = stepJSON{Name: p.Name, Kind: p.Kind.String(), Mark: s.Mark.String(), Attempts: s.Attempts, Group: p.Group, Undo: p.Undo, Tx: p.Tx}
		if s.At > 0 {
			v.Steps[i].At = r.Created.Add(s.At)
		}
	}
	for name := range r.Signals {
		v.Signals = append(v.Signals, name)
	}
	slices.Sort(v.Signals)
	for _, ev := range r.Events {
		v.Events = append(v.Events, eventJSON(ev))
	}
	if h.o.Data != nil {
		v.Data = h.o.Data(r)
	}
	return v
}

// fieldJSON is a field that is wrong.
type fieldJSON struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// problemJSON is a refusal, after RFC 9457.
type problemJSON struct {
	Type   string      `json:"type"`
	Title  string      `json:"title"`
	Status int         `json:"status"`
	Detail string      `json:"detail"`
	Errors []fieldJSON `json:"errors,omitempty"`
}

func (p *problemJSON) Error() string { return p.Detail }

func refusal(status int, detail string, fields ...fieldJSON) *problemJSON {
	return &problemJSON{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Errors: fields}
}

func (p *problemJSON) write(w http.ResponseWriter) {
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and an int always encode
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}

// inputFields are the faults of an error, by the names that the client knows.
func inputFields(err error) (fields []fieldJSON) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			fields = append(fields, inputFields(err)...)
		}
		return fields
	}
	if in, ok := errors.AsType[*InputError](err); ok {
		name := strings.ToLower(strings.TrimPrefix(in.Field, "Audit."))
		if name == "expectrevision" {
			name = "revision"
		}
		fields = append(fields, fieldJSON{name, in.Reason})
	}
	return fields
}

// listing reads the query of a list.
func listing(query url.Values) (Filter, error) {
	f := Filter{Limit: 100}
	var faults []fieldJSON
	fault := func(field, reason string) { faults = append(faults, fieldJSON{field, reason}) }
	texts := map[string]*string{"definition": &f.Definition, "business_id": &f.BusinessID, "after": &f.After}
	for name, values := range query {
		into, text := texts[name]
		switch {
		case name == "status":
			for _, v := range values {
				var s Status
				if s.UnmarshalText([]byte(v)) != nil {
					fault(name, fmt.Sprintf("is none of %s", strings.Join(statuses[1:], ", ")))
					break
				}
				f.Status = append(f.Status, s)
			}
		case len(values) > 1:
			fault(name, "is there twice")
		case text:
			*into = values[0]
		case name == "limit":
			n, err := strconv.Atoi(values[0])
			if err != nil || n < 1 || n > maxLimit {
				fault(name, fmt.Sprintf("is not a number from 1 to %d", maxLimit))
			}
			f.Limit = n
		default:
			fault(name, "is unknown")
		}
	}
	for name, text := range texts {
		if *text != "" && checkID(name, *text) != nil {
			fault(name, fmt.Sprintf("is longer than %d bytes, or not printable", maxID))
		}
	}
	if len(faults) > 0 {
		slices.SortFunc(faults, func(a, b fieldJSON) int { return strings.Compare(a.Field, b.Field) })
		return f, refusal(http.StatusBadRequest, "the query has faults", faults...)
	}
	return f, nil
}

// resolutionOf reads the body of a resolution: an object of known fields, each once.
// A form of a foreign page cannot send its type.
func resolutionOf(r *http.Request) (do Action, a Audit, err error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return do, a, refusal(http.StatusUnsupportedMediaType, "the body must be application/json")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return do, a, refusal(http.StatusBadRequest, "the body could not be read")
	case len(body) > maxBody:
		return do, a, refusal(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", maxBody))
	case !json.Valid(body):
		return do, a, refusal(http.StatusBadRequest, "the body is not JSON")
	}
	err = decodeObject(body, map[string]any{"action": &do, "actor": &a.Actor, "reason": &a.Reason, "revision": &a.ExpectRevision, "step": &a.Step})
	return do, a, err
}

// decodeObject reads valid JSON into fields. encoding/json would take a key in
// another case, and the last of two that are equal.
func decodeObject(body []byte, fields map[string]any) error {
	const detail = "the body is not what is expected"
	dec := json.NewDecoder(strings.NewReader(string(body)))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return refusal(http.StatusBadRequest, "the body must be a JSON object")
	}
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return refusal(http.StatusBadRequest, detail)
		}
		name := key.(string) // of an object, it is
		into := fields[name]
		switch {
		case into == nil:
			return refusal(http.StatusBadRequest, detail, fieldJSON{name, "is unknown"})
		case seen[name]:
			return refusal(http.StatusBadRequest, detail, fieldJSON{name, "is there twice"})
		}
		seen[name] = true
		if err := dec.Decode(into); err != nil {
			reason := "must be a string"
			if _, ok := into.(*int64); ok {
				reason = "must be a whole number"
			}
			return refusal(http.StatusBadRequest, detail, fieldJSON{name, reason})
		}
	}
	return nil
}
