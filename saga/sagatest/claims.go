package sagatest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/saga"
)

func claimTakesTheOldestFirst(s *suite) {
	for _, name := range []string{"c", "a", "d", "b"} {
		s.create(0, s.record(name, ""))
		time.Sleep(2 * time.Millisecond) // clocks of stores are that coarse
	}
	s.ok(s.store.Deliver(s.ctx, s.id("c"), "go", []byte("1"))) // which does not lose its turn
	var got []*saga.Record
	for _, c := range s.claim("w", saga.Claim{Limit: 3}) {
		got = append(got, c.Record)
	}
	slices.SortFunc(got, func(a, b *saga.Record) int { return a.Created.Compare(b.Created) })
	s.equal("claimed", s.ids(got), "[c a d]")
	if rest := s.claim("w", saga.Claim{Limit: 3}); len(rest) != 1 || rest[0].Record.ID != s.id("b") {
		s.Fatalf("the rest: %v", rest)
	}
	s.none(s.claim("w", saga.Claim{}))
	for _, name := range []string{"f", "e"} {
		s.create(0, s.record(name, ""))
		time.Sleep(2 * time.Millisecond)
	}
	if one := s.claim("w", saga.Claim{Limit: 1, IDs: []string{s.id("e"), s.id("f")}}); len(one) != 1 || one[0].Record.ID != s.id("f") {
		s.Fatalf("the first of two: %v", one)
	}
}

func claimSelects(s *suite) {
	for _, name := range []string{"a", "b", "c"} {
		s.create(0, s.record(name, ""))
	}
	s.owned("held", "other", long)
	s.none(s.claim("w", saga.Claim{Definitions: []string{s.def + "x"}}))
	s.none(s.claim("w", saga.Claim{Definitions: []string{}}))
	s.none(s.claim("w", saga.Claim{IDs: []string{s.id("held"), s.id("nobody")}}))
	s.none(s.claim("w", saga.Claim{IDs: []string{s.id("a")}, Definitions: []string{s.def + "x"}}))
	got := s.claim("w", saga.Claim{IDs: []string{s.id("b"), s.id("held"), s.id("b")}})
	if len(got) != 1 || got[0].Record.ID != s.id("b") {
		s.Fatalf("claimed %v", got)
	}
	s.none(s.claim("w", saga.Claim{IDs: []string{}}))
	want := s.record("b", "w")
	want.Token = 1
	s.same(got[0].Record, want)
	s.same(s.one("b"), want)
	if got := s.claim("w", saga.Claim{Definitions: []string{s.def + "x", s.def}}); len(got) != 2 {
		s.Fatalf("claimed %d", len(got))
	}
}

func claimAfterALease(s *suite) {
	begun := time.Now() // before the lease, which begins where the store says
	r := s.owned("a", "w", short)
	for owners := 1; owners <= 3; owners++ {
		got := s.claimedSoon("w", saga.Claim{Lease: short}) // the same owner's name is no claim of its own
		want := copied(r)
		want.Token, want.Crashes, want.Owner = int64(owners+1), owners, "w"
		s.same(got.Record, want)
		if d := time.Since(begun); !got.Crashed || d < time.Duration(owners)*short-short/4 {
			s.Fatalf("crashed %v, %v after %d leases of %v", got.Crashed, d, owners, short)
		}
	}
	w := next(s.one("a"))
	w.Record.Crashes = 0
	s.saved(w)
	if got := s.claimedSoon("w", saga.Claim{}); got.Record.Crashes != 1 {
		s.Fatalf("crashes %d", got.Record.Crashes)
	}
}

func claimOfAReleasedSagaIsNoCrash(s *suite) {
	s.owned("a", "w", short)
	got := s.claimedSoon("w", saga.Claim{})
	w := next(got.Record)
	w.Release = true
	s.saved(w)
	got = s.claimedSoon("w", saga.Claim{})
	if got.Crashed || got.Record.Crashes != 1 || got.Record.Token != 3 {
		s.Fatalf("claimed: %+v of %+v", got, got.Record)
	}
}

