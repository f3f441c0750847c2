// Package join turns single callers into batches: what would be a commit for
// each becomes one for all that arrive together.
//
// An item waits for company for a short window and no longer, or until a batch is
// full. While as many batches as allowed are under way, the next one grows
// instead: under load batches get larger by themselves.
//
// Guaranteed: an item that [Joiner.Do] has handed in is handled exactly once, also
// when its caller gives up waiting; batches are begun in the order of arrival; and
// a caller gets the one answer that the handler gives to its item, as soon as it
// gives it. Not guaranteed: anything across processes.
package join

import (
	"context"
	"errors"
	"sync"
	"time"
)

var (
	// ErrStopped is what [Joiner.Do] returns when [Joiner.Run] takes nothing more.
	ErrStopped = errors.New("join: stopped")
	// ErrUnanswered is what it returns for an item that the handler has forgotten.
	ErrUnanswered = errors.New("join: the handler gave no answer")
)

// Options are the optional settings of a [Joiner].
type Options struct {
	// Size is how many items a batch has at most. Default: 100.
	Size int
	// Window is how long the first item of a batch waits for others. Default: 2 ms.
	Window time.Duration
	// AtOnce is how many batches are handled at the same time. Default: 2.
	AtOnce int
}

// Call is an item whose caller waits for an answer.
type Call[T, R any] struct {
	Item T
	done chan result[R] // holds one, so that nobody waits for a caller that is gone
}

type result[R any] struct {
	answer R
	err    error
}

// Answer gives the caller an answer or an error. What is not the first is dropped.
func (c *Call[T, R]) Answer(answer R, err error) {
	select {
	case c.done <- result[R]{answer, err}:
	default:
	}
}

// Joiner joins items of type T, which are answered with an R. Make one with [New].
type Joiner[T, R any] struct {
	o      Options
	handle func([]*Call[T, R])
	in     chan *Call[T, R] // unbuffered: what is in it has been taken
	done   chan struct{}
}

// New returns a joiner that hands batches to handle, which answers each call.
// nil options are the defaults.
func New[T, R any](o *Options, handle func([]*Call[T, R])) *Joiner[T, R] {
	j := &Joiner[T, R]{
		o: Options{Size: 100, Window: 2 * time.Millisecond, AtOnce: 2}, handle: handle, in: make(chan *Call[T, R]), done: make(chan struct{}),
	}
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

// Do hands an item to the next batch, waiting while that is full, and returns the
// item's answer. The error is the handler's, [ErrUnanswered], [ErrStopped] (the
// item was not handed in), or that of ctx: then it is not known what becomes of it.
func (j *Joiner[T, R]) Do(ctx context.Context, item T) (R, error) {
	call := &Call[T, R]{Item: item, done: make(chan result[R], 1)}
	var none R
	select {
	case j.in <- call:
	case <-j.done:
		return none, ErrStopped
	case <-ctx.Done():
		return none, ctx.Err()
	}
	select {
	case got := <-call.done:
		return got.answer, got.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// Run joins items until ctx ends, hands on what it has taken, and returns nil
// when the last batch is handled. Call it once.
func (j *Joiner[T, R]) Run(ctx context.Context) error {
	defer close(j.done)
	var handling sync.WaitGroup
	defer handling.Wait()
	slots := make(chan struct{}, j.o.AtOnce)
	window := time.NewTimer(j.o.Window)
	var batch []*Call[T, R]
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
		case call := <-in:
			if len(batch) == 0 {
				due = false
				window.Reset(j.o.Window)
			}
			batch = append(batch, call)
		case <-window.C:
			due = true
		case slot <- struct{}{}:
			calls := batch
			handling.Go(func() {
				defer func() { // a handler that calls runtime.Goexit, as a failed test does, ends this goroutine: nobody else would answer
					<-slots
					for _, c := range calls {
						var none R
						c.Answer(none, ErrUnanswered)
					}
				}()
				j.handle(calls)
			})
			batch = nil
		case <-stop:
			stop = nil
		}
	}
	return nil
}
