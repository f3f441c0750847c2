package saga

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/internal/absent"
	"github.com/safetill/safetill/internal/deadline"
)

// Options are the optional settings of an [Engine].
type Options struct {
	// Definitions are the sagas that the engine knows: those that are started with
	// it, as children too, and every version that may still be under way. Default: none, which is
	// enough for [Admin].
	Definitions []Registered
	// Lease is how long a saga stays with an engine that has fallen silent; it is
	// renewed three times in that span. Recovery begins Lease + Poll after a crash at
	// the latest. At least 10 ms. Default: 15 s.
	Lease time.Duration
	// Poll is how often the engine looks for sagas that are due: those of engines
	// that died, those that waited, those started where no engine runs. Default: 1 s.
	Poll time.Duration
	// MaxConcurrent is how many sagas the engine has in hand at once. More are
	// started, and begin when there is room, here or elsewhere. Default: 10,000.
	MaxConcurrent int
	// MaxCrashes is how many owners in a row, or panics, one step may cost before the
	// saga is Stuck. Default: 3.
	MaxCrashes int
	// Drain is how long Run waits for the steps under way when it is told to end,
	// before it cancels them. Default: 30 s.
	Drain time.Duration
	// Keep is how long sagas that are Completed or Compensated are kept, and children
	// at least as long as their parents. What comes with their id later is a new saga.
	// Default: for ever.
	Keep time.Duration
	// Hooks are told what happens. Default: none.
	Hooks Hooks
	// Logger gets what no caller is told: sagas that get stuck, a store that fails.
	// Default: nothing is logged.
	Logger *slog.Logger
}

// Engine executes sagas. It is safe for concurrent use. [Engine.Run] must run for
// anything to happen; an engine that does not run can start sagas for others. Make
// one with [New]; the zero value is not usable.
type Engine struct {
	store    Store
	o        Options
	owner    string
	starter  atomic.Pointer[starter] // the owner of what it starts
	programs map[string][]*program   // by name, newest version first
	names    []string
	log      *slog.Logger

	running  atomic.Bool
	calls    *deadline.Pool  // see limited
	stopping chan struct{}   // closed: begin nothing, release what you have
	nudged   chan string     // ids that are due now
	hard     context.Context //nolint:containedctx // of the steps: it ends when Drain is over
	cancel   func()
	work     sync.WaitGroup

	mu   sync.Mutex
	runs map[string]*run // those in hand
}

