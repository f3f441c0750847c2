// Package join turns single callers into batches: what would be a commit for
// each becomes one for all that arrive together.
//
// An item waits for company for a short window and no longer, or until a batch is
// full. While as many batches as allowed are under way, the next one grows
// instead: under load batches get larger by themselves.
//
// Guaranteed: an item that [Joiner.Put] has taken is handed on exactly once, and
// batches are begun in the order of arrival. Not guaranteed: anything across
// processes, or that an item's batch succeeds; that is for the handler to report
// to whoever waits.
package join

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrStopped is what [Joiner.Put] returns when [Joiner.Run] takes nothing more.
var ErrStopped = errors.New("join: stopped")

// Options are the optional settings of a [Joiner].
type Options struct {
	// Size is how many items a batch has at most. Default: 100.
	Size int
	// Window is how long the first item of a batch waits for others. Default: 2 ms.
	Window time.Duration
	// AtOnce is how many batches are handled at the same time. Default: 2.
	AtOnce int
}

// Joiner joins items. Make one with [New].
type Joiner[T any] struct {
	o      Options
	handle func([]T)
	in     chan T // unbuffered: what is in it has been taken
	done   chan struct{}
}

// New returns a joiner that hands batches to handle. nil options are the defaults.
func New[T any](o *Options, handle func([]T)) *Joiner[T] {
	j := &Joiner[T]{o: Options{Size: 100, Window: 2 * time.Millisecond, AtOnce: 2}, handle: handle, in: make(chan T), done: make(chan struct{})}
	if o == nil {
		return j
	}
	if o.Size > 0 {
		j.o.Size = o.Size
	}
	if o.Window > 0 {
		j.o.Window = o.Window
	}
	if o.AtOnce > 0 {
		j.o.AtOnce = o.AtOnce
	}
	return j
}

// Put gives an item to the next batch. It waits while that is full. After an
// error the item was not taken.
func (j *Joiner[T]) Put(ctx context.Context, item T) error {
	select {
	case j.in <- item:
		return nil
	case <-j.done:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run joins items until ctx ends, hands on what it has taken, and returns nil
// when the last batch is handled. Call it once.
func (j *Joiner[T]) Run(ctx context.Context) error {
	defer close(j.done)
	var handling sync.WaitGroup
	defer handling.Wait()
	slots := make(chan struct{}, j.o.AtOnce)
	window := time.NewTimer(j.o.Window)
	var batch []T
	due, stop := false, ctx.Done()
	for stop != nil || len(batch) > 0 {
		in, slot := j.in, chan<- struct{}(nil)
		if len(batch) >= j.o.Size || stop == nil {
			in = nil
		}
		if len(batch) > 0 && (due || in == nil) {
			slot = slots
		}
		select {
		case item := <-in:
			if len(batch) == 0 {
				due = false
				window.Reset(j.o.Window)
			}
			batch = append(batch, item)
		case <-window.C:
			due = true
		case slot <- struct{}{}:
			items := batch
			handling.Go(func() {
				j.handle(items)
				<-slots
			})
			batch = nil
		case <-stop:
			stop = nil
		}
	}
	return nil
}
