package queue

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// worker is one claimer of Consume, used by one goroutine.
type worker struct {
	*consumer
	number int
	name   string
	idle   backoff // the queue is empty
	broken backoff // the queue fails
	failed backoff // the handler fails, or its success cannot be recorded
}

func (c *consumer) newWorker(number int) *worker {
	w := &worker{
		consumer: c,
		number:   number,
		idle:     backoff{least: c.PollMin, most: c.PollMax},
		broken:   backoff{least: c.ErrorMin, most: c.ErrorMax},
		failed:   backoff{least: c.ErrorMin, most: c.ErrorMax},
	}
	w.rename()
	return w
}

// rename gives the worker a name that nobody has ever had.
//
// It is also the cure after any error of the queue. A Claim is committed, its reply is lost: the name now holds messages
// that no one works on, and if the worker went on to renew it they would be held for ever. Under its new name it leaves
// them behind; the old lease runs out and the reaper gives them back.
func (w *worker) rename() { w.name = fmt.Sprintf("%s-%d-%s", w.Name, w.number, rand.Text()) }

// run claims until ctx is done. work is the context that handlers get.
func (w *worker) run(ctx, work context.Context) {
	for ctx.Err() == nil {
		msgs, err := w.claim(ctx)
		if err != nil {
			w.Logger.LogAttrs(ctx, w.broken.level(), "queue: claim failed", slog.Any("error", err))
			w.rename()
			sleep(ctx.Done(), w.broken.pause())
			continue
		}
		if w.broken.running() {
			w.Logger.LogAttrs(ctx, slog.LevelInfo, "queue: claims again")
		}
		w.broken.reset()
		switch {
		case len(msgs) == 0:
			w.rest(ctx)
		case ctx.Err() != nil:
			w.settle(ctx, "return", w.q.Return, msgs) // the end came during the claim
		case w.batch(work, msgs):
			w.failed.reset()
		default:
			// An empty claim in between is no recovery: the batch that failed may be with another worker just then.
			sleep(ctx.Done(), w.failed.pause())
		}
	}
}

func (w *worker) claim(ctx context.Context) ([]Message, error) {
	call, cancel := w.bounded(ctx)
	defer cancel()
	msgs, err := w.q.Claim(call, w.name, w.Batch)
	if len(msgs) > 0 {
		w.idle.reset()
	}
	if len(msgs) == w.Batch {
		w.Wake.Wake() // there is probably more
	}
	return msgs, err
}

// rest waits for the next poll, for a pusher's wake-up or for the end.
func (w *worker) rest(ctx context.Context) {
	t := time.NewTimer(w.idle.pause())
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.Wake.signal():
		w.idle.reset()
	case <-ctx.Done():
	}
}

// batch handles one claim to its end and reports whether all went well.
func (w *worker) batch(work context.Context, msgs []Message) bool {
	defer w.heartbeat(work)()
	err := w.call(work, slices.Clone(msgs))
	if err == nil {
		return w.settle(work, "ack", w.q.Ack, msgs)
	}
	w.Logger.LogAttrs(work, w.failed.level(), "queue: handler failed", slog.Any("error", err),
		slog.Int("messages", len(msgs)), slog.Int("attempt", msgs[0].Attempts))
	w.settle(work, "return", w.q.Return, msgs)
	return false
}

// heartbeat renews the worker's lease until the function that it returns has been called.
func (w *worker) heartbeat(work context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(work))
	var beat sync.WaitGroup
	name := w.name // settle may rename the worker while the heart beats
	beat.Go(func() {
		for sleep(ctx.Done(), w.Renew) {
			call, done := context.WithTimeout(ctx, w.Timeout)
			_, err := w.q.Claim(call, name, 0)
			done()
			if err != nil && ctx.Err() == nil {
				w.Logger.LogAttrs(ctx, slog.LevelError, "queue: renewing the lease failed", slog.Any("error", err))
			}
		}
	})
	return func() {
		cancel()
		beat.Wait()
	}
}

// settle acknowledges or returns msgs, both of which are harmless when repeated, until it succeeds or Timeout has passed.
// Then the messages are left to the reaper.
func (w *worker) settle(ctx context.Context, what string, op func(context.Context, string, ...Message) error, msgs []Message) bool {
	call, cancel := w.bounded(ctx)
	defer cancel()
	pause := backoff{least: w.ErrorMin, most: w.ErrorMax}
	for {
		err := op(call, w.name, msgs...)
		if err == nil {
			return true
		}
		if !sleep(call.Done(), pause.pause()) || call.Err() != nil {
			w.Logger.LogAttrs(ctx, slog.LevelError, "queue: could not settle a batch, its lease will run out",
				slog.String("operation", what), slog.Int("messages", len(msgs)), slog.Any("error", err))
			w.rename()
			return false
		}
	}
}
