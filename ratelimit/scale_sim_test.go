package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A cell of the simulation: so many processes share a limit and are asked for so much more than there is. All runs in a bubble with a
// clock of its own, through the real Hybrid and Leased. Arrivals, and what fails when, come from the seed.
type cell struct {
	algorithm Algorithm
	rate      int64
	nodes     int
	demand    float64 // of the rate, all together
	period    time.Duration
	fault     fault
	seed      uint64
}

type fault string

const (
	noFault    fault = "none"
	stalls     fault = "stall"   // the store hangs for 250 ms in every 700
	crashes    fault = "crash"   // two processes die, one after the other, and are replaced at once
	lost       fault = "lost"    // every third question is carried out, and fails
	refused    fault = "refused" // every third question fails
	everything fault = "everything"
)

func (c cell) String() string {
	return fmt.Sprintf("%v, %d a second, %d nodes, %gx, every %v, %s", c.algorithm, c.rate, c.nodes, c.demand, c.period, c.fault)
}

const simSpan = 3 * time.Second

// measured is what came of a run.
type measured struct {
	over                              int64 // see over
	peak, admitted, checks, questions int64
}

// world is the store that all share, and what fails of it.
type world struct {
	Store
	c         cell
	begun     time.Time
	questions atomic.Int64
	runs      sync.WaitGroup
}

// line is a process' connection to the store.
type line struct {
	w    *world
	dead atomic.Bool
}

var errLine = errors.New("store: connection reset")

func (l *line) Decide(ctx context.Context, calls []Call) []Reply {
	fail := func(err error) []Reply {
		replies := make([]Reply, len(calls))
		for i := range replies {
			replies[i].Err = err
		}
		return replies
	}
	if l.dead.Load() {
		return fail(errLine)
	}
	n := l.w.questions.Add(1)
	is := func(f fault) bool { return l.w.c.fault == f || l.w.c.fault == everything }
	if is(stalls) && time.Since(l.w.begun)%(700*time.Millisecond) > 450*time.Millisecond {
		<-ctx.Done()
		return fail(ctx.Err())
	}
	time.Sleep(200*time.Microsecond + time.Duration(n)*time.Nanosecond) // no two answers at one instant
	if is(refused) && n%3 == 0 {
		return fail(errLine)
	}
	replies := l.w.Decide(ctx, calls) // answered at once: what is measured is when it was decided
	if is(lost) && n%3 == 1 {
		return fail(errLine)
	}
	return replies
}

// contestant is a way to share the limit; start returns a process of it and what kills that.
type contestant struct {
	name  string
	start func(w *world) (Decider, func())
}

func runner(d interface {
	Decider
	Run(ctx context.Context) error
}, l *line,
) (Decider, func()) {
	ctx, stop := context.WithCancel(context.Background())
	l.w.runs.Go(func() { _ = d.Run(ctx) }) // what a dead line loses is lost
	return d, func() { l.dead.Store(true); stop() }
}

func (c cell) limit() Limit {
	return Limit{Algorithm: c.algorithm, Rate: c.rate, Per: time.Second}.Normal()
}

// dying is how many processes are replaced. Those that replace them count, too.
func (c cell) dying() int {
	if c.fault == crashes || c.fault == everything {
		return 2
	}
	return 0
}

func (c cell) options() Options { return Options{OnError: FailClosed} }

var (
	exactly = contestant{"exact", func(w *world) (Decider, func()) {
		l, err := New(w.Store, w.c.limit(), nil)
		if err != nil {
			panic(err)
		}
		return l, func() {}
	}}
	hybrids = contestant{"hybrid", func(w *world) (Decider, func()) {
		l := &line{w: w}
		h, err := NewHybrid(l, w.c.limit(), &HybridOptions{Options: w.c.options(), Nodes: w.c.nodes + w.c.dying(), Period: w.c.period})
		if err != nil {
			panic(err)
		}
		return runner(h, l)
	}}
	leases = contestant{"leased", func(w *world) (Decider, func()) {
		l := &line{w: w}
		h, err := NewLeased(l, w.c.limit(), &LeasedOptions{Options: w.c.options(), Nodes: w.c.nodes + w.c.dying()})
		if err != nil {
			panic(err)
		}
		return runner(h, l)
	}}
	naives = contestant{"naive", func(w *world) (Decider, func()) {
		l := &line{w: w}
		return runner(&naive{store: l, limit: w.c.limit(), every: w.c.period, left: w.c.rate}, l)
	}}
)

// naive is what most do: count here, add to the store and read from it every period.
type naive struct {
	Decider
	store Store
	limit Limit
	every time.Duration

	mu      sync.Mutex
	left    int64
	pending int64
}

func (n *naive) Allow(context.Context, string) (Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.left < 1 {
		return Result{}, nil
	}
	n.left--
	n.pending++
	return Result{Allowed: true}, nil
}

func (n *naive) Run(ctx context.Context) error {
	ticker := time.NewTicker(n.every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		n.mu.Lock()
		sent := n.pending
		n.mu.Unlock()
		op := Op{Kind: Charge, Limit: n.limit, Key: "k", N: sent}
		if sent == 0 {
			op = Op{Kind: Peek, Limit: n.limit, Key: "k", N: 1}
		}
		asked, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		reply := n.store.Decide(asked, []Call{{Ops: []Op{op}}})[0]
		cancel()
		n.mu.Lock()
		if reply.Err == nil {
			n.pending -= sent
			n.left = reply.Outcomes[0].Remaining - n.pending
		}
		n.mu.Unlock()
	}
}

