package sagatest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/safetill/safetill/saga"
)

// model is the contract in its plainest form: one map and no clock. Its leases
// outlive the test, and what is due later is so in an hour.
type model struct{ sagas map[string]*modelSaga }

type modelSaga struct {
	rec     saga.Record
	due     bool // it can be claimed
	signals map[string]string
	events  int
}

func (m *model) create(r *saga.Record) (mine bool, err error) {
	s := m.sagas[r.ID]
	switch {
	case s == nil:
		m.sagas[r.ID] = &modelSaga{rec: *copied(r), due: r.Owner == "", signals: map[string]string{}}
		return r.Owner != "", nil
	case s.rec.Fingerprint != r.Fingerprint:
		return false, saga.ErrConflict
	}
	return r.Owner != "" && s.rec.Owner == r.Owner && s.rec.Token == r.Token && s.rec.Revision == 0, nil
}

func (m *model) save(w *saga.Write) error {
	s := m.sagas[w.Record.ID]
	switch {
	case s == nil || s.rec.Token != w.Record.Token:
		return saga.ErrFenced
	case s.rec.Revision == w.Record.Revision:
		return nil
	case s.rec.Revision != w.Record.Revision-1:
		return saga.ErrFenced
	}
	owner := s.rec.Owner
	s.rec = *copied(w.Record)
	s.rec.Owner = owner
	s.events += len(w.Events)
	switch {
	case s.rec.Status.Over():
		s.rec.Owner, s.due = "", false
	case w.Release:
		s.rec.Owner, s.due = "", w.Due == 0 || len(s.signals) > w.Seen
	}
	return nil
}

func (m *model) claim(owner string, ids []string) (claimed []string) {
	for id, s := range m.sagas {
		if s.due && (ids == nil || slices.Contains(ids, id)) {
			s.due, s.rec.Owner = false, owner
			s.rec.Token++
			claimed = append(claimed, id)
		}
	}
	slices.Sort(claimed)
	return claimed
}

func (m *model) deliver(id, name, payload string) error {
	s := m.sagas[id]
	if s == nil {
		return saga.ErrNotFound
	}
	have, there := s.signals[name]
	switch {
	case there && have == payload:
		return nil
	case s.rec.Status == saga.Completed || s.rec.Status == saga.Compensated:
		return saga.ErrOver
	case there:
		return saga.ErrConflict
	}
	s.signals[name] = payload
	if s.rec.Owner == "" && s.rec.Status != saga.Stuck {
		s.due = true
	}
	return nil
}

// randomOperationsAgreeWithAModel: every operation, in random order, with repeats,
// stale tokens and revisions.
func randomOperationsAgreeWithAModel(s *suite) {
	seed := rand.Uint64()
	defer func() {
		if s.Failed() {
			s.Logf("seed %d", seed)
		}
	}()
	d := &driver{suite: s, rand: rand.New(rand.NewPCG(seed, 0)), m: &model{sagas: map[string]*modelSaga{}}}
	ops := []func(){d.create, d.save, d.save, d.save, d.save, d.claim, d.deliver, d.renew}
	for range 400 {
		ops[d.rand.IntN(len(ops))]()
		if d.rand.IntN(10) == 0 {
			d.compare()
		}
	}
	d.compare()
}

// driver does the same to a store and to the model.
type driver struct {
	*suite

	rand *rand.Rand
	m    *model
	last *saga.Write // that was accepted, to be repeated
}

func (d *driver) name() string { return string(rune('a' + d.rand.IntN(8))) }

func (d *driver) create() {
	r := d.record(d.name(), []string{"", "v", "w"}[d.rand.IntN(3)])
	if d.rand.IntN(8) == 0 {
		r.Fingerprint[0]++
	}
	mine, err := d.m.create(r)
	c := d.suite.create(long, r)[0]
	d.is(c.Err, err)
	d.equal("mine", c.Mine, mine)
}

