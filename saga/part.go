package saga

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// Outcome is what a provider says of an attempt whose answer was lost.
type Outcome uint8

// The outcomes; the zero value is Unknown.
const (
	Unknown      Outcome = iota // the provider cannot say
	Applied                     // it has taken effect
	NeverApplied                // it has not, and the provider will not apply it any more
)

// Func is the work of a step, or of its compensation. What it changes in data is
// kept if it returns nil, in the same write that says that the step is done, and
// dropped if it returns an error. It must end soon after ctx does. [CallFrom] tells
// it the key under which its effect is to be had once.
type Func[T any] func(ctx context.Context, data *T) error

// TxFunc is a [Func] within the transaction of its checkpoint: both are
// committed, or neither. Tx is what the store has, such as pgx.Tx.
type TxFunc[T, Tx any] func(ctx context.Context, tx Tx, data *T) error

// VerifyFunc asks the provider what became of an attempt. Where the answer is
// [Applied] it fills in data as the step would have done.
type VerifyFunc[T any] func(ctx context.Context, data *T) (Outcome, error)

// Part is a step of a [Definition], as the functions of this package make it.
type Part[T any] interface {
	parts() []*part
	typed(*T)
}

// part is a step without its type: data is always the definition's *T.
type part struct {
	name       string
	kind       Kind
	group      int
	idempotent bool
	timeout    time.Duration
	retry      Retry
	undoRetry  Retry

	do     func(ctx context.Context, data any) error
	doTx   func(ctx context.Context, tx, data any) error
	undo   func(ctx context.Context, data any) error
	undoTx func(ctx context.Context, tx, data any) error
	verify func(ctx context.Context, data any) (Outcome, error)
	tx     reflect.Type // of doTx and undoTx

	wait  func(data any) time.Duration // Sleep and Await
	on    func(data any, payload []byte) error
	late  func(data any) error // at the deadline of an Await
	start func(ctx context.Context, e *Engine, parent *Record, data any) error
	ended func(data any, child *Record) error
	child *program
	below int    // how many bytes longer the longest id among its child and its children is
	fault string // in how it was made
}

func (p *part) undoable() bool { return p.undo != nil || p.undoTx != nil }

// repeatable reports whether an attempt of which nobody knows may be made again.
func (p *part) repeatable() bool {
	return p.idempotent || p.doTx != nil || p.kind == KindPure || p.kind == KindRetriable
}

// StepPart is a step that reaches outside of the store's transaction. Its methods
// change it and return it.
type StepPart[T any] struct{ p part }

// parts are copies: what a definition makes of them is not to change another that has
// the same step.
func (s *StepPart[T]) parts() []*part { return []*part{new(s.p)} }
func (s *StepPart[T]) typed(*T)       {}

func erase[T any](f Func[T]) func(context.Context, any) error {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, data any) error { return f(ctx, data.(*T)) }
}

func newStep[T any](name string, kind Kind, f Func[T]) *StepPart[T] {
	return &StepPart[T]{part{name: name, kind: kind, do: erase(f)}}
}

// Step is a compensatable step: it stands before the pivot and must have an Undo.
func Step[T any](name string, f Func[T]) *StepPart[T] { return newStep(name, KindStep, f) }

// Pure is a step that changes nothing but the data, so that there is nothing to
// undo and no harm in a repeat. It has no checkpoint of its own, but in front of the
// pivot: its result is written with that of the step behind it, and it may run again
// until then.
func Pure[T any](name string, f Func[T]) *StepPart[T] { return newStep(name, KindPure, f) }

// Pivot is the step with which the saga is decided: what is before it can be
// undone, and once it is done the saga only goes forward. There is at most one.
func Pivot[T any](name string, f Func[T]) *StepPart[T] { return newStep(name, KindPivot, f) }

// Retriable is a step behind the pivot. It cannot be refused for good, and its
// repeat under the same key is harmless; when its attempts are used up, the saga is
// [Stuck] and waits for a person.
func Retriable[T any](name string, f Func[T]) *StepPart[T] { return newStep(name, KindRetriable, f) }

// Undo is the compensation. It may be called for a step of which nobody knows
// whether it took effect, and more than once: it succeeds where there is nothing
// (more) to undo. Where the provider can do it, it also makes sure that the step's
// key has no effect later: a request that was overtaken may still arrive.
func (s *StepPart[T]) Undo(f Func[T]) *StepPart[T] {
	s.p.undo = erase(f)
	return s
}

