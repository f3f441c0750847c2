package saga

import (
	"context"
	"time"
)

// Hooks are told what happens. Each may be nil. They are called on the goroutines of
// the saga, and OnStarted on that of its caller, and should return soon; records are
// not to be modified, nor kept.
type Hooks struct {
	// OnStarted is told of a saga that was started by this engine and runs in it.
	OnStarted func(rec *Record)
	// Around is called in place of each attempt of a step, of a compensation and of a
	// look-up, and calls next for it: for tracing, for measuring. Steps of a Parallel
	// call it at the same time.
	Around func(ctx context.Context, c Call, next func(context.Context) error) error
	// OnEvent is told of what goes into the history of a saga.
	OnEvent func(rec *Record, ev Event)
	// OnOver is told of a saga that is over, and how long that took.
	OnOver func(rec *Record, took time.Duration)
}
