package main

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/safetill/safetill/saga"
)

// names are what can be made to fail: the steps, and the compensations of two.
var names = []string{"validate", "reserve", "charge", "confirm", "notify", "release", "refund"}

// faults make providers unreliable, each at one of the names.
type faults struct {
	fail    string // it answers with an error, and does nothing
	reject  string // it says no
	timeout string // it does its work, and does not answer
	crash   string // it does its work, and then this process dies
	left    atomic.Int64
}

var (
	errProvider = errors.New("the provider answers 502")
	errNo       = saga.Reject(errors.New("the provider says no"))
	errSilent   = saga.InDoubt(errors.New("the provider does not answer"))
)

// patience is how long the shop waits for a provider.
const patience = 500 * time.Millisecond

// inject returns do with the faults of its name.
func (f *faults) inject(name string, do saga.Func[Order]) saga.Func[Order] {
	return func(ctx context.Context, o *Order) error {
		switch {
		case name == f.reject:
			return errNo
		case name == f.fail && f.left.Add(-1) >= 0:
			return errProvider
		}
		if err := do(ctx, o); err != nil {
			return err
		}
		switch {
		case name == f.timeout && f.left.Add(-1) >= 0:
			select {
			case <-ctx.Done():
			case <-time.After(patience):
			}
			return errSilent
		case name == f.crash:
			die()
		}
		return nil
	}
}

// die ends the process as a power cut would: nothing is cleaned up.
func die() {
	if me, err := os.FindProcess(os.Getpid()); err == nil {
		_ = me.Kill() // nobody is left to be told
	}
	select {}
}
