package saga

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/safetill/safetill/internal/absent"
)

// Action is what a person does about a saga. What it means depends on which way
// the saga goes: of one that goes forward it concerns a step, of one that goes back
// a compensation.
type Action string

// The actions. Each is for a saga that is [Stuck]; Retry, Skip and Cancel also for
// one that is [Suspended] and that no process is at work on.
const (
	// ActionRetry attempts what is in the way again, with fresh attempts. A step in
	// doubt stays in doubt: its Verify is asked first, one that may be repeated is
	// repeated, and any other fails as it did before, so that its fate is rather to be
	// told by one of the next. Of a saga that waits it looks again now.
	ActionRetry Action = "retry"
	// ActionSkip passes over it. What the step has done, if it has done something,
	// is left as it is, also if the saga goes back later.
	ActionSkip Action = "skip"
	// ActionForceApplied says that it has taken effect. A step counts as done, and is
	// undone if the saga goes back later; what it would have written into the data is
	// missing. A compensation counts as done, such as a refund that was made by hand.
	ActionForceApplied Action = "force-applied"
	// ActionForceNotApplied says that a step has not taken effect, and will not. The
	// saga goes back, without undoing that step; behind the pivot, where it
	// cannot, the step is attempted again as if for the first time. It is
	// not for compensations: those are retried or skipped; nor for a child that is under
	// way, which is cancelled.
	ActionForceNotApplied Action = "force-not-applied"
	// ActionCancel makes a saga go back that is not decided yet: whose pivot has not,
	// and cannot have, taken effect. A step in doubt is undone. A child that is under
	// way is cancelled first, and waited for.
	ActionCancel Action = "cancel"
)

var actions = []Action{ActionRetry, ActionSkip, ActionForceApplied, ActionForceNotApplied, ActionCancel}

// Audit says who does something about a saga, and why. It goes into the saga's
// history with the change.
type Audit struct {
	Actor  string // 1 to 255 bytes
	Reason string // 1 to 1000 bytes
	// ExpectRevision is the [Record.Revision] of what the person has seen. If the
	// saga has another by now, nothing is done.
	ExpectRevision int64
	// Step is which of [Record.Blocked] is meant. Default: the first; for
	// ActionRetry, all.
	Step string
}

// ActionError means that an action does not fit where the saga stands: nothing was
// written.
type ActionError struct {
	ID     string
	Action Action
	Status Status
	Step   string // empty: it is not about one
	Reason string
}

func (e *ActionError) Error() string {
	at := e.Status.String()
	if e.Step != "" {
		at += " at " + e.Step
	}
	return fmt.Sprintf("saga: %s of %s, which is %s: %s", e.Action, e.ID, at, e.Reason)
}

// Admin is for the people who look after sagas. It needs no definitions and no
// engine that runs, only the store. It is safe for concurrent use. Make one
// with [NewAdmin] or [Engine.Admin]; the zero value is not usable.
type Admin struct {
	store Store
	nudge func(id string)
}

// NewAdmin returns an Admin on a store, for a tool that executes no sagas itself.
// What it brings back is taken up by the engines' next poll. Where store is nil, every
// call says so.
func NewAdmin(store Store) *Admin { return &Admin{store: store, nudge: func(string) {}} }

// Admin returns an Admin on the engine's store. What it brings back is taken up
// here at once, if the engine runs.
func (e *Engine) Admin() *Admin { return &Admin{store: e.store, nudge: e.nudge} }

// List yields sagas by their ids, such as those with Filter.Status [Stuck]. It ends
// with an error, if one occurs.
func (a *Admin) List(ctx context.Context, f Filter) iter.Seq2[*Record, error] {
	if absent.Is(a.store) {
		return func(yield func(*Record, error) bool) { yield(nil, errNoStore) }
	}
	return a.store.Find(ctx, f)
}

var errNoStore = errors.New("saga: the store is nil")

// Inspect returns a saga with its history, or [ErrNotFound]. Cost: a read.
func (a *Admin) Inspect(ctx context.Context, id string) (*Record, error) {
	if err := checkID("id", id); err != nil {
		return nil, err
	}
	for rec, err := range a.List(ctx, Filter{IDs: []string{id}, Limit: 1, Events: true}) {
		return rec, err
	}
	return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
}

