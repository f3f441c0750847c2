package sagatest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/safetill/safetill/saga"
)

// Effects is what the suite needs of the store of a test that is a
// [saga.Transactor]: transactions are of the store's own type. Let open return a
// struct that embeds the store and has these methods.
type Effects interface {
	// Effect does in tx what is there if and only if tx is committed, such as a row.
	Effect(ctx context.Context, tx any, id string) error
	// Effects returns how many of that id there are.
	Effects(ctx context.Context, id string) (int, error)
	// InTx calls work in a transaction of the caller's own, and commits it if work
	// returns nil.
	InTx(ctx context.Context, work func(tx any) error) error
}

// Run holds a store to the contract of [saga.Store] and, if it implements them, of
// [saga.Transactor], for which it must also implement [Effects], of [saga.Outbox] and
// of [saga.Sweeper]. open returns an empty store. It takes some seconds, since leases
// must run out.
func Run(t *testing.T, open func(testing.TB) saga.Store) {
	t.Helper()
	tests := []test{
		{"CreateIsIdempotent", createIsIdempotent},
		{"CreateConflicts", createConflicts},
		{"CreateIsMineAfterALostAnswer", createIsMineAfterALostAnswer},
		{"CreateDecidesEachItem", createDecidesEachItem},
		{"EverythingIsKept", everythingIsKept},
		{"SaveWritesWhatChanges", saveWritesWhatChanges},
		{"SaveRepeatedIsOne", saveRepeatedIsOne},
		{"SaveIsFencedByRevision", saveIsFencedByRevision},
		{"SaveIsFencedByToken", saveIsFencedByToken},
		{"SaveDecidesEachItem", saveDecidesEachItem},
		{"SaveKeepsEvents", saveKeepsEvents},
		{"SaveAnswersSignals", saveAnswersSignals},
		{"ReleaseIsDueAgain", releaseIsDueAgain},
		{"ReleaseForASignal", releaseForASignal},
		{"ReleaseWithASignalUnseen", releaseWithASignalUnseen},
		{"OverIsReleased", overIsReleased},
		{"StuckCanBeBroughtBack", stuckCanBeBroughtBack},
		{"ClaimTakesTheOldestFirst", claimTakesTheOldestFirst},
		{"ClaimSelects", claimSelects},
		{"ClaimAfterALease", claimAfterALease},
		{"ClaimOfAReleasedSagaIsNoCrash", claimOfAReleasedSagaIsNoCrash},
		{"RenewHoldsALease", renewHoldsALease},
		{"DeliverAnswers", deliverAnswers},
		{"FindSelects", findSelects},
		{"WhatIsFoundIsTheReaders", whatIsFoundIsTheReaders},
		{"FindOnManyPages", findOnManyPages},
		{"EndedContextIsAnError", endedContextIsAnError},
		{"LimitsAreBounded", limitsAreBounded},
		{"ManyClaimDisjointSets", manyClaimDisjointSets},
		{"OneOwnerWritesAtATime", oneOwnerWritesAtATime},
		{"RandomOperationsAgreeWithAModel", randomOperationsAgreeWithAModel},
	}
	sample := open(t)
	if _, ok := sample.(saga.Transactor); ok {
		if _, ok := sample.(Effects); !ok {
			t.Errorf("%T is a Transactor, and has not the methods of sagatest.Effects", sample)
		} else {
			tests = append(tests, transactions...)
		}
	}
	if _, ok := sample.(saga.Outbox); ok {
		tests = append(tests, outbox...)
	}
	if _, ok := sample.(saga.Sweeper); ok {
		tests = append(tests, test{"SweepLeavesWhatMatters", sweepLeavesWhatMatters})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			// A store that deadlocks fails here instead of hanging the run.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			test.run(&suite{TB: t, ctx: ctx, store: open(t), def: "d-" + rand.Text()})
		})
	}
}

type test struct {
	name string
	run  func(*suite)
}

const (
	long  = time.Minute           // a lease that outlives the test on a slow machine
	short = 60 * time.Millisecond // one that the test waits for
)

// suite is one test's store and a definition that no other test has.
type suite struct {
	testing.TB

	ctx   context.Context //nolint:containedctx // of the test
	store saga.Store
	def   string
}

func (s *suite) id(name string) string { return s.def + "/" + name }

var plan = saga.Plan{
	{Name: "validate", Kind: saga.KindPure},
	{Name: "charge", Kind: saga.KindStep, Undo: true},
	{Name: "book", Kind: saga.KindStep, Tx: true, Undo: true},
	{Name: "left", Kind: saga.KindRetriable, Group: 1},
	{Name: "right", Kind: saga.KindRetriable, Group: 1},
}

// record is a new saga. owner is empty for one that is free.
func (s *suite) record(name, owner string) *saga.Record {
	r := &saga.Record{
		ID: s.id(name), BusinessID: "b-" + name, Definition: s.def, Version: 3, Plan: plan,
		Fingerprint: sha256.Sum256([]byte(name)), Parent: "p-" + name,
		Status: saga.Running, Steps: make(saga.Progress, len(plan)), Data: []byte(`{"n":1}`),
		DeadlineAfter: 90 * time.Second, Owner: owner,
	}
	for i := range r.Steps {
		r.Steps[i].Mark = saga.Open
	}
	if owner != "" {
		r.Token = 1
	}
	return r
}