// New returns an engine on store. It starts nothing. Its error joins an [*InputError]
// for each fault.
func New(store Store, o *Options) (*Engine, error) {
	if o == nil {
		o = &Options{}
	}
	e := &Engine{
		store: store, o: *o, owner: rand.Text()[:16], programs: map[string][]*program{},
		stopping: make(chan struct{}), nudged: make(chan string, 1024), runs: map[string]*run{},
		calls: deadline.NewPool(storeLimit + storeLimit/7), // of which up to an eighth is over
	}
	var faults []error
	refuse := func(bad bool, field, reason string) {
		if bad {
			faults = append(faults, &InputError{Field: field, Reason: reason})
		}
	}
	refuse(absent.Is(store), "store", "is nil")
	refuse(o.Lease < 0 || o.Lease > 0 && o.Lease < 10*time.Millisecond, "Options.Lease", "is less than 10 ms")
	refuse(o.Poll < 0, "Options.Poll", "is negative")
	refuse(o.MaxConcurrent < 0, "Options.MaxConcurrent", "is negative")
	refuse(o.MaxCrashes < 0, "Options.MaxCrashes", "is negative")
	refuse(o.Drain < 0, "Options.Drain", "is negative")
	refuse(o.Keep < 0, "Options.Keep", "is negative")
	if _, ok := store.(Sweeper); o.Keep > 0 && !ok {
		refuse(true, "Options.Keep", fmt.Sprintf("is set, and the store %T keeps everything", store))
	}
	for i, d := range o.Definitions {
		if reason := e.register(d); reason != "" {
			refuse(true, fmt.Sprintf("Options.Definitions[%d]", i), reason)
		}
	}
	for i, d := range o.Definitions {
		for _, reason := range e.missing(d) {
			refuse(true, fmt.Sprintf("Options.Definitions[%d]", i), reason)
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	e.rename()
	e.o.Lease = cmp.Or(e.o.Lease, 15*time.Second)
	e.o.Poll = cmp.Or(e.o.Poll, time.Second)
	e.o.MaxConcurrent = cmp.Or(e.o.MaxConcurrent, 10_000)
	e.o.MaxCrashes = cmp.Or(e.o.MaxCrashes, 3)
	e.o.Drain = cmp.Or(e.o.Drain, 30*time.Second)
	e.log = o.Logger
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	e.hard, e.cancel = context.WithCancel(context.Background())
	return e, nil
}

// missing tells the steps of a definition whose children could not be started here.
func (e *Engine) missing(d Registered) (reasons []string) {
	if absent.Is(d) {
		return nil
	}
	for _, s := range d.registered().parts {
		if c := s.child; c != nil && e.version(c.name, c.version) == nil {
			reasons = append(reasons, fmt.Sprintf("has the child step %q, and its definition, %s version %d, is not there", s.name, c.name, c.version))
		}
	}
	return reasons
}

// register adds a definition, and says what is wrong with it.
func (e *Engine) register(d Registered) string {
	if absent.Is(d) {
		return "is nil"
	}
	p := d.registered()
	if p.name == "" {
		return "was not made by Define"
	}
	if e.version(p.name, p.version) != nil {
		return fmt.Sprintf("is %s version %d, which is there already", p.name, p.version)
	}
	for _, s := range p.parts {
		if s.tx == nil {
			continue
		}
		t, ok := e.store.(Transactor)
		if !ok {
			return fmt.Sprintf("has step %q within the store's transaction, and the store %T has none", s.name, e.store)
		}
		if t.TxType() != s.tx {
			return fmt.Sprintf("has step %q in a %v, and the transactions of the store are %v", s.name, s.tx, t.TxType())
		}
	}
	if len(e.programs[p.name]) == 0 {
		e.names = append(e.names, p.name)
	}
	e.programs[p.name] = append(e.programs[p.name], p)
	slices.SortFunc(e.programs[p.name], func(a, b *program) int { return b.version - a.version })
	return ""
}

func (e *Engine) version(name string, version int) *program {
	for _, p := range e.programs[name] {
		if p.version == version {
			return p
		}
	}
	return nil
}

func (e *Engine) knows(p *program) bool { return e.version(p.name, p.version) == p }

// steps finds the code of a plan: that of the saga's own version, or else of the
// newest in which every step is found by its name. A deploy may thus drop the code
// of an old version as long as its steps live on. A version that is older than the
// saga's does not do:
//
//	v2 puts the receipt of a charge into the data, and its process dies; one of v1 takes
//	the saga up, by steps of the same names; it does not know the receipt, and writes the
//	data without it; the refund has nothing to go by.
func (e *Engine) steps(rec *Record) (*program, []*part) {
	if p := e.version(rec.Definition, rec.Version); p != nil {
		if parts := p.bind(rec.Plan); parts != nil {
			return p, parts
		}
	}
	for _, p := range e.programs[rec.Definition] {
		if parts := p.bind(rec.Plan); parts != nil && p.version > rec.Version {
			return p, parts
		}
	}
	return nil, nil
}

// bind returns the parts that a plan names, or nil if one is missing or is no longer
// what it was. They run at the same time where the plan says so:
//
//	v1 reserves, and then charges; v2 does both at once; a saga of v1 is taken up by v2,
//	and its process dies; by the plan only the reservation can have begun: the next owner
//	charges again.
func (p *program) bind(plan Plan) []*part {
	if slices.Equal(plan, p.plan) {
		return p.parts
	}
	parts := make([]*part, len(plan))
	for i, want := range plan {
		n := slices.IndexFunc(p.plan, func(s Planned) bool { return s.Name == want.Name })
		if n < 0 || p.plan[n].Kind != want.Kind || p.plan[n].Tx != want.Tx || p.plan[n].Undo != want.Undo {
			return nil
		}
		bound := *p.parts[n]
		bound.group = want.Group
		parts[i] = &bound
	}
	return parts
}

// Run executes sagas until ctx ends, and returns nil when it has let go of them all:
// each finishes the step that it is in, and is then free for other engines. A step
// that takes longer than Options.Drain is cancelled, and left in doubt if it does not
// end even so. Call it once.
func (e *Engine) Run(ctx context.Context) error {
	if !e.running.CompareAndSwap(false, true) {
		return errors.New("saga: Engine.Run is called twice")
	}
	var loops sync.WaitGroup
	drained := make(chan struct{})
	loops.Go(func() { e.beat(ctx, drained) })
	if e.o.Keep > 0 {
		loops.Go(func() { e.sweep(ctx) })
	}
	e.poll(ctx)
	e.mu.Lock()
	close(e.stopping)
	e.mu.Unlock()
	go func() { // it ends with the last step
		e.work.Wait()
		close(drained)
	}()
	defer e.cancel()
	timer := time.NewTimer(e.o.Drain)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
		e.cancel()
		timer.Reset(e.o.Lease)
		select {
		case <-drained:
		case <-timer.C: // a step does not heed its context: its lease runs out
		}
	}
	loops.Wait()
	return nil
}

// limited returns a context for a call of the store. It ends after storeLimit, or up
// to a seventh of that later, and not with the engine. Many calls have it in common:
// a timer for each would cost as much as the rest of a checkpoint.
func (e *Engine) limited() context.Context { return e.calls.Shared() }

// stopped reports whether the engine lets go of its sagas.
func (e *Engine) stopped() bool {
	select {
	case <-e.stopping:
		return true
	default:
		return false
	}
}

// rest waits before the store is asked again. False: the engine has let go of its sagas.
func (e *Engine) rest(d time.Duration) bool {
	select {
	case <-e.hard.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// begin makes a saga durable and, if this engine runs and has room, begins it.
func (e *Engine) begin(ctx context.Context, r *run) (*run, error) {
	owned, rec, c := e.hold(r), r.rec, &r.create
	c.Record = rec
	starter := e.starts()
	if owned {
		// Another name than that of claims:
		//
		//	the saga was started before, and is free; it is started again, and claimed by
		//	this engine in between: both find token 1, and run it.
		rec.Owner, rec.Token, c.Lease = starter.name, 1, e.o.Lease
	}
	inHand := owned
	defer func() {
		if inHand { // the store has panicked: nobody else here could take it up
			e.unanswered(starter)
			e.drop(r)
		}
	}()
	first, last, err := e.create(ctx, r.creates[:])
	if err == nil {
		err = c.Err
	}
	if err == nil && owned && c.Mine {
		r.clock(last, rec.Created, rec.Created)
		r.extended(first) // an earlier call whose answer was lost may have begun the lease
		if starter.unsure() {
			r.extended(time.Time{}) // so may an earlier Start: it is renewed before anything begins
		}
		inHand = false
		defer e.launch(r) // also if the hook panics: the lease would be renewed for ever, and nothing done
		if e.o.Hooks.OnStarted != nil {
			e.o.Hooks.OnStarted(rec)
		}
		return r, nil
	}
	if inHand = false; owned {
		if err != nil && !errors.Is(err, ErrConflict) {
			e.unanswered(starter)
		}
		e.drop(r)
	}
	if err == nil && !owned {
		e.nudge(rec.ID)
	}
	return e.local(rec.ID), err
}

// create repeats what failed, as long as the caller waits: to create twice is
// harmless, and he cannot do it himself without losing the time of a lease. It returns
// when it asked first, and last.
func (e *Engine) create(ctx context.Context, c []*Create) (first, last time.Time, err error) {
	first = time.Now()
	last, err = first, e.store.Create(ctx, c)
	for wait := 50 * time.Millisecond; err != nil && retryable(err) && ctx.Err() == nil; wait = min(2*wait, time.Second) {
		select {
		case <-ctx.Done():
		case <-time.After(wait):
			last, err = time.Now(), e.store.Create(ctx, c)
		}
	}
	return first, last, err
}

// retrier is an error that says whether the same call may well succeed later.
type retrier interface {
	error
	Retryable() bool
}

func retryable(err error) bool {
	r, ok := errors.AsType[retrier](err)
	return ok && r.Retryable()
}

// hold takes a saga in hand, if there is room. It must be dropped, or launched.
func (e *Engine) hold(r *run) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.running.Load() || e.stopped() || len(e.runs) >= e.o.MaxConcurrent || e.runs[r.rec.ID] != nil {
		return false
	}
	r.done = make(chan struct{})
	e.runs[r.rec.ID] = r
	e.work.Add(1)
	return true
}

// drop lets go of it.
func (e *Engine) drop(r *run) {
	e.mu.Lock()
	delete(e.runs, r.rec.ID)
	e.mu.Unlock()
	close(r.done)
	e.work.Done()
}

// launch runs it on a goroutine of the engine's.
func (e *Engine) launch(r *run) {
	go func() {
		defer e.drop(r) // also if a step ends its goroutine: then the lease runs out, as after a crash
		defer e.disown(r)
		defer r.contain()
		r.loop()
	}()
}

func (e *Engine) local(id string) *run {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.runs[id]
}

func (e *Engine) room() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.o.MaxConcurrent - len(e.runs)
}

// nudge tells the engine that a saga may be due. One that is forgotten is found by
// the next poll.
func (e *Engine) nudge(id string) {
	if !e.running.Load() {
		return
	}
	select {
	case e.nudged <- id:
	default:
	}
}
