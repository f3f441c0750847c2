package saga

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// claimMax bounds what one claim takes, so that engines share what is due.
const claimMax = 100

// storeLimit bounds a call of the store of which no caller waits for the end.
const storeLimit = 30 * time.Second

// poll takes up what is due, until ctx ends.
func (e *Engine) poll(ctx context.Context) {
	ticker := time.NewTicker(e.o.Poll)
	defer ticker.Stop()
	e.claimDue(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			e.claimDue(ctx)
		case id := <-e.nudged:
			ids := []string{id}
			for len(ids) < claimMax && len(e.nudged) > 0 {
				ids = append(ids, <-e.nudged)
			}
			e.claim(ctx, Claim{IDs: ids, Limit: len(ids)})
		}
	}
}

// claimDue takes all that is due, as far as there is room.
func (e *Engine) claimDue(ctx context.Context) {
	for ctx.Err() == nil {
		limit := min(claimMax, e.room())
		if limit <= 0 || e.claim(ctx, Claim{Limit: limit}) < limit {
			return
		}
	}
}

// claim returns how many it got.
func (e *Engine) claim(ctx context.Context, c Claim) int {
	c.Limit = min(c.Limit, e.room())
	if c.Limit <= 0 || len(e.names) == 0 {
		return 0
	}
	c.Owner, c.Lease, c.Definitions = e.owner, e.o.Lease, e.names
	// The engine's end does not cut a claim short:
	//
	//	the store gives us a saga, and we do not hear of it; when its lease is over, the
	//	next owner takes its step for begun, and undoes it.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(storeLimit, max(e.o.Lease/3, time.Second)))
	defer cancel()
	asked := time.Now()
	claimed, err := e.store.Claim(limited, c)
	if err != nil && ctx.Err() == nil {
		e.log.Warn("sagas could not be claimed", slog.Any("error", err))
	}
	for _, c := range claimed {
		e.takeUp(c, asked)
	}
	return len(claimed)
}

// takeUp begins a saga where its last owner has left it.
func (e *Engine) takeUp(c Claimed, asked time.Time) {
	p, parts := e.steps(c.Record)
	r := newRun(e, p)
	r.rec, r.parts, r.crashed, r.seen = c.Record, parts, c.Crashed, len(c.Record.Signals)
	r.clock(asked, c.Record.Created, c.Now)
	if c.Crashed { // now: whoever takes it up after us is not told again
		r.suspect()
	}
	if e.hold(r) {
		e.launch(r)
		return
	}
	e.work.Go(func() {
		if e.inherit(r) {
			e.launch(r)
			return
		}
		if r.crashed {
			r.rec.Crashes-- // it is not the saga's fault
		}
		r.release(e.o.Poll)
	})
}

// inherit takes a saga in hand as soon as the run that this engine has of it ends:
// its lease has run out, or it was released a moment ago. The old run is told that it
// is refused from now on. False: it does not heed its context, it has a newer claim, or
// the engine is stopping or full.
func (e *Engine) inherit(r *run) bool {
	timer := time.NewTimer(e.o.Lease / 2)
	defer timer.Stop()
	for {
		old := e.local(r.rec.ID)
		if old == nil {
			return e.hold(r)
		}
		if !old.yields(r) {
			return false
		}
		select {
		case <-old.done:
		case <-timer.C:
			return false
		}
	}
}

// beat renews the leases of the sagas in hand until the last is dropped, or, once
// their steps are cancelled, one time more.
func (e *Engine) beat(ctx context.Context, drained <-chan struct{}) {
	ticker := time.NewTicker(e.o.Lease / 3)
	defer ticker.Stop()
	for e.hard.Err() == nil {
		select {
		case <-drained:
			return
		case <-ticker.C:
			e.renew(ctx)
		}
	}
}

// renew leaves out those whose lease is younger than a beat, and those whose step has
// overrun its timeout by a lease: such a step does not heed its context, so its saga
// goes to whoever claims it, and is in doubt.
func (e *Engine) renew(ctx context.Context) {
	e.mu.Lock()
	var leases []*Lease
	var runs []*run
	for id, r := range e.runs { // its record belongs to its own goroutine
		if r.renewable(time.Now(), e.o.Lease) {
			runs = append(runs, r)
			leases = append(leases, &Lease{ID: id, Token: r.token})
		}
	}
	e.mu.Unlock()
	if len(leases) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.o.Lease/3)
	defer cancel()
	asked := time.Now()
	if err := e.store.Renew(ctx, leases, e.o.Lease); err != nil {
		e.log.Warn("leases could not be renewed", slog.Int("sagas", len(leases)), slog.Any("error", err))
		return
	}
	for i, l := range leases {
		if l.Err != nil {
			runs[i].lose()
			continue
		}
		runs[i].extended(asked)
	}
}

// await waits for the end of a saga, here or elsewhere.
func (e *Engine) await(ctx context.Context, id string, r *run) (*Record, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if r == nil {
			r = e.local(id)
		}
		if r != nil {
			select {
			case <-r.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if r.over && r.rec.Status.ended() {
				return r.rec, nil
			}
			r = nil // it has gone on elsewhere, or waits, or a person may have helped it since
		}
		rec, err := e.find(ctx, id)
		if err != nil || rec.Status.Over() {
			return rec, err
		}
		if rec.Owner == "" {
			e.nudge(id) // it may be due
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// find reads one saga.
func (e *Engine) find(ctx context.Context, id string) (*Record, error) {
	for rec, err := range e.store.Find(ctx, Filter{IDs: []string{id}, Limit: 1}) {
		return rec, err
	}
	return nil, ErrNotFound
}

// Signal delivers a signal to the [Await] of that name, which may come later; msg is
// at most 1 MiB of JSON. It may be repeated with the same msg; another is [ErrConflict]. The others are
// [ErrNotFound], [ErrOver], [ErrTooManySignals] for more than [MaxSignals] names, an
// [*InputError], or the store's.
func (e *Engine) Signal(ctx context.Context, id, name string, msg any) error {
	if err := checkID("id", id); err != nil {
		return err
	}
	if !named(name) {
		return &InputError{Field: "name", Reason: "is not 1 to 64 letters, digits, dots, dashes and underscores"}
	}
	payload, err := encode(msg, nil)
	if err != nil {
		return &InputError{Field: "msg", Reason: err.Error()}
	}
	if err := e.deliver(ctx, id, name, payload); err != nil {
		return fmt.Errorf("saga: signal %s for %s: %w", name, id, err)
	}
	return nil
}

// cancelSignal is no name that an Await can have.
const cancelSignal = "$cancel"

// Cancel asks a saga to go back. If it has come to its pivot by then it goes on; a
// step that is under way is finished first. It may be repeated. The error is
// [ErrNotFound], [ErrOver], an [*InputError], or the store's.
func (e *Engine) Cancel(ctx context.Context, id string) error {
	if err := checkID("id", id); err != nil {
		return err
	}
	if err := e.deliver(ctx, id, cancelSignal, []byte("{}")); err != nil {
		return fmt.Errorf("saga: cancel %s: %w", id, err)
	}
	return nil
}

func (e *Engine) deliver(ctx context.Context, id, name string, payload []byte) error {
	if err := e.store.Deliver(ctx, id, name, payload); err != nil {
		return err
	}
	e.nudge(id)
	return nil
}
