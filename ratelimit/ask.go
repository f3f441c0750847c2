package ratelimit

import (
	"context"
	"errors"
)

// errUnanswered: a store has returned fewer replies than there were calls, or fewer outcomes than ops, which is a fault of the store.
var errUnanswered = errors.New("ratelimit: store did not answer all calls")

// decideOn asks a store one thing. What has no answer to it, as a peer of another version may, has failed.
func decideOn(ctx context.Context, s Store, call Call) Reply {
	replies := s.Decide(ctx, []Call{call})
	if len(replies) != 1 || replies[0].Err == nil && len(replies[0].Outcomes) != len(call.Ops) {
		return Reply{Err: errUnanswered}
	}
	return replies[0]
}

// askAll asks the store several things at once, within the timeout and unless the breaker is open. The error is that of a store that has answered
// nothing; where it has answered some, the others have theirs in their replies.
func (l *Limiter) askAll(ctx context.Context, calls []Call) ([]Reply, error) {
	if l.memory != nil {
		return l.store.Decide(ctx, calls), nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !l.breaker.enter(l.o.Now) {
		return nil, errOpen
	}
	asked := l.timeout.Within(ctx)
	replies := l.store.Decide(asked, calls)
	asked.End()
	answered, err := 0, error(nil)
	if len(replies) != len(calls) {
		replies, err = make([]Reply, len(calls)), errUnanswered
	}
	for i := range replies {
		switch {
		case replies[i].Err == nil && len(replies[i].Outcomes) == len(calls[i].Ops):
			answered++
		case replies[i].Err == nil:
			replies[i].Err = errUnanswered
			fallthrough
		default:
			err = replies[i].Err
		}
	}
	failed := answered == 0 && !callers(ctx, err)
	if err != nil && !callers(ctx, err) && l.o.Hooks.OnStoreError != nil {
		l.o.Hooks.OnStoreError(err)
	}
	if changed, open := l.breaker.leave(failed, ctx.Err() != nil || answered == 0, l.o.Now); changed {
		l.breakerIs(open, err)
	}
	if answered > 0 {
		err = nil
	}
	return replies, err
}