// Verify is asked what became of an attempt that timed out, or whose process died.
// Without it such a step is repeated if it is [StepPart.Idempotent], undone if it
// is before the pivot, and else left to a person. It is asked again when such a step
// was undone; where it returns an error then, or [Applied], the Undo is repeated.
func (s *StepPart[T]) Verify(f VerifyFunc[T]) *StepPart[T] {
	if f == nil {
		s.p.fault = "has no function for its Verify"
		return s
	}
	s.p.verify = func(ctx context.Context, data any) (Outcome, error) { return f(ctx, data.(*T)) }
	return s
}

// Idempotent says that the provider has an effect once per [Call.Key], so that an
// attempt of which nobody knows may be repeated.
func (s *StepPart[T]) Idempotent() *StepPart[T] {
	s.p.idempotent = true
	return s
}

// Timeout bounds an attempt, also of the compensation: a day at most. Default: 30 s.
func (s *StepPart[T]) Timeout(d time.Duration) *StepPart[T] {
	s.p.timeout = d
	return s
}

// Retry says how often the step is attempted. Default: see [Retry].
func (s *StepPart[T]) Retry(r Retry) *StepPart[T] {
	s.p.retry = r
	return s
}

// RetryUndo says how often its compensation is attempted. Default: see [Retry].
func (s *StepPart[T]) RetryUndo(r Retry) *StepPart[T] {
	s.p.undoRetry = r
	return s
}

// TxPart is a step within the transaction of its checkpoint.
type TxPart[T, Tx any] struct{ p part }

func (s *TxPart[T, Tx]) parts() []*part { return []*part{new(s.p)} }
func (s *TxPart[T, Tx]) typed(*T)       {}

func eraseTx[T, Tx any](f TxFunc[T, Tx]) func(context.Context, any, any) error {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, tx, data any) error { return f(ctx, tx.(Tx), data.(*T)) }
}

func newTx[T, Tx any](name string, kind Kind, f TxFunc[T, Tx]) *TxPart[T, Tx] {
	return &TxPart[T, Tx]{part{name: name, kind: kind, doTx: eraseTx(f), tx: reflect.TypeFor[Tx]()}}
}

// StepTx is a [Step] whose work is committed with its checkpoint: it takes effect
// exactly once, and nobody is ever in doubt of it. It costs a commit of its own.
func StepTx[T, Tx any](name string, f TxFunc[T, Tx]) *TxPart[T, Tx] {
	return newTx(name, KindStep, f)
}

// PivotTx is a [Pivot] within the transaction of its checkpoint.
func PivotTx[T, Tx any](name string, f TxFunc[T, Tx]) *TxPart[T, Tx] {
	return newTx(name, KindPivot, f)
}

// RetriableTx is a [Retriable] within the transaction of its checkpoint.
func RetriableTx[T, Tx any](name string, f TxFunc[T, Tx]) *TxPart[T, Tx] {
	return newTx(name, KindRetriable, f)
}

// Undo is the compensation, in the transaction of its own checkpoint: exactly once.
func (s *TxPart[T, Tx]) Undo(f TxFunc[T, Tx]) *TxPart[T, Tx] {
	s.p.undoTx = eraseTx(f)
	return s
}

// Timeout bounds an attempt, also of the compensation: a day at most. Default: 30 s.
func (s *TxPart[T, Tx]) Timeout(d time.Duration) *TxPart[T, Tx] {
	s.p.timeout = d
	return s
}

// Retry says how often the step is attempted. Default: see [Retry].
func (s *TxPart[T, Tx]) Retry(r Retry) *TxPart[T, Tx] {
	s.p.retry = r
	return s
}

// RetryUndo says how often its compensation is attempted. Default: see [Retry].
func (s *TxPart[T, Tx]) RetryUndo(r Retry) *TxPart[T, Tx] {
	s.p.undoRetry = r
	return s
}

// group is several steps that run at the same time.
type group[T any] struct {
	name  string
	inner []Part[T]
}

func (g *group[T]) typed(*T) {}