// Resolve does something about a saga and returns it as it is then, with its history,
// in which the last thing but what has happened since is this. Errors: an [*InputError]
// for each fault of the input, [ErrNotFound], [ErrFenced] if it is no longer what
// the person has seen, an [*ActionError] if the action does not fit. After any other
// error it may have been done, and the history says whether. Cost: two reads and a
// write; to cancel a saga that waits for a child two writes, which ctx does not end once
// they have begun, but half a minute does.
func (a *Admin) Resolve(ctx context.Context, id string, do Action, audit Audit) (*Record, error) {
	if err := audit.check(do); err != nil {
		return nil, err
	}
	rec, err := a.Inspect(ctx, id)
	if err != nil {
		return nil, err
	}
	if rec.Revision != audit.ExpectRevision {
		return nil, fmt.Errorf("%w: %s has revision %d, not %d", ErrFenced, id, rec.Revision, audit.ExpectRevision)
	}
	next, ev, err := resolved(rec, do, audit)
	if err != nil {
		return nil, err
	}
	if do == ActionForceNotApplied {
		if err := a.idle(ctx, rec, ev.Step); err != nil {
			return nil, err
		}
	}
	told := do == ActionCancel && !next.Undoing // the engine is, by a signal
	if told {
		// That is a second write, and who sends this may be gone behind the first. Until it
		// is made, [cancelledBy] counts; the signal stays, also if the saga gets stuck then.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
		defer cancel()
		ctx = limited
	}
	w := &Write{Record: next, Release: true, Seen: len(rec.Signals), Events: []Event{ev}}
	if err := a.store.Save(ctx, []*Write{w}); err != nil {
		return nil, fmt.Errorf("saga: resolve %s: %w", id, err)
	}
	if w.Err != nil {
		return nil, fmt.Errorf("saga: resolve %s: %w", id, w.Err)
	}
	after, err := a.confirmed(ctx, id, len(rec.Events), ev)
	if err == nil && told {
		if err = a.store.Deliver(ctx, id, cancelSignal, []byte("{}")); errors.Is(err, ErrOver) {
			err = nil // it has gone back since
		}
	}
	if err != nil {
		return nil, fmt.Errorf("saga: resolve %s: %w", id, err)
	}
	a.nudge(id)
	return after, nil
}

// idle refuses to take a child that is under way for one that will not take effect:
//
//	a child waits, and its parent is stuck; a person says that it has not taken effect; the
//	parent goes back, and has nothing to undo; the child goes on, and pays.
func (a *Admin) idle(ctx context.Context, rec *Record, step string) error {
	if !slices.ContainsFunc(rec.Plan, func(p Planned) bool { return p.Name == step && p.Kind == KindChild }) {
		return nil
	}
	child, err := a.Inspect(ctx, childID(rec, step))
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case child.Parent != rec.ID || child.Status.ended():
		return nil
	}
	return &ActionError{
		ID: rec.ID, Action: ActionForceNotApplied, Status: rec.Status, Step: step,
		Reason: fmt.Sprintf("its child %s is %s and may still take effect: cancel, and it is cancelled first", child.ID, child.Status),
	}
}

// confirmed reads the saga and looks for the event that was written, behind those
// that were there before. A store takes a write of the revision that it has for a
// repeat of that one. But people have no token of their own:
//
//	Ada and Obi look at the same stuck saga. Ada skips the step, and that
//	becomes revision 8. Obi retries it, which would be revision 8 too: the store
//	answers that it has that. Obi believes that the step is attempted.
func (a *Admin) confirmed(ctx context.Context, id string, before int, ev Event) (*Record, error) {
	rec, err := a.Inspect(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(rec.Events) > before {
		got := rec.Events[before]
		if got.Kind == ev.Kind && got.Actor == ev.Actor && got.Step == ev.Step && got.Text == ev.Text {
			return rec, nil
		}
	}
	return nil, fmt.Errorf("%w: it was resolved by somebody else at the same time", ErrFenced)
}

const maxReason = 1000

func (a *Audit) check(do Action) error {
	var faults []error
	refuse := func(bad bool, field, reason string) {
		if bad {
			faults = append(faults, &InputError{Field: field, Reason: reason})
		}
	}
	refuse(!slices.Contains(actions, do), "action", fmt.Sprintf("%q is none of %v", do, actions))
	blank := func(s string) bool { return strings.TrimSpace(s) == "" }
	refuse(blank(a.Actor) || len(a.Actor) > maxID || !printable(a.Actor), "Audit.Actor",
		fmt.Sprintf("is empty, longer than %d bytes, or not printable", maxID))
	refuse(blank(a.Reason) || len(a.Reason) > maxReason || !printable(a.Reason), "Audit.Reason",
		fmt.Sprintf("is empty, longer than %d bytes, or not printable", maxReason))
	refuse(a.ExpectRevision < 1, "Audit.ExpectRevision", "is less than 1: it is the revision that was looked at")
	return errors.Join(faults...)
}
