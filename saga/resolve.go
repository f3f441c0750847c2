package saga

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// gaveUp is how the error of a saga begins that is stuck on its way back.
const gaveUp = "its compensation was given up; "

// Blocked returns the names of the steps that a person can do something about, see
// [Admin.Resolve], the most likely one first: of a saga that goes forward, the step
// that failed and those that run at the same time and are not done; of one that goes
// back, the step whose turn it is, and those whose compensation was given up. It
// is nil for one that is neither [Stuck] nor [Suspended].
func (r *Record) Blocked() []string {
	var names []string
	for _, i := range r.blocked() {
		names = append(names, r.Plan[i].Name)
	}
	return names
}

func (r *Record) blocked() (steps []int) {
	if r.Status != Stuck && r.Status != Suspended {
		return nil
	}
	if r.Undoing {
		if i := r.at(); i >= 0 {
			steps = append(steps, i)
		}
		for i, s := range slices.Backward(r.Steps) {
			if s.Mark == UndoFailed {
				steps = append(steps, i)
			}
		}
		return steps
	}
	first := slices.IndexFunc(r.Plan, func(p Planned) bool { return p.Name == r.Failed })
	if first < 0 {
		first = r.firstAhead()
	}
	if first < 0 {
		return nil
	}
	first = r.doubted(first)
	steps = []int{first}
	for i, p := range r.Plan {
		if i != first && p.Group > 0 && p.Group == r.Plan[first].Group && (r.Steps[i].ahead() || r.Steps[i].Mark == NotApplied) {
			steps = append(steps, i)
		}
	}
	return steps
}

// doubted is the step in doubt, or the child that is waited for, that stands behind Pure
// ones which are to be done again, as their owner has died before it wrote them, or else
// first.
func (r *Record) doubted(first int) int {
	if !r.Steps[first].ahead() {
		return first
	}
	for i := first; i < len(r.Steps); i++ {
		if r.Plan[i].Kind == KindPure || !r.Steps[i].ahead() {
			continue
		}
		if r.Steps[i].Mark == Maybe || r.Steps[i].Mark == Waiting {
			return i
		}
		break
	}
	return first
}

// irreversible reports whether the saga can no longer go back: a step from the pivot on
// has been begun, or passed over.
func (r *Record) irreversible() bool {
	for _, s := range r.Steps[min(r.Plan.pivot(), len(r.Steps)):] {
		if s.Mark != Open && s.Mark != NotApplied {
			return true
		}
	}
	return false
}

// resolved returns what becomes of a saga by an action, and the event that tells of
// it. rec is not changed.
func resolved(rec *Record, do Action, audit Audit) (*Record, Event, error) {
	next := *rec
	next.Steps = slices.Clone(rec.Steps)
	next.Revision++
	next.Crashes = 0
	next.Events = nil
	re := &resolution{rec: &next, do: do, audit: audit, blocked: rec.blocked()}
	reason := re.target()
	if reason == "" {
		reason = re.apply()
	}
	if reason != "" {
		return nil, Event{}, &ActionError{ID: rec.ID, Action: do, Status: rec.Status, Step: re.name(), Reason: reason}
	}
	return &next, Event{Kind: EventResolved, Step: re.name(), Actor: audit.Actor, Text: string(do) + ": " + audit.Reason}, nil
}

// resolution is an action at work. Its methods return why they refuse, or "".
type resolution struct {
	rec     *Record
	do      Action
	audit   Audit
	blocked []int
	step    int // that is meant; -1: none
}

func (re *resolution) name() string {
	if re.step < 0 {
		return ""
	}
	return re.rec.Plan[re.step].Name
}

// target finds the step that is meant.
func (re *resolution) target() string {
	re.step = -1
	if len(re.blocked) > 0 {
		re.step = re.blocked[0]
	}
	switch want := re.audit.Step; {
	case re.rec.Status != Stuck && re.rec.Status != Suspended:
		re.step = -1
		return "it needs nobody"
	case re.rec.Owner != "":
		// It is Suspended until its owner has written something:
		//
		//	a process that does not know the steps has let go of a saga; another claims it,
		//	and charges; a person, who has seen that it waits, lets it look again, and that
		//	ends the ownership: the next owner charges too.
		re.step = -1
		return "a process is at work on it"
	case want != "":
		i := slices.IndexFunc(re.blocked, func(i int) bool { return re.rec.Plan[i].Name == want })
		if i < 0 {
			re.step = -1
			return fmt.Sprintf("step %q is not in its way", want)
		}
		re.step = re.blocked[i]
	case re.step < 0 && re.do != ActionRetry && re.do != ActionCancel:
		return "no step is in its way"
	}
	return ""
}

func (re *resolution) apply() string {
	suspended := re.rec.Status == Suspended
	switch {
	case re.do == ActionCancel:
		return re.cancel()
	case suspended && re.do == ActionSkip && re.rec.Steps[re.step].Mark != Waiting:
		return "it waits for a process that knows its steps"
	case suspended && re.do != ActionSkip && re.do != ActionRetry:
		return "no step is in doubt"
	case re.rec.Undoing:
		return re.back()
	}
	return re.forward()
}