func (g *group[T]) parts() []*part {
	var all []*part
	for i, p := range g.inner {
		if p == nil {
			all = append(all, &part{name: g.name, fault: fmt.Sprintf("is a Parallel whose step %d is nil", i)})
			continue
		}
		for _, p := range p.parts() {
			if p.group != 0 {
				p.fault = "is in two groups"
			}
			p.group = -1 // numbered by the definition
			all = append(all, p)
		}
	}
	if len(all) < 2 {
		all = append(all, &part{name: g.name, fault: "is a Parallel of less than two steps"})
	}
	return all
}

// Parallel runs steps at the same time: Step, Pure and Retriable, each under the
// rules of its kind. Each works on data of its own, as it was before them; the
// top-level JSON fields that it changes are taken over when it is done, and two must
// not change the same one. If one fails the others are waited for, and all are
// undone. name is for faults in the definition only.
func Parallel[T any](name string, steps ...Part[T]) Part[T] { return &group[T]{name, steps} }

// Sleep waits for as long as f says, at least; no process needs to live meanwhile.
func Sleep[T any](name string, f func(data *T) time.Duration) Part[T] {
	p := part{name: name, kind: KindSleep, wait: func(data any) time.Duration { return f(data.(*T)) }}
	if f == nil {
		p.fault = "has no function"
	}
	return &StepPart[T]{p}
}

// AwaitPart waits for a signal.
type AwaitPart[T any] struct{ p part }

func (s *AwaitPart[T]) parts() []*part { return []*part{new(s.p)} }
func (s *AwaitPart[T]) typed(*T)       {}

// Await waits for the signal of that name, see [Engine.Signal], and gives its
// payload to on, which may [Reject] it. A signal that came before is not lost. After
// within, the saga is compensated, or goes on with what Otherwise has done; behind
// the pivot there must be an Otherwise. A signal that came in time is taken, however
// late the saga gets to it.
func Await[T, M any](name string, within time.Duration, on func(data *T, msg M) error) *AwaitPart[T] {
	p := part{name: name, kind: KindAwait, wait: func(any) time.Duration { return within }}
	p.on = func(data any, payload []byte) error {
		var msg M
		if err := json.Unmarshal(payload, &msg); err != nil {
			return Reject(fmt.Errorf("signal %s: %w", name, err))
		}
		return on(data.(*T), msg)
	}
	switch {
	case within <= 0:
		p.fault = "waits for no time at all"
	case on == nil:
		p.fault = "has no function"
	}
	return &AwaitPart[T]{p}
}

// Otherwise is done when no signal came in time.
func (s *AwaitPart[T]) Otherwise(f func(data *T) error) *AwaitPart[T] {
	if f == nil {
		s.p.fault = "has no function for its Otherwise"
		return s
	}
	s.p.late = func(data any) error { return f(data.(*T)) }
	return s
}

// Child starts a saga of another definition and waits for its end. Its id is the
// parent's, a slash and name; where somebody else has a saga of that id, the step is
// refused, and that saga left alone. input makes its data; ended gets its result and says
// whether the step has succeeded: a child that is [Compensated] has had no effect,
// and ended then returns [Reject] of something, or nil. A child that is [Stuck] is
// waited for until a person has helped it. It stands before the pivot, and must have
// an Undo, as a [Step]: a child that is completed is not undone by itself. One that is
// under way when the parent is cancelled is cancelled with it, and waited for. Where nobody
// knows whether one is on its way, its id is taken by a saga that is [Compensated] and has
// done nothing, so that it cannot come. The engine must know the child's definition too.
func Child[T, C any](name string, child *Definition[C], input func(data *T) (C, error), ended func(data *T, r Result[C]) error) *StepPart[T] {
	s := &StepPart[T]{part{name: name, kind: KindChild}}
	switch {
	case child == nil:
		s.p.fault = "has no definition of its child"
		return s
	case input == nil:
		s.p.fault = "has no function for its child's input"
	case ended == nil:
		s.p.fault = "has no function for its child's end"
	}
	s.p.child, s.p.below = &child.program, len("/")+len(name)+child.below()
	s.p.start = func(ctx context.Context, e *Engine, parent *Record, data any) error {
		in, err := input(data.(*T))
		if err != nil {
			return err
		}
		_, err = child.start(ctx, e, childID(parent, name), in, &StartOptions{BusinessID: parent.BusinessID}, parent.ID)
		return InDoubt(err) // it may be there all the same, or on its way
	}
	s.p.ended = func(data any, rec *Record) error {
		r, err := newResult[C](rec)
		if err != nil {
			return err
		}
		return ended(data.(*T), r)
	}
	return s
}
