package sagatest

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/safetill/safetill/saga"
)

// Scenario is a saga to be crashed, see [CrashEverywhere].
type Scenario[T any] struct {
	// Store returns an empty store, or one that is used by others too.
	Store func(testing.TB) saga.Store
	// Saga returns the definition, its steps working on w alone, and those of its
	// children. It is called for each run, with a world of its own.
	Saga func(w *World) (def *saga.Definition[T], children []saga.Registered)
	// Input is what the saga is started with.
	Input T

	// Faults sets up how the providers of the world misbehave. Default: they do not.
	Faults func(w *World)
	// Drive does from outside what the saga waits for, such as [saga.Engine.Signal].
	// It is called in each process that the saga lives through, until it returns nil;
	// it may come too early, or again. Default: nothing.
	Drive func(ctx context.Context, e *saga.Engine, id string) error
	// Check looks at what only the caller knows of, once the saga is over and the
	// processes are dead. Default: what CrashEverywhere checks itself.
	Check func(w *World, r saga.Result[T]) error

	// Lease is that of the engines, and so about what a crash costs. Default: 30 ms.
	Lease time.Duration
	// Parallel is how many runs are under way at once. Default: 32.
	Parallel int
	// Pairs is how many runs have a second crash, while they recover from the first.
	// Default: 100; below 0: none.
	Pairs int
	// Seed selects the pairs. Default: random, and logged if something fails.
	Seed uint64
	// Limit is how long a run may take. Default: 1 min.
	Limit time.Duration
}

// Crashes is what [CrashEverywhere] did.
type Crashes struct {
	Scenes int // ways for the saga to go: forward, and back from each step
	Runs   int // with a crash, or a call of the store that failed
	Pairs  int // of those, with two
}

// CrashEverywhere runs a saga over and over. It first runs it as it is, and with
// each of its steps refused, failing, or having its answer lost after it has had its
// effect, and counts the events: the writes of the store, and the calls of steps and
// compensations. Then it does the same again with, at each event, a process that dies
// before it or after it, or a store that fails before or after it has written. After
// a death another process takes over. In the end the saga must be
//
//   - over, and not Stuck: nothing is left in doubt;
//   - Completed, with every effect that it has when nothing goes wrong, or
//     Compensated, with effects whose sum is zero at each provider;
//
// and no key may have had its effect twice.
//
// This holds if the steps are as [saga.Step], [saga.StepPart.Undo] and
// [saga.StepPart.Verify] demand it. Above all a pivot must have a Verify or be
// Idempotent, or else its crash is for a person, and is reported here. Waits between
// attempts are cut short. Cost: some hundred runs of a few leases each, in parallel.
func CrashEverywhere[T any](tb testing.TB, s Scenario[T]) Crashes {
	tb.Helper()
	s.Lease = cmp.Or(s.Lease, 30*time.Millisecond)
	s.Parallel = cmp.Or(s.Parallel, 32)
	s.Pairs = cmp.Or(s.Pairs, 100)
	s.Seed = cmp.Or(s.Seed, rand.Uint64())
	s.Limit = cmp.Or(s.Limit, time.Minute)
	c := &crasher[T]{Scenario: s, tb: tb}

	calm := c.run(scene{}, nil, true)
	if calm.fault != nil {
		tb.Errorf("without a crash or a fault: %v", calm.fault)
		return c.done
	}
	if calm.rec.Status == saga.Completed {
		c.whole = calm.whole
	}
	scenes := scenesOf(calm.rec.Plan)
	c.done.Scenes = len(scenes)
	c.each(len(scenes), func(i int) { scenes[i].events = c.judge(c.run(scenes[i], nil, false)).events })
	jobs := c.jobs(scenes)
	c.done.Runs = len(jobs)
	c.each(len(jobs), func(i int) { c.judge(c.run(jobs[i].scene, jobs[i].strikes, false)) })
	if len(c.faults) > 0 {
		tb.Logf("seed %d: %+v", s.Seed, c.done)
	}
	for _, fault := range c.faults {
		tb.Error(fault)
	}
	return c.done
}

type crasher[T any] struct {
	Scenario[T]

	tb    testing.TB
	whole map[string]int64 // what stands when everything went well
	done  Crashes

	mu     sync.Mutex
	faults []string
}

// scene is one way for a saga to go.
type scene struct {
	step   string // that fails; empty: none
	how    failing
	events []event
}

func (sc scene) String() string {
	if sc.step == "" {
		return "nothing fails"
	}
	return "step " + sc.step + " " + failings[sc.how]
}

