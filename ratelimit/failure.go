package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// errOpen: the store is being left alone.
var errOpen = errors.New("ratelimit: store is failing, breaker is open")

// ask asks the store, and the policy where that fails. The error is one of the call.
func (l *Limiter) ask(ctx context.Context, call Call) ([]Outcome, Source, error) {
	outcomes, err := l.question(ctx, call)
	if err == nil {
		return outcomes, FromStore, nil
	}
	if callers(ctx, err) {
		return nil, 0, err
	}
	outcomes, source := l.policy(ctx, call)
	return outcomes, source, nil
}

// question asks the store, within the timeout and unless the breaker is open.
func (l *Limiter) question(ctx context.Context, call Call) ([]Outcome, error) {
	if l.memory != nil {
		reply := decideOn(ctx, l.store, call)
		return reply.Outcomes, reply.Err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !l.breaker.enter(l.o.Now) {
		return nil, errOpen
	}
	asked := l.timeout.Within(ctx)
	reply := decideOn(asked, l.store, call)
	asked.End()
	failed := reply.Err != nil && !callers(ctx, reply.Err)
	if failed && l.o.Hooks.OnStoreError != nil {
		l.o.Hooks.OnStoreError(reply.Err)
	}
	if changed, open := l.breaker.leave(failed, ctx.Err() != nil || reply.Err != nil, l.o.Now); changed {
		l.breakerIs(open, reply.Err)
	}
	return reply.Outcomes, reply.Err
}

func (l *Limiter) breakerIs(open bool, err error) {
	if open {
		l.o.Logger.LogAttrs(context.Background(), slog.LevelError, "rate limits: store is failing", slog.Any("error", err))
	} else {
		l.o.Logger.LogAttrs(context.Background(), slog.LevelInfo, "rate limits: store is back")
	}
	if f := l.o.Hooks.OnBreaker; f != nil {
		f(open)
	}
}

// policy answers for a store that fails.
func (l *Limiter) policy(ctx context.Context, call Call) ([]Outcome, Source) {
	if l.stand != nil {
		local := Call{Ops: make([]Op, len(call.Ops))}
		for i, op := range call.Ops {
			op.Limit = share(op.Limit, l.o.Share)
			local.Ops[i] = op
		}
		outcomes := l.stand.Decide(ctx, []Call{local})[0].Outcomes
		for i := range outcomes {
			if outcomes[i].Wait == Never && call.Ops[i].N <= call.Ops[i].Limit.Capacity() {
				outcomes[i].Wait = l.o.Cooldown // the share is too small, the limit is not
			}
		}
		return outcomes, FromFallback
	}
	source := FromFailOpen
	if l.o.OnError == FailClosed {
		source = FromFailClosed
	}
	outcomes := make([]Outcome, len(call.Ops))
	for i := range call.Ops {
		outcomes[i] = l.blind(&call.Ops[i], source)
	}
	return outcomes, source
}

// blind answers an op without a counter. More than there can ever be is refused all the same.
func (l *Limiter) blind(op *Op, source Source) Outcome {
	o := Outcome{At: l.o.Now().UnixMicro()}
	switch capacity := op.Limit.Capacity(); {
	case op.N > capacity:
		o.Wait = Never
	case source == FromFailClosed:
		o.Wait = l.o.Cooldown
	default:
		o.Allowed, o.Charged, o.Remaining = true, op.N, capacity-op.N
	}
	return o
}

// share returns the part of a limit, at least one unit; all of it where the part could not be counted exactly, as of a limit with an odd rate and a
// huge burst.
func share(whole Limit, part float64) Limit {
	l := whole.Normal()
	l.Rate = max(1, int64(float64(l.Rate)*part))
	if l.Burst = max(1, int64(float64(l.Burst)*part)); !l.Algorithm.bucket() {
		l.Burst = 0
	}
	if _, err := planOf(l); err != nil {
		return whole
	}
	return l
}

// breaker leaves a store alone that has failed several times in a row.
//
// Why it does not let a herd through when it half-opens: only who moves until on is let through, under the lock; all others see that it has been moved.
type breaker struct {
	limit    int // failures in a row; negative: never opens
	cooldown time.Duration

	calm   atomic.Bool // closed, and the last one has not failed: nobody needs the lock
	mu     sync.Mutex
	failed int
	until  time.Time // of the next trial; zero: closed
}

// enter tells whether the store may be asked.
func (b *breaker) enter(clock func() time.Time) bool {
	if b.calm.Load() {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until.IsZero() {
		return true
	}
	now := clock()
	if left := b.until.Sub(now); left > 0 && left <= b.cooldown { // more is left only of a clock that was set back
		return false
	}
	b.until = now.Add(b.cooldown)
	return true
}

// leave says what became of it. A caller that has hung up tells nothing of the store, nor does a fault of the call, for which it need not be asked.
func (b *breaker) leave(failed, unknown bool, clock func() time.Time) (changed, open bool) {
	if !failed && b.calm.Load() {
		return false, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case failed:
		b.calm.Store(false)
		b.failed++
		if b.until.IsZero() && b.limit > 0 && b.failed >= b.limit {
			b.until = clock().Add(b.cooldown)
			return true, true
		}
	case unknown:
	default:
		b.failed = 0
		changed = !b.until.IsZero()
		b.until = time.Time{}
		b.calm.Store(true)
	}
	return changed, false
}
