package sagatest

import (
	"fmt"
	"strings"
	"time"

	"github.com/safetill/safetill/saga"
)

func createIsIdempotent(s *suite) {
	first := s.create(0, s.record("a", ""))[0]
	if first.Err != nil || first.Mine || first.Record.Created.IsZero() || !first.Record.Updated.Equal(first.Record.Created) {
		s.Fatalf("created: %+v, %+v", first, first.Record)
	}
	other := s.record("a", "")
	other.Data, other.Version = []byte(`{"n":2}`), 4
	again := s.create(0, other)[0]
	if again.Err != nil || again.Mine {
		s.Fatalf("created again: %+v", again)
	}
	s.same(s.one("a"), s.record("a", ""))
	got := s.claimedSoon("w", saga.Claim{}) // it is free at once
	if got.Crashed || got.Record.Token != 1 {
		s.Fatalf("claimed: crashed %v, token %d", got.Crashed, got.Record.Token)
	}
	owned := s.record("a", "w2")
	if c := s.create(long, owned)[0]; c.Err != nil || c.Mine {
		s.Fatalf("created when it has an owner: mine %v, %v", c.Mine, c.Err)
	}
}

func createConflicts(s *suite) {
	s.owned("a", "w", long)
	other := s.record("a", "w")
	other.Fingerprint[5]++
	c := s.create(long, other)[0]
	s.is(c.Err, saga.ErrConflict)
	if c.Mine {
		s.Fatal("another saga is mine")
	}
	s.same(s.one("a"), s.record("a", "w"))
}

func createIsMineAfterALostAnswer(s *suite) {
	s.owned("a", "w", long)
	again := s.create(long, s.record("a", "w"))[0]
	if again.Err != nil || !again.Mine {
		s.Fatalf("repeated: mine %v, %v", again.Mine, again.Err)
	}
	if other := s.create(long, s.record("a", "other"))[0]; other.Err != nil || other.Mine {
		s.Fatalf("by another owner: mine %v, %v", other.Mine, other.Err)
	}
	s.saved(next(s.record("a", "w")))
	if late := s.create(long, s.record("a", "w"))[0]; late.Err != nil || late.Mine {
		s.Fatalf("when something has happened to it: mine %v, %v", late.Mine, late.Err)
	}
	r := s.owned("b", "w", short)
	got := s.claimedSoon("other", saga.Claim{IDs: []string{r.ID}})
	if got.Record.Token != 2 {
		s.Fatalf("token %d", got.Record.Token)
	}
	if late := s.create(long, s.record("b", "w"))[0]; late.Err != nil || late.Mine {
		s.Fatalf("when another owns it: mine %v, %v", late.Mine, late.Err)
	}
}

func createDecidesEachItem(s *suite) {
	s.owned("old", "w", long)
	conflict := s.record("old", "w")
	conflict.Fingerprint[0]++
	got := s.create(long, s.record("new", "w"), conflict, s.record("old", "w"), s.record("free", ""), s.record("free", ""))
	for i, want := range []struct {
		mine bool
		err  error
	}{{true, nil}, {false, saga.ErrConflict}, {true, nil}, {false, nil}, {false, nil}} {
		if got[i].Mine != want.mine {
			s.Fatalf("item %d: mine %v", i, got[i].Mine)
		}
		s.is(got[i].Err, want.err)
	}
	s.ok(s.store.Create(s.ctx, nil))
	s.equal("sagas", s.ids(s.find(saga.Filter{})), "[free new old]")
}

func everythingIsKept(s *suite) {
	r := s.record("a", "w")
	r.ID = s.id("é '\"\\%_" + strings.Repeat("x", 180))
	r.Fingerprint = [32]byte{0, 0xff, '\''}
	r.Data = []byte(`{"text":"é\u0001'\"\\ \ud83d\ude00"}`)
	s.create(long, r)
	got := s.find(saga.Filter{IDs: []string{r.ID}})
	if len(got) != 1 {
		s.Fatalf("found %d", len(got))
	}
	s.same(got[0], r)
	if got[0].Created.IsZero() || got[0].Updated.Before(got[0].Created) || got[0].Events != nil {
		s.Fatalf("found %+v", got[0])
	}
	back := s.record("back", "") // a child that is not to come
	back.Status, back.Undoing, back.Error, back.Fingerprint, back.Data = saga.Compensating, true, "given up", [32]byte{}, []byte("null")
	s.create(0, back)
	s.same(s.one("back"), back)
}

