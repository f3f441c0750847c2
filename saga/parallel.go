package saga

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

var errEnded = errors.New("the step has ended its goroutine")

// parallel makes one attempt of each step of the group of step i that is not done,
// all at the same time, and writes each as it ends. Each works on a copy: two steps on
// the same memory would be a race.
func (r *run) parallel(i int) bool {
	// As this version writes it, whoever has written it last:
	//
	//	the data has a new field, and a saga is under way without it; no branch changes
	//	it, and each writes it: they clash.
	r.kept = nil
	if err := r.encode(); err != nil {
		return r.fail(i, err)
	}
	f := &fork{run: r, base: r.rec.Data, taken: map[string]string{}, more: true}
	trials, under := make(chan *trial), 0
	defer func() { // a hook has panicked, or how the data is written: it is not let go of sooner
		for range under {
			<-trials
		}
	}()
	for j := i; j < len(r.parts) && r.parts[j].group == r.parts[i].group; j++ {
		if r.rec.Steps[j].ahead() {
			under++
			t := &trial{i: j, state: r.rec.Steps[j], data: r.program.empty(), base: f.base}
			t.state.Attempts++
			go func() { // it is waited for below
				defer func() { trials <- t }()
				f.try(t)
			}()
		}
	}
	for under > 0 {
		t := <-trials
		under--
		f.ended(t)
	}
	return f.joined()
}

// fork is a group at work.
type fork struct {
	run   *run
	base  []byte            // the data before it
	taken map[string]string // who has changed which field

	lost, odd *trial // that failed; whose data cannot be kept
	delay     time.Duration
	msgs      []Message
	no        []int // those that have not taken effect, and will not
	more      bool
}

// try makes one attempt of a branch, on a goroutine of its own. What was found out before
// it does not count where it has no end:
//
//	a charge times out; the provider says that it took no effect; it is attempted again,
//	takes effect, and ends its goroutine; it is taken for not begun, and charged again.
func (f *fork) try(t *trial) {
	cut := true // by a step that ends its goroutine, or by a panic
	defer func() {
		v := recover() // of how the data is read, such as the caller's UnmarshalJSON
		if !cut {
			return
		}
		t.v, t.err = unknown, errEnded
		if v != nil {
			t.err, t.panics = errors.Join(errEnded, &panicked{v, debug.Stack()}), t.panics+1
		}
		if f.run.parts[t.i].kind != KindPure {
			t.state.Mark = Maybe
		}
	}()
	if err := json.Unmarshal(f.base, t.data); err != nil {
		t.v, t.err = failed, err
	} else {
		f.run.try(t)
	}
	cut = false
}

// ended takes over what a branch has come to.
func (f *fork) ended(t *trial) {
	r := f.run
	if t.state.Mark == NotApplied {
		// It is still ahead until the saga turns back:
		//
		//	the charge is declined; the other branch is done, and written, and nothing
		//	is ahead any more: the saga is completed without a charge.
		f.no = append(f.no, t.i)
		t.state.Mark = Open
	}
	r.take(t)
	switch {
	case t.v == applied:
		f.msgs = append(f.msgs, t.msgs...)
		if t.err = r.merge(t, f.base, f.taken); t.err != nil && f.odd == nil {
			f.odd = t
		}
		if f.odd == nil {
			f.more = r.branchDone(f.msgs) && f.more
			f.msgs = nil
		}
	case r.again(t.i, t.v, t.err):
		f.delay = max(f.delay, r.retrying(t.i, t.err))
	case f.lost == nil:
		f.lost = t
	default: // the first one is told of when the saga turns back
		r.event(EventFailed, r.parts[t.i].name, t.state.Attempts, text(t.err))
	}
}

// joined goes on when all branches have ended.
func (f *fork) joined() bool {
	r := f.run
	for _, i := range f.no {
		r.rec.Steps[i].Mark = NotApplied
	}
	switch {
	case !f.more:
		return false
	case f.odd != nil: // it has happened: that must be kept
		r.stick(r.parts[f.odd.i].name, f.odd.err)
		return r.save(f.msgs...)
	case f.lost != nil:
		return r.fail(f.lost.i, f.lost.err)
	case f.delay > 0:
		return r.pause(f.delay)
	case r.e.stopped():
		r.release(0)
		return false
	}
	return true
}

// branchDone writes a branch that is done. The saga is not let go of while others are
// under way:
//
//	the engine is told to end; one branch is done, and the saga is free; another
//	engine takes it up, and begins the branch that is still under way here.
func (r *run) branchDone(msgs []Message) bool {
	return r.put(r.rec.Status.Over(), -1, msgs)
}

// merge takes over the fields that a branch has changed, and marks it as done.
func (r *run) merge(t *trial, base []byte, taken map[string]string) error {
	name := r.parts[t.i].name
	var before, mine, now map[string]json.RawMessage
	body, err := encode(t.data, base)
	err = errors.Join(err, json.Unmarshal(base, &before), json.Unmarshal(body, &mine), json.Unmarshal(r.rec.Data, &now))
	if now == nil { // of null
		now = map[string]json.RawMessage{}
	}
	for field, value := range mine {
		if bytes.Equal(value, before[field]) {
			continue
		}
		if other := taken[field]; other != "" && err == nil {
			err = fmt.Errorf("steps %s and %s of a Parallel both change %q", other, name, field)
		}
		taken[field] = name
		now[field] = value
	}
	for field := range before {
		if _, ok := mine[field]; !ok { // it was cleared, which is a change too
			if other := taken[field]; other != "" && err == nil {
				err = fmt.Errorf("steps %s and %s of a Parallel both change %q", other, name, field)
			}
			taken[field] = name
			delete(now, field)
		}
	}
	if err == nil {
		if body, err = json.Marshal(now); err == nil && len(body) > maxData {
			err = fmt.Errorf("data is %d bytes of JSON with what step %s has added, more than %d", len(body), name, maxData)
		}
		if err == nil {
			r.rec.Data = body
			err = r.decode()
		}
	}
	r.settle(t.i)
	return err
}