func renewHoldsALease(s *suite) {
	held, gone := s.owned("held", "w", 4*short), s.owned("gone", "w", short)
	over := s.saved(func() *saga.Write {
		w := next(s.owned("over", "w", long))
		w.Record.Status = saga.Completed
		return w
	}())
	freed := next(s.owned("freed", "w", long))
	freed.Release, freed.Due = true, time.Hour
	s.saved(freed)
	other := s.claimedSoon("other", saga.Claim{IDs: []string{gone.ID}})
	for until := time.Now().Add(8 * short); time.Now().Before(until); time.Sleep(short / 3) { // longer than any lease so far
		leases := []*saga.Lease{
			{ID: held.ID, Token: 1},
			{ID: gone.ID, Token: 1},
			{ID: over.ID, Token: 1},
			{ID: freed.Record.ID, Token: 1},
			{ID: s.id("nobody"), Token: 1},
			{ID: gone.ID, Token: other.Record.Token},
		}
		s.ok(s.store.Renew(s.ctx, leases, long))
		for i, want := range []error{nil, saga.ErrFenced, saga.ErrFenced, saga.ErrFenced, saga.ErrFenced, nil} {
			s.is(leases[i].Err, want)
		}
		s.none(s.claim("thief", saga.Claim{}))
	}
	s.ok(s.store.Renew(s.ctx, nil, long))
	s.ok(s.store.Renew(s.ctx, []*saga.Lease{{ID: held.ID, Token: 1}}, short)) // from now
	s.saved(next(held))                                                       // a save needs no lease that still runs, but the token
	if got := s.claimedSoon("w", saga.Claim{IDs: []string{held.ID}}); !got.Crashed {
		s.Fatal("a lease that was renewed never ended")
	}
}

func deliverAnswers(s *suite) {
	deliver := func(id, name, payload string) error { return s.store.Deliver(s.ctx, id, name, []byte(payload)) }
	s.is(deliver(s.id("nobody"), "paid", "{}"), saga.ErrNotFound)
	r := s.owned("a", "w", long)
	s.ok(deliver(r.ID, "paid", `{"n":1}`))
	s.ok(deliver(r.ID, "paid", `{"n":1}`))
	s.is(deliver(r.ID, "paid", `{"n":2}`), saga.ErrConflict)
	s.ok(deliver(r.ID, "$cancel", `{}`))
	s.none(s.claim("w", saga.Claim{})) // it has an owner
	got := s.one("a").Signals
	if len(got) != 2 || string(got["paid"]) != `{"n":1}` {
		s.Fatalf("signals %v", got)
	}
	for n := range saga.MaxSignals - 1 { // beside "paid"
		s.ok(deliver(r.ID, fmt.Sprint("signal-", n), "{}"))
	}
	s.is(deliver(r.ID, "one more", "{}"), saga.ErrTooManySignals)
	s.ok(deliver(r.ID, "paid", `{"n":1}`))
	s.is(deliver(r.ID, "paid", `{"n":2}`), saga.ErrConflict)
	s.ok(deliver(r.ID, "$child-1", `{}`))
	if got := s.one("a").Signals; len(got) != saga.MaxSignals+2 {
		s.Fatalf("%d signals", len(got))
	}
	for _, status := range []saga.Status{saga.Completed, saga.Compensated} {
		w := next(s.owned(status.String(), "w", long))
		w.Record.Status = status
		s.ok(deliver(w.Record.ID, "before", "{}"))
		s.saved(w)
		s.ok(deliver(w.Record.ID, "before", "{}")) // again, as the answer was lost
		s.is(deliver(w.Record.ID, "before", "[]"), saga.ErrOver)
		s.is(deliver(w.Record.ID, "paid", "{}"), saga.ErrOver)
		if got := s.one(status.String()); len(got.Signals) != 1 {
			s.Fatalf("signals %v", got.Signals)
		}
	}
}

func findSelects(s *suite) {
	for i, status := range []saga.Status{saga.Running, saga.Stuck, saga.Completed, saga.Compensated, saga.Suspended} {
		r := s.record(string(rune('a'+i)), "w")
		r.BusinessID = "even"
		if i%2 == 1 {
			r.BusinessID = "odd"
		}
		s.create(long, r)
		w := next(r)
		w.Record.Status = status
		s.saved(w)
	}
	for _, c := range []struct {
		f    saga.Filter
		want string
	}{
		{saga.Filter{}, "[a b c d e]"},
		{saga.Filter{Limit: 2}, "[a b]"},
		{saga.Filter{After: s.id("b")}, "[c d e]"},
		{saga.Filter{After: s.id("b"), Limit: 1}, "[c]"},
		{saga.Filter{Status: []saga.Status{saga.Stuck}}, "[b]"},
		{saga.Filter{Status: []saga.Status{saga.Completed, saga.Running}}, "[a c]"},
		{saga.Filter{BusinessID: "odd"}, "[b d]"},
		{saga.Filter{BusinessID: "odd", Status: []saga.Status{saga.Compensated}}, "[d]"},
		{saga.Filter{IDs: []string{s.id("d"), s.id("nobody"), s.id("a"), s.id("d")}}, "[a d]"},
		{saga.Filter{IDs: []string{s.id("d"), s.id("a")}, Limit: 1}, "[a]"},
		{saga.Filter{IDs: []string{s.id("a")}, Definition: "other"}, "[]"},
		{saga.Filter{IDs: []string{}}, "[]"},
		{saga.Filter{Definition: s.def + "x"}, "[]"},
	} {
		s.equal(fmt.Sprintf("%+v", c.f), s.ids(s.find(c.f)), c.want)
	}
	for _, err := range s.store.Find(s.ctx, saga.Filter{Definition: s.def}) {
		s.ok(err)
		break // a reader may have enough
	}
	s.equal("after that", len(s.find(saga.Filter{})), 5)
}