// set changes the mark of the step. Its time is that of the last write, the only
// one of the store's clock that is known. That clock may have been set back since the
// saga began, by a failover: a time below 0 could be written, and never be read.
func (re *resolution) set(i int, m Mark) {
	at := re.rec.Updated.Sub(re.rec.Created).Truncate(time.Microsecond)
	re.rec.Steps[i] = StepState{Mark: m, At: min(max(0, at), maxAt)}
}

func (re *resolution) forward() string {
	pivot := re.rec.Plan.pivot()
	switch re.do {
	case ActionRetry:
		for _, i := range re.blocked {
			if re.audit.Step == "" || i == re.step {
				re.reopen(i)
			}
		}
	case ActionSkip:
		re.set(re.step, Skipped)
	case ActionForceApplied:
		re.set(re.step, Done)
	default: // ActionForceNotApplied
		if re.rec.Steps[re.step].Mark == Done {
			return "it is known to have taken effect"
		}
		failed := re.rec.Error
		re.set(re.step, NotApplied)
		if !re.rec.irreversible() {
			re.goBack(re.name(), failed)
			return ""
		}
		if re.step < pivot {
			return "the saga cannot go back any more, as a step from the pivot on has been begun"
		}
		re.rec.Steps[re.step] = StepState{Mark: Open}
	}
	re.goOn()
	return ""
}

// reopen makes a step be attempted again. One that is Done is in the way if what it
// wrote into the data could not be kept: it is in doubt then, so that it is verified or
// repeated if that does no harm.
func (re *resolution) reopen(i int) {
	s := &re.rec.Steps[i]
	s.Attempts = 0
	switch kind := re.rec.Plan[i].Kind; {
	case s.Mark == NotApplied, s.Mark == Done && kind == KindPure:
		s.Mark, s.At = Open, 0
	case s.Mark == Done && (kind == KindSleep || kind == KindAwait || kind == KindChild):
		s.Mark = Waiting
	case s.Mark == Done:
		s.Mark = Maybe
	}
}

// goOn lets the saga go forward, unless a person has yet to say what became of a step
// that ran at the same time. A doubt may be attempted with the other; what was refused is not:
//
//	two steps behind the pivot run at the same time; one fails, and the other is refused;
//	a person retries the first; the saga is completed, and the other was never done.
func (re *resolution) goOn() {
	for _, i := range re.blocked {
		m := re.rec.Steps[i].Mark
		if i != re.step && (m == NotApplied || m == Maybe && re.do != ActionRetry) {
			re.rec.Failed = re.rec.Plan[i].Name
			return
		}
	}
	re.rec.Status, re.rec.Failed, re.rec.Error = Running, "", ""
}

func (re *resolution) back() string {
	switch re.do {
	case ActionRetry:
		for _, i := range re.blocked {
			if re.audit.Step == "" || i == re.step {
				re.undoAgain(i)
			}
		}
	case ActionSkip:
		re.set(re.step, Skipped)
	case ActionForceApplied:
		re.set(re.step, Undone)
	default:
		return "it goes back already: retry the compensation or skip it"
	}
	if re.rec.at() < 0 && re.rec.leftover() >= 0 {
		return "" // it is still stuck, at another
	}
	re.rec.Status = Compensating
	re.rec.Error = strings.TrimPrefix(re.rec.Error, gaveUp)
	return ""
}

// undoAgain brings back a step whose compensation was given up. Nobody knows what
// that has come to, but where it was rolled back.
func (re *resolution) undoAgain(i int) {
	s := &re.rec.Steps[i]
	s.Attempts = 0
	switch {
	case s.Mark == UndoFailed && re.rec.Plan[i].Tx:
		s.Mark = Done
	case s.Mark == UndoFailed:
		s.Mark = Maybe
	}
}

func (re *resolution) cancel() string {
	switch {
	case re.rec.Undoing:
		return "it goes back already"
	case re.rec.irreversible():
		return "it cannot go back any more, as a step from the pivot on has been begun; force-not-applied says that a pivot has not happened"
	case re.rec.waitsForChild():
		re.goOn() // the engine cancels the child first
		re.rec.Error = cancelledBy + re.audit.Reason
		return ""
	}
	re.goBack(re.rec.Failed, cancelledBy+re.audit.Reason)
	return ""
}

// cancelledBy is how the error of a saga begins that a person has cancelled, also while it
// waits for its child. It is written with the history:
//
//	the history says that a person has cancelled the saga; before the signal is sent, which
//	is another write, his process dies, or the child ends: the saga goes on, and pays.
const cancelledBy = "it was cancelled: "

// cancelled reports whether the saga is to go back when nothing is under way.
func (r *Record) cancelled() bool { return !r.Undoing && strings.HasPrefix(r.Error, cancelledBy) }

// goBack makes the saga undo what it has done.
func (re *resolution) goBack(step, reason string) {
	r := re.rec
	r.Status, r.Undoing, r.Failed, r.Error = Compensating, true, step, reason
	for i := range r.Steps {
		r.Steps[i].Attempts = 0
	}
}

// waitsForChild reports whether there is another saga that may be under way for it.
func (r *Record) waitsForChild() bool {
	for i, s := range r.Steps {
		if (s.Mark == Waiting || s.Mark == Maybe) && r.Plan[i].Kind == KindChild {
			return true
		}
	}
	return false
}
