package idempotency

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/race"
)

const (
	simProcesses = 3
	simClients   = 3
	simKeys      = 2
	simFaulty    = 60   // gates after which nothing fails any more
	simGates     = 3000 // after which somebody waits for ever
)

// Each run is clients, processes, a store and a bank in a bubble with a clock of its own; who goes on and what fails comes from a
// seed. SAFETILL_PROOF=full makes a million of them; SAFETILL_PROOF_SEED=n makes one again and tells it step by step.
func TestSimulator(t *testing.T) {
	t.Parallel()
	first, count := simSeeds(t)
	var next atomic.Int64
	var mu sync.Mutex
	var all simTotals
	start := time.Now()
	t.Run("runs", func(t *testing.T) {
		for w := range runtime.GOMAXPROCS(0) {
			t.Run(strconv.Itoa(w), func(t *testing.T) {
				t.Parallel()
				var mine simTotals
				for n := next.Add(1) - 1; n < count && !t.Failed(); n = next.Add(1) - 1 {
					totals, err := simulate(t, first+uint64(n), simLog(t), nil)
					mine.add(totals)
					if err != nil {
						t.Error(err)
					}
				}
				mu.Lock()
				defer mu.Unlock()
				all.add(mine)
			})
		}
	})
	took := time.Since(start)
	t.Logf("%d runs in %v, %d/s: %+v", count, took.Round(time.Millisecond), count*int64(time.Second)/int64(took), all)
	if count > 1 {
		require.Positive(t, slices.Min(all[:]), "each kind of event occurs")
	}
}

// A seed is all there is to a run.
func TestSimulatorRepeats(t *testing.T) {
	t.Parallel()
	first, _ := simSeeds(t)
	traces := map[uint64]bool{}
	for seed := first; seed < first+50; seed++ {
		var sums [2]uint64
		for i := range sums {
			sum := fnv.New64a()
			_, err := simulate(t, seed, func(format string, args ...any) { fmt.Fprintf(sum, format+"\n", args...) }, nil)
			require.NoError(t, err)
			sums[i] = sum.Sum64()
		}
		require.Equal(t, sums[0], sums[1], seed)
		traces[sums[0]] = true
	}
	require.Len(t, traces, 50, "other seeds are other runs")
}

func simSeeds(t *testing.T) (first uint64, count int64) {
	t.Helper()
	first, count = rand.Uint64()>>1, 1000
	if os.Getenv("SAFETILL_PROOF") == "full" {
		count = 1_000_000
	}
	if testing.Short() || race.Enabled {
		count = 200
	}
	if s := os.Getenv("SAFETILL_PROOF_SEED"); s != "" {
		var err error
		first, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err, "SAFETILL_PROOF_SEED")
		count = 1
	}
	t.Logf("SAFETILL_PROOF_SEED=%d", first)
	return first, count
}

// simLog tells a run step by step where one is asked for.
func simLog(t *testing.T) func(string, ...any) {
	if os.Getenv("SAFETILL_PROOF_SEED") == "" {
		return func(string, ...any) {}
	}
	return t.Logf
}

// The events that are counted.
const (
	simEffects = iota
	simReplays
	simKills
	simHangUps
	simFailedBefore
	simFailedAfter
	simLate
	simSkews
	simPanics
	simFailures
	simPermanents
	simLost
	simUnrecorded
	simRefused // by the bank: a stale fence, or an id that it has
	simSteps   // that were replayed
	simWaits   // that ended in flight
	simKinds
)

type simTotals [simKinds]int64

var simNames = [simKinds]string{
	"effects", "replays", "kills", "hang-ups", "failed before", "failed after", "late", "skews", "panics", "failures",
	"permanent failures", "lost", "unrecorded", "refused by the bank", "replayed steps", "waited in vain",
}

func (a *simTotals) add(b simTotals) {
	for i := range b {
		a[i] += b[i]
	}
}

