package saga

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// Call says for which attempt of which step a [Func] is called.
type Call struct {
	SagaID     string
	BusinessID string
	Definition string
	Step       string
	Attempt    int  // from 1, over all processes
	Undo       bool // it is the compensation that is called
	Verify     bool // it is the look-up that is called, about the step, also on the way back
}

// Key names the effect of this step in this saga, or that of its compensation: it
// is the same for every attempt in every process, and is to be given to a provider
// or to package idempotency as the idempotency key.
func (c Call) Key() string {
	if c.Undo {
		return c.SagaID + "/" + c.Step + "/undo"
	}
	return c.DoKey()
}

// DoKey is the [Call.Key] of the step, also in its compensation, which says with it
// what is to be undone.
func (c Call) DoKey() string { return c.SagaID + "/" + c.Step }

type callKey struct{}

// CallFrom returns what ctx, that of a step, is for. It is the zero Call elsewhere.
func CallFrom(ctx context.Context) Call {
	if c, ok := ctx.Value(callKey{}).(*callCtx); ok {
		return c.call
	}
	return Call{}
}

// Publish keeps a message with the checkpoint of the step that ctx is of: it is
// there if and only if the step is done. [Outbox.Relay] takes it from the store.
// payload is not modified afterwards.
func Publish(ctx context.Context, topic string, payload []byte) error {
	c, ok := ctx.Value(callKey{}).(*callCtx)
	if !ok {
		return errors.New("saga: Publish is called outside of a step")
	}
	if err := checkID("topic", topic); err != nil {
		return err // here, where the step can fail: no store could keep it with the checkpoint
	}
	if len(payload) > maxData {
		return &InputError{Field: "payload", Reason: fmt.Sprintf("has %d bytes, more than %d", len(payload), maxData)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := c.call.Key() + "/" + strconv.Itoa(len(c.messages))
	c.messages = append(c.messages, Message{SagaID: c.call.SagaID, Step: c.call.Step, Topic: topic, Key: key, Payload: payload})
	return nil
}

// callCtx is the context of one attempt.
type callCtx struct {
	lazyCtx
	call     Call
	messages []Message // guarded by mu
}

func (c *callCtx) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	return c.lazyCtx.Value(key)
}

// lazyCtx is a context with a deadline. Most who are given one never ask for its
// Done channel, so that it and its timer are made for the first who does: they
// would be two thirds of what a step costs in memory.
type lazyCtx struct {
	context.Context // the parent
	deadline        time.Time

	mu     sync.Mutex
	inner  context.Context //nolint:containedctx // it is this context, made late
	cancel context.CancelCauseFunc
	cause  error // why it was cancelled
}

func (c *lazyCtx) Deadline() (time.Time, bool) {
	return c.deadline, true
}

func (c *lazyCtx) Done() <-chan struct{} { return c.real().Done() }

func (c *lazyCtx) Err() error {
	c.mu.Lock()
	idle := c.inner == nil && c.cause == nil
	c.mu.Unlock()
	if idle && time.Now().Before(c.deadline) && c.Context.Err() == nil {
		return nil
	}
	return c.real().Err()
}

func (c *lazyCtx) Value(key any) any {
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key) // where package context finds what to propagate to
	}
	return c.Context.Value(key)
}

func (c *lazyCtx) real() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		timed, stop := context.WithDeadline(c.Context, c.deadline)
		ctx, cancel := context.WithCancelCause(timed)
		c.inner, c.cancel = ctx, func(cause error) { cancel(cause); stop() }
		if c.cause != nil {
			c.cancel(c.cause)
		}
	}
	return c.inner
}

// end cancels it and everything that was made from it.
func (c *lazyCtx) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = cause
	}
	if c.cancel != nil {
		c.cancel(cause)
	}
}
