package idempotency

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Run is one run of the work under a key, as [Do] hands it to the work. It belongs to that call of the work alone.
type Run struct {
	guard       *Guard
	key         Key
	fingerprint Fingerprint
	token       Token
	ctx         context.Context // of the work
	cancel      context.CancelCauseFunc
	lease       lease

	mu         sync.Mutex
	detached   context.Context // see Detached
	lose       context.CancelCauseFunc
	lost       error               // why the claim is not ours any more; nil while it is
	recorded   []StepRecord        // by earlier runs
	asked      map[string]struct{} // the steps that this run has come to
	step       string              // the step that runs now
	unrecorded bool                // a step has run and is not recorded
	closed     bool                // the work has returned
}

// Key returns the key that the work runs under.
func (r *Run) Key() Key { return r.key }

// Token returns the fencing number of this run: higher than that of every earlier run of the key. A resource that
// remembers the highest token it has seen refuses a late owner's write:
//
//	UPDATE orders SET state = 'paid', fence = $1 WHERE id = $2 AND fence < $1
func (r *Run) Token() Token { return r.token }

// Detached returns a context for what must not stop half-way because the client has hung up: it has the values of Do's
// context, but neither its deadline nor its end. It ends when the claim is lost, with the cause [ErrLost], and when Do
// returns.
func (r *Run) Detached() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.detached == nil {
		r.detached, r.lose = context.WithCancelCause(context.WithoutCancel(r.ctx))
		if r.lost != nil || r.closed {
			r.lose(r.lost)
		}
	}
	return r.detached
}

// begin starts a run: its context, and the timer that extends its lease.
func (g *Guard) begin(ctx context.Context, key Key, fp Fingerprint, won *admission) *Run {
	r := &Run{guard: g, key: key, fingerprint: fp, token: won.record.Token, recorded: won.record.Steps}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.keepLease(ctx, won.sent)
	return r
}

// close ends what the work may do with the run, and tells whether a step of it has run without being recorded, or still runs:
//
//	the work charges in a step, in a goroutine, and returns when its time is up, as http.TimeoutHandler does; its key is freed;
//	a repeat wins it, finds no step, and charges beside the first run.
func (r *Run) close() (unrecorded bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.unrecorded || r.step != ""
}

// end ends the contexts of the work, and the extending of the lease, for which it waits.
func (r *Run) end() {
	r.leave(nil)
	r.lease.stop()
}

// leave ends the contexts of the work, with the cause that the claim was lost, or nil where the work has returned. It
// notes the loss, which the context of a client that had hung up before cannot tell: that has another cause already.
func (r *Run) leave(lost error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if lost != nil {
		r.lost = lost
	}
	if r.lose != nil {
		r.lose(lost)
	}
	r.cancel(lost)
}

// failed returns the error of the work, and with it that the claim was lost.
func (r *Run) failed(failure error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost != nil && !errors.Is(failure, ErrLost) {
		return fmt.Errorf("%w: %w", r.lost, failure)
	}
	return failure
}

// complete stores the result, and gives it to those who wait in this process.
func (r *Run) complete(status int32, response []byte) error {
	c := Completion{Key: r.key, Token: r.token, Status: status, Response: response, TTL: r.guard.ttl}
	err := r.record(func(ctx context.Context) error {
		return single(r.guard.store.Complete(ctx, []Completion{c}))
	})
	if err == nil {
		r.guard.lobby.settle(r.key, r.fingerprint, status, response)
	}
	return err
}

// record writes what has happened under a deadline of its own, and repeats it until then while the store fails: a store that
// restarts must not cost a result whose effect has happened. It may have been written by a call that reported failure; to
// write it again is harmless.
//
// Under the caller's context this would charge twice: the client hangs up while the provider is charging; the completion
// is refused because its context has ended; the lease runs out; the client's retry wins the key and charges again.
func (r *Run) record(write func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), r.guard.writeTimeout)
	defer cancel()
	var failure error
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := write(ctx)
		if err == nil || errors.Is(err, ErrLost) {
			return err
		}
		if failure == nil || !errors.Is(err, context.DeadlineExceeded) { // why it failed, rather than that time ran out
			failure = err
		}
		if !sleep(ctx, r.guard.jitter(pause)) {
			return failure
		}
	}
}

// release frees the key under a deadline of its own. A release that fails is only a delay, until the lease is over, so
// it is logged, and the caller gets the error of the work.
func (r *Run) release() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), r.guard.writeTimeout)
	defer cancel()
	err := single(r.guard.store.Release(ctx, []Claim{{Key: r.key, Token: r.token}}))
	if err != nil && !errors.Is(err, ErrLost) { // what is lost is not there to be freed
		r.guard.logger.LogAttrs(ctx, slog.LevelWarn, "idempotency: claim not released, its key stays taken until the lease is over",
			slog.String("op", r.key.Op), slog.Any("error", err))
	}
	r.guard.lobby.nudge(r.key, r.fingerprint)
}

// sleep waits, and tells whether it could: not if the context ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
