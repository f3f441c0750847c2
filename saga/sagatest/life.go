package sagatest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/saga"
)

// blow is what befalls a process at an event: a write of its store, or an edge of a step.
type blow uint8

const (
	spared     blow = iota
	dieBefore       // it dies, and the event has not happened
	dieAfter        // it dies, and the event has happened
	failBefore      // the store fails, and nothing is written
	failAfter       // the store fails, and it is written: the answer is lost
)

var blows = [...]string{"spared", "dies before", "dies after", "loses the call of", "loses the answer of"}

// strike is a blow at the n-th event since the last one, 1 being the next.
type strike struct {
	n    int
	blow blow
}

// event is what can be struck, and how.
type event struct {
	label string
	blows []blow
}

// fate is what befalls the processes that a saga lives through, one after the other.
type fate struct {
	mu      sync.Mutex
	strikes []strike
	n       int
	events  []event         // all, in order
	struck  []string        // in words
	known   map[string]bool // ids of the sagas that are ours: the store may hold others'
	broken  *broken
}

// next notes an event and returns what befalls it.
func (f *fate) next(label string, possible ...blow) blow {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, event{label, possible})
	f.n++
	if len(f.strikes) == 0 || f.strikes[0].n > f.n {
		return spared
	}
	b := f.strikes[0].blow
	if !slices.Contains(possible, b) {
		return spared // the next event that it can befall
	}
	f.strikes, f.n = f.strikes[1:], 0
	f.struck = append(f.struck, fmt.Sprintf("%s %q, event %d", blows[b], label, len(f.events)))
	return b
}

// told returns what has happened. A process that was declared dead may still be at it.
func (f *fate) told() ([]event, []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.events), slices.Clone(f.struck)
}

func (f *fate) add(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known[id] = true
}

func (f *fate) ours(ids []string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := []string{}
	for id := range f.known {
		if ids == nil || slices.Contains(ids, id) {
			out = append(out, id)
		}
	}
	return out
}

// broken makes a step fail, whatever the world does.
type broken struct {
	step string
	how  failing
	once sync.Once
}

type failing uint8

const (
	refused    failing = iota // it is rejected, each time
	failed                    // it returns an error without effect, each time
	lostOnce                  // it has its effect, and its answer is lost
	lostAlways                // the same, each time
)

var failings = [...]string{"is refused", "fails", "has its answer lost", "has each of its answers lost"}

var (
	errInjected = errors.New("sagatest: injected failure")
	errLost     = saga.InDoubt(errors.New("sagatest: the answer was lost"))
)

// call is an attempt of a step, or of its compensation.
func (b *broken) call(ctx context.Context, c saga.Call, next func(context.Context) error) error {
	if b == nil || c.Undo || c.Verify || c.Step != b.step {
		return next(ctx)
	}
	switch b.how {
	case refused:
		return saga.Reject(errInjected)
	case failed:
		return errInjected
	case lostOnce, lostAlways:
		err := next(ctx)
		if err == nil && b.how == lostAlways {
			return errLost
		}
		if err == nil {
			b.once.Do(func() { err = errLost })
		}
		return err
	}
	return next(ctx)
}

// life is a process with an engine. Once it is dead, its store takes nothing from it
// and its steps come to nothing.
type life struct {
	fate *fate
	ctx  context.Context //nolint:containedctx // of the process: it ends when it dies
	kill context.CancelFunc
	dead atomic.Bool
	over chan struct{} // a saga has come to its end
	up   chan struct{} // closed: the engine runs
	once sync.Once
}

func newLife(ctx context.Context, f *fate) *life {
	l := &life{fate: f, over: make(chan struct{}, 1), up: make(chan struct{})}
	l.ctx, l.kill = context.WithCancel(ctx)
	return l
}

func (l *life) sleep(d time.Duration) {
	select {
	case <-l.ctx.Done():
	case <-time.After(d):
	}
}

func (l *life) die() {
	l.dead.Store(true)
	l.kill()
}

// hooks strike at the edges of steps.
func (l *life) hooks() saga.Hooks {
	return saga.Hooks{
		Around: l.around,
		OnOver: func(*saga.Record, time.Duration) {
			select {
			case l.over <- struct{}{}:
			default:
			}
		},
	}
}