// String names the counts.
func (a simTotals) String() string {
	var b strings.Builder
	for i, n := range a {
		fmt.Fprintf(&b, "%s %d, ", simNames[i], n)
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// simulation is one run. Everything that processes do to the world outside waits at a gate, and one at a time goes through.
type simulation struct {
	t       *testing.T
	seed    uint64
	r       *rand.Rand
	log     func(string, ...any)
	start   time.Time
	skew    atomic.Int64 // of the store's clock, in ns
	store   Store
	bank    bank
	kind    simKind
	procs   [simProcesses]*process
	gates   atomic.Int64
	arrived chan struct{}
	world   sync.Mutex // one call at a time is what the gates are for; this tells the race detector

	mu       sync.Mutex
	totals   simTotals
	parked   []*parked
	running  int // clients and requests
	over     bool
	fault    string
	failures int // in a row
}

// simKind is what the work does, and how hard the world is to it.
type simKind struct {
	effect effectKind
	steps  bool
	gentle bool // clients hang up, and the store fails now and then; nothing is killed, and no reply of the bank is lost
	deaf   bool // work does not hear that it is lost
}

// parked is a goroutine at a gate.
type parked struct {
	name string
	p    *process
	req  *simRequest
	fate chan fate
}

// fate is what becomes of a call at a gate.
type fate struct {
	before, after error
	late          time.Duration // the call arrives only then
	die, dieAfter bool
}

var errSim = errors.New("injected")

// simulate runs one seed; broken, if it is not nil, wraps the store.
func simulate(t *testing.T, seed uint64, log func(string, ...any), broken func(Store) Store) (totals simTotals, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &simulation{
			t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 0)), log: log, start: time.Now(), arrived: make(chan struct{}, 1),
			bank: newBank(),
		}
		s.kind = simKind{
			effect: effectKind(s.r.IntN(3)), steps: s.r.IntN(2) == 0, gentle: s.r.IntN(3) == 0, deaf: s.r.IntN(2) == 0,
		}
		if s.kind.effect == naked {
			s.kind.gentle = true
		}
		s.store = NewMemory(&MemoryOptions{Now: func() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }})
		if broken != nil {
			s.store = broken(s.store)
		}
		for i := range s.procs {
			s.restart(i)
		}
		for c := range simClients {
			s.spawn(func() { s.client(c) })
		}
		s.run()
		if fault := s.verdict(); fault != "" {
			err = fmt.Errorf("SAFETILL_PROOF_SEED=%d: %s (%+v)", seed, fault, s.kind)
		}
		totals = s.totals
	})
	return totals, err
}

func (s *simulation) healthy() bool { return s.gates.Load() > simFaulty }

// spawn starts a goroutine for whose end run waits.
func (s *simulation) spawn(f func()) {
	s.mu.Lock()
	s.running++
	s.mu.Unlock()
	go func() {
		defer func() {
			s.mu.Lock()
			s.running--
			s.mu.Unlock()
			s.wake()
		}()
		f()
	}()
}

func (s *simulation) wake() {
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// run lets one at a time through the gates until all clients have what they want.
func (s *simulation) run() {
	for {
		synctest.Wait()
		s.mu.Lock()
		done, waiting := s.running == 0, len(s.parked)
		s.mu.Unlock()
		if done {
			return
		}
		if waiting == 0 {
			<-s.arrived // time goes on until somebody comes to a gate or ends
			continue
		}
		if s.gates.Add(1) > simGates {
			s.fail("somebody waits for ever")
		}
		s.pass()
	}
}

// pass takes one of those at the gates and tells it its fate.
func (s *simulation) pass() {
	s.mu.Lock()
	slices.SortFunc(s.parked, func(a, b *parked) int { return strings.Compare(a.name, b.name) })
	i := s.r.IntN(len(s.parked))
	w := s.parked[i]
	s.parked = slices.Delete(s.parked, i, i+1)
	s.mu.Unlock()
	f := s.choose(w)
	s.log("%v: %s: %+v", time.Since(s.start), w.name, f)
	w.fate <- f
}

// choose decides what becomes of a call, and what else happens at this moment.
func (s *simulation) choose(w *parked) (f fate) {
	if w.p.dead.Load() {
		return fate{die: true}
	}
	if s.healthy() {
		return f
	}
	store := strings.Contains(w.name, "store")
	switch n := s.r.IntN(24); {
	case n == 0 && w.req != nil:
		s.count(simHangUps)
		s.log("hang up")
		w.req.hangUp(errors.New("hung up"))
	case n < 4 && (store || !s.kind.gentle) && s.failures < 4:
		s.failures++
		if n%2 == 0 {
			s.count(simFailedBefore)
			return fate{before: errSim}
		}
		s.count(simFailedAfter)
		return fate{after: errSim}
	case n < 6 && !s.kind.gentle:
		s.count(simKills)
		s.kill(w.p)
		return fate{die: n == 4, dieAfter: n == 5}
	case n < 8 && !s.kind.gentle:
		s.count(simLate)
		return fate{late: time.Duration(s.r.Int64N(int64(15 * time.Second)))}
	case n < 10 && !s.kind.gentle:
		s.count(simSkews)
		skew := time.Duration(s.r.Int64N(int64(4*time.Minute))) - 2*time.Minute
		s.log("skew %v", skew)
		s.skew.Store(int64(skew))
	}
	s.failures = 0
	return f
}

func (s *simulation) count(kind int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.totals[kind]++
}

// fail notes the first thing that is wrong.
func (s *simulation) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == "" {
		s.fault = fmt.Sprintf(format, args...)
		s.log("FAULT: %s", s.fault)
	}
	if s.gates.Load() > simGates { // it would never end
		for _, p := range s.procs {
			p.dead.Store(true)
		}
		s.over = true
	}
}

