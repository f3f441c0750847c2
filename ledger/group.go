package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"
)

// ErrGroupStopped is what [Group.Post] returns once the group's Run has been
// told to end: nothing was posted.
var ErrGroupStopped = errors.New("ledger: group is stopped")

// Group joins callers that post one or a few transactions each into batches, so
// that a commit is shared by all who arrive while others are under way. An idle
// caller is posted at once; under load batches grow by themselves, also by waiting
// up to 0.3 ms for callers that were just answered. It is safe
// for concurrent use. [Group.Run] must run meanwhile. Make one with [NewGroup]; the
// zero value is not usable.
//
// What a caller hears is what [Ledger.Post] would have told it alone. Its
// transactions stay together and in order, in one commit, with those of others
// before and behind them; an id that two callers give at once is decided once,
// and one of them hears that it is a duplicate.
//
// Since commits are shared, so are waits: a row lock that somebody outside the
// group holds on an account keeps those of the same commit waiting too. Such
// transactions should be short, and the database have a lock_timeout.
type Group struct {
	ledger *Ledger
	o      GroupOptions
	wake   chan struct{} // holds one: look at the queue again
	spare  sync.Pool     // of *call

	mu      sync.Mutex
	queue   callQueue
	traffic traffic
	running bool
	stopped time.Time // zero: it is not
}

// GroupOptions are the optional settings of a [Group].
type GroupOptions struct {
	// MaxBatch is how many transactions a commit has at most, 1 to [MaxBatch];
	// one with several postings counts as so many. A caller with more has a
	// commit of its own. Default: 1,000.
	MaxBatch int
	// AtOnce is how many commits are under way at most. Callers who come together
	// are parted among as many as there is room for, 16 transactions or more in
	// each. What posts to an account of a commit under way waits for its end in
	// the queue, with what stands behind it, until MaxBatch is reached. Default: 2.
	AtOnce int
	// Window is how long the first of a commit waits for others even when
	// nothing is under way. Default: 0, not at all.
	Window time.Duration
	// Timeout bounds each commit, and how long Run goes on once its context has
	// ended. Default: 30 s.
	Timeout time.Duration
}

// NewGroup returns a group that posts to l. It starts nothing. Its error joins
// an [*InputError] for each fault.
func NewGroup(l *Ledger, o *GroupOptions) (*Group, error) {
	var faults []error
	refuse := func(bad bool, field, reason string) {
		if bad {
			faults = append(faults, &InputError{Field: field, Reason: reason})
		}
	}
	if o == nil {
		o = &GroupOptions{}
	}
	refuse(l == nil, "ledger", "is nil")
	refuse(o.MaxBatch < 0 || o.MaxBatch > MaxBatch, "GroupOptions.MaxBatch", fmt.Sprintf("is not 1 to %d", MaxBatch))
	refuse(o.AtOnce < 0, "GroupOptions.AtOnce", "is negative")
	refuse(o.Window < 0, "GroupOptions.Window", "is negative")
	refuse(o.Timeout < 0, "GroupOptions.Timeout", "is negative")
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	g := &Group{ledger: l, o: *o, wake: make(chan struct{}, 1), traffic: traffic{busy: map[AccountID]int{}}}
	if g.o.MaxBatch == 0 {
		g.o.MaxBatch = 1000
	}
	if g.o.AtOnce == 0 {
		g.o.AtOnce = 2
	}
	if g.o.Timeout == 0 {
		g.o.Timeout = 30 * time.Second
	}
	return g, nil
}