func (s *suite) create(lease time.Duration, records ...*saga.Record) []*saga.Create {
	s.Helper()
	items := make([]*saga.Create, len(records))
	for i, r := range records {
		items[i] = &saga.Create{Record: r, Lease: lease}
	}
	s.ok(s.store.Create(s.ctx, items))
	return items
}

// owned creates a saga that belongs to owner.
func (s *suite) owned(name, owner string, lease time.Duration) *saga.Record {
	s.Helper()
	r := s.record(name, owner)
	c := s.create(lease, r)[0]
	if c.Err != nil || !c.Mine {
		s.Fatalf("created: mine %v, %v", c.Mine, c.Err)
	}
	return r
}

// copied is a record that shares nothing with r that a store writes.
func copied(r *saga.Record) *saga.Record {
	c := *r
	c.Steps, c.Data = slices.Clone(r.Steps), bytes.Clone(r.Data)
	return &c
}

// next is a write of the revision behind r.
func next(r *saga.Record) *saga.Write {
	r = copied(r)
	r.Revision++
	return &saga.Write{Record: r}
}

func (s *suite) save(w *saga.Write) error {
	s.Helper()
	s.ok(s.store.Save(s.ctx, []*saga.Write{w}))
	return w.Err
}

// saved writes what must be written, and returns the record of it.
func (s *suite) saved(w *saga.Write) *saga.Record {
	s.Helper()
	if err := s.save(w); err != nil {
		s.Fatalf("a save of revision %d by token %d: %v", w.Record.Revision, w.Record.Token, err)
	}
	return w.Record
}

func (s *suite) claim(owner string, c saga.Claim) []saga.Claimed {
	s.Helper()
	c.Owner, c.Lease, c.Limit = owner, cmp.Or(c.Lease, long), cmp.Or(c.Limit, 100)
	if c.Definitions == nil {
		c.Definitions = []string{s.def}
	}
	got, err := s.store.Claim(s.ctx, c)
	s.ok(err)
	for _, g := range got {
		if g.Record.Owner != owner || g.Record.Token < 1 || g.Now.IsZero() || g.Record.Created.After(g.Now) {
			s.Fatalf("claimed by %s: %+v of %+v", owner, g, g.Record)
		}
	}
	return got
}

// claimedSoon claims again and again until there is one.
func (s *suite) claimedSoon(owner string, c saga.Claim) saga.Claimed {
	s.Helper()
	for {
		if got := s.claim(owner, c); len(got) > 0 {
			if len(got) > 1 {
				s.Fatalf("claimed %d sagas, not 1", len(got))
			}
			return got[0]
		}
		s.pause()
	}
}

func (s *suite) pause() {
	s.Helper()
	select {
	case <-s.ctx.Done():
		s.Fatalf("in vain: %v", s.ctx.Err())
	case <-time.After(5 * time.Millisecond):
	}
}

func (s *suite) none(got []saga.Claimed) {
	s.Helper()
	if len(got) > 0 {
		s.Fatalf("claimed %d sagas, the first %+v, and none is due", len(got), got[0].Record)
	}
}

func (s *suite) find(f saga.Filter) []*saga.Record {
	s.Helper()
	if f.Definition == "" && f.IDs == nil {
		f.Definition = s.def
	}
	var out []*saga.Record
	for r, err := range s.store.Find(s.ctx, f) {
		s.ok(err)
		out = append(out, r)
	}
	return out
}

func (s *suite) one(name string) *saga.Record {
	s.Helper()
	got := s.find(saga.Filter{IDs: []string{s.id(name)}, Events: true})
	if len(got) != 1 {
		s.Fatalf("found %d sagas of one id", len(got))
	}
	return got[0]
}

func (s *suite) ids(got []*saga.Record) []string {
	out := []string{}
	for _, r := range got {
		out = append(out, r.ID[len(s.def)+1:])
	}
	return out
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("unexpected: %v", err)
	}
}

func (s *suite) is(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("got %v, want %v", err, want)
	}
}

func (s *suite) equal(what string, got, want any) {
	s.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		s.Fatalf("%s: got %s, want %s", what, g, w)
	}
}

// same compares what a store keeps of a saga, but for its times and its events.
func (s *suite) same(got, want *saga.Record) {
	s.Helper()
	line := func(r *saga.Record) string {
		var data bytes.Buffer
		s.ok(json.Compact(&data, r.Data))
		steps, err := r.Steps.AppendText(nil)
		s.ok(err)
		text, err := r.Plan.AppendText(nil)
		s.ok(err)
		return fmt.Sprint(r.ID, " ", r.BusinessID, " ", r.Definition, " ", r.Version, " ", string(text), " ", r.Fingerprint, " ", r.Parent,
			" ", r.Status, r.Undoing, " ", string(steps), " ", r.Failed, " ", r.Error, " ", r.Crashes, " ", data.String(), r.DeadlineAfter,
			" revision ", r.Revision, " token ", r.Token, " owner ", r.Owner)
	}
	s.equal("record", line(got), line(want))
}