// scenesOf are the ways in which a saga of this plan can go.
func scenesOf(plan saga.Plan) []scene {
	scenes, decided := []scene{{}}, false
	for _, p := range plan {
		var hows []failing
		decided = decided || p.Kind == saga.KindRetriable
		switch {
		case p.Kind == saga.KindPure && !decided, p.Kind == saga.KindPivot && p.Tx:
			hows = []failing{refused}
		case p.Kind == saga.KindPivot:
			hows = []failing{refused, lostOnce}
		case p.Kind == saga.KindStep && p.Tx:
			hows = []failing{refused, failed}
		case p.Kind == saga.KindStep:
			hows = []failing{refused, failed, lostOnce, lostAlways}
		case p.Kind == saga.KindRetriable:
			hows = []failing{lostOnce}
		}
		decided = decided || p.Kind == saga.KindPivot
		for _, how := range hows {
			scenes = append(scenes, scene{step: p.Name, how: how})
		}
	}
	return scenes
}

type job struct {
	scene
	strikes []strike
}

// jobs are a run for each blow at each event, and the pairs.
func (c *crasher[T]) jobs(scenes []scene) []job {
	var jobs []job
	for _, sc := range scenes {
		for i, ev := range sc.events {
			for _, b := range ev.blows {
				jobs = append(jobs, job{sc, []strike{{i + 1, b}}})
			}
		}
	}
	random, singles := rand.New(rand.NewPCG(c.Seed, 0)), len(jobs)
	for range c.Pairs {
		if singles == 0 {
			break
		}
		first := jobs[random.IntN(singles)]
		second := strike{1 + random.IntN(6), blow(1 + random.IntN(int(failAfter)))}
		jobs = append(jobs, job{first.scene, []strike{first.strikes[0], second}})
		c.done.Pairs++
	}
	return jobs
}

// enough is when a saga is known to be broken.
const enough = 5

// each calls f for 0 to n-1, some at a time, until enough is found.
func (c *crasher[T]) each(n int, f func(int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, c.Parallel)
	for i := range n {
		slots <- struct{}{}
		c.mu.Lock()
		found := len(c.faults)
		c.mu.Unlock()
		if found >= enough {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	wg.Wait()
}

// outcome is what a run has come to.
type outcome struct {
	story  string
	events []event
	rec    *saga.Record
	whole  map[string]int64
	fault  error
}

func (c *crasher[T]) judge(o outcome) outcome {
	if o.fault != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.faults) < enough {
			c.faults = append(c.faults, fmt.Sprintf("%s:\n%v", o.story, o.fault))
		}
	}
	return o
}

// run lets a saga live through its fate.
func (c *crasher[T]) run(sc scene, strikes []strike, calm bool) (o outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.tb.Context()), c.Limit)
	defer cancel()
	r := &ordeal[T]{
		crasher: c, id: "crash-" + crand.Text(), world: NewWorld(), store: c.Store(c.tb),
		fate: &fate{strikes: strikes, known: map[string]bool{}},
	}
	if sc.step != "" {
		r.fate.broken = &broken{step: sc.step, how: sc.how}
	}
	if calm {
		r.world.calmed()
	}
	r.def, r.children = c.Saga(r.world)
	if c.Faults != nil {
		c.Faults(r.world)
	}
	var e *saga.Engine
	for over := false; !over && o.fault == nil; {
		e, over, o.fault = r.live(ctx)
	}
	r.lives.Wait()
	var struck []string
	o.events, struck = r.fate.told()
	o.story = sc.String()
	for _, s := range struck {
		o.story += "; the process " + s
	}
	if o.fault == nil {
		o.rec, o.fault = r.find(ctx)
	}
	if o.fault == nil {
		o.whole = r.world.whole(r.id)
		o.fault = r.check(ctx, e, o)
	}
	return o
}

// ordeal is one saga, and all that its processes share.
type ordeal[T any] struct {
	*crasher[T]

	id       string
	world    *World
	store    saga.Store
	fate     *fate
	def      *saga.Definition[T]
	children []saga.Registered
	lives    sync.WaitGroup
	started  bool // the client was told so
	last     *saga.Record
	driven   atomic.Bool
	patience int // how often leases were doubled, on a machine that does not keep up with them
}

// lifetime is how many of its leases a process lives at most. One that takes longer
// mostly loses its saga to itself: the next gets leases of twice the length.
const lifetime = 30

