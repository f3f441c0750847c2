package pgsaga

import (
	"context"
	"runtime"
	"sync"
	"time"
)

const (
	// atOnce is how many batches are under way at most: while one is at the disk, the
	// next fills.
	atOnce = 2
	// worthwhile is how many items a batch has at least that leaves others to the next.
	worthwhile = 64
	// maxItems and maxBytes bound a batch.
	maxItems = 500
	maxBytes = 4 << 20
)

// group joins the writes of callers into batches, without a goroutine or a timer of
// its own. A caller who finds fewer than atOnce batches under way leads: it sends what
// is queued, at once. The others wait. A leader whose batch is done makes one of those
// who wait the next leader, so that nobody works for others for long.
//
// Of many who are queued a leader takes its share, as many as are under way: or it would
// be a batch of nearly all and one of few in turn, for as long as they come again.
type group struct {
	send    func(ctx context.Context, items []*item) // and answers each
	timeout time.Duration

	mu    sync.Mutex
	queue []*item             // oldest first
	under int                 // leaders
	items int                 // that they have taken
	ids   map[string]struct{} // of the batch that is being taken
	calls sync.Pool           // of *call, answered
}

// call is a caller who waits for its items.
type call struct {
	open   int          // items without an answer
	leader bool         // it was made a leader, and does not know yet
	wake   chan message // of two: it can be made a leader, and be answered, at once
}

type message bool

const (
	lead     message = true
	answered message = false
)

// do returns when all items are answered; or with ctx's error when ctx ends, and then
// some of them may still be written. A caller that leads others stays until its batch
// is answered, or the group's timeout is over.
func (g *group) do(ctx context.Context, items []*item) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	g.mu.Lock()
	leads := g.under < atOnce
	if leads {
		g.under++
	}
	if leads && len(items) == 1 && len(g.queue) == 0 {
		g.items++
		g.mu.Unlock()
		g.alone(ctx, items)
		return nil
	}
	c, ok := g.calls.Get().(*call)
	if !ok {
		c = &call{wake: make(chan message, 2)}
	}
	c.open = len(items)
	for _, i := range items {
		i.call = c
	}
	g.queue = append(g.queue, items...)
	g.mu.Unlock()
	if leads {
		g.lead(ctx)
	}
	for {
		select {
		case m := <-c.wake:
			if m == answered { // the last that it is told
				g.calls.Put(c)
				return nil
			}
			g.accept(c)
			g.lead(ctx)
		case <-ctx.Done():
			return g.leave(ctx, c)
		}
	}
}

// alone sends the item of a caller who finds nobody else, and may hang up.
func (g *group) alone(ctx context.Context, items []*item) {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	defer g.done(items)
	g.send(ctx, items)
}

// accept notes that c knows that it was made a leader. Only who has read the message
// does so, and not every leader:
//
//	c has come as a leader, and is about to take its batch; another leader ends, and
//	makes c its successor; c takes its batch, and forgets that; when that is done its
//	ctx has ended, and it leaves: there is one leader less for ever.
func (g *group) accept(c *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.leader = false
}

// lead sends one batch.
func (g *group) lead(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.timeout) // the batch is others' too
	defer cancel()
	batch := g.take()
	defer g.done(batch) // whatever happens: the others wait
	if len(batch) > 0 {
		g.send(ctx, batch)
	}
}

// take takes the next batch out of the queue. Of two writes of one saga the second
// waits for the next batch: an UPDATE that finds two new states for a row takes either.
func (g *group) take() []*item {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 1 {
		batch := g.queue
		g.queue = nil
		g.items++
		return batch
	}
	share := min(maxItems, max(worthwhile, (g.items+len(g.queue)+atOnce-1)/atOnce))
	batch := make([]*item, 0, min(len(g.queue), share))
	if g.ids == nil {
		g.ids = make(map[string]struct{}, maxItems)
	}
	clear(g.ids)
	rest, bytes := g.queue[:0], 0
	for n, i := range g.queue {
		if len(batch) == share || len(batch) > 0 && bytes+i.size > maxBytes {
			rest = append(rest, g.queue[n:]...)
			break
		}
		if _, twice := g.ids[i.id]; twice {
			rest = append(rest, i)
			continue
		}
		g.ids[i.id] = struct{}{}
		bytes += i.size
		batch = append(batch, i)
	}
	clear(g.queue[len(rest):])
	g.queue = rest
	g.items += len(batch)
	if len(rest) >= worthwhile && g.under < atOnce { // another's share
		g.under++
		g.handOn()
	}
	return batch
}

// done tells the callers of a batch, and hands the lead on.
func (g *group) done(batch []*item) {
	g.mu.Lock()
	g.items -= len(batch)
	for _, i := range batch {
		c := i.call // nil: it was alone
		if c == nil {
			continue
		}
		if c.open--; c.open == 0 {
			c.wake <- answered // also where it has left
		}
	}
	g.mu.Unlock()
	if len(batch) > 1 {
		runtime.Gosched() // those who were just answered come back first, if they have nothing else to do
	}
	g.mu.Lock()
	g.handOn()
	g.mu.Unlock()
}

// handOn makes the caller who has waited longest a leader. Those in the queue are
// there: who leaves takes its items along.
func (g *group) handOn() {
	if len(g.queue) == 0 {
		g.under--
		return
	}
	for _, i := range g.queue {
		if !i.call.leader { // not twice: its channel has room for one
			i.call.leader = true
			i.call.wake <- lead
			return
		}
	}
	g.under-- // all who wait are leaders already
}

// leave withdraws what is not under way yet.
func (g *group) leave(ctx context.Context, c *call) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.leader {
		defer g.handOn()
	}
	if c.open == 0 {
		return nil
	}
	rest := g.queue[:0]
	for _, i := range g.queue {
		if i.call != c {
			rest = append(rest, i)
		}
	}
	clear(g.queue[len(rest):])
	g.queue = rest
	return ctx.Err()
}
