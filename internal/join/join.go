// Package join turns single callers into batches: what would be a commit for
// each becomes one for all that arrive together.
//
// An item waits for company for a short window and no longer, or until a batch is
// full. While as many batches as allowed are under way, the next one grows
// instead: under load batches get larger by themselves.
//
// Guaranteed: an item that [Joiner.Put] has taken is handed on exactly once, in
// the order of arrival of items with the same key, and never beside another with
// its key in one batch. Not guaranteed: anything across processes, or that an
// item's batch succeeds; that is for the handler to report to whoever waits.
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
	key    func(T) string
	handle func([]T)
	in     chan T // unbuffered: what is in it has been taken
	done   chan struct{}
}

// New returns a joiner that hands batches to handle. No two items of a batch have
// the same key: the second waits for the next batch. nil options are the defaults.
func New[T any](o *Options, key func(T) string, handle func([]T)) *Joiner[T] {
	j := &Joiner[T]{o: Options{Size: 100, Window: 2 * time.Millisecond, AtOnce: 2}, key: key, handle: handle, in: make(chan T), done: make(chan struct{})}
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
	var b Batch[T]
	due, stop := false, ctx.Done()
	for stop != nil || b.Len() > 0 {
		in, slot := j.in, chan<- struct{}(nil)
		if len(b.Items) >= j.o.Size || stop == nil {
			in = nil
		}
		if b.Len() > 0 && (due || in == nil) {
			slot = slots
		}
		select {
		case item := <-in:
			if b.Len() == 0 {
				due = false
				window.Reset(j.o.Window)
			}
			b.Add(item, j.key(item))
		case <-window.C:
			due = true
		case slot <- struct{}{}:
			items := b.Items
			handling.Go(func() {
				j.handle(items)
				<-slots
			})
			b = b.Next(j.o.Size)
			due = false
			window.Reset(j.o.Window)
		case <-stop:
			stop = nil
		}
	}
	return nil
}

// Batch is a list of items with distinct keys, and those that come after it.
type Batch[T any] struct {
	Items []T
	keys  map[string]struct{}
	later []keyed[T]
}

type keyed[T any] struct {
	item T
	key  string
}

// Len is how many items there are, later ones included.
func (b *Batch[T]) Len() int { return len(b.Items) + len(b.later) }

// Add adds an item: to Items, or for later if its key is there already.
func (b *Batch[T]) Add(item T, key string) {
	if b.keys == nil {
		b.keys = map[string]struct{}{}
	}
	if _, ok := b.keys[key]; ok {
		b.later = append(b.later, keyed[T]{item, key})
		return
	}
	b.keys[key] = struct{}{}
	b.Items = append(b.Items, item)
}

// Next returns the batch of what was to come later, with up to size Items.
func (b *Batch[T]) Next(size int) Batch[T] {
	var n Batch[T]
	for _, l := range b.later {
		if len(n.Items) < size {
			n.Add(l.item, l.key)
		} else {
			n.later = append(n.later, l)
		}
	}
	return n
}