func saveWritesWhatChanges(s *suite) {
	r := s.owned("a", "w", long)
	w := next(r)
	w.Record.Status, w.Record.Undoing, w.Record.Failed = saga.Compensating, true, "charge"
	w.Record.Error, w.Record.Crashes, w.Record.Data = "declined", 2, []byte(`{"n":2}`)
	w.Record.Steps[1] = saga.StepState{Mark: saga.Maybe, Attempts: 3, At: 1234 * time.Microsecond}
	w.Record.Steps[0].Mark = saga.Done
	want := copied(w.Record)
	w.Record.BusinessID, w.Record.Version, w.Record.Parent = "other", 9, "other" // the rest stays
	s.saved(w)
	if w.Record.Updated.IsZero() || w.Record.Updated.Before(r.Created) {
		s.Fatalf("updated %v", w.Record.Updated)
	}
	s.same(s.one("a"), want)
	w.Record.Steps[1].Mark = saga.Undone // what the caller does to it later is not the store's
	s.same(s.one("a"), want)
}

func saveRepeatedIsOne(s *suite) {
	r := s.owned("a", "w", long)
	w := next(r)
	w.Record.Steps[0].Mark = saga.Done
	w.Events = []saga.Event{{Kind: saga.EventRetry, Step: "charge", Attempt: 1, Text: "down"}}
	for range 3 {
		s.saved(w)
	}
	got := s.one("a")
	s.same(got, w.Record)
	if len(got.Events) != 1 {
		s.Fatalf("%d events of one", len(got.Events))
	}
	over := next(w.Record)
	over.Record.Status = saga.Completed
	for range 2 {
		s.saved(over)
	}
	if got := s.one("a"); got.Revision != 2 || got.Status != saga.Completed {
		s.Fatalf("revision %d, %v", got.Revision, got.Status)
	}
}

func saveIsFencedByRevision(s *suite) {
	r := s.owned("a", "w", long)
	one := s.saved(next(r))
	two := s.saved(next(one))
	for _, stale := range []int64{0, 1, 4} {
		w := next(r)
		w.Record.Revision, w.Record.Error = stale, "stale"
		w.Events = []saga.Event{{Kind: saga.EventRetry}}
		s.is(s.save(w), saga.ErrFenced)
	}
	got := s.one("a")
	s.same(got, two)
	if len(got.Events) != 0 {
		s.Fatal("a write that was fenced has left an event")
	}
	w := next(s.record("nobody", "w"))
	s.is(s.save(w), saga.ErrFenced)
}

func saveIsFencedByToken(s *suite) {
	r := s.owned("a", "w", short)
	s.saved(next(r))
	r.Revision = 1
	got := s.claimedSoon("other", saga.Claim{})
	if got.Record.Token != 2 || got.Record.Revision != 1 || !got.Crashed {
		s.Fatalf("claimed: %+v of %+v", got, got.Record)
	}
	s.is(s.save(next(r)), saga.ErrFenced)
	repeat := next(r)
	repeat.Record.Revision = 1
	s.is(s.save(repeat), saga.ErrFenced) // it was written, and is no more the last word
	over := next(r)
	over.Record.Status = saga.Completed
	s.is(s.save(over), saga.ErrFenced)
	forged := next(r)
	forged.Record.Token = 3
	s.is(s.save(forged), saga.ErrFenced)
	s.same(s.one("a"), got.Record)
	s.saved(next(got.Record))
}

func saveDecidesEachItem(s *suite) {
	a, b, c := s.owned("a", "w", long), s.owned("b", "w", long), s.owned("c", "w", long)
	stale := next(b)
	stale.Record.Token = 7
	writes := []*saga.Write{next(a), stale, next(c), next(s.record("nobody", "w"))}
	s.ok(s.store.Save(s.ctx, writes))
	for i, want := range []error{nil, saga.ErrFenced, nil, saga.ErrFenced} {
		s.is(writes[i].Err, want)
	}
	s.equal("revisions", fmt.Sprint(s.one("a").Revision, s.one("b").Revision, s.one("c").Revision), "1 0 1")
	s.ok(s.store.Save(s.ctx, nil))
}

func saveKeepsEvents(s *suite) {
	r := s.owned("a", "w", long)
	first := next(r)
	first.Events = []saga.Event{
		{Kind: saga.EventRetry, Step: "charge", Attempt: 1, Text: "é'\n"},
		{Kind: saga.EventVerified, Step: "charge", Attempt: 2},
	}
	s.saved(first)
	second := next(first.Record)
	second.Events = []saga.Event{{Kind: saga.EventResolved, Actor: "ann", Text: "why"}}
	s.saved(second)
	got := s.one("a").Events
	want := append(append([]saga.Event{}, first.Events...), second.Events...)
	if len(got) != len(want) {
		s.Fatalf("%d events, not %d", len(got), len(want))
	}
	for i, ev := range got {
		if ev.At.Before(r.Created) {
			s.Fatalf("event %d is of %v", i, ev.At)
		}
		ev.At, want[i].At = time.Time{}, time.Time{}
		s.equal("event", ev, want[i])
	}
	if got := s.find(saga.Filter{}); len(got) != 1 || got[0].Events != nil {
		s.Fatal("events that nobody asked for")
	}
}

