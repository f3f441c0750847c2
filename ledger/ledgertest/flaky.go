package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/safetill/safetill/ledger"
)

// ErrInjected is the error of a call that a [Flaky] store failed.
var ErrInjected = errors.New("ledgertest: injected failure")

// Fault is what happens to a call.
type Fault uint8

// The faults.
const (
	Healthy     Fault = iota // none
	NotDone                  // the call fails and has done nothing
	DoneNotSaid              // the call is done and then reports failure, as when a connection breaks under the answer
)

// Flaky is a store that fails some of its calls with [ErrInjected], for tests of
// what is above it. It is safe for concurrent use if Store and Fault are.
type Flaky struct {
	ledger.Store

	// Fault tells what happens to the n-th call of any method, 1 being the first.
	Fault func(n int64) Fault

	calls atomic.Int64
}

var (
	_ ledger.Store   = (*Flaky)(nil)
	_ ledger.Expirer = (*Flaky)(nil)
)

// Calls returns how many calls there were.
func (f *Flaky) Calls() int64 { return f.calls.Load() }

// do makes the call, or does not, and returns its error.
func (f *Flaky) do(call func() error) error {
	switch f.Fault(f.calls.Add(1)) {
	case NotDone:
		return ErrInjected
	case DoneNotSaid:
		return errors.Join(ErrInjected, call())
	default:
		return call()
	}
}

// answer is do for calls that return something: nothing, where they fail.
func answer[T any](f *Flaky, call func() (T, error)) (t T, err error) {
	var got T
	if err = f.do(func() (err error) { got, err = call(); return err }); err != nil {
		return t, err
	}
	return got, nil
}

// Open is [ledger.Store.Open].
func (f *Flaky) Open(ctx context.Context, accounts []ledger.State) error {
	return f.do(func() error { return f.Store.Open(ctx, accounts) })
}

// Post is [ledger.Store.Post].
func (f *Flaky) Post(ctx context.Context, drafts []ledger.Draft) ([]ledger.Outcome, error) {
	return answer(f, func() ([]ledger.Outcome, error) { return f.Store.Post(ctx, drafts) })
}

// States is [ledger.Store.States].
func (f *Flaky) States(ctx context.Context, ids []ledger.AccountID) ([]*ledger.State, error) {
	return answer(f, func() ([]*ledger.State, error) { return f.Store.States(ctx, ids) })
}

// Lines is [ledger.Store.Lines].
func (f *Flaky) Lines(ctx context.Context, account ledger.AccountID, after int64, limit int) ([]ledger.Recorded, error) {
	return answer(f, func() ([]ledger.Recorded, error) { return f.Store.Lines(ctx, account, after, limit) })
}

// Verify is [ledger.Store.Verify].
func (f *Flaky) Verify(ctx context.Context) (ledger.Report, error) {
	return answer(f, func() (ledger.Report, error) { return f.Store.Verify(ctx) })
}

// ExpiredHolds is [ledger.Expirer.ExpiredHolds], of a Store that has it.
func (f *Flaky) ExpiredHolds(ctx context.Context, limit int) ([]ledger.TransactionID, error) {
	store, ok := f.Store.(ledger.Expirer)
	if !ok {
		return nil, fmt.Errorf("ledgertest: expired holds: %w", errors.ErrUnsupported)
	}
	return answer(f, func() ([]ledger.TransactionID, error) { return store.ExpiredHolds(ctx, limit) })
}
