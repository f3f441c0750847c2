package saga

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"
)

const (
	maxID   = 255
	maxName = 64
	maxData = 1 << 20
)

// Definition is a saga over data of type T, which is what JSON keeps of it. Make
// one with [Define]; the zero value is not usable.
type Definition[T any] struct{ program }

// program is a definition without its type.
type program struct {
	name    string
	version int
	parts   []*part
	plan    Plan
	empty   func() any          // a new *T
	same    func(a, b any) bool // two *T hold the same; nil if only their JSON tells
	keep    func(to, from any)  // *to = *from
	exact   bool                // JSON keeps all of a T
}

// Registered is a *[Definition].
type Registered interface{ registered() *program }

func (p *program) registered() *program { return p }

// Name returns the definition's name.
func (p *program) Name() string { return p.name }

// Version returns the definition's version.
func (p *program) Version() int { return p.version }

// Plan returns the definition's steps, in order.
func (p *program) Plan() Plan { return slices.Clone(p.plan) }

// below is how many bytes the longest id among a saga's children has beyond its own.
func (p *program) below() (n int) {
	for _, s := range p.parts {
		n = max(n, s.below)
	}
	return n
}

// Define makes a definition. Every name is 1 to 64 letters, digits, dots, dashes and
// underscores, and that of a step not "undo". The version, 1 or more, is to grow whenever the steps or the data
// change; sagas that are under way finish on the steps they began with, which must
// still be in some version that the engine is given, their own or a newer one. Its
// error joins an [*InputError] for each fault: a definition that could come to where it
// can neither be undone nor finished is refused.
func Define[T any](name string, version int, steps ...Part[T]) (*Definition[T], error) {
	d := &Definition[T]{program{name: name, version: version, empty: func() any { return new(T) }}}
	if t := reflect.TypeFor[T](); flat(t) {
		d.exact = exact(t)
		d.same = func(a, b any) bool { return any(*a.(*T)) == any(*b.(*T)) }
		d.keep = func(to, from any) { *to.(*T) = *from.(*T) }
	}
	groups := 0
	for i, s := range steps {
		if s == nil {
			return nil, &InputError{Field: fmt.Sprintf("steps[%d]", i), Reason: "is nil"}
		}
		parts := s.parts()
		if len(parts) > 1 {
			groups++
			for _, p := range parts {
				p.group = groups
			}
		}
		d.parts = append(d.parts, parts...)
	}
	err := d.check()
	if t := reflect.TypeFor[T](); groups > 0 && !object(t) { // its branches would be done, and nobody could tell what each has changed
		err = errors.Join(err, &InputError{Field: "data", Reason: fmt.Sprintf("is of type %v and no JSON object, into which the steps of a Parallel could each write a field", t)})
	}
	if err != nil {
		return nil, fmt.Errorf("saga: definition %q: %w", name, err)
	}
	return d, nil
}

// MustDefine is [Define] for package variables. It panics.
func MustDefine[T any](name string, version int, steps ...Part[T]) *Definition[T] {
	d, err := Define(name, version, steps...)
	if err != nil {
		panic(err)
	}
	return d
}

// StartOptions are the optional settings of one saga.
type StartOptions struct {
	// BusinessID is what the saga is about, for those who look for it: up to 255
	// bytes. Default: none.
	BusinessID string
	// Deadline is how long the saga may take to its pivot. When it is over, no
	// further step is begun and it is compensated; one that is under way is
	// finished, and what it has done is undone. Default: for ever.
	Deadline time.Duration
}

// Start begins a saga, unless there is one with this id already: then it returns a
// handle of that one, or [ErrConflict] if that has other data or another
// definition. id is 1 to 255 bytes, with the names of its children, and data at most
// 1 MiB of JSON. When Start returns, the saga is durable: it finishes whatever happens
// to this process. Its other errors are an [*InputError] for each fault, joined,
// [ErrUnknownDefinition] if e was not given d, and the store's. Cost: one write, shared
// with others.
func (d *Definition[T]) Start(ctx context.Context, e *Engine, id string, data T, o *StartOptions) (*Handle[T], error) {
	return d.start(ctx, e, id, data, o, "")
}

