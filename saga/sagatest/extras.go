package sagatest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/saga"
)

var transactions = []test{
	{"SaveTxCommitsBoth", saveTxCommitsBoth},
	{"SaveTxOfFailedWorkLeavesNothing", saveTxOfFailedWorkLeavesNothing},
	{"SaveTxIsFenced", saveTxIsFenced},
	{"SaveTxRepeatedIsOne", saveTxRepeatedIsOne},
	{"SaveTxIsFencedAtTheCommit", saveTxIsFencedAtTheCommit},
	{"SaveTxOnceOfMany", saveTxOnceOfMany},
	{"CreateTxIsThereWithTheCommit", createTxIsThereWithTheCommit},
}

func (s *suite) tx() (saga.Transactor, Effects) { return s.store.(saga.Transactor), s.store.(Effects) }

// effects are how many there must be.
func (s *suite) effects(id string, want int) {
	s.Helper()
	_, effects := s.tx()
	got, err := effects.Effects(s.ctx, id)
	s.ok(err)
	if got != want {
		s.Fatalf("%d effects, not %d", got, want)
	}
}

// effect is work that leaves one and marks the step as done.
func (s *suite) effect(w *saga.Write) func(context.Context, any) error {
	_, effects := s.tx()
	return func(ctx context.Context, tx any) error {
		if err := effects.Effect(ctx, tx, w.Record.ID); err != nil {
			return err
		}
		w.Record.Steps[2].Mark = saga.Done
		w.Record.Data = []byte(`{"n":"booked"}`)
		return nil
	}
}

func saveTxCommitsBoth(s *suite) {
	store, _ := s.tx()
	w := next(s.owned("a", "w", long))
	w.Events = []saga.Event{{Kind: saga.EventRetry}}
	s.ok(store.SaveTx(s.ctx, w, s.effect(w)))
	s.ok(w.Err)
	s.effects(w.Record.ID, 1)
	got := s.one("a")
	s.same(got, w.Record)
	s.equal("step, events", []any{got.Steps[2].Mark, len(got.Events)}, []any{saga.Done, 1})
	over := next(w.Record)
	s.ok(store.SaveTx(s.ctx, over, func(ctx context.Context, tx any) error {
		over.Record.Status, over.Release = saga.Completed, true
		return s.effect(over)(ctx, tx)
	}))
	s.effects(w.Record.ID, 2)
	if got := s.one("a"); got.Status != saga.Completed || got.Owner != "" {
		s.Fatalf("%v, owner %q", got.Status, got.Owner)
	}
}

func saveTxOfFailedWorkLeavesNothing(s *suite) {
	store, _ := s.tx()
	r := s.owned("a", "w", long)
	no := saga.Reject(errors.New("no"))
	w := next(r)
	w.Events = []saga.Event{{Kind: saga.EventRetry}}
	err := store.SaveTx(s.ctx, w, func(ctx context.Context, tx any) error {
		s.ok(s.effect(w)(ctx, tx))
		return no
	})
	if err != no { //nolint:errorlint // as it is
		s.Fatalf("got %v, and not the error of the work as it is", err)
	}
	s.effects(r.ID, 0)
	got := s.one("a")
	s.same(got, r)
	s.equal("events", len(got.Events), 0)
	again := next(r)
	s.ok(store.SaveTx(s.ctx, again, s.effect(again)))
	s.effects(r.ID, 1)
}

func saveTxIsFenced(s *suite) {
	store, _ := s.tx()
	r := s.owned("a", "w", short)
	s.claimedSoon("other", saga.Claim{})
	for _, id := range []string{r.ID, s.id("nobody")} {
		w := next(r)
		w.Record.ID = id
		err := store.SaveTx(s.ctx, w, func(context.Context, any) error {
			s.Error("work was called of a saga that is somebody else's")
			return nil
		})
		s.is(either(err, w.Err), saga.ErrFenced)
		s.effects(id, 0)
	}
}