// gate stops the caller until it is its turn, and then does what it came for.
func (s *simulation) gate(ctx context.Context, p *process, req *simRequest, name string, do func() error) error {
	if p.dead.Load() {
		runtime.Goexit()
	}
	w := &parked{name: p.name + " " + name, p: p, req: req, fate: make(chan fate)}
	s.mu.Lock()
	s.parked = append(s.parked, w)
	s.mu.Unlock()
	s.wake()
	f := <-w.fate
	if f.late > 0 { // it arrives late, and perhaps nobody waits for it any more
		time.Sleep(f.late)
		if p.dead.Load() {
			runtime.Goexit()
		}
	}
	if f.die {
		runtime.Goexit()
	}
	if f.before != nil {
		return f.before
	}
	if f.late == 0 && ctx.Err() != nil {
		return ctx.Err()
	}
	s.world.Lock()
	err := do()
	s.world.Unlock()
	if f.dieAfter {
		runtime.Goexit()
	}
	if f.after != nil {
		return f.after
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// process is a server: a Guard, until it is killed.
type process struct {
	name  string
	guard *Guard
	dead  atomic.Bool
}

// restart starts a process in the place of one that was killed.
func (s *simulation) restart(i int) {
	p := &process{name: fmt.Sprintf("process %d.%d", i, s.gates.Load())}
	g, err := New(&simStore{s, p}, &Options{Lease: 10 * time.Second, Wait: 4 * time.Second})
	if err != nil {
		panic(err)
	}
	// Made of the moment: two that ask at the same one, in whatever order the scheduler has them, must not swap what they get.
	g.jitter = func(d time.Duration) time.Duration {
		r := rand.New(rand.NewPCG(s.seed^uint64(i)<<62, uint64(time.Since(s.start))))
		return d/2 + time.Duration(r.Int64N(int64(d/2)+1))
	}
	p.guard = g
	s.mu.Lock()
	defer s.mu.Unlock()
	s.procs[i] = p
}

// kill ends a process: whatever it does next at a gate it does not do.
func (s *simulation) kill(p *process) {
	p.dead.Store(true)
	for i := range s.procs {
		if s.procs[i] == p {
			s.restart(i)
		}
	}
}

// simStore is the store as a process reaches it.
type simStore struct {
	s *simulation
	p *process
}

func simDo[Q, A any](
	ctx context.Context, c *simStore, name string, key Key, items Q, call func(context.Context, Q) (A, error),
) (answer A, err error) {
	req, _ := ctx.Value(simRequestKey{}).(*simRequest)
	err = c.s.gate(ctx, c.p, req, fmt.Sprintf("%v store %s %s", req, name, key.Value), func() (err error) {
		answer, err = call(context.WithoutCancel(ctx), items)
		return err
	})
	return answer, err
}

func (c *simStore) Claim(ctx context.Context, q []Request) ([]Record, error) {
	return simDo(ctx, c, "claim", q[0].Key, q, c.s.store.Claim)
}

func (c *simStore) Complete(ctx context.Context, q []Completion) ([]error, error) {
	return simDo(ctx, c, "complete", q[0].Key, q, c.s.store.Complete)
}

func (c *simStore) Release(ctx context.Context, q []Claim) ([]error, error) {
	return simDo(ctx, c, "release", q[0].Key, q, c.s.store.Release)
}

func (c *simStore) Extend(ctx context.Context, q []Extension) ([]error, error) {
	return simDo(ctx, c, "extend"+q[0].Step.Name, q[0].Key, q, c.s.store.Extend)
}
