package pgsaga

import (
	"math"
	"sync"
	"time"

	"github.com/safetill/safetill/saga"
)

// item is one write on its way through the database, a saga's first if it has a
// birth. It is made by its caller and refers to nothing of his that he may change
// when he has hung up.
type item struct {
	call *call
	id   string
	size int // bytes, about

	status    string
	undoing   bool
	progress  string
	failed    string
	error     string
	crashes   int64
	data      string
	token     int64
	revision  int64
	due, seen int64 // of a save: see keep

	birth    *birth
	events   []saga.Event
	messages []saga.Message

	// The answer.
	err     error
	lost    bool // err says nothing about it: its fate is not known
	mine    bool
	at      time.Time // when it was written
	signals saga.Signals
}

// spare are items that were answered: else they were a sixth of what is allocated.
var spare = sync.Pool{New: func() any { return &item{} }}

// free is called by who has made the item and has read its answer. Nobody else has it
// any more: it has left the queue, and its batch is done.
func (i *item) free() {
	*i = item{}
	spare.Put(i)
}

// birth is what of a saga is written once.
type birth struct {
	business, definition, plan, parent, owner string
	version                                   int64
	fingerprint                               [32]byte
	deadline, lease                           int64 // microseconds
}

// What becomes of the time of wake-up. 0 and above: it is so many microseconds away.
const (
	sleep int64 = -1 // until a signal comes
	keep  int64 = -2 // the owner stays
	over  int64 = -3 // the saga was completed or compensated
	stuck int64 = -4 // so is this one, but it is not to be swept
)

// state fills in what every write has.
func (i *item) state(r *saga.Record) error {
	i.id, i.token, i.revision = r.ID, r.Token, r.Revision
	if !known(r.Status) {
		return refuse("status", "is not one of the statuses")
	}
	if !fits(r.Crashes) {
		return refuse("crashes", "is not a number of 31 bits")
	}
	i.status, i.undoing, i.crashes = r.Status.String(), r.Undoing, int64(r.Crashes)
	var buf [256]byte
	progress, err := r.Steps.AppendText(buf[:0])
	if err != nil {
		return err
	}
	i.progress, i.failed, i.error, i.data = string(progress), r.Failed, clean(r.Error), string(r.Data)
	i.size = 256 + len(i.progress) + len(i.error) + len(i.data)
	return firstError(checkID("id", r.ID), checkText("failed", r.Failed), checkText("steps", i.progress), checkJSON("data", r.Data))
}

// fits tells whether n fits its column: the driver refuses what does not, and the
// whole batch with it.
func fits(n int) bool { return n >= 0 && n <= math.MaxInt32 }

func known(s saga.Status) bool { return s >= saga.Running && s <= saga.Stuck }

func newBirth(c *saga.Create) (*item, error) {
	r, i := c.Record, spare.Get().(*item)
	if r == nil {
		return nil, refuse("record", "is missing")
	}
	plan, err := r.Plan.AppendText(nil)
	if err != nil {
		return nil, err
	}
	i.birth = &birth{
		business: r.BusinessID, definition: r.Definition, plan: string(plan), parent: r.Parent, owner: r.Owner,
		version: int64(r.Version), fingerprint: r.Fingerprint,
		deadline: r.DeadlineAfter.Microseconds(),
	}
	if r.Owner != "" {
		i.birth.lease = c.Lease.Microseconds()
	}
	err = firstError(i.state(r), checkText("business id", r.BusinessID), checkText("definition", r.Definition),
		checkText("plan", i.birth.plan), checkText("parent", r.Parent), checkText("owner", r.Owner), i.checkOwner(r))
	i.size += len(plan)
	return i, err
}

// checkOwner sees to it that a new saga belongs to nobody, or to its first owner.
func (i *item) checkOwner(r *saga.Record) error {
	switch {
	case r.Revision != 0:
		return refuse("revision", "is not 0")
	case !fits(r.Version):
		return refuse("version", "is not a number of 31 bits")
	case r.DeadlineAfter < 0:
		return refuse("deadline", "is negative")
	case r.Owner == "" && r.Token == 0:
		return nil
	case r.Owner == "" || r.Token != 1:
		return refuse("token", "is not 1 with an owner, 0 without")
	case i.birth.lease < 1000:
		return refuse("lease", "is less than a millisecond")
	}
	return nil
}

func newWrite(w *saga.Write) (*item, error) {
	i := spare.Get().(*item)
	i.due, i.seen = keep, int64(min(w.Seen, math.MaxInt32))
	if w.Record == nil {
		return nil, refuse("record", "is missing")
	}
	switch {
	case w.Record.Status == saga.Stuck:
		i.due = stuck
	case w.Record.Status.Over():
		i.due = over
	case w.Release && w.Due < 0:
		i.due = sleep
	case w.Release:
		i.due = w.Due.Microseconds()
	}
	err := i.state(w.Record)
	i.addEvents(w.Events)
	return i, firstError(err, i.addMessages(w.Messages))
}

func (i *item) addEvents(events []saga.Event) {
	for _, e := range events {
		e.Attempt = min(e.Attempt, math.MaxInt32)
		e.Kind, e.Step, e.Actor, e.Text = saga.EventKind(clean(string(e.Kind))), clean(e.Step), clean(e.Actor), clean(e.Text)
		i.events = append(i.events, e)
		i.size += 128 + len(e.Text)
	}
}

func (i *item) addMessages(messages []saga.Message) error {
	for _, m := range messages {
		m.Payload = append([]byte{}, m.Payload...) // nil would be no payload
		i.messages = append(i.messages, m)
		i.size += 128 + len(m.Payload)
		if err := firstError(checkText("message step", m.Step), checkText("message topic", m.Topic), checkText("message key", m.Key)); err != nil {
			return err
		}
	}
	return nil
}
