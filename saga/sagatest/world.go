package sagatest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/safetill/safetill/saga"
)

// World is what the steps of a saga reach out to: providers, such as a bank or a
// stock, and a journal of every effect that they had. It is safe for concurrent use.
type World struct {
	mu        sync.Mutex
	providers map[string]*Provider
	journal   []Effect
	stands    map[place]int // how many effects there are, and are not taken back
	twice     []string
	calm      bool // no faults
}

// Effect is a line of the journal.
type Effect struct {
	Provider string
	Key      string // that it was asked for under
	Amount   int64  // what changed; taken back, it is there again with the sign turned
}

type place struct{ provider, key string }

// NewWorld returns a world without providers.
func NewWorld() *World {
	return &World{providers: map[string]*Provider{}, stands: map[place]int{}}
}

// Provider returns the provider of that name. It is made when it is first asked for.
func (w *World) Provider(name string) *Provider {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.providers[name]
	if p == nil {
		p = &Provider{
			w: w, name: name,
			receipts: map[string]receipt{}, cancelled: map[string]bool{}, declined: map[string]bool{},
		}
		w.providers[name] = p
	}
	return p
}

// Record notes an effect that came about without a [Provider], such as a row
// that a step has written in its transaction: call it when that is committed.
func (w *World) Record(provider, key string, amount int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.apply(provider, key, amount)
}

func (w *World) apply(provider, key string, amount int64) {
	w.journal = append(w.journal, Effect{provider, key, amount})
	at := place{provider, key}
	w.stands[at]++
	if w.stands[at] == 2 {
		w.twice = append(w.twice, provider+" "+key)
	}
}

// Journal returns every effect, in order.
func (w *World) Journal() []Effect {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.journal)
}

// Count returns how often an effect came about under a key, taken back or not.
func (w *World) Count(provider, key string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, e := range w.journal {
		if e.Provider == provider && e.Key == key && e.Amount >= 0 {
			n++
		}
	}
	return n
}

// Sum returns the sum of a provider's effects: 0 if all were taken back.
func (w *World) Sum(provider string) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sums(func(e Effect) string { return e.Provider })[provider]
}

func (w *World) sums(by func(Effect) string) map[string]int64 {
	sums := map[string]int64{}
	for _, e := range w.journal {
		sums[by(e)] += e.Amount
	}
	maps.DeleteFunc(sums, func(_ string, n int64) bool { return n == 0 })
	return sums
}

// Twice returns what took effect twice under one key without being taken back in
// between, as "provider key".
func (w *World) Twice() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.twice)
}

// Settle has every request arrive that is still under way (see [Delays]).
func (w *World) Settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.providers {
		p.land(func(request) bool { return true })
	}
}

// calmed turns every fault off.
func (w *World) calmed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calm = true
}

// left returns, by provider, what is not taken back.
func (w *World) left() map[string]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sums(func(e Effect) string { return e.Provider })
}

// whole returns, by provider and key, what is not taken back in the saga of that id.
func (w *World) whole(id string) map[string]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sums(func(e Effect) string { return e.Provider + " " + strings.TrimPrefix(e.Key, id+"/") })
}

// Fault is what becomes of one request to a [Provider].
type Fault uint8

// The faults.
const (
	Works    Fault = iota // none
	Fails                 // it has no effect, and an error says so
	Refuses               // a business rule says no, by [saga.Reject], and will say so to this key again; a look-up does not know
	TimesOut              // it has its effect, and then no answer comes
	Drops                 // it is lost: no effect and no answer
	Doubles               // it arrives twice
	// Delays: no answer comes, and it arrives late: after its key was undone, or in
	// [World.Settle]. Until then a look-up does not know of it. Of an Undo or a
	// look-up it is Drops.
	Delays
)

// Provider is a service that keeps, for every key, an effect. As it is made, it is a
// good one: it has an effect once per key, and none for a key that was undone.
type Provider struct {
	// Forgets says that it has no memory of keys: a request that is repeated has its
	// effect again. Set it before its first use, as the others.
	Forgets bool
	// Unfenced says that it knows nothing of a key that was undone before it had
	// come: the request that arrives after its Undo has its effect.
	Unfenced bool

	w         *World
	name      string
	receipts  map[string]receipt // by key, of what stands
	cancelled map[string]bool
	declined  map[string]bool
	late      []request
	issued    int

	faults, undoFaults, verifyFaults []Fault
}

type receipt struct {
	id     string
	amount int64 // in all
}

type request struct {
	key    string
	amount int64
}

