package saga

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

var errEnded = errors.New("the step has ended its goroutine")

// parallel makes one attempt of each step of the group of step i that is not done,
// all at the same time, and writes each as it ends. Each works on a copy: two steps on
// the same memory would be a race.
func (r *run) parallel(i int) bool {
	if err := r.encode(); err != nil {
		return r.fail(i, err)
	}
	base := r.rec.Data
	trials, n := make(chan *trial), 0
	for j := i; j < len(r.parts) && r.parts[j].group == r.parts[i].group; j++ {
		if r.rec.Steps[j].ahead() {
			n++
			t := &trial{i: j, state: r.rec.Steps[j], data: r.program.empty()}
			go func() { // it is waited for below
				defer func() { trials <- t }()
				t.v, t.err = unknown, errEnded // of a step that ends its goroutine
				defer func() {
					if errors.Is(t.err, errEnded) && r.parts[j].kind != KindPure {
						t.state.Mark = Maybe
					}
				}()
				if err := json.Unmarshal(base, t.data); err != nil {
					t.v, t.err = failed, err
					return
				}
				r.try(t)
			}()
		}
	}
	var lost, odd *trial // that failed; whose data cannot be kept
	var delay time.Duration
	var msgs []Message
	var no []int // those that have not taken effect, and will not
	taken, more := map[string]string{}, true
	for range n {
		t := <-trials
		if t.state.Mark == NotApplied {
			// It is still ahead until the saga turns back:
			//
			//	the charge is declined; the other branch is done, and written, and nothing
			//	is ahead any more: the saga is completed without a charge.
			no = append(no, t.i)
			t.state.Mark = Open
		}
		r.take(t)
		switch {
		case t.v == applied:
			msgs = append(msgs, t.msgs...)
			if t.err = r.merge(t, base, taken); t.err != nil && odd == nil {
				odd = t
			}
			if odd == nil {
				more = r.branchDone(msgs) && more
				msgs = nil
			}
		case r.again(t.i, t.v, t.err):
			delay = max(delay, r.retrying(t.i, t.err))
		case lost == nil:
			lost = t
		}
	}
	for _, i := range no {
		r.rec.Steps[i].Mark = NotApplied
	}
	switch {
	case !more:
		return false
	case odd != nil: // it has happened: that must be kept
		r.stick(r.parts[odd.i].name, odd.err)
		return r.save(msgs...)
	case lost != nil:
		return r.fail(lost.i, lost.err)
	case delay > 0:
		return r.pause(delay)
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
		if _, ok := mine[field]; !ok {
			delete(now, field)
		}
	}
	if err == nil {
		if body, err = json.Marshal(now); err == nil {
			r.rec.Data = body
			err = r.decode()
		}
	}
	r.settle(t.i)
	return err
}
