package saga

import (
	"context"
	"fmt"
	"iter"
	"reflect"
	"time"
)

// Store keeps sagas. It is implemented by [Memory] and by pgsaga.Store; package
// sagatest holds a backend of your own to the same contract.
//
// Every time is the store's, never the caller's. Items of a batch are decided one
// by one, each atomically; what is found out about one is in its Err, and never
// fails its neighbours. An error of the call means that the fate of some items is
// not known: each may be repeated as it is, with the same effect as if it had
// been called once. A lease or a limit that is less than it may be is an [*InputError].
//
// Implementations are safe for concurrent use.
type Store interface {
	// Create adds sagas. One that exists with the same fingerprint is left as it is.
	Create(ctx context.Context, sagas []*Create) error
	// Save writes checkpoints.
	Save(ctx context.Context, writes []*Write) error
	// Claim makes the caller the owner of sagas that nobody has and that are due,
	// and of those whose owner's lease is over, oldest first. Where some of them cannot
	// be read, it returns the others with the error.
	Claim(ctx context.Context, c Claim) ([]Claimed, error)
	// Renew lets leases end after d from now. The Err of one is nil or [ErrFenced].
	Renew(ctx context.Context, leases []*Lease, d time.Duration) error
	// Deliver keeps a signal with a saga and makes that due at once if it waits.
	// It answers [ErrNotFound], [ErrOver] for a saga that is over, [ErrConflict]
	// where the name is taken by another payload, and [ErrTooManySignals] where there
	// are [MaxSignals] already. Names that begin with "$" are the engine's: they are
	// not counted, and always taken. A Stuck saga takes signals.
	Deliver(ctx context.Context, id, name string, payload []byte) error
	// Find lists sagas by their ids. What it lists is not locked, and may be in
	// the past when it is read. Where some of them cannot be read, it lists the others
	// before the error.
	Find(ctx context.Context, f Filter) iter.Seq2[*Record, error]
}

// MaxSignals is how many signals a saga keeps at most: each checkpoint comes back
// with all of them.
const MaxSignals = 64

// Create is one new saga.
type Create struct {
	// Record is the saga, with Revision 0, which may be one that goes back already, as a
	// child that is not to come any more. Token and Owner are not set where it
	// is free to be claimed at once, and otherwise those of its owner, Token 1.
	// The store sets Created and Updated.
	Record *Record
	Lease  time.Duration // of its owner; at least a millisecond

	// Mine says, in the answer, that the saga belongs to Record.Owner: it was
	// added, also by an earlier call whose answer was lost, and nothing has
	// happened to it yet.
	Mine bool
	// Err is [ErrConflict] where the id has another fingerprint.
	Err error
}

// Write is one checkpoint.
type Write struct {
	// Record is the whole state to be. It is written if the saga has its Token
	// and the Revision before: else Err is [ErrFenced]. If it has that very
	// Revision by the same Token, it was written before, by a call whose answer was
	// lost: nothing is done, and Err is nil. The store writes Status, Undoing,
	// Steps, Failed, Error, Crashes, Data, and sets Updated; the rest stays.
	//
	// A saga that is Stuck, or Suspended and without an owner, is written by a person,
	// see [Admin]: under the Token of its last owner, and with Release and no Due, so that
	// what is brought back is due at once, whatever it was due for before.
	Record *Record
	// Release ends the ownership, so that the saga can be claimed by anybody:
	// after Due from now or, if that is below 0, not before it gets a signal.
	// A saga that is over is released by any write.
	Release bool
	Due     time.Duration
	// Seen is how many signals the owner knows of. A saga that has more is
	// due at once when it is released.
	Seen int
	// Events and Messages are kept with the checkpoint, in the same commit.
	Events   []Event
	Messages []Message

	// Signals are, in the answer, those of the saga, nil if it has none.
	Signals Signals
	Err     error
}

// Claim asks for sagas.
type Claim struct {
	Owner       string
	Lease       time.Duration // at least a millisecond
	Limit       int           // at least 1
	Definitions []string      // names; sagas of others are for others
	IDs         []string      // only these; nil: any
}

// Claimed is a saga and its new owner's view of it.
type Claimed struct {
	// Record has the new owner's Token, one above the last. If the last owner did
	// not release the saga, its Crashes are one more than they were.
	Record  *Record
	Crashed bool      // the last owner did not release it: its step may have happened
	Now     time.Time // by the store's clock
}

// Lease is the ownership of one saga.
type Lease struct {
	ID    string
	Token int64
	Err   error // the answer
}

// Filter selects sagas. Empty fields select all.
type Filter struct {
	IDs        []string
	Status     []Status
	Definition string
	BusinessID string
	After      string // only ids above
	Limit      int    // 0: no limit
	Events     bool   // with their histories
}

// Transactor is implemented by stores that can do a step's work in the
// transaction of its checkpoint.
type Transactor interface {
	// TxType is the type of the transactions that SaveTx gives to its work.
	TxType() reflect.Type
	// SaveTx calls work within a transaction and then writes w in it. work fills
	// in w.Record before it returns. An error of work rolls everything back and is
	// returned as it is. Where work may have ended the transaction, an error with a method
	// MayStand() bool that says true leaves the step to a person. An error of the store is
	// a [*StoreError], and it is safe to call again: what was committed by a call whose
	// answer was lost is not done again, and work not called.
	SaveTx(ctx context.Context, w *Write, work func(ctx context.Context, tx any) error) error
	// CreateTx is Create in the caller's own transaction, a value of TxType.
	CreateTx(ctx context.Context, tx any, sagas []*Create) error
}

// Outbox is implemented by stores that keep what steps publish.
type Outbox interface {
	// Relay gives up to limit messages, at least 1, to publish, and forgets them when it
	// returns nil. A message may come more than once, with the same Key; those of one
	// saga come in the order of its steps. One caller at a time is served, across
	// processes: to the others it answers 0.
	Relay(ctx context.Context, limit int, publish func(ctx context.Context, msgs []Message) error) (int, error)
}

// Sweeper is implemented by stores that can forget old sagas.
type Sweeper interface {
	// Sweep removes up to limit sagas, at least 1, that have been Completed or Compensated for
	// longer than age, with their histories, and returns how many; call it until it
	// returns less than limit. Messages not yet relayed stay, and so do sagas whose
	// Parent is neither Completed nor Compensated: it would start them again.
	Sweep(ctx context.Context, age time.Duration, limit int) (int, error)
}

// StoreError is a failure of a store in [Transactor.SaveTx], to be told from one
// of the work.
type StoreError struct{ Cause error }

func (e *StoreError) Error() string { return fmt.Sprintf("saga: store: %v", e.Cause) }

// Unwrap returns the cause.
func (e *StoreError) Unwrap() error { return e.Cause }
