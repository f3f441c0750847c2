package redislimit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/internal/deadline"
)

// job is a call, or that part of one that is in one place, on its way to the script and back.
type job struct {
	place  place
	keys   []any  // strings
	plain  *form  // it is a plain take under this limit: see takes
	next   *job   // with the same key
	packed []byte // what ARGV has of another one
	size   int    // of the answer

	state  atomic.Int32
	landed chan struct{} // of capacity 1

	// The answer.
	now       int64
	answer    []byte
	postponed string // nothing was done, the decision of this name comes first
	err       error

	tries   int       // that were turned away
	refused time.Time // when the first was
}

// States of a job.
const (
	waiting int32 = iota
	flying
	gone // its caller has left
)

func (j *job) finish() { j.landed <- struct{}{} }

// jobs are used again, since most calls need one and nothing else. Only one that has landed may be.
var jobs = sync.Pool{New: func() any { return &job{landed: make(chan struct{}, 1)} }}

func newJob() *job { return jobs.Get().(*job) }

func (j *job) free() {
	*j = job{keys: j.keys[:0], packed: j.packed[:0], landed: j.landed}
	jobs.Put(j)
}

// lane has the calls for one server, or a part of the slots. While flights are under way those who come wait for the next: the busier the server, the
// more calls a script. A flight that is late is not waited for, nor does a full one wait.
type lane struct {
	mu    sync.Mutex
	queue []*job
	air   []*flight // who took off first is first
	jobs  int       // of all that are in the air
}

type flight struct {
	off  time.Time // when it took off
	jobs int
}

const (
	// late is how long a flight may be away before another sets out.
	late = 2 * time.Millisecond
	// abreast is how many flights are made of those who come without a pause, where one would do: while the server works for one half, the callers
	// of the other have their answers and come again. With one flight of all, both wait for each other in turn.
	abreast = 2
	// worthwhile is how many jobs a flight has at least that sets out beside another.
	worthwhile = 16
)

// holds tells whether a job more is to wait for a flight that is under way.
func (l *lane) holds(o *Options) bool {
	n, air := len(l.queue)+1, len(l.air)
	switch {
	case air == 0:
		return false
	case air >= o.Flights:
		return true
	case n >= o.Batch || time.Since(l.air[air-1].off) >= late:
		return false
	}
	return air >= abreast || n < worthwhile
}

// begin has a flight take off; its jobs are not there yet.
func (l *lane) begin() *flight {
	f := &flight{}
	l.takeOff(f, 0)
	return f
}

func (l *lane) takeOff(f *flight, jobs int) {
	f.off, f.jobs = time.Now(), jobs
	l.air = append(l.air, f)
	l.jobs += jobs
}

func (l *lane) land(f *flight) {
	l.air = slices.DeleteFunc(l.air, func(other *flight) bool { return other == f })
	l.jobs -= f.jobs
}

// launch puts a job on its way. It never waits. Where it fails the job is not on its way.
func (s *Store) launch(j *job, inside bool) error {
	if !inside && s.closed.Load() {
		return ErrClosed
	}
	l := &s.lanes[s.layout.lane(j.place)]
	l.mu.Lock()
	if len(l.queue) >= s.o.Queue {
		l.sweep()
		if len(l.queue) >= s.o.Queue {
			l.mu.Unlock()
			return ErrBusy
		}
	}
	if l.holds(&s.o) {
		l.queue = append(l.queue, j)
		l.mu.Unlock()
		return nil
	}
	if inside {
		s.working.Add(1) // beside that of the work that it is for
	} else if !s.enter() {
		l.mu.Unlock()
		return ErrClosed
	}
	l.queue = append(l.queue, j)
	f := l.begin()
	l.mu.Unlock()
	go s.fly(l, f)
	return nil
}

// alone carries out the job of a caller who finds nobody under way, in his own goroutine: to wake another, and be woken by it, costs more than the rest.
// Where it does not, the job is as it was. Only a client that heeds ctx may be asked so.
func (s *Store) alone(ctx context.Context, j *job) bool {
	end, ends := ctx.Deadline()
	if !ends || !s.heeds {
		return false
	}
	l := &s.lanes[s.layout.lane(j.place)]
	l.mu.Lock()
	if len(l.air) > 0 || len(l.queue) > 0 || !s.enter() {
		l.mu.Unlock()
		return false
	}
	f := l.begin()
	l.mu.Unlock()
	defer s.landAlone(l, f)
	j.state.Store(flying)
	s.run(ctx, []*script{{jobs: []*job{j}}})
	if errors.Is(j.err, os.ErrDeadlineExceeded) && !time.Now().Before(end) { // of the connection, which goes by that of ctx
		j.err = errFlying{context.DeadlineExceeded}
	}
	return true
}

// landAlone ends the flight of one who was alone, and has one follow for those who have come meanwhile.
func (s *Store) landAlone(l *lane, f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) > 0 {
		go s.fly(l, f)
		return
	}
	l.land(f)
	s.working.Done()
}

