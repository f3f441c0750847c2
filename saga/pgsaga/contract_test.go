package pgsaga_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

func TestCreateIsRepeatable(t *testing.T) {
	t.Parallel()
	f := open(t)
	create := func(r *saga.Record) (bool, error) {
		c := &saga.Create{Record: r, Lease: time.Minute}
		require.NoError(t, f.Create(t.Context(), []*saga.Create{c}))
		return c.Mine, c.Err
	}
	first := begun("1", "me")
	mine, err := create(first)
	require.NoError(t, err)
	require.True(t, mine)
	again := begun("1", "me") // the answer was lost
	mine, err = create(again)
	require.NoError(t, err)
	require.True(t, mine)
	require.Equal(t, first.Created, again.Created)
	mine, err = create(begun("1", "another"))
	require.NoError(t, err)
	require.False(t, mine)
	mine, err = create(begun("1", ""))
	require.NoError(t, err)
	require.False(t, mine)
	other := begun("1", "me")
	other.Fingerprint[0]++
	_, err = create(other)
	require.ErrorIs(t, err, saga.ErrConflict)

	require.NoError(t, f.save(t, next(first)))
	mine, err = create(begun("1", "me"))
	require.NoError(t, err)
	require.False(t, mine, "it has gone on since")
	require.Equal(t, 1, f.count(t, "SELECT count(*) FROM sagas"))
}

func TestAFreeSagaIsClaimedAtOnce(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.create(t, "1", "")
	f.create(t, "2", "me")
	claimed := f.claim(t, "you", 10)
	require.Len(t, claimed, 1)
	c := claimed[0]
	require.False(t, c.Crashed)
	require.WithinDuration(t, c.Record.Created, c.Now, time.Minute)
	want := begun("1", "you")
	want.Created, want.Updated = c.Record.Created, c.Record.Updated
	require.Equal(t, want, c.Record)
	require.Empty(t, f.claim(t, "another", 10))
}

func TestALostSagaIsClaimedAndItsOwnerFenced(t *testing.T) {
	t.Parallel()
	f := open(t)
	old := f.create(t, "1", "me")
	require.Empty(t, f.claim(t, "you", 1))
	f.expire(t)
	claimed := f.claim(t, "you", 1)
	require.Len(t, claimed, 1)
	c := claimed[0]
	require.True(t, c.Crashed)
	require.Equal(t, 1, c.Record.Crashes)
	require.EqualValues(t, 2, c.Record.Token)
	require.EqualValues(t, 0, c.Record.Revision)

	require.ErrorIs(t, f.save(t, next(old)), saga.ErrFenced)
	leases := []*saga.Lease{{ID: "1", Token: 1}, {ID: "1", Token: 2}, {ID: "none", Token: 1}}
	require.NoError(t, f.Renew(t.Context(), leases, time.Minute))
	require.ErrorIs(t, leases[0].Err, saga.ErrFenced)
	require.NoError(t, leases[1].Err)
	require.ErrorIs(t, leases[2].Err, saga.ErrFenced)
	require.NoError(t, f.save(t, next(c.Record)))
	require.ErrorIs(t, f.save(t, next(old)), saga.ErrFenced)
	require.EqualValues(t, 1, f.find(t, "1").Revision)
}

// expire lets all leases, and all other times of waking up, pass.
func (f fixture) expire(tb testing.TB) {
	tb.Helper()
	f.exec(tb, "UPDATE sagas SET due_at = now() - interval '1 second' WHERE due_at IS NOT NULL")
}

