package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// Handler works on the messages of one claim, 1 to Batch of them, oldest first. If it returns nil they are acknowledged; if
// it returns an error or panics they are all returned to the queue. It must be harmless when repeated, and must end soon
// after its context is done. The slice is its own to keep.
type Handler func(ctx context.Context, msgs []Message) error

// Consume hands the messages of q to handle until ctx is done, with several workers at once. It renews the leases of what
// its handlers work on, and gives back what dead workers of any process hold.
//
// It blocks and owns all its goroutines. When ctx is done it claims nothing more, lets running handlers finish (their
// context lives on for opts.Grace), acknowledges or returns their messages, and then returns nil. It waits for a handler
// that ignores its context. Any other result is a fault in the arguments, reported before anything is started; errors
// of the queue and of handlers are logged, and tried again after a growing pause.
func Consume(ctx context.Context, q Queue, opts *ConsumeOptions, handle Handler) error {
	if q == nil || handle == nil {
		return errors.New("queue: Consume needs a queue and a handler")
	}
	o, err := opts.withDefaults(q)
	if err != nil {
		return err
	}
	c := &consumer{ConsumeOptions: o, q: q, handle: handle}

	// What outlives ctx: calls of the queue (bounded by Timeout each) and handlers (bounded by Grace).
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	drained := make(chan struct{})
	var helpers, workers sync.WaitGroup
	helpers.Go(func() { c.reapForEver(ctx) })
	helpers.Go(func() {
		<-ctx.Done()
		if !sleep(drained, c.Grace) {
			return
		}
		stop()
	})
	for i := range c.Workers {
		workers.Go(func() { c.newWorker(i).run(ctx, work) })
	}
	workers.Wait()
	close(drained)
	helpers.Wait()
	return nil
}

type consumer struct {
	ConsumeOptions
	q      Queue
	handle Handler
}

// bounded is the context of one call to the queue. It does not end with ctx: a Claim that is cut off while its reply is on
// the way leaves messages with a worker that does not know of them, and nobody else gets them for the time of a lease.
func (c *consumer) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), c.Timeout)
}

func (c *consumer) reapForEver(ctx context.Context) {
	pause := backoff{least: c.Renew, most: c.Renew}
	for ctx.Err() == nil {
		call, cancel := c.bounded(ctx)
		n, err := c.q.Reap(call)
		cancel()
		switch {
		case err != nil:
			c.Logger.LogAttrs(ctx, slog.LevelWarn, "queue: reaping failed", slog.Any("error", err))
		case n > 0:
			c.Logger.LogAttrs(ctx, slog.LevelWarn, "queue: gave back the messages of dead workers", slog.Int("messages", n))
			c.Wake.Wake()
		}
		sleep(ctx.Done(), pause.pause())
	}
}

// call runs the handler and turns its panic into an error.
func (c *consumer) call(ctx context.Context, msgs []Message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.Logger.LogAttrs(ctx, slog.LevelError, "queue: handler panicked",
				slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
			err = fmt.Errorf("handler panicked: %v", p)
		}
	}()
	return c.handle(ctx, msgs)
}

// sleep reports whether d passed before done was closed.
func sleep(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-done:
		return false
	}
}