// live runs a process until the saga is over, or the process dead.
func (r *ordeal[T]) live(ctx context.Context) (e *saga.Engine, over bool, err error) {
	l, lease := newLife(ctx, r.fate), r.Lease<<r.patience
	begun := time.Now()
	e, err = saga.New(l.storeOf(r.store), &saga.Options{
		Definitions: append([]saga.Registered{r.def}, r.children...),
		Lease:       lease, Poll: max(lease/6, time.Millisecond), Drain: time.Millisecond,
		MaxCrashes: 1000, // a slow machine lets leases run out, too
		Hooks:      l.hooks(),
	})
	if err != nil {
		return nil, false, err
	}
	defer l.die()
	r.lives.Go(func() { _ = e.Run(l.ctx) }) // returns nil: this is its first call
	<-l.up
	for !r.started {
		_, err := r.def.Start(l.ctx, e, r.id, r.Input, nil)
		switch {
		case l.dead.Load():
			return e, false, nil
		case err == nil:
			r.started = true
		case !errors.Is(err, errInjected):
			return e, false, err
		}
	}
	if r.Drive != nil {
		r.lives.Go(func() {
			for !r.driven.Load() && l.ctx.Err() == nil {
				if r.Drive(l.ctx, e, r.id) == nil && !l.dead.Load() {
					r.driven.Store(true)
				}
				l.sleep(2 * time.Millisecond)
			}
		})
	}
	for {
		rec, err := r.find(ctx)
		switch {
		case err == nil && rec.Status.Over():
			return e, true, nil
		case err == nil:
			r.last = rec
		case ctx.Err() == nil:
			return e, false, err
		}
		if r.patience < 6 && time.Since(begun) > lifetime*lease {
			r.patience++
			return e, false, nil
		}
		select {
		case <-l.over:
		case <-time.After(lease):
		case <-l.ctx.Done():
			if ctx.Err() != nil {
				return e, false, fmt.Errorf("it is not over after %v: %s", r.Limit, describe(r.last))
			}
			return e, false, nil
		}
	}
}

func (r *ordeal[T]) find(ctx context.Context) (*saga.Record, error) {
	for rec, err := range r.store.Find(ctx, saga.Filter{IDs: []string{r.id}, Events: true}) {
		return rec, err
	}
	return nil, saga.ErrNotFound
}

// check is what must hold of a saga that is over.
func (r *ordeal[T]) check(ctx context.Context, e *saga.Engine, o outcome) error {
	r.world.Settle()
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	switch left := r.world.left(); o.rec.Status {
	case saga.Completed:
		if whole := r.world.whole(r.id); r.whole != nil && !maps.Equal(whole, r.whole) {
			fault("it is Completed with the effects %v, and not with %v", whole, r.whole)
		}
	case saga.Compensated:
		if len(left) > 0 {
			fault("it is Compensated, and the effects that are left are %v", left)
		}
	default:
		fault("it is %v: a person is needed", o.rec.Status)
	}
	for i, s := range o.rec.Steps {
		open := s.Mark == saga.Done || s.Mark == saga.Maybe || s.Mark == saga.Failed
		if p := o.rec.Plan[i]; o.rec.Status == saga.Compensated && open && p.Kind != saga.KindPure && (p.Undo || p.Kind == saga.KindPivot) ||
			o.rec.Status == saga.Completed && s.Mark != saga.Done {
			fault("step %s is left as %q", p.Name, s.Mark)
		}
	}
	for _, key := range r.world.Twice() {
		fault("%s took effect twice", key)
	}
	if r.Check != nil && len(faults) == 0 {
		result, err := r.def.Handle(e, r.id).Wait(ctx)
		if err == nil {
			err = r.Check(r.world, result)
		}
		if err != nil {
			fault("%v", err)
		}
	}
	if len(faults) == 0 {
		return nil
	}
	fault("%s", describe(o.rec))
	for _, effect := range r.world.Journal() {
		fault("  effect: %s %s %+d", effect.Provider, effect.Key, effect.Amount)
	}
	return errors.New(strings.Join(faults, "\n"))
}

// describe tells of a saga what its history tells.
func describe(rec *saga.Record) string {
	if rec == nil {
		return "there is no saga"
	}
	var out strings.Builder
	steps, _ := rec.Steps.AppendText(nil)
	fmt.Fprintf(&out, "the saga is %v, steps %s, data %s, failed %q: %s", rec.Status, steps, rec.Data, rec.Failed, rec.Error)
	for _, ev := range rec.Events {
		fmt.Fprintf(&out, "\n  %s %s %d: %s", ev.Kind, ev.Step, ev.Attempt, ev.Text)
	}
	return out.String()
}
