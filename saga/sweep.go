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
		n, err := store.Sweep(ctx, e.o.Keep, sweepBatch)
		if err != nil && ctx.Err() == nil {
			e.log.Warn("old sagas could not be removed", slog.Any("error", err))
		}
		pause := min(sweepPause, e.o.Keep)
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