func saveAnswersSignals(s *suite) {
	r := s.owned("a", "w", long)
	w := next(r)
	r = s.saved(w)
	if w.Signals != nil {
		s.Fatalf("signals %v", w.Signals)
	}
	s.ok(s.store.Deliver(s.ctx, r.ID, "paid", []byte(`{"by":"card"}`)))
	w = next(r)
	for range 2 { // also to a repeat
		s.saved(w)
		if len(w.Signals) != 1 || string(w.Signals["paid"]) != `{"by":"card"}` {
			s.Fatalf("signals %v", w.Signals)
		}
	}
	if got := s.one("a"); string(got.Signals["paid"]) != `{"by":"card"}` || len(got.Signals) != 1 {
		s.Fatalf("found signals %v", got.Signals)
	}
}

func releaseIsDueAgain(s *suite) {
	now, later := next(s.owned("now", "w", long)), next(s.owned("later", "w", long))
	now.Release, later.Release, later.Due = true, true, short
	s.saved(now)
	if got := s.claimedSoon("w", saga.Claim{}); got.Record.ID != now.Record.ID || got.Crashed || got.Record.Crashes != 0 {
		s.Fatalf("claimed: %+v of %+v", got, got.Record)
	}
	begun := time.Now()
	s.saved(later)
	got := s.claimedSoon("w", saga.Claim{})
	if got.Record.ID != later.Record.ID || got.Crashed || got.Record.Token != 2 {
		s.Fatalf("claimed: %+v of %+v", got, got.Record)
	}
	if d := time.Since(begun); d < short/2 {
		s.Fatalf("due %v after it was released for %v", d, short)
	}
}

func releaseForASignal(s *suite) {
	r := s.owned("a", "w", short)
	w := next(r)
	w.Record.Status, w.Release, w.Due = saga.Suspended, true, -1
	s.saved(w)
	time.Sleep(2 * short) // its lease is over, and means nothing
	s.none(s.claim("w", saga.Claim{}))
	s.none(s.claim("w", saga.Claim{IDs: []string{r.ID}}))
	if owner := s.one("a").Owner; owner != "" {
		s.Fatalf("owner %q", owner)
	}
	s.ok(s.store.Deliver(s.ctx, r.ID, "paid", []byte("{}")))
	got := s.claimedSoon("w", saga.Claim{})
	if got.Crashed || string(got.Record.Signals["paid"]) != "{}" {
		s.Fatalf("claimed: %+v of %+v", got, got.Record)
	}
	far := next(s.owned("far", "w", long))
	far.Record.Status, far.Release, far.Due = saga.Suspended, true, time.Hour
	s.saved(far)
	s.none(s.claim("w", saga.Claim{}))
	s.ok(s.store.Deliver(s.ctx, far.Record.ID, "paid", []byte("{}")))
	s.claimedSoon("w", saga.Claim{})
}

// A signal that comes between the last look of the owner and its release is not lost.
func releaseWithASignalUnseen(s *suite) {
	r := s.owned("a", "w", long)
	s.ok(s.store.Deliver(s.ctx, r.ID, "paid", []byte("{}")))
	w := next(r)
	w.Record.Status, w.Release, w.Due = saga.Suspended, true, -1
	s.saved(w)
	got := s.claimedSoon("w", saga.Claim{})
	seen := next(got.Record)
	seen.Release, seen.Due, seen.Seen = true, -1, 1
	s.saved(seen)
	s.none(s.claim("w", saga.Claim{}))
}

func overIsReleased(s *suite) {
	for _, status := range []saga.Status{saga.Completed, saga.Compensated, saga.Stuck} {
		w := next(s.owned(status.String(), "w", short))
		w.Record.Status = status
		s.saved(w)
		if got := s.one(status.String()); got.Owner != "" || got.Status != status {
			s.Fatalf("owner %q, %v", got.Owner, got.Status)
		}
	}
	time.Sleep(2 * short)
	s.none(s.claim("w", saga.Claim{}))
}

func stuckCanBeBroughtBack(s *suite) {
	r := s.owned("a", "w", long)
	w := next(r)
	w.Record.Status = saga.Stuck
	r = s.saved(w)
	s.ok(s.store.Deliver(s.ctx, r.ID, "paid", []byte("{}"))) // it takes signals, and stays
	s.none(s.claim("w", saga.Claim{}))
	back := next(s.one("a"))
	back.Record.Status, back.Release = saga.Running, true
	s.saved(back)
	got := s.claimedSoon("w", saga.Claim{})
	if got.Crashed || len(got.Record.Signals) != 1 {
		s.Fatalf("claimed: %+v of %+v", got, got.Record)
	}
}
