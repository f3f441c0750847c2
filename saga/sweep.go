package saga

import (
	"context"
	"log/slog"
	"time"
)

const (
	sweepBatch = 1000
	sweepPause = time.Minute
)

// sweep removes what is older than Options.Keep, until ctx ends.
func (e *Engine) sweep(ctx context.Context) {
	store := e.store.(Sweeper)
	for {
		n, err := e.sweepOnce(ctx, store)
		if err != nil && ctx.Err() == nil {
			e.log.Warn("old sagas could not be removed", slog.Any("error", err))
		}
		pause := max(time.Second, min(sweepPause, e.o.Keep))
		if n == sweepBatch {
			pause = 10 * time.Millisecond // there are more
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// sweepOnce does not wait for ever:
//
//	a server is unplugged, and its connection does not hear so; the next one takes over,
//	and no saga is ever removed from there.
func (e *Engine) sweepOnce(ctx context.Context, store Sweeper) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	return store.Sweep(ctx, e.o.Keep, sweepBatch)
}
