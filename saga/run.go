package saga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// run is one saga in the hands of its owner, on one goroutine.
type run struct {
	e       *Engine
	program *program
	parts   []*part
	rec     *Record
	data    any // the program's *T
	kept    any // the *T that rec.Data is of; nil if that is not known
	seen    int // signals that we know of
	token   int64
	done    chan struct{}

	id, businessID string // those of rec, for who looks at a call that rec has left behind

	local time.Time     // a moment of this process: what it times is since then
	age   time.Duration // of the saga at that moment

	write   Write
	writes  [1]*Write
	create  Create
	creates [1]*Create
	first   Record       // rec, of a saga that was started here
	few     [6]StepState // its Steps, if they are not more
	events  []Event      // for the next checkpoint

	mu    sync.Mutex
	asked time.Time // when the store was asked for the lease that we have
	calls *callCtx  // the attempts under way, each with the next
	lost  bool      // it belongs to somebody else

	crashed   bool // the last owner did not release it: its step may have happened
	unwritten bool // Pure steps are done since the last checkpoint
	ceded     bool // the store knows that we no longer have it
	over      bool // once done is closed: it came to its end here, which is in rec
}

// newRun returns a run whose record is empty.
func newRun(e *Engine, p *program) *run {
	r := &run{e: e, program: p}
	r.rec, r.writes[0], r.creates[0] = &r.first, &r.write, &r.create
	return r
}

// clock sets the saga's age by two readings of the store's clock. asked is when the
// store was asked for the second: what is timed here is then not before what the
// store has timed, and no lease is longer than it is there.
func (r *run) clock(asked, created, now time.Time) {
	r.mu.Lock() // the engine may be about to renew its leases
	defer r.mu.Unlock()
	r.local, r.age, r.token, r.asked = asked, max(0, now.Sub(created)), r.rec.Token, asked
}

// now is the time on the run's own clock, which costs half of what time.Now does.
func (r *run) now() time.Duration { return time.Since(r.local) }

// elapsed is the saga's age.
func (r *run) elapsed() time.Duration { return (r.age + r.now()).Truncate(time.Microsecond) }

// lose is told that the saga has another owner.
func (r *run) lose() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = true
	for c := r.calls; c != nil; c = c.next {
		c.end(ErrFenced)
	}
}

// yields loses the saga to a claim that is newer. One that is older does not get it:
//
//	a step overruns two leases; the engine claims its own saga by tokens 2 and 3, and
//	waits for the step twice; it ends, and the run of token 3 is first; that of token 2
//	tells it that it has lost the saga: its refund runs on a dead context.
func (r *run) yields(to *run) bool {
	r.mu.Lock()
	newer := r.token > to.rec.Token
	r.mu.Unlock()
	if newer {
		return false
	}
	r.lose()
	return true
}

// renewable reports whether the lease is to be renewed. It is as old as it is in the store:
//
//	a saga is created, and its Start hears so nine seconds later; the charge begins, and
//	takes a while; the lease, of fifteen, is taken for a young one; it ends, and the next
//	owner refunds.
func (r *run) renewable(now time.Time, lease time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost || r.token == 0 || now.Sub(r.asked) < lease/4 {
		return false
	}
	for c := r.calls; c != nil; c = c.next {
		if now.Sub(r.local) > c.until+lease {
			return false
		}
	}
	return true
}

// extended is told that the lease was renewed.
func (r *run) extended(asked time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = asked
}

// holds reports whether the saga is ours for long enough to begin something. It is
// asked before each call of a step:
//
//	the machine holds us up for longer than our lease; the next owner goes back, and
//	undoes the charge of which nobody knows; we are let go on, and charge.
//
// By our own clock the lease cannot last longer than it does in the store. One of which
// less than a third is left is renewed first; as long as the store does not answer,
// nothing begins.
func (r *run) holds() bool {
	lease := r.e.o.Lease
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		r.mu.Lock()
		lost, fresh := r.lost, time.Since(r.asked) < lease-lease/3
		r.mu.Unlock()
		if lost || fresh {
			return !lost
		}
		l := &Lease{ID: r.rec.ID, Token: r.rec.Token}
		asked := time.Now()
		err := r.e.store.Renew(r.e.limited(), []*Lease{l}, lease)
		switch {
		case err == nil && l.Err == nil:
			r.extended(asked)
			continue
		case err == nil:
			r.lose()
			return false
		}
		r.e.log.Warn("a lease could not be renewed, and is asked for again", slog.String("saga", r.rec.ID), slog.Any("error", err))
		if !r.e.rest(wait) {
			return false
		}
	}
}

