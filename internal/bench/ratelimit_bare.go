package main

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"
)

// bareCount is the least that a script does for many keys: it reads a number and writes the next one. There is no limit, no clock and no end.
var bareCount = redis.NewScript(`local n = redis.call('MGET', unpack(KEYS))
for i = 1, #KEYS do n[i] = (tonumber(n[i]) or 0) + 1; redis.call('SET', KEYS[i], n[i]) end
return n`)

// bareCall is a caller that waits for its count.
type bareCall struct {
	key  string
	done chan error
}

// openBareCounts returns what counts a key together with all that wait meanwhile, without a limiter: the ceiling of those that join their callers.
// Two scripts are under way at most.
func openBareCounts(rdb *redis.Client) (count func(context.Context, string) error, stop func()) {
	g := newBatches[*bareCall]()
	ctx, cancel := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			g.serve(ctx, func(batch []*bareCall) {
				keys := make([]string, len(batch))
				for i, c := range batch {
					keys[i] = "bare:" + c.key
				}
				err := bareCount.Run(ctx, rdb, keys).Err()
				for _, c := range batch {
					c.done <- err
				}
			})
		})
	}
	count = func(_ context.Context, key string) error {
		c := &bareCall{key: key, done: make(chan error, 1)}
		g.put(c)
		return <-c.done
	}
	return count, func() {
		cancel()
		writers.Wait()
	}
}
