package saga

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Status says where a saga stands.
type Status uint8

// The statuses. The last three are ends; from Stuck a person can bring a saga back.
const (
	Running      Status = iota + 1 // steps are executed
	Compensating                   // completed steps are undone
	Suspended                      // it waits for a time, for a signal, or for a process that knows its steps
	Completed                      // every step is done
	Compensated                    // it has failed, and everything is undone
	Stuck                          // a person is needed: see [Admin]
)

var statuses = [...]string{"", "RUNNING", "COMPENSATING", "SUSPENDED", "COMPLETED", "COMPENSATED", "STUCK"}

// String returns the status in upper case, as it is stored.
func (s Status) String() string {
	if int(s) < len(statuses) && s > 0 {
		return statuses[s]
	}
	return fmt.Sprintf("STATUS(%d)", uint8(s))
}

// Over reports whether nothing more happens by itself.
func (s Status) Over() bool { return s >= Completed }

// ended reports whether nothing more happens at all.
func (s Status) ended() bool { return s.Over() && s != Stuck }

// MarshalText returns [Status.String].
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what [Status.String] wrote.
func (s *Status) UnmarshalText(text []byte) error {
	i := slices.Index(statuses[1:], string(text))
	if i < 0 {
		return fmt.Errorf("saga: unknown status %q", text)
	}
	*s = Status(i + 1)
	return nil
}

// Mark says what is known of one step.
type Mark byte

// The marks.
const (
	Open       Mark = 'O' // not begun, or begun by an owner that has died: then nobody knows
	Waiting    Mark = 'W' // a Sleep, an Await or a Child has begun
	Failed     Mark = 'F' // an attempt has returned an error: it is taken not to have happened, and undone in case it has
	Maybe      Mark = 'M' // an attempt has ended so that nobody knows whether it took effect
	Done       Mark = 'D' // it has taken effect
	NotApplied Mark = 'N' // it has not, and will not
	Undone     Mark = 'U' // it was compensated
	UndoFailed Mark = 'X' // its compensation was given up: a person is needed
	Skipped    Mark = 'S' // a person has passed over it, or over its compensation: it is left as it is
)

var marks = map[Mark]string{
	Open: "open", Waiting: "waiting", Failed: "failed", Maybe: "maybe applied", Done: "done", NotApplied: "not applied", Undone: "undone", UndoFailed: "undo failed",
	Skipped: "skipped",
}

// String returns the mark in words.
func (m Mark) String() string { return marks[m] }

// StepState is the progress of one step.
type StepState struct {
	Mark     Mark
	Attempts int // of its execution or, once the saga compensates, of its compensation
	// At is when the mark was set, since the saga was created; for a Waiting
	// step, when its wait ends. In microseconds.
	At time.Duration
}

// Progress is the state of each step of a plan, in its order.
type Progress []StepState

// AppendText appends the progress as text, a word a step: its mark, its time in
// microseconds and, if it has some, its attempts: "D812 D1650*3 O".
func (p Progress) AppendText(b []byte) ([]byte, error) {
	for i, s := range p {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, byte(s.Mark))
		if s.At != 0 {
			b = strconv.AppendInt(b, s.At.Microseconds(), 10)
		}
		if s.Attempts > 0 {
			b = append(b, '*')
			b = strconv.AppendInt(b, int64(s.Attempts), 10)
		}
	}
	return b, nil
}

var errProgress = errors.New("saga: malformed progress")

// UnmarshalText reads what [Progress.AppendText] wrote.
func (p *Progress) UnmarshalText(text []byte) error {
	words := strings.Fields(string(text))
	out := make(Progress, len(words))
	for i, word := range words {
		s := StepState{Mark: Mark(word[0])}
		if marks[s.Mark] == "" {
			return fmt.Errorf("%w: %q", errProgress, word)
		}
		at, attempts, _ := strings.Cut(word[1:], "*")
		micros, err1 := number(at)
		n, err2 := number(attempts)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("%w: %q: %w", errProgress, word, err)
		}
		s.At, s.Attempts = time.Duration(micros)*time.Microsecond, int(n)
		out[i] = s
	}
	*p = out
	return nil
}