// Post is [Ledger.Post] in a commit shared with others. It waits for [Group.Run]
// where that has not begun.
//
// A caller whose ctx ends gets ctx.Err(). Its transactions may or may not be
// posted then; posting them again is safe. The store does not see ctx, since the
// commit is others' too. txs is the caller's again when Post returns.
//
// An error of the store that one caller's transactions may have caused does not
// reach the others: the batch is posted again in halves until those that fail
// are alone. Where it cannot be told from a store that fails everybody, as with
// three such callers side by side, it does. A failed commit that was done after all
// is then met as a duplicate, so [Result.Duplicate] may be said of a first call.
// Errors that say of themselves that they are Retryable() are everybody's. So is
// the end of [GroupOptions.Timeout], which is a context.DeadlineExceeded.
//
// Cost: a share of one commit; idle, some microseconds and 6 allocations more
// than Ledger.Post.
func (g *Group) Post(ctx context.Context, txs []Transaction) ([]Result, error) {
	if len(txs) == 0 || len(txs) > MaxBatch {
		return g.ledger.Post(ctx, txs) // which touches no store
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := g.newCall(txs)
	if !g.put(c) {
		return nil, ErrGroupStopped
	}
	select {
	case <-c.done:
		results, err := c.results, c.err
		g.free(c)
		return results, err
	case <-ctx.Done():
		if g.withdraw(c) {
			g.free(c)
		}
		return nil, ctx.Err()
	}
}

// PostOne is [Group.Post] of one transaction, with a refusal as a
// [*VerdictError].
func (g *Group) PostOne(ctx context.Context, tx Transaction) (Result, error) {
	results, err := g.Post(ctx, []Transaction{tx})
	if err != nil {
		return Result{ID: tx.ID}, err
	}
	return results[0], results[0].Err()
}

// Run posts what callers bring until ctx ends, and returns nil when all that was
// taken by then is answered, after Timeout at the latest. Call it once.
func (g *Group) Run(ctx context.Context) error {
	g.mu.Lock()
	again := g.running
	g.running = true
	g.mu.Unlock()
	if again {
		return errors.New("ledger: Group.Run is called twice")
	}
	context.AfterFunc(ctx, g.stop)
	posting := context.WithoutCancel(ctx) // what was taken is posted
	var commits sync.WaitGroup
	for g.some() { // the queue grows while there is no room
		g.gather(ctx)
		c := g.take()
		commits.Go(func() {
			defer g.ended(c)
			g.post(posting, c.calls)
		})
	}
	commits.Wait()
	return nil
}

// ended makes room for another commit.
func (g *Group) ended(c commit) {
	g.mu.Lock()
	g.traffic.end(c)
	g.mu.Unlock()
	g.nudge()
}

// stop lets nobody in any more.
func (g *Group) stop() {
	g.mu.Lock()
	g.stopped = time.Now()
	g.mu.Unlock()
	g.nudge()
}

func (g *Group) nudge() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// some waits until there is something in the queue and room for its commit.
// False: there never will be.
func (g *Group) some() bool {
	for {
		g.mu.Lock()
		some, stopped, room := g.queue.size > 0, !g.stopped.IsZero(), g.traffic.commits < g.o.AtOnce
		g.traffic.wanted = 0
		if !room {
			g.traffic.wanted = g.o.MaxBatch // callers need not wake us, the end of a commit does
		}
		g.mu.Unlock()
		if some && room || stopped && !some {
			return some
		}
		<-g.wake
	}
}

// gather lets the next batch grow until it is worth a commit.
func (g *Group) gather(ctx context.Context) {
	notBefore := time.Now().Add(g.o.Window)
	for ctx.Err() == nil {
		g.mu.Lock()
		wait := g.traffic.wait(&g.queue, g.o.MaxBatch, notBefore)
		g.mu.Unlock()
		if wait == 0 {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-g.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// put queues a call. False: the group is stopped.
func (g *Group) put(c *call) bool {
	g.mu.Lock()
	in, wake := g.stopped.IsZero(), false
	if in {
		g.queue.push(c)
		wake = g.traffic.came(g.queue.size)
	}
	g.mu.Unlock()
	if wake {
		g.nudge()
	}
	return in
}

// withdraw takes a call out of the queue. False: it is under way.
func (g *Group) withdraw(c *call) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !c.queued {
		return false
	}
	g.queue.remove(c)
	return true
}

// take takes the next batch out of the queue; it may be empty, if all who were
// in it have hung up. A chain that its caller has left without an end ends the
// batch: with another caller behind it, it would go on into that one's.
//
// It takes its share, and leaves the rest to another:
//
//	two commits, of half of the callers each, are under way;
//	both end at once, or what comes back from one waits for an account of the other;
//	all callers are in the queue, go as one commit, and come back together;
//	from then on it is one commit after the other, and half of the machine is idle.
func (g *Group) take() commit {
	g.mu.Lock()
	defer g.mu.Unlock()
	share := g.traffic.share(g.queue.size, g.o.AtOnce)
	c := g.traffic.begin()
	for call := g.queue.first; call != nil; {
		next := call.next
		switch {
		case c.size > 0 && c.size+call.size > g.o.MaxBatch:
			return c
		case c.size < share || g.traffic.meets(call): // or it would only wait for this one
			g.queue.remove(call)
			g.traffic.add(&c, call)
			if call.open() {
				return c
			}
		}
		call = next
	}
	return c
}

// post posts a batch and answers its callers.
func (g *Group) post(ctx context.Context, calls []*call) {
	g.mu.Lock()
	begin := g.stopped
	g.mu.Unlock()
	if begin.IsZero() {
		begin = time.Now()
	}
	ctx, cancel := context.WithDeadline(ctx, begin.Add(g.o.Timeout))
	defer cancel()
	a := attempts{group: g, patience: bits.Len(uint(len(calls))) + 2}
	defer func() { // a store that calls runtime.Goexit, as a failed test does, ends this goroutine: nobody else would answer
		for _, c := range calls[a.answered:] {
			c.answer(nil, errAbandoned)
		}
	}()
	a.post(ctx, calls)
}

// errAbandoned is what callers hear of a store that did not return.
var errAbandoned = errors.New("ledger: the store ended the goroutine of its caller: what was posted is unknown")

func (g *Group) answering(n int) {
	g.mu.Lock()
	g.traffic.answer(n)
	g.mu.Unlock()
}

// attempts posts a batch, and where that fails its halves, as long as there is
// hope that the failure is that of some of the callers only.
type attempts struct {
	group    *Group
	failed   int   // posts in a row
	patience int   // how many of those one bad caller can cause, and two more
	hopeless error // what all who are left are told
	answered int   // of the first batch, in its order; what is answered may be another call's by now
}

func (a *attempts) post(ctx context.Context, calls []*call) {
	if len(calls) == 0 {
		return
	}
	var results []Result
	err := a.hopeless
	if err == nil {
		results, err = a.group.ledger.Post(ctx, joined(calls))
	}
	if err == nil {
		a.failed = 0
		a.group.answering(len(calls))
		for _, c := range calls {
			n := len(c.txs) // read before c is the caller's again
			a.answered++
			c.answer(results[:n:n], nil)
			results = results[n:]
		}
		return
	}
	a.failed++
	if a.hopeless == nil && (a.failed > a.patience || ctx.Err() != nil || everybodys(err)) {
		a.hopeless = err
	}
	if len(calls) == 1 || a.hopeless != nil {
		a.group.answering(len(calls))
		for _, c := range calls {
			a.answered++
			c.answer(nil, err)
		}
		return
	}
	half := len(calls) / 2
	a.post(ctx, calls[:half])
	a.post(ctx, calls[half:])
}

// everybodys tells whether an error says that the same would have succeeded at
// another moment: then it is not about what was posted.
func everybodys(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Retryable() bool
	}](err)
	return ok && e.Retryable()
}

// joined returns the transactions of calls, one caller's behind the other's.
func joined(calls []*call) []Transaction {
	if len(calls) == 1 {
		return calls[0].txs
	}
	n := 0
	for _, c := range calls {
		n += len(c.txs)
	}
	txs := make([]Transaction, 0, n)
	for _, c := range calls {
		txs = append(txs, c.txs...)
	}
	return txs
}
