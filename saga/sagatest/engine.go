package sagatest

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/safetill/safetill/saga"
)

// RunEngine runs sagas at random on a store: of any kinds of steps, with any answers
// of their providers, with a store that fails, and with processes that die. Where none
// dies, the end must be that of a model which does one step after the other. open
// returns an empty store, or the same again. Its seed is in the log of a run that
// fails; set seed to it to repeat that run, and else to 0.
func RunEngine(t *testing.T, open func(testing.TB) saga.Store, seed uint64) {
	t.Helper()
	first, n := seed, 1
	if seed == 0 {
		first, n = rand.Uint64(), 300
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			g := newGamble(first + uint64(i))
			if err := g.play(t, open(t)); err != nil {
				t.Errorf("seed %d: %s, %s:\n%v", first+uint64(i), g, strings.Join(g.fate.struck, "; "), err)
			}
		})
		if t.Failed() {
			break
		}
	}
	wg.Wait()
}

// answer is what comes of one call of a step.
type answer uint8

const (
	well     answer = iota
	fault           // an error, without effect
	no              // a rejection
	lost            // the effect, and no answer
	vanished        // neither
	panics          // the effect, and a panic
)

var answers = [...]string{"well", "fault", "no", "lost", "vanished", "panics"}

// dice is one step of a random saga.
type dice struct {
	name       string
	kind       saga.Kind
	group      int
	tx         bool
	idempotent bool
	verify     bool
	unsure     bool // its look-up never knows
	attempts   int
	answers    []answer // of the first calls; those behind them go well
	undos      []answer // of the first compensations: well, fault, no, lost
}

func (d *dice) repeatable() bool {
	return d.idempotent || d.tx || d.kind == saga.KindPure || d.kind == saga.KindRetriable
}

// trace is the data of a random saga: how often each step was done. As the fields
// of its JSON are the steps, those of a Parallel do not clash.
type trace map[string]int

// gamble is one random saga in the world of its own.
type gamble struct {
	dice   []*dice
	deadly bool
	fate   *fate

	mu      sync.Mutex
	calls   map[string][]string // by step
	effects map[string]int
	twice   []string
}

func newGamble(seed uint64) *gamble {
	r := rand.New(rand.NewPCG(seed, 0))
	g := &gamble{calls: map[string][]string{}, effects: map[string]int{}, deadly: r.IntN(3) == 0}
	g.fate = &fate{known: map[string]bool{}}
	for n := r.IntN(4); n > 0; n-- {
		b := failBefore + blow(r.IntN(2))
		if g.deadly {
			b = dieBefore + blow(r.IntN(4))
		}
		g.fate.strikes = append(g.fate.strikes, strike{1 + r.IntN(12), b})
	}
	pick := func(from ...answer) []answer {
		var out []answer
		for r.IntN(3) == 0 && len(out) < 4 {
			out = append(out, from[r.IntN(len(from))])
		}
		return out
	}
	before, pivot, behind := r.IntN(5), r.IntN(2), r.IntN(3)
	groups := 0
	for i := range max(1, before+pivot+behind) {
		d := &dice{name: string(rune('a' + i)), attempts: 1 + r.IntN(3), idempotent: r.IntN(3) == 0, verify: r.IntN(3) == 0, unsure: r.IntN(4) == 0}
		d.answers = pick(fault, no, lost, vanished, panics, fault)
		switch {
		case i < before && r.IntN(4) == 0:
			d.kind, d.verify, d.idempotent = saga.KindPure, false, false
			d.answers = pick(fault, no)
		case i < before:
			d.kind, d.undos = saga.KindStep, pick(fault, no, lost, fault)
			d.tx = r.IntN(4) == 0
			d.verify, d.idempotent = d.verify && !d.tx, d.idempotent && !d.tx
		case i == before && pivot == 1:
			d.kind = saga.KindPivot
		default:
			d.kind = saga.KindRetriable
		}
		if i > 0 && d.kind != saga.KindPivot && !d.tx && r.IntN(4) == 0 { // at the same time as the one before it
			if p := g.dice[i-1]; !p.tx && p.kind != saga.KindPivot && (p.kind == saga.KindRetriable) == (d.kind == saga.KindRetriable) {
				if p.group == 0 {
					groups++
					p.group = groups
				}
				d.group = p.group
			}
		}
		g.dice = append(g.dice, d)
	}
	return g
}