// maxAt is the latest time that a [StepState] can have, 285 years after its saga began:
// as microseconds, a number of 53 bits fits a time.Duration.
const (
	numberBits = 53
	maxAt      = (1<<numberBits - 1) * time.Microsecond
)

func number(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, numberBits)
	return int64(n), err
}

// Record is a saga as a [Store] keeps it.
type Record struct {
	ID          string
	BusinessID  string // what the saga is about, for people; may be empty
	Definition  string // its name
	Version     int    // of the definition
	Plan        Plan   // its steps, as they were when the saga began
	Fingerprint [32]byte
	Parent      string // id of the saga that waits for this one; empty: none

	Status  Status
	Undoing bool     // it goes back, also while it is Suspended or Stuck
	Steps   Progress // one for each of Plan
	Failed  string   // the step that made it fail; empty: none has
	Error   string   // what is wrong, the latest
	Crashes int      // owners that died in a row without finishing a step
	Data    []byte   // the caller's, as JSON
	// DeadlineAfter is how long after Created the saga goes back if it has not come to
	// its pivot; 0: never. In microseconds.
	DeadlineAfter time.Duration

	Revision int64 // grows with each write of its owner, or of a person
	Token    int64 // grows with each owner
	Owner    string

	Created, Updated time.Time // by the store's clock
	Signals          Signals   // those that have come, by name
	Events           []Event   // only where [Filter.Events] asks for them
}

// Signals are payloads by their names, as JSON.
type Signals map[string][]byte

// Step returns the name of the step that is executed or undone next, "" if none is.
func (r *Record) Step() string {
	if i := r.at(); i >= 0 {
		return r.Plan[i].Name
	}
	return ""
}

// at is the index of that step, or -1.
func (r *Record) at() int {
	if !r.Undoing {
		return r.firstAhead()
	}
	for i, s := range slices.Backward(r.Steps) {
		if r.Plan[i].Undo && s.happened() {
			return i
		}
	}
	return -1
}

// ahead reports whether the step is still to be done.
func (s StepState) ahead() bool {
	return s.Mark == Open || s.Mark == Waiting || s.Mark == Failed || s.Mark == Maybe
}

// happened reports whether the step has, or may have, an effect that stands.
func (s StepState) happened() bool { return s.Mark == Done || s.Mark == Failed || s.Mark == Maybe }

// Event is a line of a saga's history. Steps that just succeed leave none: their
// times are in [Record.Steps].
type Event struct {
	At      time.Time // by the store's clock; the store sets it
	Kind    EventKind
	Step    string
	Attempt int
	Actor   string // who did it, if a person did
	Text    string // an error or a reason
}

// EventKind is what has happened.
type EventKind string

// The kinds of events.
const (
	EventRetry      EventKind = "retry"       // an attempt has failed and another follows
	EventFailed     EventKind = "failed"      // a step has failed for good, or was refused
	EventVerified   EventKind = "verified"    // the provider was asked what became of an attempt
	EventUndoFailed EventKind = "undo failed" // a compensation was given up
	EventCrashed    EventKind = "crashed"     // an owner has died, or has let its lease run out
	EventSuspended  EventKind = "suspended"
	EventStuck      EventKind = "stuck"
	EventCancelled  EventKind = "cancelled"
	EventDeadline   EventKind = "deadline"
	EventResolved   EventKind = "resolved" // by a person
)

// Message is what a step publishes, see [Publish]; one whose topic or payload is out of
// bounds is refused with an [*InputError].
type Message struct {
	ID      int64 // of the store; grows within a saga
	SagaID  string
	Step    string
	Topic   string // 1 to 255 bytes of text without control characters
	Key     string // stable: a message that is delivered again has the same
	Payload []byte // 1 MiB at most
}

// firstAhead is the index of the first step that is still to be done, or -1.
func (r *Record) firstAhead() int { return slices.IndexFunc(r.Steps, StepState.ahead) }