// whatIsFoundIsTheReaders: who masks a card number in what he shows, or cuts a plan short,
// does not change the saga; nor does its owner, who marks a step, until that is written.
func whatIsFoundIsTheReaders(s *suite) {
	r := s.owned("a", "w", long)
	w := next(r)
	r.Steps[0].Mark = saga.Done
	s.same(s.one("a"), s.record("a", "w"))
	w.Events = []saga.Event{{Kind: saga.EventRetry, Text: "no"}}
	want := copied(s.saved(w))
	w.Record.Steps[0].Mark = saga.Done
	s.ok(s.store.Deliver(s.ctx, s.id("a"), "go", []byte(`"yes"`)))
	got := s.one("a")
	got.Plan[0].Name, got.Steps[0].Mark, got.Data[0], got.Events[0].Text = "changed", saga.Done, 'x', "changed"
	got.Signals["go"][0] = 'x'
	got.Signals["more"] = []byte("1")
	again := s.one("a")
	s.same(again, want)
	s.equal("signals, events", []any{len(again.Signals), string(again.Signals["go"]), again.Events[0].Text}, []any{1, `"yes"`, "no"})
}

func findOnManyPages(s *suite) {
	const n = 1200
	records := make([]*saga.Record, n)
	for i := range records {
		records[i] = s.record(fmt.Sprintf("%04d", i), "")
	}
	s.create(0, records...)
	for i, r := range s.find(saga.Filter{}) {
		if r.ID != records[i].ID {
			s.Fatalf("at %d: %s", i, r.ID)
		}
	}
	s.equal("all", len(s.find(saga.Filter{})), n)
	seen, after := 0, ""
	for {
		page := s.find(saga.Filter{After: after, Limit: 500})
		if len(page) == 0 {
			break
		}
		seen, after = seen+len(page), page[len(page)-1].ID
	}
	s.equal("by pages", seen, n)
}

func endedContextIsAnError(s *suite) {
	r := s.owned("a", "w", long)
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	fails := func(what string, err error) {
		s.Helper()
		if err == nil {
			s.Fatalf("%s has answered on a context that has ended", what)
		}
	}
	fails("Create", s.store.Create(ctx, []*saga.Create{{Record: s.record("b", "w"), Lease: long}}))
	fails("Save", s.store.Save(ctx, []*saga.Write{next(r)}))
	_, err := s.store.Claim(ctx, saga.Claim{Owner: "w", Lease: long, Limit: 1, Definitions: []string{s.def}})
	fails("Claim", err)
	fails("Renew", s.store.Renew(ctx, []*saga.Lease{{ID: r.ID, Token: 1}}, long))
	fails("Deliver", s.store.Deliver(ctx, r.ID, "paid", []byte("{}")))
	for _, err := range s.store.Find(ctx, saga.Filter{Definition: s.def}) {
		fails("Find", err)
	}
	s.same(s.one("a"), r)
}