func (g *gamble) String() string {
	var b strings.Builder
	for _, d := range g.dice {
		fmt.Fprintf(&b, "[%s %v group %d tx %v idempotent %v verify %v unsure %v attempts %d", d.name, d.kind, d.group, d.tx, d.idempotent, d.verify, d.unsure, d.attempts)
		for _, a := range d.answers {
			b.WriteString(" " + answers[a])
		}
		b.WriteString(" / undo")
		for _, a := range d.undos {
			b.WriteString(" " + answers[a])
		}
		b.WriteString("] ")
	}
	return b.String()
}

// call notes a call and returns what comes of it.
func (g *gamble) call(what string, d *dice, script []answer) answer {
	n := 0
	for _, c := range g.calls[d.name] {
		if c == what {
			n++
		}
	}
	g.calls[d.name] = append(g.calls[d.name], what)
	if n >= len(script) {
		return well
	}
	if script[n] == no && d.kind != saga.KindStep && d.idempotentEffect() && g.effects[d.name] > 0 {
		return well // a provider that knows the key does not deny what it has done
	}
	return script[n]
}

func (g *gamble) apply(d *dice) {
	if d.kind == saga.KindPure || d.idempotentEffect() && g.effects[d.name] > 0 {
		return
	}
	g.effects[d.name]++
	if g.effects[d.name] > 1 {
		g.twice = append(g.twice, d.name)
	}
}

// idempotentEffect: a Retriable promises that it is.
func (d *dice) idempotentEffect() bool { return d.idempotent || d.kind == saga.KindRetriable }

var errFault = errors.New("fault")

func (a answer) err() error {
	switch a {
	case fault:
		return errFault
	case no:
		return saga.Reject(errFault)
	case lost, vanished:
		return saga.InDoubt(errFault)
	case panics:
		panic("a step panics")
	case well:
	}
	return nil
}

func (a answer) applies() bool { return a == well || a == lost || a == panics }

func (g *gamble) do(d *dice) saga.Func[trace] {
	return func(ctx context.Context, data *trace) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a := g.call("do", d, d.answers)
		if a.applies() {
			g.apply(d)
		}
		(*data)[d.name]++
		return a.err()
	}
}

func (g *gamble) undo(d *dice) saga.Func[trace] {
	return func(ctx context.Context, data *trace) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a := g.call("undo", d, d.undos)
		if a.applies() {
			g.effects[d.name] = 0
		}
		(*data)["-"+d.name]++
		return a.err()
	}
}

func (g *gamble) look(d *dice) saga.VerifyFunc[trace] {
	return func(ctx context.Context, data *trace) (saga.Outcome, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if ctx.Err() != nil {
			return saga.Unknown, ctx.Err()
		}
		g.call("look", d, nil)
		o := g.outcome(d)
		if o == saga.Applied {
			(*data)[d.name]++
		}
		return o, nil
	}
}

func (g *gamble) outcome(d *dice) saga.Outcome {
	switch {
	case d.unsure:
		return saga.Unknown
	case g.effects[d.name] > 0:
		return saga.Applied
	}
	return saga.NeverApplied
}

// inTx is f with an effect that comes with the commit.
func (g *gamble) inTx(d *dice, what string, script []answer, change func()) saga.TxFunc[trace, *saga.MemoryTx] {
	name := d.name
	if what == "undo" {
		name = "-" + name
	}
	return func(_ context.Context, tx *saga.MemoryTx, data *trace) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		a := g.call(what, d, script)
		tx.OnCommit(func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			change()
		})
		(*data)[name]++
		return a.err()
	}
}