// loop goes on until the saga is over or released.
func (r *run) loop() {
	r.id, r.businessID = r.rec.ID, r.rec.BusinessID
	if r.crashed {
		r.event(EventCrashed, r.rec.Step(), 0, fmt.Sprintf("owner %d in a row", r.rec.Crashes))
	}
	if r.parts == nil {
		r.park()
		return
	}
	r.unpark()
	if r.crashed && r.rec.Crashes >= r.e.o.MaxCrashes { // of its data too
		r.stick(r.rec.Step(), fmt.Errorf("%d owners have died of it, or let their lease run out", r.rec.Crashes))
		r.save()
		return
	}
	if r.data == nil {
		if err := r.decode(); err != nil {
			r.stick("", fmt.Errorf("data of %s does not unmarshal: %w", r.rec.ID, err))
			r.save()
			return
		}
	}
	r.rec.Status = Running
	if r.rec.Undoing {
		r.rec.Status = Compensating
	}
	for more := true; more && r.holds(); {
		if r.rec.Undoing {
			more = r.back()
		} else {
			more = r.forward()
		}
	}
}

// suspect marks the steps that the last owner may have been at when it died, and a child
// that it may have started. Pure
// steps in front of them are not written when they are done:
//
//	validate is Pure, and done; the card is charged; the owner dies; the next one
//	finds that validate is still ahead, and takes the charge for not yet begun.
//
// Nor does one end the search that is over, as it is passed over:
//
//	validate is to be done again; a person says that the goods are reserved; validate is
//	done, the card charged, and the owner dies; the next one charges again.
//
// It goes by the plan: also one who does not know the steps, and lets go of the saga
// again, must write this down, as the next owner is not told of the death.
func (r *run) suspect() {
	if r.rec.Undoing {
		return
	}
	for i, group := r.rec.firstAhead(), 0; i >= 0 && i < len(r.rec.Plan); i++ {
		s, p := &r.rec.Steps[i], r.rec.Plan[i]
		if group > 0 && p.Group != group {
			return
		}
		if !s.ahead() {
			continue
		}
		effect := p.Kind == KindStep || p.Kind == KindPivot || p.Kind == KindRetriable
		if effect && !p.Tx || p.Kind == KindChild && s.Mark == Open {
			s.Mark = Maybe
		}
		if group = p.Group; group == 0 && p.Kind != KindPure {
			return
		}
	}
}

// parked is when a saga whose steps nobody here knows is offered again.
const parked = 15 * time.Second

// park leaves a saga to a process that knows its steps.
func (r *run) park() {
	r.rec.Status = Suspended
	if !strings.HasPrefix(r.rec.Error, unknownSteps) {
		r.event(EventSuspended, r.rec.Step(), 0, unknownSteps)
		if was := r.rec.Error; was == "" {
			r.rec.Error = unknownSteps
		} else {
			r.rec.Error = unknownSteps + parkedFor + was
		}
	}
	r.release(parked)
}

// unknownSteps is how the error of a saga begins that is parked. Behind it stands the
// error that it had before, which a saga that goes back ends with.
const (
	unknownSteps = "no version that this process knows, and that is as new, has all its steps"
	parkedFor    = "; before that: "
)

// unpark takes the error back from before the saga was parked.
func (r *run) unpark() {
	if was, ok := strings.CutPrefix(r.rec.Error, unknownSteps); ok {
		r.rec.Error = strings.TrimPrefix(was, parkedFor)
	}
}

// stick leaves the saga to a person.
func (r *run) stick(step string, err error) {
	r.rec.Status, r.rec.Error = Stuck, text(err)
	if r.rec.Failed == "" {
		r.rec.Failed = step
	}
	r.event(EventStuck, step, 0, r.rec.Error)
	r.e.log.Error("a saga is stuck", slog.String("saga", r.rec.ID), slog.String("definition", r.rec.Definition),
		slog.String("step", step), slog.String("error", r.rec.Error))
}

// maxText bounds what is kept of an error.
const maxText = 2000

