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
		return c.SagaID + "/" + c.Step + "/" + undoName
	}
	return c.DoKey()
}

// undoName is no name that a step can have:
//
//	the saga "a" has a child, "a/b", whose step "undo" pays, by the key "a/b/undo"; the
//	step "b" is undone, by the same key: its provider has done that already, it says.
const undoName = "undo"

// DoKey is the [Call.Key] of the step, also in its compensation, which says with it
// what is to be undone.
func (c Call) DoKey() string { return c.SagaID + "/" + c.Step }

type callKey struct{}

// CallFrom returns what ctx, that of a step, is for. It is the zero Call elsewhere.
func CallFrom(ctx context.Context) Call {
	if c, ok := ctx.Value(callKey{}).(*callCtx); ok {
		return c.call()
	}
	return Call{}
}

// Publish keeps a message with the checkpoint of the step that ctx is of: it is
// there if and only if the step is done, also if it is its Verify that publishes and
// says so. [Outbox.Relay] takes it from the store. payload is not modified afterwards.
// It is an error where the attempt is over.
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
	call := c.call()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil { // nobody would take it any more
		return fmt.Errorf("saga: Publish is called when its attempt is over: %w", c.cause)
	}
	l := c.late()
	key := call.Key() + "/" + strconv.Itoa(len(l.messages))
	l.messages = append(l.messages, Message{SagaID: call.SagaID, Step: call.Step, Topic: topic, Key: key, Payload: payload})
	return nil
}

// callCtx is the context of one attempt. Most who are given one never ask for its
// Done channel, so that it and its timer are made for the first who does: they
// would be two thirds of what a step costs in memory.
type callCtx struct {
	run          *run
	part         *part
	attempt      int
	undo, verify bool
	until        time.Duration // when its time is over, on the run's clock
	next         *callCtx      // of the run

	mu    sync.Mutex
	cause error // why it was cancelled
	more  *lateCtx
}

// lateCtx is what most attempts have no need of.
type lateCtx struct {
	ctx      context.Context //nolint:containedctx // it is the callCtx, made late; nil: it is not
	cancel   context.CancelCauseFunc
	messages []Message
}

func (c *callCtx) call() Call {
	r := c.run
	return Call{r.id, r.businessID, r.program.name, c.part.name, c.attempt, c.undo, c.verify}
}

// parent is what the context is made of.
func (c *callCtx) parent() context.Context { return c.run.e.hard }

func (c *callCtx) Deadline() (time.Time, bool) { return c.run.local.Add(c.until), true }

func (c *callCtx) Done() <-chan struct{} { return c.real().Done() }

func (c *callCtx) Err() error {
	c.mu.Lock()
	idle := c.made() == nil && c.cause == nil
	c.mu.Unlock()
	if idle && c.run.now() < c.until && c.parent().Err() == nil {
		return nil
	}
	return c.real().Err()
}

func (c *callCtx) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	c.mu.Lock()
	ctx := c.made()
	c.mu.Unlock()
	if ctx != nil {
		return ctx.Value(key) // where package context finds what to propagate to
	}
	return c.parent().Value(key)
}

// made is the real context, nil if it is not made yet. mu is held, also below.
func (c *callCtx) made() context.Context {
	if c.more == nil {
		return nil
	}
	return c.more.ctx
}

func (c *callCtx) late() *lateCtx {
	if c.more == nil {
		c.more = &lateCtx{}
	}
	return c.more
}

func (c *callCtx) real() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.late()
	if l.ctx == nil {
		deadline, _ := c.Deadline()
		timed, stop := context.WithDeadline(c.parent(), deadline)
		ctx, cancel := context.WithCancelCause(timed)
		l.ctx, l.cancel = ctx, func(cause error) { cancel(cause); stop() }
		if c.cause != nil {
			l.cancel(c.cause)
		}
	}
	return l.ctx
}

// end cancels it and everything that was made from it. It returns what was published.
func (c *callCtx) end(cause error) []Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = cause
	}
	if c.more == nil {
		return nil
	}
	if c.more.ctx != nil {
		c.more.cancel(cause)
	}
	return c.more.messages
}