// define makes the saga of it.
func (g *gamble) define(store saga.Store) (*saga.Definition[trace], error) {
	tx, ok := store.(saga.Transactor)
	ok = ok && tx.TxType() == reflect.TypeFor[*saga.MemoryTx]()
	var parts, group []saga.Part[trace]
	for i, d := range g.dice {
		d.tx = d.tx && ok
		part := g.part(d)
		if d.group == 0 {
			parts = append(parts, part)
			continue
		}
		group = append(group, part)
		if i+1 == len(g.dice) || g.dice[i+1].group != d.group {
			parts = append(parts, saga.Parallel("group", group...))
			group = nil
		}
	}
	return saga.Define("gamble", 1, parts...)
}

func (g *gamble) part(d *dice) saga.Part[trace] {
	retry := saga.Retry{Attempts: d.attempts, First: time.Millisecond, Max: 2 * time.Millisecond}
	if d.tx {
		return saga.StepTx(d.name, g.inTx(d, "do", d.answers, func() { g.apply(d) })).Retry(retry).RetryUndo(retry).
			Undo(g.inTx(d, "undo", d.undos, func() { g.effects[d.name] = 0 }))
	}
	var p *saga.StepPart[trace]
	switch d.kind {
	case saga.KindPure:
		p = saga.Pure(d.name, g.do(d))
	case saga.KindPivot:
		p = saga.Pivot(d.name, g.do(d))
	case saga.KindRetriable:
		p = saga.Retriable(d.name, g.do(d))
	default:
		p = saga.Step(d.name, g.do(d)).Undo(g.undo(d)).RetryUndo(retry)
	}
	if d.verify {
		p = p.Verify(g.look(d))
	}
	if d.idempotent {
		p = p.Idempotent()
	}
	return p.Retry(retry)
}

// play runs the saga and compares.
func (g *gamble) play(t *testing.T, store saga.Store) error {
	def, err := g.define(store)
	if err != nil {
		return err
	}
	s := Scenario[trace]{Input: trace{}, Lease: 100 * time.Millisecond, Limit: time.Minute}
	if !g.deadly {
		s.Lease = 10 * time.Second // nobody is to be suspected
	}
	r := &ordeal[trace]{
		crasher: &crasher[trace]{Scenario: s, tb: t}, id: "gamble-" + crand.Text(), world: NewWorld(), store: store, fate: g.fate, def: def,
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), s.Limit)
	defer cancel()
	for over := false; !over && err == nil; {
		_, over, err = r.live(ctx)
	}
	r.lives.Wait()
	if err != nil {
		return err
	}
	rec, err := r.find(ctx)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if fault := g.compare(rec); fault != "" {
		return fmt.Errorf("%s\n%s\ncalls %v", fault, describe(rec), g.calls)
	}
	return nil
}

func (g *gamble) compare(rec *saga.Record) string {
	if len(g.twice) > 0 {
		return fmt.Sprintf("%v had their effect twice", g.twice)
	}
	for _, d := range g.dice {
		want := 0
		if rec.Status == saga.Completed && d.kind != saga.KindPure {
			want = 1
		}
		if rec.Status != saga.Stuck && g.effects[d.name] != want {
			return fmt.Sprintf("the effect of %s is there %d times", d.name, g.effects[d.name])
		}
	}
	if g.deadly {
		return ""
	}
	m := &plainly{gamble: &gamble{dice: g.dice, calls: map[string][]string{}, effects: map[string]int{}}, marks: make([]saga.Mark, len(g.dice))}
	status := m.run()
	var marks []saga.Mark
	for _, s := range rec.Steps {
		marks = append(marks, s.Mark)
	}
	switch {
	case rec.Status != status:
		return fmt.Sprintf("the model is %v, calls %v", status, m.calls)
	case !reflect.DeepEqual(m.calls, g.calls):
		return fmt.Sprintf("the model calls %v", m.calls)
	case !maps.EqualFunc(m.effects, g.effects, func(a, b int) bool { return a == b }):
		return fmt.Sprintf("the model has the effects %v, and not %v", m.effects, g.effects)
	case !reflect.DeepEqual(m.marks, marks):
		return fmt.Sprintf("the model ends as %q", m.marks)
	}
	return ""
}

