package queue

import (
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

func (b *backoff) pause() time.Duration {
	d := max(b.next, b.least)
	b.next = min(2*d, b.most)
	return d - rand.N(d/2+1)
}