var (
	errDown      = errors.New("sagatest: the provider is down")
	errDeclined  = errors.New("sagatest: declined")
	errCancelled = errors.New("sagatest: the key was cancelled")
	errAmount    = errors.New("sagatest: the key was used for another amount")
	errSilence   = fmt.Errorf("sagatest: no answer: %w", context.DeadlineExceeded)
)

// Next says what becomes of the next calls of Do, in their order; those behind it work.
func (p *Provider) Next(faults ...Fault) *Provider { return p.queue(&p.faults, faults) }

// NextUndo is [Provider.Next] for Undo.
func (p *Provider) NextUndo(faults ...Fault) *Provider { return p.queue(&p.undoFaults, faults) }

// NextVerify is [Provider.Next] for Verify.
func (p *Provider) NextVerify(faults ...Fault) *Provider { return p.queue(&p.verifyFaults, faults) }

func (p *Provider) queue(q *[]Fault, faults []Fault) *Provider {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	*q = append(*q, faults...)
	return p
}

func (p *Provider) next(q *[]Fault) Fault {
	if p.w.calm || len(*q) == 0 {
		return Works
	}
	f := (*q)[0]
	*q = (*q)[1:]
	return f
}

// Do has an effect under key, which is that of [saga.Call.Key], and returns a
// receipt. Its errors are such as [saga.Func] may return as they are.
func (p *Provider) Do(ctx context.Context, key string, amount int64) (receipt string, err error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	switch f := p.next(&p.faults); f {
	case Fails:
		return "", errDown
	case Drops:
		return "", errSilence
	case Delays:
		p.late = append(p.late, request{key, amount})
		return "", errSilence
	case Refuses:
		if p.receipts[key].id == "" {
			p.declined[key] = true
		}
		return p.arrive(key, amount)
	case Doubles:
		if receipt, err = p.arrive(key, amount); err != nil {
			return receipt, err
		}
		return p.arrive(key, amount)
	case TimesOut:
		if _, err := p.arrive(key, amount); err != nil {
			return "", err
		}
		return "", errSilence
	default:
		return p.arrive(key, amount)
	}
}

func (p *Provider) arrive(key string, amount int64) (string, error) {
	have, known := p.receipts[key]
	switch {
	case p.cancelled[key]:
		return "", saga.Reject(errCancelled)
	case p.declined[key]:
		return "", saga.Reject(errDeclined)
	case known && !p.Forgets && have.amount != amount:
		return "", saga.Reject(errAmount)
	case known && !p.Forgets:
		return have.id, nil
	}
	p.issued++
	id := fmt.Sprintf("%s-%d", p.name, p.issued)
	p.receipts[key] = receipt{id, have.amount + amount}
	p.w.apply(p.name, key, amount)
	return id, nil
}

// land has requests arrive that were late.
func (p *Provider) land(which func(request) bool) {
	late := p.late
	p.late = nil
	for _, q := range late {
		if !which(q) {
			p.late = append(p.late, q)
			continue
		}
		_, _ = p.arrive(q.key, q.amount) // nobody is there to hear the answer
	}
}

// Undo takes back what stands under key, which is that of the step,
// [saga.Call.DoKey], and has no effect where nothing does. Unless the provider is
// Unfenced, the key has none any more.
func (p *Provider) Undo(ctx context.Context, key string) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	switch f := p.next(&p.undoFaults); f {
	case Fails:
		return errDown
	case Refuses:
		return saga.Reject(errDeclined)
	case Drops, Delays:
		return errSilence
	default:
		if have, known := p.receipts[key]; known {
			delete(p.receipts, key)
			p.w.journal = append(p.w.journal, Effect{p.name, key, -have.amount})
			delete(p.w.stands, place{p.name, key})
		}
		p.cancelled[key] = !p.Unfenced
		p.land(func(q request) bool { return q.key == key })
		if f == TimesOut {
			return errSilence
		}
		return nil
	}
}

// Verify looks up what became of key, for [saga.StepPart.Verify]: Applied, with its
// receipt, if it stands.
func (p *Provider) Verify(ctx context.Context, key string) (receipt string, o saga.Outcome, err error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return "", saga.Unknown, err
	}
	switch p.next(&p.verifyFaults) {
	case Fails:
		return "", saga.Unknown, errDown
	case TimesOut, Drops, Delays:
		return "", saga.Unknown, errSilence
	case Refuses:
		return "", saga.Unknown, nil
	default:
	}
	if have, known := p.receipts[key]; known {
		return have.id, saga.Applied, nil
	}
	if slices.ContainsFunc(p.late, func(q request) bool { return q.key == key }) {
		return "", saga.Unknown, nil
	}
	return "", saga.NeverApplied, nil
}