func text(err error) string {
	if err == nil {
		return ""
	}
	s := err.Error()
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
}

func (r *run) event(kind EventKind, step string, attempt int, text string) {
	r.events = append(r.events, Event{Kind: kind, Step: step, Attempt: attempt, Text: text})
	if r.e.o.Hooks.OnEvent != nil {
		r.e.o.Hooks.OnEvent(r.rec, r.events[len(r.events)-1])
	}
}

// decode reads the data as the last checkpoint has it. A step that failed may have
// left its copy half changed.
func (r *run) decode() error {
	data, err := r.program.read(r.rec.Data)
	if err != nil {
		return err
	}
	r.data = data
	r.encoded()
	return nil
}

// read returns a new *T that is what text says.
func (p *program) read(text []byte) (any, error) {
	data := p.empty()
	return data, json.Unmarshal(text, data)
}

// rewind takes the data back to the last checkpoint after err, which it returns.
func (r *run) rewind(err error) error {
	if fault := r.decode(); fault != nil {
		return errors.Join(err, fault)
	}
	return err
}

// verdict is what an attempt has come to.
type verdict uint8

const (
	applied  verdict = iota // it has taken effect
	rejected                // it has not: a business rule says no
	failed                  // an error: taken not to have happened
	unknown                 // nobody knows
)

// judge reads an error of a step. The mark that was made last counts, and of several
// errors a doubt:
//
//	the charge times out; a second provider declines; the step returns both: that
//	it was declined does not say that the first has not charged.
func judge(err error) verdict {
	if v := marked(err); v != failed {
		return v
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.As(err, &timeout) && timeout.Timeout() {
		return unknown
	}
	return failed
}

// marked is the verdict of the outermost mark, failed if there is none.
func marked(err error) verdict {
	switch e := err.(type) { //nolint:errorlint // it goes from the outside in
	case nil:
		return applied
	case *doubt:
		return unknown
	case *rejection:
		return rejected
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return marked(inner)
		}
	case interface{ Unwrap() []error }:
		v := failed
		for _, inner := range e.Unwrap() {
			one := judge(inner)
			if one == unknown {
				return unknown
			}
			if one == rejected {
				v = rejected
			}
		}
		return v
	}
	return failed
}

// panicked is the error of a step that panics.
type panicked struct {
	value any
	stack []byte
}

func (e *panicked) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// blame counts a panic as a crash.
func (r *run) blame(err error) {
	if _, ok := errors.AsType[*panicked](err); ok {
		r.rec.Crashes++
	}
}

// contain ends a panic in code of the caller's that is no step, such as how the data is
// written as JSON: it costs this saga its owner, as a crash does, and not all the others
// that the process has in hand. The third is a person's business.
func (r *run) contain() {
	if v := recover(); v != nil {
		r.e.log.Error("a saga panicked", slog.String("saga", r.rec.ID), slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
	}
}

// attempt calls f with data as attempt n of step p, or of its compensation, with a
// time limit.
func (r *run) attempt(p *part, n int, f func(context.Context, any) error, data any) ([]Message, error) {
	return r.called(&callCtx{run: r, part: p, attempt: n, undo: r.rec.Undoing}, f, data)
}

// called calls f, which is what c says.
func (r *run) called(c *callCtx, f func(context.Context, any) error, data any) (msgs []Message, err error) {
	c.until = r.now() + c.part.timeout
	r.enter(c)
	defer func() { msgs = r.leave(c) }()
	defer func() {
		if v := recover(); v != nil {
			stack := debug.Stack()
			r.e.log.Error("a step panicked", slog.String("saga", r.id), slog.String("step", c.part.name), slog.Any("panic", v), slog.String("stack", string(stack)))
			err = InDoubt(&panicked{v, stack})
		}
	}()
	if around := r.e.o.Hooks.Around; around != nil {
		return nil, around(c, c.call(), func(ctx context.Context) error { return f(ctx, data) })
	}
	return nil, f(c, data)
}

func (r *run) enter(c *callCtx) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.next, r.calls = r.calls, c
	if r.lost {
		c.end(ErrFenced)
	}
}

// leave returns what was published.
func (r *run) leave(c *callCtx) []Message {
	msgs := c.end(context.Canceled)
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := &r.calls; *at != nil; at = &(*at).next {
		if *at == c {
			*at = c.next
			break
		}
	}
	return msgs
}