// simulate runs a cell.
func (c cell) simulate(t *testing.T, who contestant) (m measured) {
	synctest.Test(t, func(*testing.T) {
		time.Sleep(time.Duration(c.seed%10) * 97 * time.Millisecond) // windows begin with the second
		w := &world{Store: NewMemory(&MemoryOptions{Now: time.Now}), c: c, begun: time.Now()}
		end := w.begun.Add(simSpan)
		var mu sync.Mutex
		var admitted []int64
		var all sync.WaitGroup
		for i := range c.nodes {
			r := rand.New(rand.NewPCG(c.seed, uint64(i)))
			all.Go(func() {
				d, kill := who.start(w)
				var dies []time.Duration
				for k, at := range []time.Duration{910 * time.Millisecond, 2120 * time.Millisecond} {
					if c.dying() > 0 && k%c.nodes == i {
						dies = append(dies, at)
					}
				}
				mean := float64(time.Second) * float64(c.nodes) / (c.demand * float64(c.rate))
				var calls sync.WaitGroup
				for {
					time.Sleep(time.Duration(r.ExpFloat64()*mean) + 1)
					if !time.Now().Before(end) {
						break
					}
					if len(dies) > 0 && time.Since(w.begun) > dies[0] {
						kill()
						d, kill = who.start(w)
						dies = dies[1:]
					}
					one := d
					calls.Go(func() {
						result, err := one.Allow(context.Background(), "k")
						if err != nil {
							panic(err)
						}
						mu.Lock()
						defer mu.Unlock()
						m.checks++
						if result.Allowed {
							admitted = append(admitted, int64(time.Since(w.begun)))
						}
					})
				}
				calls.Wait()
				kill()
			})
		}
		all.Wait()
		w.runs.Wait()
		slices.Sort(admitted)
		m.peak, m.admitted, m.questions = peak(admitted, int64(time.Second)), int64(len(admitted)), w.questions.Load()
		m.over = c.over(admitted, w.begun)
	})
	return m
}

// peak is the most that any span of that length holds.
func peak(times []int64, span int64) (most int64) {
	from := 0
	for i, at := range times {
		for times[from] <= at-span {
			from++
		}
		most = max(most, int64(i-from+1))
	}
	return most
}

// over is by how many units a counter would be overdrawn at worst, had it been told of each unit when that was admitted: by how many the most
// favourable span of time is over what the algorithm admits in it. A counter remembers no more than twice the limit, so it is 100 % at most.
func (c cell) over(times []int64, begun time.Time) (most int64) {
	var now time.Time
	counter := NewMemory(&MemoryOptions{Now: func() time.Time { return now }})
	call := []Call{{Ops: []Op{{Kind: Charge, Limit: c.limit(), Key: "k", N: 1}}}}
	for _, at := range times {
		now = begun.Add(time.Duration(at))
		most = max(most, -counter.Decide(context.Background(), call)[0].Outcomes[0].Remaining)
	}
	return most
}

// Measured is not the mean but the fullest of all seconds, beside an exact limiter under the same arrivals.
func TestSimulation(t *testing.T) {
	t.Parallel()
	full := os.Getenv("SAFETILL_PROOF") == "full"
	for _, c := range cells(full) {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			exact := c.simulate(t, exactly)
			line := c.String() + fmt.Sprintf(": exact %d, over %d", exact.peak, exact.over)
			require.Zero(t, exact.over, line)
			for _, who := range []contestant{naives, hybrids, leases} {
				m := c.simulate(t, who)
				over := float64(m.over) / float64(c.rate)
				line += fmt.Sprintf("; %s %+.1f %%, %.1f checks a question, %.0f %% of exact in all", who.name, 100*over,
					float64(m.checks)/float64(max(1, m.questions)), 100*float64(m.admitted)/float64(exact.admitted))
				switch who.name {
				case "hybrid":
					require.LessOrEqual(t, over, 0.1, line)
				case "leased":
					require.LessOrEqual(t, over, 0.0, line)
				}
			}
			t.Log(line)
		})
	}
}

func cells(full bool) (all []cell) {
	algorithms := []Algorithm{TokenBucket, SlidingLog, SlidingCounter, FixedWindow}
	demands := []float64{0.5, 1, 2, 5, 10}
	faults := []fault{noFault, stalls, crashes, lost, refused, everything}
	seed := uint64(0)
	for _, a := range algorithms {
		for _, n := range []int{1, 10, 50} {
			for _, d := range demands {
				for _, f := range faults {
					for _, p := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond} {
						seed++
						c := cell{algorithm: a, rate: 1000, nodes: n, demand: d, period: p, fault: f, seed: seed}
						if full || a == TokenBucket && p == 100*time.Millisecond && (f == noFault || f == everything && d == 10) && (d == 0.5 || d == 10) {
							all = append(all, c)
						}
					}
				}
			}
		}
	}
	return all
}