// plainly is what an engine does, as the documentation has it: one step after the
// other, no store, no clock, and those of a Parallel in their order.
type plainly struct {
	*gamble

	marks []saga.Mark
}

func (m *plainly) run() saga.Status {
	for i := range m.marks {
		m.marks[i] = saga.Open
	}
	for i := 0; i < len(m.dice); {
		j := i + 1
		for j < len(m.dice) && m.dice[i].group > 0 && m.dice[j].group == m.dice[i].group {
			j++
		}
		if m.stage(i, j) {
			i = j
			continue
		}
		pivot := len(m.dice)
		for k, d := range m.dice {
			if d.kind == saga.KindPivot || d.kind == saga.KindRetriable {
				pivot = k
				break
			}
		}
		for k := pivot; k < len(m.dice); k++ {
			if m.stands(k) {
				return saga.Stuck
			}
		}
		if i > pivot || i == pivot && m.marks[i] != saga.NotApplied {
			return saga.Stuck
		}
		return m.back()
	}
	return saga.Completed
}

func (m *plainly) stands(k int) bool {
	return m.marks[k] == saga.Done || m.marks[k] == saga.Failed || m.marks[k] == saga.Maybe
}

// stage does the steps from i to j, each an attempt in its turn, and returns whether
// all are done.
func (m *plainly) stage(i, j int) bool {
	attempts := make([]int, j-i)
	for {
		given, open := false, false
		for k := i; k < j; k++ {
			if m.marks[k] == saga.Done {
				continue
			}
			attempts[k-i]++
			switch done, again := m.attempt(k, attempts[k-i]); {
			case done:
				m.marks[k] = saga.Done
			case again:
				open = true
			default:
				given = true
			}
		}
		if given || !open {
			return !given
		}
	}
}

func (m *plainly) attempt(k, n int) (done, again bool) {
	d := m.dice[k]
	more := n < d.attempts
	if m.marks[k] == saga.Maybe {
		o := saga.Unknown
		if d.verify {
			m.call("look", d, nil)
			o = m.outcome(d)
		}
		switch {
		case o == saga.Applied:
			return true, false
		case o == saga.NeverApplied:
			m.marks[k] = saga.Open
		case !d.repeatable():
			return false, more && d.verify
		}
	}
	a := m.call("do", d, d.answers)
	if a.applies() && (!d.tx || a == well) {
		m.apply(d)
	}
	switch {
	case a == well:
		return true, false
	case d.tx:
		if a == no || !more {
			m.marks[k] = saga.NotApplied
			return false, false
		}
		return false, true
	case a == no:
		if m.marks[k] == saga.Open || d.idempotent && d.kind != saga.KindStep {
			m.marks[k] = saga.NotApplied
		}
		return false, false
	case a == fault:
		if m.marks[k] == saga.Open {
			m.marks[k] = saga.Failed
		}
		return false, more
	}
	if d.kind != saga.KindPure {
		m.marks[k] = saga.Maybe
	}
	return false, more && (d.repeatable() || d.verify)
}

func (m *plainly) back() saga.Status {
	status := saga.Compensated
	for k := len(m.dice) - 1; k >= 0; k-- {
		d := m.dice[k]
		if d.kind != saga.KindStep || !m.stands(k) {
			continue
		}
		for n := 1; ; n++ {
			a := m.call("undo", d, d.undos)
			if a.applies() && (!d.tx || a == well) {
				m.effects[d.name] = 0
			}
			ok := a == well
			if ok && m.marks[k] == saga.Maybe && d.verify {
				m.call("look", d, nil)
				ok = m.outcome(d) != saga.Applied
			}
			if ok {
				m.marks[k] = saga.Undone
				break
			}
			if a == no || n >= d.attempts {
				m.marks[k], status = saga.UndoFailed, saga.Stuck
				break
			}
		}
	}
	return status
}