func (l *life) around(ctx context.Context, c saga.Call, next func(context.Context) error) error {
	if l.dead.Load() {
		runtime.Goexit()
	}
	label := "step " + c.Step
	switch {
	case c.Verify:
		label = "look-up of " + c.Step
	case c.Undo:
		label = "undo of " + c.Step
	}
	b := l.fate.next(label, dieBefore, dieAfter)
	if b == dieBefore {
		l.die()
		runtime.Goexit()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	err := l.fate.broken.call(ctx, c, next)
	if b == dieAfter {
		l.die()
	}
	if l.dead.Load() {
		runtime.Goexit()
	}
	return err
}

// write is one call that changes the store.
func (l *life) write(label string, call func() error) error {
	return l.struck(call, func() blow {
		return l.fate.next(label, dieBefore, dieAfter, failBefore, failAfter)
	})
}

// struck makes a call of the store. What it tells a dead process is what makes it
// stop where it is: that it was fenced off.
func (l *life) struck(call func() error, next func() blow) error {
	if l.dead.Load() {
		return saga.ErrFenced
	}
	b := next()
	switch b {
	case dieBefore:
		l.die()
		return saga.ErrFenced
	case failBefore:
		return errInjected
	default:
	}
	err := call()
	if b == dieAfter {
		l.die()
	}
	switch {
	case l.dead.Load():
		return saga.ErrFenced
	case b == failAfter:
		return errors.Join(errInjected, err)
	}
	return err
}

// mortal is the store of one life. It shows it only the sagas of its own fate.
type mortal struct {
	saga.Store

	l *life
}

func (m *mortal) Create(ctx context.Context, sagas []*saga.Create) error {
	for _, c := range sagas {
		m.l.fate.add(c.Record.ID)
	}
	return m.l.write("create", func() error { return m.Store.Create(ctx, sagas) })
}

func (m *mortal) Save(ctx context.Context, writes []*saga.Write) error {
	label := "save"
	for _, w := range writes {
		hurry(w)
		label = saving(w)
	}
	return m.l.write(label, func() error { return m.Store.Save(ctx, writes) })
}

// hurry cuts the wait for the next attempt short, so that a saga with the usual
// patience can be crashed a thousand times, and that for a child of whose end nobody
// has told its parent.
func hurry(w *saga.Write) {
	switch r := w.Record; r.Status {
	case saga.Running, saga.Compensating:
		w.Due = min(w.Due, time.Millisecond)
	case saga.Suspended:
		i := slices.IndexFunc(r.Plan, func(p saga.Planned) bool { return p.Name == r.Step() })
		if i >= 0 && r.Plan[i].Kind == saga.KindChild {
			w.Due = min(w.Due, 50*time.Millisecond)
		}
	default:
	}
}

func saving(w *saga.Write) string {
	if step := w.Record.Step(); step != "" {
		return fmt.Sprintf("save as %v, next %s", w.Record.Status, step)
	}
	return fmt.Sprintf("save as %v", w.Record.Status)
}

// Claim can only be struck where it gets something.
func (m *mortal) Claim(ctx context.Context, c saga.Claim) (got []saga.Claimed, err error) {
	m.l.once.Do(func() { close(m.l.up) }) // an engine looks for what is due as soon as it runs
	if c.IDs = m.l.fate.ours(c.IDs); len(c.IDs) == 0 || m.l.dead.Load() {
		return nil, ctx.Err()
	}
	got, err = m.Store.Claim(ctx, c)
	if err == nil && len(got) > 0 {
		err = m.l.struck(func() error { return nil }, func() blow { return m.l.fate.next("claim", dieAfter, failAfter) })
	}
	if err != nil {
		return nil, err
	}
	return got, nil
}

func (m *mortal) Renew(ctx context.Context, leases []*saga.Lease, d time.Duration) error {
	if m.l.dead.Load() {
		return saga.ErrFenced
	}
	return m.Store.Renew(ctx, leases, d)
}

func (m *mortal) Deliver(ctx context.Context, id, name string, payload []byte) error {
	return m.l.write("deliver", func() error { return m.Store.Deliver(ctx, id, name, payload) })
}

func (m *mortal) Find(ctx context.Context, f saga.Filter) iter.Seq2[*saga.Record, error] {
	return m.Store.Find(ctx, f)
}

// mortalTx is a mortal with transactions.
type mortalTx struct {
	*mortal

	tx saga.Transactor
}

func (m *mortalTx) TxType() reflect.Type { return m.tx.TxType() }

func (m *mortalTx) SaveTx(ctx context.Context, w *saga.Write, work func(ctx context.Context, tx any) error) error {
	hurry(w)
	var answer error
	err := m.l.write(saving(w)+", in a transaction", func() error {
		answer = m.tx.SaveTx(ctx, w, func(ctx context.Context, tx any) error {
			if err := work(ctx, tx); err != nil {
				return err
			}
			if m.l.dead.Load() { // nobody is there to commit it
				return saga.ErrFenced
			}
			return nil
		})
		return answer
	})
	switch {
	case answer != nil && !m.l.dead.Load():
		return answer // of the work: it is rolled back, whatever is heard of it
	case errors.Is(err, errInjected):
		return &saga.StoreError{Cause: err}
	}
	return err
}

func (m *mortalTx) CreateTx(ctx context.Context, tx any, sagas []*saga.Create) error {
	for _, c := range sagas {
		m.l.fate.add(c.Record.ID)
	}
	return m.l.write("create in a transaction", func() error { return m.tx.CreateTx(ctx, tx, sagas) })
}

// storeOf is the store as a life sees it.
func (l *life) storeOf(store saga.Store) saga.Store {
	m := &mortal{store, l}
	if tx, ok := store.(saga.Transactor); ok {
		return &mortalTx{m, tx}
	}
	return m
}