// StartTx is [Definition.Start] within the caller's transaction, which is of the
// type that the store works with, such as pgx.Tx. The saga begins some time after
// the commit, a second at most, or when [Handle.Wait] is called.
func (d *Definition[T]) StartTx(ctx context.Context, e *Engine, tx any, id string, data T, o *StartOptions) (*Handle[T], error) {
	if e == nil {
		return nil, errNoEngine
	}
	store, ok := e.store.(Transactor)
	if !ok {
		return nil, fmt.Errorf("saga: StartTx: the store %T has no transactions", e.store)
	}
	r, err := d.fresh(e, id, data, o)
	if err != nil {
		return nil, err
	}
	r.create.Record = r.rec
	if err := cmp.Or(store.CreateTx(ctx, tx, r.creates[:]), r.create.Err); err != nil {
		return nil, fmt.Errorf("saga: start %s: %w", id, err)
	}
	return &Handle[T]{id: id, engine: e}, nil
}

var errNoEngine = &InputError{Field: "engine", Reason: "is nil"}

func (d *Definition[T]) start(ctx context.Context, e *Engine, id string, data T, o *StartOptions, parent string) (*Handle[T], error) {
	if e == nil {
		return nil, errNoEngine
	}
	r, err := d.fresh(e, id, data, o)
	if err != nil {
		return nil, err
	}
	r.rec.Parent = parent
	r, err = e.begin(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("saga: start %s: %w", id, err)
	}
	return &Handle[T]{id: id, engine: e, run: r}, nil
}