func TestClaimTakesTheOldestOfItsDefinitions(t *testing.T) {
	t.Parallel()
	f := open(t)
	for n := range 6 {
		f.create(t, fmt.Sprint(n), "")
	}
	f.exec(t, "UPDATE sagas SET due_at = now() - interval '1 minute' * id::int")
	f.exec(t, "UPDATE sagas SET definition = 'other' WHERE id = '4'")
	ids := func(claimed []saga.Claimed) (ids []string) {
		for _, c := range claimed {
			ids = append(ids, c.Record.ID)
		}
		return ids
	}
	require.Equal(t, []string{"5", "3"}, ids(f.claim(t, "me", 2)))
	require.Equal(t, []string{"2", "1"}, ids(f.claim(t, "me", 9, "1", "2", "3", "4", "9")), "3 has an owner, 4 another definition")
	require.Equal(t, []string{"0"}, ids(f.claim(t, "me", 9)))
	none, err := f.Claim(t.Context(), saga.Claim{Owner: "me", Lease: time.Minute, Limit: 1, Definitions: []string{"pay"}, IDs: []string{}})
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestASaveIsRepeatable(t *testing.T) {
	t.Parallel()
	f := open(t)
	r := f.create(t, "1", "me")
	w := next(r)
	w.Events = []saga.Event{{Kind: saga.EventRetry, Step: "charge", Attempt: 2, Text: "no \x00"}, {Kind: saga.EventResolved, Actor: "ann"}}
	w.Messages = []saga.Message{{Step: "charge", Topic: "t", Key: "k"}}
	require.NoError(t, f.save(t, w))
	require.NoError(t, f.Deliver(t.Context(), "1", "go", []byte(`{"a":1}`)))
	for range 3 { // the answer was lost
		again := *w
		again.Signals = nil
		require.NoError(t, f.save(t, &again))
		require.Equal(t, saga.Signals{"go": []byte(`{"a":1}`)}, again.Signals)
	}
	have := f.find(t, "1")
	require.Len(t, have.Events, 2)
	require.Equal(t, "no \uFFFD", have.Events[0].Text)
	require.Equal(t, "ann", have.Events[1].Actor)
	require.WithinDuration(t, have.Updated, have.Events[0].At, time.Second)
	require.Equal(t, 1, f.count(t, "SELECT count(*) FROM saga_outbox"))

	require.NoError(t, f.save(t, next(w.Record)))
	require.ErrorIs(t, f.save(t, w), saga.ErrFenced, "it is older than what is there")
	skipped := next(next(next(w.Record).Record).Record)
	require.ErrorIs(t, f.save(t, skipped), saga.ErrFenced)
	gone := next(begun("none", "me"))
	require.ErrorIs(t, f.save(t, gone), saga.ErrFenced)
}

// Both have read the same revision, and neither is the saga's owner.
func TestTwoPeopleDoNotBothDecide(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := next(f.create(t, "1", "me"))
	w.Record.Status = saga.Stuck
	require.NoError(t, f.save(t, w))
	back, on := next(w.Record), next(w.Record)
	back.Record.Status, back.Record.Undoing = saga.Compensating, true
	on.Record.Status = saga.Running
	require.NoError(t, f.save(t, back))
	require.ErrorIs(t, f.save(t, on), saga.ErrFenced)
	require.NoError(t, f.save(t, back), "repeated")
	claimed := f.claim(t, "you", 1)
	require.Len(t, claimed, 1, "what a person brings back is due at once")
	require.True(t, claimed[0].Record.Undoing)
	require.False(t, claimed[0].Crashed)
}

func TestRelease(t *testing.T) {
	t.Parallel()
	f := open(t)
	dueIn := func(id string) (seconds *float64) {
		t.Helper()
		require.NoError(t, f.pool.QueryRow(t.Context(), "SELECT extract(epoch FROM due_at - now())::float8 FROM sagas WHERE id = $1", id).Scan(&seconds))
		return seconds
	}
	release := func(id string, due time.Duration, seen int) {
		t.Helper()
		w := next(f.create(t, id, "me"))
		require.NoError(t, f.Deliver(t.Context(), id, "go", []byte("1")))
		w.Release, w.Due, w.Seen, w.Record.Status = true, due, seen, saga.Suspended
		require.NoError(t, f.save(t, w))
		require.Equal(t, saga.Signals{"go": []byte("1")}, w.Signals)
		require.Empty(t, f.find(t, id).Owner)
	}
	release("in an hour", time.Hour, 1)
	require.InDelta(t, 3600, *dueIn("in an hour"), 60)
	release("for a signal", -1, 1)
	require.Nil(t, dueIn("for a signal"))
	require.Empty(t, f.claim(t, "you", 9))
	release("unseen", -1, 0)
	require.Len(t, f.claim(t, "you", 9, "unseen"), 1)
	release("unseen for an hour", time.Hour, 0)
	require.Len(t, f.claim(t, "you", 9, "unseen for an hour"), 1)
	release("now", 0, 1)
	require.Len(t, f.claim(t, "you", 9), 1)

	for _, id := range []string{"in an hour", "for a signal"} { // which wake up
		require.NoError(t, f.Deliver(t.Context(), id, "again", []byte("2")))
		require.Len(t, f.claim(t, "you", 9, id), 1)
	}
}

func TestDeliver(t *testing.T) {
	t.Parallel()
	f := open(t)
	deliver := func(id, name, payload string) error { return f.Deliver(t.Context(), id, name, []byte(payload)) }
	r := f.create(t, "1", "me")
	odd := `{ "z":1e400, "a" : "\u0000☃", "a":2 }`
	require.NoError(t, deliver("1", "go", odd))
	require.NoError(t, deliver("1", "go", odd))
	require.ErrorIs(t, deliver("1", "go", `{}`), saga.ErrConflict)
	require.ErrorIs(t, deliver("2", "go", odd), saga.ErrNotFound)
	require.NoError(t, deliver("1", "$child/x 'q' \"", "null"))
	w := next(r)
	require.NoError(t, f.save(t, w))
	require.Equal(t, saga.Signals{"go": []byte(odd), "$child/x 'q' \"": []byte("null")}, w.Signals)
	require.Equal(t, w.Signals, f.find(t, "1").Signals)
	require.EqualValues(t, 1, f.find(t, "1").Token, "who has an owner is not woken")

	w = next(w.Record)
	w.Record.Status = saga.Stuck
	require.NoError(t, f.save(t, w))
	require.NoError(t, deliver("1", "late", "1"))
	require.Empty(t, f.claim(t, "you", 1), "who is stuck waits for a person")

	w = next(f.create(t, "3", "me"))
	require.NoError(t, deliver("3", "go", "1"))
	w.Record.Status = saga.Compensated
	require.NoError(t, f.save(t, w))
	require.ErrorIs(t, deliver("3", "other", "1"), saga.ErrOver)
	require.ErrorIs(t, deliver("3", "go", "2"), saga.ErrOver)
	require.NoError(t, deliver("3", "go", "1"), "the answer was lost")
}

func TestFind(t *testing.T) {
	t.Parallel()
	f := open(t)
	var creates []*saga.Create
	for n := range 230 {
		r := begun(fmt.Sprintf("%03d", n), "me")
		r.BusinessID = fmt.Sprint("order ", n/100)
		if n%2 == 0 {
			r.Definition = "even"
		}
		creates = append(creates, &saga.Create{Record: r, Lease: time.Minute})
	}
	slices.Reverse(creates)
	require.NoError(t, f.Create(t.Context(), creates))
	f.exec(t, "UPDATE sagas SET status = 'STUCK' WHERE id < '150'")
	f.exec(t, "UPDATE sagas SET status = 'COMPLETED' WHERE id >= '220'")
	find := func(filter saga.Filter) (ids []string) {
		t.Helper()
		for r, err := range f.Find(t.Context(), filter) {
			require.NoError(t, err)
			ids = append(ids, r.ID)
			require.Empty(t, f.find(t, r.ID).Events, "another call while the pages are read")
		}
		require.True(t, slices.IsSorted(ids))
		return ids
	}
	require.Len(t, find(saga.Filter{}), 230)
	require.Len(t, find(saga.Filter{Limit: 150}), 150)
	require.Len(t, find(saga.Filter{Limit: 100, After: "149"}), 80)
	require.Len(t, find(saga.Filter{Definition: "even"}), 115)
	require.Len(t, find(saga.Filter{BusinessID: "order 1"}), 100)
	require.Len(t, find(saga.Filter{Status: []saga.Status{saga.Stuck}}), 150)
	require.Len(t, find(saga.Filter{Status: []saga.Status{saga.Stuck, saga.Completed}}), 160)
	require.Len(t, find(saga.Filter{Status: []saga.Status{saga.Stuck}, BusinessID: "order 1", Definition: "even", After: "120"}), 14)
	require.Equal(t, []string{"001", "100"}, find(saga.Filter{IDs: []string{"100", "001", "none"}}))
	require.Empty(t, find(saga.Filter{IDs: []string{}}))
	n := 0
	for _, err := range f.Find(t.Context(), saga.Filter{}) {
		require.NoError(t, err)
		if n++; n == 3 {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for r, err := range f.Find(ctx, saga.Filter{}) {
		require.Nil(t, r)
		require.ErrorIs(t, err, context.Canceled)
	}
}

func TestSweepForgetsWhatIsOver(t *testing.T) {
	t.Parallel()
	f := open(t)
	for n, status := range []saga.Status{saga.Completed, saga.Compensated, saga.Stuck, saga.Running, saga.Completed, saga.Completed} {
		w := next(f.create(t, fmt.Sprint(n), "me"))
		w.Record.Status = status
		w.Events = []saga.Event{{Kind: saga.EventDeadline}}
		w.Messages = []saga.Message{{Topic: "t"}}
		require.NoError(t, f.save(t, w))
	}
	sweep := func(age time.Duration, limit int) int {
		t.Helper()
		n, err := f.Sweep(t.Context(), age, limit)
		require.NoError(t, err)
		return n
	}
	require.Zero(t, sweep(time.Hour, 10))
	f.exec(t, "UPDATE sagas SET over_at = now() - interval '2 hours' WHERE over_at IS NOT NULL AND id < '5'")
	require.Equal(t, 2, sweep(time.Hour, 2))
	require.Equal(t, 1, sweep(time.Hour, 2))
	require.Zero(t, sweep(time.Hour, 2))
	require.Equal(t, 3, f.count(t, "SELECT count(*) FROM saga_events"))
	require.Equal(t, 6, f.count(t, "SELECT count(*) FROM saga_outbox"), "messages stay")
	f.create(t, "0", "me") // its id is free again
}

// Another process sweeps the same sagas, and is at it still: who comes next takes others.
func TestSweepsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	f := open(t)
	for _, id := range []string{"1", "2", "3"} {
		w := next(f.create(t, id, "me"))
		w.Record.Status = saga.Completed
		require.NoError(t, f.save(t, w))
	}
	tx, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), "SELECT FROM sagas WHERE id = '2' FOR UPDATE")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	n, err := f.Sweep(ctx, -time.Hour, 10)
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

func TestBadInputIsRefusedBeforeItIsWritten(t *testing.T) {
	t.Parallel()
	f := open(t)
	good := f.create(t, "good", "me")
	for name, spoil := range map[string]func(*saga.Create){
		"empty":    func(c *saga.Create) { c.Record.ID = "" },
		"long":     func(c *saga.Create) { c.Record.ID = strings.Repeat("x", 256) },
		"NUL":      func(c *saga.Create) { c.Record.ID = "a\x00" },
		"bytes":    func(c *saga.Create) { c.Record.ID = "\xff" },
		"business": func(c *saga.Create) { c.Record.BusinessID = "\xff" },
		"json":     func(c *saga.Create) { c.Record.Data = []byte("{") },
		"no json":  func(c *saga.Create) { c.Record.Data = nil },
		"utf8":     func(c *saga.Create) { c.Record.Data = []byte("\"\xff\"") },
		"large":    func(c *saga.Create) { c.Record.Data = []byte(`"` + strings.Repeat("x", 1<<20) + `"`) },
		"status":   func(c *saga.Create) { c.Record.Status = 0 },
		"version":  func(c *saga.Create) { c.Record.Version = 1 << 31 },
		"crashes":  func(c *saga.Create) { c.Record.Crashes = -1 },
		"token":    func(c *saga.Create) { c.Record.Token = 2 },
		"owner":    func(c *saga.Create) { c.Record.Owner = "" },
		"revision": func(c *saga.Create) { c.Record.Revision = 1 },
		"lease":    func(c *saga.Create) { c.Lease = time.Microsecond },
		"deadline": func(c *saga.Create) { c.Record.DeadlineAfter = -1 },
		"record":   func(c *saga.Create) { c.Record = nil },
	} {
		bad := &saga.Create{Record: begun("bad", "me"), Lease: time.Minute}
		spoil(bad)
		fine := &saga.Create{Record: begun("fine "+name, "me"), Lease: time.Minute}
		require.NoError(t, f.Create(t.Context(), []*saga.Create{bad, fine}), name)
		require.NoError(t, fine.Err, name)
		_, ok := errors.AsType[*saga.InputError](bad.Err)
		require.True(t, ok, "%s: %v", name, bad.Err)
	}
	w := next(good)
	w.Record.Data = []byte("{,}")
	_, ok := errors.AsType[*saga.InputError](f.save(t, w))
	require.True(t, ok)
	for _, err := range []error{
		f.Deliver(t.Context(), "", "go", []byte("1")), f.Deliver(t.Context(), "good", "", []byte("1")), f.Deliver(t.Context(), "good", "go", nil),
		f.Renew(t.Context(), nil, 0), f.CreateTx(t.Context(), "no tx", nil), f.SaveTx(t.Context(), &saga.Write{}, nil),
	} {
		_, ok := errors.AsType[*saga.InputError](err)
		require.True(t, ok, "%v", err)
	}
	for _, c := range []saga.Claim{{Lease: time.Minute, Limit: 1}, {Owner: "me", Limit: 1}, {Owner: "me", Lease: time.Minute}} {
		_, err := f.Claim(t.Context(), c)
		require.ErrorAs(t, err, new(*saga.InputError))
	}
	require.Zero(t, f.find(t, "good").Revision)
	require.Zero(t, f.count(t, "SELECT count(*) FROM sagas WHERE id = 'bad'"))
	large := begun("large", "me")
	large.Data = []byte(`"` + strings.Repeat("x", 1<<20-2) + `"`)
	c := &saga.Create{Record: large, Lease: time.Minute}
	require.NoError(t, f.Create(t.Context(), []*saga.Create{c}))
	require.NoError(t, c.Err)
	require.Equal(t, large.Data, f.find(t, "large").Data)
}

// Writes of one saga in one call are done in their order, and each is judged alone.
func TestWritesOfOneCall(t *testing.T) {
	t.Parallel()
	f := open(t)
	a, b := f.create(t, "a", "me"), f.create(t, "b", "me")
	a1, b1 := next(a), next(b)
	a2, a3 := next(a1.Record), next(next(a1.Record).Record)
	wrong := next(b)
	wrong.Record.Token = 7
	require.NoError(t, f.Save(t.Context(), []*saga.Write{a1, wrong, a2, b1, a3}))
	for _, w := range []*saga.Write{a1, a2, b1, a3} {
		require.NoError(t, w.Err)
	}
	require.ErrorIs(t, wrong.Err, saga.ErrFenced)
	require.EqualValues(t, 3, f.find(t, "a").Revision)
	require.NoError(t, f.Save(t.Context(), nil))
	require.NoError(t, f.Create(t.Context(), nil))
}

// A statement that leaves out what most checkpoints have in common puts nothing else in its place.
func TestEveryStatusIsWrittenAloneAndInABatch(t *testing.T) {
	t.Parallel()
	f := open(t)
	for status := saga.Running; status <= saga.Stuck; status++ {
		for n, release := range []saga.Write{{}, {Release: true}, {Release: true, Due: time.Hour}, {Release: true, Due: -1}} {
			id := fmt.Sprint(status, n)
			var batch []*saga.Write
			for _, id := range []string{id, id + " with", id + " others"} {
				w := next(f.create(t, id, "me"))
				w.Release, w.Due = release.Release, release.Due
				batch = append(batch, w)
			}
			batch[0].Record.Status, batch[1].Record.Status = status, status
			require.NoError(t, f.save(t, batch[0]))
			require.NoError(t, f.Save(t.Context(), batch[1:]))
			for _, w := range batch {
				require.NoError(t, w.Err)
				want := *w.Record
				if w.Release || status.Over() && w.Record.Status == status {
					want.Owner = ""
				}
				require.Equal(t, &want, f.find(t, want.ID))
			}
		}
	}
}

// The statements for sagas that are well leave most columns out: nothing stays in them
// of what was there before, and the lease is as it was.
func TestNothingStaysOfWhatWasWrong(t *testing.T) {
	t.Parallel()
	for _, ids := range [][]string{{"alone"}, {"a", "b"}} {
		f := open(t)
		lease := func() (due []time.Time) {
			t.Helper()
			rows, err := f.pool.Query(t.Context(), "SELECT due_at FROM sagas ORDER BY id")
			require.NoError(t, err)
			due, err = pgx.CollectRows(rows, pgx.RowTo[time.Time])
			require.NoError(t, err)
			return due
		}
		var ill, well []*saga.Write
		for _, id := range ids {
			w := next(f.create(t, id, "me"))
			r := w.Record
			r.Status, r.Undoing, r.Failed, r.Error, r.Crashes = saga.Suspended, true, "charge", "no", 2
			ill = append(ill, w)
		}
		due := lease()
		require.NoError(t, f.Save(t.Context(), ill))
		for _, w := range ill {
			w = next(w.Record)
			r := w.Record
			r.Status, r.Undoing, r.Failed, r.Error, r.Crashes = saga.Running, false, "", "", 0
			well = append(well, w)
		}
		require.NoError(t, f.Save(t.Context(), well))
		require.Equal(t, due, lease())
		for n, w := range well {
			require.NoError(t, w.Err)
			require.Equal(t, w.Record, f.find(t, ids[n]))
			require.True(t, w.Record.Updated.After(ill[n].Record.Updated))
		}
	}
}

// What has no owner is written by a person, and is due at once, whatever it waits for.
func TestWhatAPersonHasMendedIsDue(t *testing.T) {
	t.Parallel()
	for _, ids := range [][]string{{"alone"}, {"a", "b"}} {
		for name, change := range map[string]func(*saga.Write){
			"well":             func(*saga.Write) {},
			"not well":         func(w *saga.Write) { w.Record.Error = "no" },
			"with its history": func(w *saga.Write) { w.Events = []saga.Event{{Kind: saga.EventResolved}} },
		} {
			f := open(t)
			var writes []*saga.Write
			for _, id := range ids {
				w := next(f.create(t, id, ""))
				change(w)
				writes = append(writes, w)
			}
			f.exec(t, "UPDATE sagas SET due_at = now() + interval '1 hour'")
			require.Empty(t, f.claim(t, "you", 9))
			require.NoError(t, f.Save(t.Context(), writes))
			require.Len(t, f.claim(t, "you", 9), len(ids), name)
		}
	}
}

// An owner that was replaced does not hold the lease of the next one, which may be dead.
func TestAnOldOwnerRenewsNothing(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.create(t, "1", "me")
	f.expire(t)
	require.Len(t, f.claim(t, "you", 1), 1)
	f.expire(t)
	old := &saga.Lease{ID: "1", Token: 1}
	require.NoError(t, f.Renew(t.Context(), []*saga.Lease{old}, time.Hour))
	require.ErrorIs(t, old.Err, saga.ErrFenced)
	require.Len(t, f.claim(t, "another", 1), 1)
	old.Token = 3 // what it is told now is the answer to this
	require.NoError(t, f.Renew(t.Context(), []*saga.Lease{old}, time.Hour))
	require.NoError(t, old.Err)
}

// There is room for so many signals, and for those of the engine.
func TestSignalsAreBounded(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.create(t, "1", "me")
	for n := range saga.MaxSignals {
		require.NoError(t, f.Deliver(t.Context(), "1", fmt.Sprint(n), []byte("1")))
	}
	require.ErrorIs(t, f.Deliver(t.Context(), "1", "more", []byte("1")), saga.ErrTooManySignals)
	require.NoError(t, f.Deliver(t.Context(), "1", "$cancel", []byte("1")))
	require.ErrorIs(t, f.Deliver(t.Context(), "1", "more", []byte("1")), saga.ErrTooManySignals)
}

// Sixty-four owners fight for 200 sagas whose leases run out all the time. Every write
// that was accepted adds one to the revision, so none was accepted twice.
func TestOwnersFightForSagas(t *testing.T) {
	t.Parallel()
	const owners, sagas = 64, 200
	f := open(t)
	for n := range sagas {
		f.create(t, fmt.Sprint(n), "")
	}
	var mu sync.Mutex
	accepted, tokens, fenced := map[string]int64{}, map[string]int64{}, 0
	var wg sync.WaitGroup
	for o := range owners {
		wg.Go(func() {
			for range 6 {
				claimed, err := f.Claim(t.Context(), saga.Claim{Owner: fmt.Sprint(o), Lease: 5 * time.Millisecond, Limit: 3, Definitions: []string{"pay"}})
				if err != nil {
					t.Error(err)
					return
				}
				for _, c := range claimed {
					mu.Lock()
					tokens[c.Record.ID]++
					mu.Unlock()
					r := c.Record
					for range 3 {
						w := next(r)
						if err := f.Save(t.Context(), []*saga.Write{w}); err != nil {
							t.Error(err)
							return
						}
						if errors.Is(w.Err, saga.ErrFenced) {
							mu.Lock()
							fenced++
							mu.Unlock()
							break
						}
						if w.Err != nil {
							t.Error(w.Err)
						}
						mu.Lock()
						accepted[r.ID]++
						mu.Unlock()
						r = w.Record
					}
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d writes were fenced off", fenced)
	for r, err := range f.Find(t.Context(), saga.Filter{}) {
		require.NoError(t, err)
		require.Equal(t, accepted[r.ID], r.Revision, r.ID)
		require.Equal(t, tokens[r.ID], r.Token, r.ID)
	}
}

// A hundred callers start the same saga at once: one gets it.
func TestOneSagaIsStartedByMany(t *testing.T) {
	t.Parallel()
	f := open(t)
	var mine, conflicts int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n := range 100 {
		wg.Go(func() {
			c := &saga.Create{Record: begun("same", fmt.Sprint("owner", n)), Lease: time.Minute}
			c.Record.Fingerprint[0] = byte(n % 2)
			err := f.Create(t.Context(), []*saga.Create{c})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case errors.Is(c.Err, saga.ErrConflict):
				conflicts++
			case c.Err != nil:
				t.Error(c.Err)
			case c.Mine:
				mine++
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, mine)
	require.Equal(t, 50, conflicts)
}
