package queue

import (
	"log/slog"
	"math/rand/v2"
	"time"
)

// backoff yields pauses that double from least to most, each shortened by up to half at random, so that workers which
// failed together do not return together.
type backoff struct {
	least, most time.Duration
	next        time.Duration
}

func (b *backoff) reset() { b.next = 0 }

// running reports whether there was a pause since the last reset.
func (b *backoff) running() bool { return b.next > 0 }

// level is how loud to be about what makes the next pause: an outage is one error of each worker, not one a second.
func (b *backoff) level() slog.Level {
	if b.running() {
		return slog.LevelDebug
	}
	return slog.LevelError
}

func (b *backoff) pause() time.Duration {
	d := max(b.next, b.least)
	b.next = min(2*d, b.most)
	return d - rand.N(d/2+1)
}
