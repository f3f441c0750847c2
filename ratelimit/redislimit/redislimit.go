package redislimit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/safetill/safetill/internal/absent"
	"github.com/safetill/safetill/ratelimit"
)

// Options of a [Store]. The zero value means the defaults.
type Options struct {
	// Prefix of every key on Redis. On a Cluster a prefix with a hash tag ("{limits}:") puts all counters on one node.
	// Default: "ratelimit:".
	Prefix string
	// Batch is how many calls are joined in one flight at most.
	// Default: 128.
	Batch int
	// Flights is how many may be under way at once, to one server or to a sixteenth of a Cluster's slots. Who comes when there is none flies at
	// once; who comes meanwhile waits for its return, and flies with all others who do. When these are 16, a second one sets out, and from then on
	// the two share who comes. When they fill a flight, or somebody comes when the last one has been away for 2 ms, as where the network is slow or
	// a packet was lost, another sets out beside them.
	// Default: 4.
	Flights int
	// Queue is how many calls may wait for a flight, to one server or sixteenth, before more are answered with [ErrBusy].
	// Default: 16,384.
	Queue int
	// CrossSlot is what becomes of a call whose takes are in several slots of a Cluster, or have several hash tags on a Ring.
	// Default: Reserve.
	CrossSlot CrossSlot
	// ReserveLease is after what time a reservation of a client that is gone is given back.
	// Default: 1 s.
	ReserveLease time.Duration
}

// CrossSlot is what becomes of a call whose takes cannot be one script.
type CrossSlot uint8

const (
	// Reserve charges each slot's part as a reservation, then decides on all: see the package's documentation.
	Reserve CrossSlot = iota
	// Refuse answers with a [*CrossSlotError].
	Refuse
)

// Errors of a [Store].
var (
	// ErrBusy: too many calls are waiting already; nothing was charged.
	ErrBusy = errors.New("redislimit: too many calls are waiting")
	// ErrClosed: the store was closed; nothing was charged.
	ErrClosed = errors.New("redislimit: store is closed")
)

// CrossSlotError says that the takes of a call are in several slots, and that the store was told to refuse that. Nothing was charged. It is a
// [ratelimit.ErrInvalid]: a fault of the call, which no policy for failing stores may admit.
type CrossSlotError struct {
	Keys []string // of the takes, as they are on Redis
}

func (e *CrossSlotError) Error() string {
	return fmt.Sprintf("redislimit: the keys of one call are in several slots: %q", e.Keys)
}

// Is reports that a CrossSlotError is a [ratelimit.ErrInvalid].
func (e *CrossSlotError) Is(target error) bool { return target == ratelimit.ErrInvalid }

// Store keeps counters on Redis. It implements [ratelimit.Store] and is safe for concurrent use. Make one with [NewStore]; the zero value is not usable.
type Store struct {
	rdb    redis.UniversalClient
	prefix string
	o      Options
	forms  forms
	layout layout
	heeds  bool // the client heeds the context of a command
	lanes  []lane
	// In tests: the time in place of the server's, and whether a call over several slots is to stop at a stage, as if its client had died.
	clock func() int64
	halt  func(stage string) bool
	// stubborn is how long a call is sent again for that a Cluster turns away.
	stubborn time.Duration

	closing sync.Mutex // so that no work begins when Close has begun to wait
	closed  atomic.Bool
	working sync.WaitGroup // flights, and calls over several slots
}

// NewStore returns a store on the client, which stays the caller's to close. It does not call Redis and starts nothing; a store that is no longer
// needed is to be closed, before the client is. The error is a [ratelimit.ErrInvalid].
func NewStore(rdb redis.UniversalClient, o *Options) (*Store, error) {
	s := &Store{rdb: rdb, stubborn: 10 * time.Second}
	if o != nil {
		s.o = *o
	}
	var faults []error
	refuse := func(bad bool, field, reason string) {
		if bad {
			faults = append(faults, &ratelimit.InvalidError{Field: field, Reason: reason})
		}
	}
	refuse(absent.Is(rdb), "redis client", "is nil")
	refuse(s.o.Batch < 0, "Options.Batch", "is negative")
	refuse(s.o.Flights < 0, "Options.Flights", "is negative")
	refuse(s.o.Queue < 0, "Options.Queue", "is negative")
	refuse(s.o.CrossSlot > Refuse, "Options.CrossSlot", "is unknown")
	refuse(s.o.ReserveLease < 0 || s.o.ReserveLease > ratelimit.MaxPer, "Options.ReserveLease", fmt.Sprintf("is not 0 to %v", ratelimit.MaxPer))
	refuse(len(s.o.Prefix) > ratelimit.MaxKey, "Options.Prefix", fmt.Sprintf("has over %d bytes", ratelimit.MaxKey))
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	s.prefix = cmp.Or(s.o.Prefix, "ratelimit:")
	s.o.Batch = cmp.Or(s.o.Batch, 128)
	s.o.Flights = cmp.Or(s.o.Flights, 4)
	s.o.Queue = cmp.Or(s.o.Queue, 16384)
	s.o.ReserveLease = cmp.Or(s.o.ReserveLease, time.Second)
	s.layout = layoutOf(rdb)
	one, ok := rdb.(*redis.Client)
	s.heeds = ok && one.Options().ContextTimeoutEnabled
	s.lanes = make([]lane, s.layout.lanes())
	return s, nil
}

// Close waits until all flights have landed, and calls over several slots have ended. Calls that come afterwards are answered with [ErrClosed].
// A flight ends by the client's timeouts, so close the store before the client.
func (s *Store) Close() error {
	s.closing.Lock()
	s.closed.Store(true)
	s.closing.Unlock()
	s.working.Wait()
	return nil
}

// enter begins work that Close waits for; the caller ends it by working.Done.
func (s *Store) enter() bool {
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.closed.Load() {
		return false
	}
	s.working.Add(1)
	return true
}

// Decide implements [ratelimit.Store]. It returns when ctx ends, whatever Redis does: a call that was on its way then may have been carried out
// or not, one that was still waiting is not. (For a client with ContextTimeoutEnabled see the package's documentation.)
func (s *Store) Decide(ctx context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	replies := make([]ratelimit.Reply, len(calls))
	if len(calls) == 1 {
		s.decide(ctx, &calls[0], &replies[0])
		return replies
	}
	s.decideMany(ctx, calls, replies)
	return replies
}