// limitsAreBounded: what is less than it may be is refused by name, and nothing is done.
func limitsAreBounded(s *suite) {
	refused := func(what, field string, err error) {
		s.Helper()
		if in, ok := errors.AsType[*saga.InputError](err); !ok || in.Field != field {
			s.Fatalf("%s has answered %v, and not an InputError of its %s", what, err, field)
		}
	}
	r := s.record("a", "")
	s.create(0, r)
	fine := saga.Claim{Owner: "w", Lease: long, Limit: 1, Definitions: []string{s.def}}
	for field, spoil := range map[string]func(*saga.Claim){
		"owner": func(c *saga.Claim) { c.Owner = "" },
		"lease": func(c *saga.Claim) { c.Lease = 0 },
		"limit": func(c *saga.Claim) { c.Limit = 0 },
	} {
		c := fine
		spoil(&c)
		_, err := s.store.Claim(s.ctx, c)
		refused("Claim", field, err)
	}
	fine.Limit = -1
	_, err := s.store.Claim(s.ctx, fine)
	refused("Claim", "limit", err)
	refused("Renew", "lease", s.store.Renew(s.ctx, []*saga.Lease{{ID: r.ID, Token: 1}}, 0))
	for _, limit := range []int{0, -1} {
		if store, ok := s.store.(saga.Outbox); ok {
			_, err := store.Relay(s.ctx, limit, func(context.Context, []saga.Message) error { return nil })
			refused("Relay", "limit", err)
		}
		if store, ok := s.store.(saga.Sweeper); ok {
			_, err := store.Sweep(s.ctx, 0, limit)
			refused("Sweep", "limit", err)
		}
	}
	s.same(s.one("a"), r)
}

const crowd = 64

// together calls f on that many goroutines at once.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-gate
			f(i)
		})
	}
	close(gate)
	wg.Wait()
}

// manyClaimDisjointSets: every saga goes to one of many that claim at once, and each
// of them gets what the others leave.
func manyClaimDisjointSets(s *suite) {
	const sagas = 5 * crowd
	records := make([]*saga.Record, sagas)
	for i := range records {
		records[i] = s.record(strconv.Itoa(i), "")
	}
	s.create(0, records...)
	var mu sync.Mutex
	owners := map[string]string{}
	together(crowd, func(i int) {
		owner := "w" + strconv.Itoa(i)
		for empty := 0; empty < 3; {
			got, err := s.store.Claim(s.ctx, saga.Claim{Owner: owner, Lease: long, Limit: 7, Definitions: []string{s.def}})
			if err != nil {
				s.Errorf("claim: %v", err)
				return
			}
			if len(got) > 7 {
				s.Errorf("claimed %d of 7", len(got))
			}
			if len(got) == 0 {
				empty++
			}
			mu.Lock()
			for _, c := range got {
				if other := owners[c.Record.ID]; other != "" || c.Record.Token != 1 {
					s.Errorf("%s was claimed by %q and %s, token %d", c.Record.ID, other, owner, c.Record.Token)
				}
				owners[c.Record.ID] = owner
			}
			mu.Unlock()
		}
	})
	for _, c := range s.claim("last", saga.Claim{Limit: sagas}) { // what was locked when they looked
		owners[c.Record.ID] = "last"
	}
	if len(owners) != sagas {
		s.Fatalf("%d of %d were claimed", len(owners), sagas)
	}
}

// oneOwnerWritesAtATime: many take a saga from each other by leases that run out, and
// write as fast as they can. Each write that is accepted is on top of the last one.
func oneOwnerWritesAtATime(s *suite) {
	r := s.record("a", "")
	s.create(0, r)
	var accepted, fenced atomic.Int64
	begun := time.Now()
	over := func() bool { // on a slow machine it takes longer until one is too late
		d := time.Since(begun)
		return d > 10*short && fenced.Load() > 0 || d > long/2
	}
	together(crowd, func(i int) {
		for !over() {
			got, err := s.store.Claim(s.ctx, saga.Claim{Owner: "w" + strconv.Itoa(i), Lease: 2 * time.Millisecond, Limit: 1, Definitions: []string{s.def}})
			if err != nil {
				s.Errorf("claim: %v", err)
				return
			}
			if len(got) == 0 {
				time.Sleep(time.Millisecond)
				continue
			}
			for mine := got[0].Record; ; { // until the saga is somebody else's
				w := next(mine)
				w.Record.Steps[0].Attempts++
				if err := s.store.Save(s.ctx, []*saga.Write{w}); err != nil {
					s.Errorf("save: %v", err)
					return
				}
				if w.Err != nil {
					fenced.Add(1)
					break
				}
				mine = w.Record
				accepted.Add(1)
				if over() {
					break
				}
				time.Sleep(time.Millisecond)
			}
		}
	})
	got := s.one("a")
	if int64(got.Steps[0].Attempts) != accepted.Load() || got.Revision != accepted.Load() {
		s.Fatalf("%d writes were accepted, %d are there, revision %d", accepted.Load(), got.Steps[0].Attempts, got.Revision)
	}
	if fenced.Load() == 0 || got.Token < 2 {
		s.Fatalf("nobody was fenced: token %d, %d writes", got.Token, accepted.Load())
	}
}
