package ratelimit

import (
	"context"
	"errors"
	"sync"
)

// Owned gives each key an owner among the processes, who counts it in memory; the others ask it. So no store is shared, and nothing has to be. It is
// safe for concurrent use. Make one with [NewOwned]; the zero value is not usable.
//
// # What is guaranteed
//
// Where all processes know the same members, a key is counted in one place, and decisions on it are as exact as those of a [Limiter] on a
// [Memory]. The owner is the member with the highest hash of itself and the key (rendezvous hashing), so that all agree without talking. When a member
// goes, exactly its keys move, evenly to all others; when one comes, it gets an even part of everybody's and nothing else moves.
//
// Nobody counts what it does not own: a process that is asked about a key of which, by its own list, another is the owner answers with a
// [*NotOwnerError], and does not ask on. The one who asked treats that as a failure of its peer.
//
// # What is not
//
//   - A key begins anew with its new owner, so around a change of members it may be given its limit twice. A member that comes back still has
//     what it had counted.
//   - Counters are gone with the process.
//   - The hash has no secret: who chooses keys freely can choose them all from one owner.
//
// # When a peer is down
//
// Each peer has a timeout and a breaker of its own, and Options.OnError decides for its keys: FailOpen (the default), FailClosed, or FailLocal with the
// share of this process (1/members is right). The [Source] tells. Its keys move when it is taken off the list, which is not done here.
//
// Cost: of an own key, what a Limiter in memory costs and a hash for each member (10 members: about 50 ns); of another's, one question to the peer, unless it
// refused a moment ago ([Options.DenyCache]).
type Owned struct {
	self    string
	members *Members
	dial    func(node string) Peer
	limit   Limit
	o       Options

	memory *Memory
	own    *Limiter

	mu     sync.RWMutex
	peers  map[string]*Limiter
	synced *roster // the list that peers was last cleaned by
}

// Peer asks another process. Any [Store] is one: what a peer does with calls is what a store does, and of [Owned.Answer] is its other end. A call that
// was carried out though its answer is lost is not repeated.
type Peer interface {
	Decide(ctx context.Context, calls []Call) []Reply
}

// OwnedOptions are the optional settings of an [Owned]. The zero value means the defaults.
type OwnedOptions struct {
	Options
	// Memory is where own keys are counted.
	// Default: a new one.
	Memory *Memory
}

// NotOwnerError says that a process was asked about a key that, by its list, another owns. Nothing was charged.
type NotOwnerError struct{ Asked, Owner string }

func (e *NotOwnerError) Error() string {
	return "ratelimit: " + e.Asked + " does not own the key: " + e.Owner + " does"
}

// NewOwned returns a limiter of the process that members know as self. dial returns what asks another member; it must not wait, and is
// called once for each until that has left. The error joins an [*InvalidError] for each fault.
func NewOwned(self string, members *Members, dial func(node string) Peer, limit Limit, o *OwnedOptions) (*Owned, error) {
	if o == nil {
		o = &OwnedOptions{}
	}
	w := &Owned{self: self, members: members, dial: dial, limit: limit, o: o.Options, memory: o.Memory, peers: map[string]*Limiter{}}
	var faults []error
	if self == "" {
		faults = append(faults, invalid("self", "is empty"))
	}
	if members == nil {
		faults = append(faults, invalid("members", "is nil"))
	}
	if dial == nil {
		faults = append(faults, invalid("dial", "is nil"))
	}
	if w.memory == nil {
		w.memory = NewMemory(&MemoryOptions{Now: o.Now})
	}
	faults = append(faults, scaleFaults(limit, 0, 0, "OwnedOptions"))
	own, err := New(w.memory, limit, &w.o)
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	w.own = own
	return w, nil
}

// Allow charges one unit to key, at its owner, if there is room for it. The error is one of the call ([*InvalidError]) or ctx's.
func (w *Owned) Allow(ctx context.Context, key string) (Result, error) {
	return w.of(key).AllowN(ctx, key, 1)
}

// AllowN charges n units to key, at its owner, if there is room for all of them.
func (w *Owned) AllowN(ctx context.Context, key string, n int64) (Result, error) {
	return w.of(key).AllowN(ctx, key, n)
}

// Peek tells what Allow would answer, and charges nothing.
func (w *Owned) Peek(ctx context.Context, key string) (Result, error) {
	return w.of(key).Peek(ctx, key)
}

// Reset forgets what key has used. It fails where the owner does not answer.
func (w *Owned) Reset(ctx context.Context, key string) error { return w.of(key).Reset(ctx, key) }

// Answer decides on what another process asks: it is what a server of peers calls. Of keys that this process does not own it decides nothing.
func (w *Owned) Answer(ctx context.Context, calls []Call) []Reply {
	list := w.members.list.Load()
	replies := make([]Reply, len(calls))
	mine := make([]Call, 0, len(calls))
	at := make([]int, 0, len(calls))
	for i := range calls {
		if owner := foreign(list, w.self, &calls[i]); owner != "" {
			replies[i].Err = &NotOwnerError{Asked: w.self, Owner: owner}
			continue
		}
		mine, at = append(mine, calls[i]), append(at, i)
	}
	for k, r := range w.memory.Decide(ctx, mine) {
		replies[at[k]] = r
	}
	return replies
}

// foreign returns who else owns a key of a call.
func foreign(list *roster, self string, c *Call) string {
	for i := range c.Ops {
		if owner := list.owner(c.Ops[i].Key); owner != self && owner != "" {
			return owner
		}
	}
	return ""
}

// of returns the limiter that asks the owner of a key. With an empty list everybody owns all.
func (w *Owned) of(key string) *Limiter {
	for {
		list := w.members.list.Load()
		owner := list.owner(key)
		if owner == w.self || owner == "" {
			return w.own
		}
		w.mu.RLock()
		l, current := w.peers[owner], w.synced == list
		w.mu.RUnlock()
		if l != nil && current {
			return l
		}
		if l = w.meet(list, owner); l != nil {
			return l
		}
	}
}

// meet dials a member that is new, and forgets those that have left. It returns nil where the list is not the last one any more:
//
//	A reads the list, and it changes: there is a new member
//	B dials that
//	A, whose list does not have it, would forget it, and the next one would dial again
func (w *Owned) meet(list *roster, owner string) *Limiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.members.list.Load() != list {
		return nil
	}
	if w.synced != list {
		for node := range w.peers {
			if !list.has(node) {
				delete(w.peers, node)
			}
		}
		w.synced = list
	}
	if l := w.peers[owner]; l != nil {
		return l
	}
	l, err := New(w.dial(owner), w.limit, &w.o)
	if err != nil { // dial returned nil: the policy answers
		l, _ = New(noPeer{}, w.limit, &w.o)
	}
	w.peers[owner] = l
	return l
}

// noPeer is a peer that cannot be dialed.
type noPeer struct{}

var errNoPeer = errors.New("ratelimit: peer cannot be dialed")

func (noPeer) Decide(_ context.Context, calls []Call) []Reply {
	replies := make([]Reply, len(calls))
	for i := range replies {
		replies[i].Err = errNoPeer
	}
	return replies
}