// sweep drops jobs whose callers have left.
func (l *lane) sweep() {
	kept := l.queue[:0]
	for _, j := range l.queue {
		if j.state.Load() != gone {
			kept = append(kept, j)
		}
	}
	clear(l.queue[len(kept):])
	l.queue = kept
}

// again sends a job once more that was turned away, and so was not carried out, unless its caller has left.
func (s *Store) again(j *job, cause error) {
	if j.tries == 0 {
		j.refused = time.Now()
	} else if time.Since(j.refused) > s.stubborn {
		j.err = fmt.Errorf("redislimit: %w", cause)
		j.finish()
		return
	}
	pause := min(time.Millisecond<<min(j.tries, 10), slowest)
	j.tries++
	if !j.state.CompareAndSwap(flying, waiting) {
		return
	}
	s.working.Add(1) // beside that of the flight
	time.AfterFunc(pause, func() {
		defer s.working.Done()
		if err := s.launch(j, true); err != nil {
			j.err = err
			j.finish()
		}
	})
}

// slowest is the longest pause before a job that was turned away is sent again.
const slowest = 50 * time.Millisecond

// fly makes flights for as long as somebody waits. Close waits for it.
func (s *Store) fly(l *lane, f *flight) {
	defer s.working.Done()
	var batch []*job
	for {
		batch = s.next(l, f, batch)
		if len(batch) == 0 {
			return
		}
		if scripts := s.board(batch); len(scripts) > 0 {
			// The flight is not of one caller, so no caller's end ends it; the client's timeouts do.
			s.run(context.Background(), scripts)
			runtime.Gosched() // those who have landed may have the next call already
		}
	}
}

// next has a flight land, and take off with its share of those who wait. None: it is not to fly any more.
//
// Why nobody is left behind: a job joins the queue under the lock under which a flight ends that has found it empty, or has found few and another
// flight in the air, which will look when it lands.
func (s *Store) next(l *lane, f *flight, batch []*job) []*job {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.land(f)
	n := l.share(&s.o)
	if n == 0 {
		return nil
	}
	batch = append(batch[:0], l.queue[:n]...)
	rest := copy(l.queue, l.queue[n:])
	clear(l.queue[rest:])
	l.queue = l.queue[:rest]
	l.takeOff(f, n)
	if rest >= worthwhile && len(l.air) < min(abreast, s.o.Flights) { // another's share
		s.working.Add(1)
		go s.fly(l, l.begin())
	}
	return batch
}

// share is how many of those who wait a flight takes that sets out: as many as are in the air, or it would be one flight of nearly all and one of few in
// turn, for as long as they come again. 0: those are few who wait, and are left to a flight that is in the air.
func (l *lane) share(o *Options) int {
	all := l.jobs + len(l.queue)
	parts := max(1, min(abreast, o.Flights, all/worthwhile))
	n := min(len(l.queue), o.Batch, (all+parts-1)/parts)
	if n < worthwhile && len(l.air) > 0 && time.Since(l.air[0].off) < late {
		return 0
	}
	return n
}

// board sorts the jobs of a flight by place. Those whose callers have left stay behind.
func (s *Store) board(batch []*job) []*script {
	if s.layout == oneServer {
		r := &script{jobs: make([]*job, 0, len(batch))}
		for _, j := range batch {
			if j.state.CompareAndSwap(waiting, flying) {
				r.jobs = append(r.jobs, j)
			}
		}
		if len(r.jobs) == 0 {
			return nil
		}
		return []*script{r}
	}
	var scripts []*script
	at := make(map[place]*script, len(batch))
	for _, j := range batch {
		if !j.state.CompareAndSwap(waiting, flying) {
			continue
		}
		r := at[j.place]
		if r == nil {
			r = &script{}
			at[j.place] = r
			scripts = append(scripts, r)
		}
		r.jobs = append(r.jobs, j)
	}
	return scripts
}

// await waits for a job to land, or for the caller's end. Only a job that has landed may be looked at, and freed.
func (j *job) await(ctx context.Context) error {
	cause := j.wait(ctx)
	if cause == nil {
		return j.err
	}
	if j.state.Swap(gone) == waiting {
		return fmt.Errorf("redislimit: not sent: %w", cause)
	}
	return errFlying{cause}
}

// wait waits for a job to land, or returns why it waits no longer.
func (j *job) wait(ctx context.Context) error {
	if c, ok := ctx.(*deadline.Context); ok {
		parent, late := c.Ends()
		select {
		case <-j.landed:
			return nil
		case <-parent:
		case <-late:
		}
		return c.Cause()
	}
	select {
	case <-j.landed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errFlying: the caller has left while its job was on its way.
type errFlying struct{ cause error }

func (e errFlying) Error() string { return "redislimit: no answer yet: " + e.cause.Error() }

func (e errFlying) Unwrap() error { return e.cause }