// either is what a call has answered, in one way or the other.
func either(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func saveTxRepeatedIsOne(s *suite) {
	store, _ := s.tx()
	w := next(s.owned("a", "w", long))
	s.ok(store.SaveTx(s.ctx, w, s.effect(w)))
	for range 2 {
		s.ok(store.SaveTx(s.ctx, w, func(context.Context, any) error {
			s.Error("work was called again")
			return nil
		}))
		s.ok(w.Err)
	}
	s.effects(w.Record.ID, 1)
	s.equal("revision", s.one("a").Revision, 1)
}

// saveTxIsFencedAtTheCommit: the lease runs out while the work is done. A store may
// keep the others away meanwhile, or let them in and roll back.
func saveTxIsFencedAtTheCommit(s *suite) {
	store, _ := s.tx()
	r := s.owned("a", "w", short)
	w := next(r)
	var claimed atomic.Bool
	err := store.SaveTx(s.ctx, w, func(ctx context.Context, tx any) error {
		deadline := time.Now().Add(4 * short)
		for time.Now().Before(deadline) && !claimed.Load() {
			ctx, cancel := context.WithTimeout(ctx, short)
			got, err := s.store.Claim(ctx, saga.Claim{Owner: "other", Lease: long, Limit: 1, Definitions: []string{s.def}})
			cancel()
			claimed.Store(err == nil && len(got) > 0)
			time.Sleep(5 * time.Millisecond)
		}
		return s.effect(w)(ctx, tx)
	})
	if answer := either(err, w.Err); claimed.Load() || answer != nil { // one that was not told of its claim may have it, too
		s.is(answer, saga.ErrFenced)
		s.effects(r.ID, 0)
		s.equal("revision", s.one("a").Revision, 0)
		return
	}
	s.effects(r.ID, 1)
	s.equal("revision", s.one("a").Revision, 1)
}

// saveTxOnceOfMany: the same write by many at once, as after answers that were lost.
func saveTxOnceOfMany(s *suite) {
	store, _ := s.tx()
	r := s.owned("a", "w", long)
	together(16, func(int) {
		w := next(r)
		if err := either(store.SaveTx(s.ctx, w, s.effect(w)), w.Err); err != nil && !errors.Is(err, saga.ErrFenced) {
			if _, ok := errors.AsType[*saga.StoreError](err); !ok {
				s.Errorf("SaveTx: %v", err)
			}
		}
	})
	s.effects(r.ID, 1)
	s.equal("revision", s.one("a").Revision, 1)
}

func createTxIsThereWithTheCommit(s *suite) {
	store, effects := s.tx()
	r := s.record("a", "")
	no := errors.New("no")
	s.is(effects.InTx(s.ctx, func(tx any) error {
		c := &saga.Create{Record: copied(r)}
		s.ok(store.CreateTx(s.ctx, tx, []*saga.Create{c}))
		s.ok(c.Err)
		s.ok(effects.Effect(s.ctx, tx, r.ID))
		return no
	}), no)
	s.equal("sagas", len(s.find(saga.Filter{})), 0)
	for range 2 { // the second finds it there
		s.ok(effects.InTx(s.ctx, func(tx any) error {
			c := &saga.Create{Record: copied(r)}
			s.ok(store.CreateTx(s.ctx, tx, []*saga.Create{c}))
			s.ok(c.Err)
			return effects.Effect(s.ctx, tx, r.ID)
		}))
	}
	s.effects(r.ID, 2)
	s.same(s.one("a"), r)
	s.ok(effects.InTx(s.ctx, func(tx any) error {
		other := copied(r)
		other.Fingerprint[3]++
		c := &saga.Create{Record: other}
		s.ok(store.CreateTx(s.ctx, tx, []*saga.Create{c}))
		s.is(c.Err, saga.ErrConflict)
		return nil // the transaction is still good
	}))
	if got := s.claimedSoon("w", saga.Claim{}); got.Crashed {
		s.Fatal("a saga that nobody had has crashed")
	}
	if err := store.CreateTx(s.ctx, "no transaction", []*saga.Create{{Record: s.record("b", "")}}); err == nil {
		s.Fatal("a string was taken for a transaction")
	}
}

var outbox = []test{
	{"RelayGivesInOrder", relayGivesInOrder},
	{"RelayKeepsWhatIsNotPublished", relayKeepsWhatIsNotPublished},
	{"RelayIsOneAtATime", relayIsOneAtATime},
	{"MessagesOfManySagasAreAllThere", messagesOfManySagasAreAllThere},
	{"NothingIsPublishedOfAFencedWrite", nothingIsPublishedOfAFencedWrite},
}

func message(r *saga.Record, step string, n int) saga.Message {
	return saga.Message{SagaID: r.ID, Step: step, Topic: "t", Key: r.ID + "/" + step + "/" + strconv.Itoa(n), Payload: []byte{0, 0xff, byte(n)}}
}

// relayed relays until there is nothing left and returns the keys of this test's
// messages: other tests' may be there too, and are let through.
func (s *suite) relayed(limit int) (keys []string) {
	s.Helper()
	for idle := 0; idle < 3; {
		n, err := s.store.(saga.Outbox).Relay(s.ctx, limit, func(_ context.Context, msgs []saga.Message) error {
			if len(msgs) > limit || len(msgs) == 0 {
				s.Errorf("%d messages of %d", len(msgs), limit)
			}
			for _, m := range msgs {
				if !strings.HasPrefix(m.SagaID, s.def) {
					continue
				}
				if m.Topic != "t" || len(m.Payload) != 3 || m.Payload[1] != 0xff || m.Step == "" {
					s.Errorf("message %+v", m)
				}
				keys = append(keys, strings.TrimPrefix(m.Key, s.def+"/"))
			}
			return nil
		})
		s.ok(err)
		if n == 0 {
			idle++
			s.pause() // another test's relay may be at it
		}
	}
	return keys
}

func relayGivesInOrder(s *suite) {
	a, b := s.owned("a", "w", long), s.owned("b", "w", long)
	var want []string
	for i := range 5 {
		wa, wb := next(a), next(b)
		wa.Messages = []saga.Message{message(a, "s"+strconv.Itoa(i), 0), message(a, "s"+strconv.Itoa(i), 1)}
		wb.Messages = []saga.Message{message(b, "s"+strconv.Itoa(i), 0)}
		s.ok(s.store.Save(s.ctx, []*saga.Write{wb, wa}))
		s.ok(either(wa.Err, wb.Err))
		s.saved(wa) // again: nothing more
		a, b = wa.Record, wb.Record
		want = append(want, "a/s"+strconv.Itoa(i)+"/0", "a/s"+strconv.Itoa(i)+"/1")
	}
	var ofA []string
	n := 0
	for _, key := range s.relayed(4) {
		if n++; strings.HasPrefix(key, "a/") {
			ofA = append(ofA, key)
		}
	}
	s.equal("messages", ofA, want)
	s.equal("of both", n, 15)
	s.equal("left", len(s.relayed(4)), 0)
}

func relayKeepsWhatIsNotPublished(s *suite) {
	w := next(s.owned("a", "w", long))
	w.Messages = []saga.Message{message(w.Record, "s", 0), message(w.Record, "s", 1)}
	s.saved(w)
	down := errors.New("down")
	for failed := false; !failed; s.pause() {
		n, err := s.store.(saga.Outbox).Relay(s.ctx, 100, func(_ context.Context, msgs []saga.Message) error {
			if slices.ContainsFunc(msgs, func(m saga.Message) bool { return m.SagaID == w.Record.ID }) {
				failed = true
				return down
			}
			return nil
		})
		if failed {
			s.is(err, down)
			s.equal("relayed", n, 0)
		}
	}
	s.equal("messages", s.relayed(100), "[a/s/0 a/s/1]")
}

func relayIsOneAtATime(s *suite) {
	r := s.owned("a", "w", long)
	for i := range 20 {
		w := next(r)
		w.Messages = []saga.Message{message(r, "s", i)}
		r = s.saved(w)
	}
	var at atomic.Int64
	var mu sync.Mutex
	var keys []string
	together(8, func(int) {
		for range 10 {
			_, err := s.store.(saga.Outbox).Relay(s.ctx, 3, func(_ context.Context, msgs []saga.Message) error {
				if at.Add(1) > 1 {
					s.Error("two publish at once")
				}
				defer at.Add(-1)
				time.Sleep(time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				for _, m := range msgs {
					if m.SagaID == r.ID {
						keys = append(keys, m.Key)
					}
				}
				return nil
			})
			if err != nil {
				s.Errorf("relay: %v", err)
			}
		}
	})
	for _, key := range s.relayed(3) {
		keys = append(keys, s.id(key))
	}
	for i, key := range slices.Compact(keys) { // a repeat is allowed, another order is not
		s.equal("message", key, message(r, "s", i).Key)
	}
	s.equal("messages", len(slices.Compact(keys)), 20)
}

// Sagas that have nothing in common are written at the same time, and have one outbox.
func messagesOfManySagasAreAllThere(s *suite) {
	const sagas, rounds = 16, 20
	var records [sagas]*saga.Record
	var want []string
	for i := range records {
		records[i] = s.owned(strconv.Itoa(i), "w", long)
		for n := range rounds {
			want = append(want, strconv.Itoa(i)+"/s/"+strconv.Itoa(n))
		}
	}
	together(sagas, func(i int) {
		for n := range rounds {
			w := next(records[i])
			w.Messages = []saga.Message{message(w.Record, "s", n)}
			err := s.store.Save(s.ctx, []*saga.Write{w})
			if err = either(err, w.Err); err != nil {
				s.Errorf("saga %d: %v", i, err)
				return
			}
			records[i] = w.Record
		}
	})
	got := s.relayed(50)
	slices.Sort(got)
	slices.Sort(want)
	s.equal("messages", got, want)
}

func nothingIsPublishedOfAFencedWrite(s *suite) {
	w := next(s.owned("a", "w", long))
	w.Record.Token, w.Messages = 9, []saga.Message{message(w.Record, "s", 0)}
	s.is(s.save(w), saga.ErrFenced)
	s.equal("messages", len(s.relayed(100)), 0)
}

func sweepLeavesWhatMatters(s *suite) {
	for _, status := range []saga.Status{saga.Running, saga.Stuck, saga.Completed, saga.Compensated} {
		w := next(s.owned(status.String(), "w", long))
		w.Record.Status = status
		w.Messages = []saga.Message{message(w.Record, "s", 0)}
		w.Events = []saga.Event{{Kind: saga.EventRetry}}
		s.saved(w)
	}
	sweep := func(age time.Duration, limit int) int {
		n, err := s.store.(saga.Sweeper).Sweep(s.ctx, age, limit)
		s.ok(err)
		if n > limit {
			s.Fatalf("%d removed of %d", n, limit)
		}
		return n
	}
	kept, keeps := s.record("CHILD", "w"), s.id("STUCK") // which may ask for it when a person has helped
	kept.Parent = keeps
	s.create(long, kept)
	over := next(kept)
	over.Record.Status = saga.Completed
	s.saved(over)
	sweep(time.Hour, 1000)
	s.equal("sagas", len(s.find(saga.Filter{})), 5)
	for len(s.find(saga.Filter{Status: []saga.Status{saga.Completed, saga.Compensated}})) > 1 {
		sweep(time.Millisecond, 1)
		s.pause()
	}
	sweep(time.Millisecond, 1000)
	s.equal("sagas", s.ids(s.find(saga.Filter{})), "[CHILD RUNNING STUCK]")
	if _, ok := s.store.(saga.Outbox); ok {
		s.equal("messages", len(s.relayed(100)), 4)
	}
	s.owned("COMPLETED", "w", long) // the id is free again
	s.equal("events", len(s.one("COMPLETED").Events), 0)
}