func (d *driver) save() {
	known := slices.Sorted(maps.Keys(d.m.sagas))
	if len(known) == 0 {
		return
	}
	s := d.m.sagas[known[d.rand.IntN(len(known))]]
	if s.rec.Owner == "" && d.rand.IntN(4) > 0 {
		return // a person's write
	}
	w := next(&s.rec)
	r := w.Record
	r.Status = saga.Status(1 + d.rand.IntN(6))
	if r.Status.Over() && d.rand.IntN(3) > 0 {
		r.Status = saga.Running
	}
	r.Steps[d.rand.IntN(len(r.Steps))] = saga.StepState{Mark: saga.Done, Attempts: d.rand.IntN(3), At: time.Duration(d.rand.IntN(1000)) * time.Microsecond}
	r.Undoing, r.Crashes, r.Failed, r.Error = d.rand.IntN(2) == 0, d.rand.IntN(3), d.name(), d.name()
	r.Data = []byte(`{"n":` + strconv.Itoa(d.rand.IntN(1000)) + `}`)
	r.Revision += int64([]int{0, 0, 0, 0, 0, -2, 1}[d.rand.IntN(7)])
	r.Token += int64([]int{0, 0, 0, 0, 0, 0, -1, 1}[d.rand.IntN(8)])
	w.Release = d.rand.IntN(3) == 0 || s.rec.Owner == ""
	w.Due, w.Seen = []time.Duration{0, -1, time.Hour}[d.rand.IntN(3)], d.rand.IntN(3)
	for range d.rand.IntN(3) {
		w.Events = append(w.Events, saga.Event{Kind: saga.EventRetry, Step: "charge"})
	}
	if d.last != nil && d.rand.IntN(8) == 0 {
		w = d.last
	}
	if w.Record.Revision < 1 {
		return // it is no write
	}
	s = d.m.sagas[w.Record.ID]
	before, events := s.rec, s.events
	want := d.m.save(w)
	if got := d.suite.save(w); !errors.Is(got, want) {
		d.Fatalf("got %v, want %v: %v, token %d, revision %d, release %v, is on top of %v, token %d, revision %d, owner %q, events %d, signals %d", got, want,
			w.Record.Status, w.Record.Token, w.Record.Revision, w.Release, before.Status, before.Token, before.Revision, before.Owner, events, len(s.signals))
	}
	if want == nil {
		d.last = w
		d.signals(w.Signals, d.m.sagas[w.Record.ID])
	}
}

func (d *driver) signals(got saga.Signals, s *modelSaga) {
	d.equal("signals", len(got), len(s.signals))
	for name, payload := range s.signals {
		if !bytes.Equal(got[name], []byte(payload)) {
			d.Fatalf("signal %s is %s, not %s", name, got[name], payload)
		}
	}
}

func (d *driver) claim() {
	var ids []string
	if d.rand.IntN(2) == 0 {
		ids = []string{d.id(d.name()), d.id(d.name())}
	}
	owner := []string{"v", "w"}[d.rand.IntN(2)]
	var got []string
	for _, c := range d.suite.claim(owner, saga.Claim{IDs: ids}) {
		got = append(got, c.Record.ID)
		if c.Crashed {
			d.Fatalf("%s has crashed", c.Record.ID)
		}
	}
	slices.Sort(got)
	d.equal("claimed", got, d.m.claim(owner, ids))
}

func (d *driver) deliver() {
	id, name, payload := d.id(d.name()), d.name()[:1], fmt.Sprintf(`{"n":%d}`, d.rand.IntN(2))
	d.is(d.store.Deliver(d.ctx, id, name, []byte(payload)), d.m.deliver(id, name, payload))
}

func (d *driver) renew() {
	l := &saga.Lease{ID: d.id(d.name()), Token: int64(d.rand.IntN(4))}
	d.ok(d.store.Renew(d.ctx, []*saga.Lease{l}, long))
	s := d.m.sagas[l.ID]
	var want error
	if s == nil || s.rec.Token != l.Token || s.rec.Owner == "" {
		want = saga.ErrFenced
	}
	d.is(l.Err, want)
}

func (d *driver) compare() {
	got := d.find(saga.Filter{Definition: d.def, Events: true})
	d.equal("sagas", len(got), len(d.m.sagas))
	for _, r := range got {
		s := d.m.sagas[r.ID]
		d.same(r, &s.rec)
		d.equal("events", len(r.Events), s.events)
		d.signals(r.Signals, s)
	}
}