// fresh checks the input and makes a saga that has not begun.
func (d *Definition[T]) fresh(e *Engine, id string, data T, o *StartOptions) (*run, error) {
	var options StartOptions
	if o != nil {
		options = *o
	}
	if options.Deadline > 0 {
		options.Deadline = max(options.Deadline, time.Microsecond) // a store would keep 0, which is none
	}
	var faults []error
	refuse := func(bad bool, field, reason string) {
		if bad {
			faults = append(faults, &InputError{Field: field, Reason: reason})
		}
	}
	if err := checkID("id", id); err != nil {
		faults = append(faults, err)
	}
	if n := len(id) + d.below(); len(id) <= maxID && n > maxID { // a child would be refused when others have had their effect
		refuse(true, "id", fmt.Sprintf("has %d bytes, and with its children's names %d, more than %d", len(id), n, maxID))
	}
	if options.BusinessID != "" {
		if err := checkID("StartOptions.BusinessID", options.BusinessID); err != nil {
			faults = append(faults, err)
		}
	}
	refuse(options.Deadline < 0, "StartOptions.Deadline", "is negative")
	body, err := encode(&data, nil)
	if err != nil {
		refuse(true, "data", err.Error())
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if !e.knows(&d.program) {
		return nil, fmt.Errorf("%w: %s version %d", ErrUnknownDefinition, d.name, d.version)
	}
	r := newRun(e, &d.program)
	r.parts = d.parts
	rec := r.rec
	rec.ID, rec.BusinessID, rec.Definition, rec.Version, rec.Plan = id, options.BusinessID, d.name, d.version, d.plan
	rec.Status, rec.Steps, rec.Data, rec.DeadlineAfter = Running, r.few[:0], body, options.Deadline
	for range d.plan {
		rec.Steps = append(rec.Steps, StepState{Mark: Open})
	}
	rec.Fingerprint = fingerprint(rec)
	r.data = &data
	r.encoded()
	if r.reading() == nil {
		// It is read back before the first step:
		//
		//	the order has a slice of lines; its saga is started; the caller fills the slice
		//	with the lines of the next order; the saga charges for those.
		r.data = nil
	}
	return r, nil
}

// fingerprint is the same for the same input. A version is not part of it: to start
// again after a deploy is not a conflict.
func fingerprint(r *Record) [32]byte {
	b := make([]byte, 0, 256)
	b = append(append(b, r.Definition...), 0)
	return sha256.Sum256(append(b, r.Data...))
}

// Result is where a saga has come to.
type Result[T any] struct {
	ID     string
	Status Status // Completed, Compensated or Stuck
	Data   T      // as the last step left it
	Failed string // the step that made it fail; empty: none has
	Reason string // why, in words
}

// Err is nil for a saga that is Completed, and names what went wrong with another.
func (r Result[T]) Err() error {
	if r.Status == Completed {
		return nil
	}
	return &FailedError{ID: r.ID, Status: r.Status, Step: r.Failed, Reason: r.Reason}
}

// FailedError is a saga that was not completed.
type FailedError struct {
	ID     string
	Status Status // Compensated or Stuck
	Step   string // empty if no step has failed: it was cancelled, or its time was up
	Reason string
}

func (e *FailedError) Error() string {
	if e.Step == "" {
		return fmt.Sprintf("saga %s: %s: %s", e.ID, e.Status, e.Reason)
	}
	return fmt.Sprintf("saga %s: %s: step %s: %s", e.ID, e.Status, e.Step, e.Reason)
}

func newResult[T any](rec *Record) (Result[T], error) {
	r := Result[T]{ID: rec.ID, Status: rec.Status, Failed: rec.Failed, Reason: rec.Error}
	if err := json.Unmarshal(rec.Data, &r.Data); err != nil {
		return r, fmt.Errorf("saga: data of %s: %w", rec.ID, err)
	}
	return r, nil
}

// Data reads the data of a record, such as [Admin.Inspect] returns.
func (d *Definition[T]) Data(rec *Record) (T, error) {
	r, err := newResult[T](rec)
	return r.Data, err
}

// Handle is one saga, wherever it runs. [Definition.Start] and [Definition.Handle]
// return one; the zero value is not usable.
type Handle[T any] struct {
	id     string
	engine *Engine
	run    *run // nil: it is not in this engine
}

// Handle returns a handle of the saga with this id, whether there is one or not.
func (d *Definition[T]) Handle(e *Engine, id string) *Handle[T] { return &Handle[T]{id: id, engine: e} }

// ID returns the saga's id.
func (h *Handle[T]) ID() string { return h.id }

// Wait returns when the saga is over, or needs a person ([Stuck]). The error is not
// that of the saga, which is in [Result.Err], but of ctx or of the store, or
// [ErrNotFound] if there is no such saga, or an [*InputError] where the handle was made
// without an engine. Cost: nothing if the saga runs in this engine; else a read, repeated at growing
// intervals of up to a second.
func (h *Handle[T]) Wait(ctx context.Context) (Result[T], error) {
	if h.engine == nil {
		return Result[T]{}, errNoEngine
	}
	rec, err := h.engine.await(ctx, h.id, h.run)
	if err != nil {
		return Result[T]{}, fmt.Errorf("saga: wait for %s: %w", h.id, err)
	}
	if h.run != nil && h.run.over && h.run.rec == rec {
		if data, ok := h.run.reading().(*T); ok {
			return Result[T]{rec.ID, rec.Status, *data, rec.Failed, rec.Error}, nil
		}
	}
	return newResult[T](rec)
}

// checkID refuses what PostgreSQL or a person could not read back.
func checkID(field, id string) error {
	if len(id) == 0 || len(id) > maxID {
		return &InputError{Field: field, Reason: fmt.Sprintf("has %d bytes, not 1 to %d", len(id), maxID)}
	}
	if !printable(id) {
		return &InputError{Field: field, Reason: "is not UTF-8, or has control characters"}
	}
	return nil
}
