package redisqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/safetill/safetill/internal/queue"
)

// Options are the options of New.
type Options struct {
	// Lease is how long a worker holds its messages without renewing, in whole milliseconds. Default: 30 s.
	Lease time.Duration
}

// Queue is a queue.Queue in Redis.
type Queue struct {
	rdb                      redis.UniversalClient
	lease                    time.Duration
	ready, back, leases, seq string
	held                     string // prefix of the workers' hashes
}

var _ queue.Queue = (*Queue)(nil)

// New returns the queue of that name. It does not talk to Redis; rdb stays the caller's to close. opts may be nil.
// It fails on a nil client, a name that is empty or contains a brace (it becomes a hash tag), and a lease below 1 ms.
func New(rdb redis.UniversalClient, name string, opts *Options) (*Queue, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.Lease = cmp.Or(o.Lease, queue.DefaultLease)
	var errs []error
	if rdb == nil {
		errs = append(errs, errors.New("redisqueue: the client is nil"))
	}
	if name == "" || strings.ContainsAny(name, "{}") {
		errs = append(errs, fmt.Errorf("redisqueue: name %q is empty or has a brace", name))
	}
	if o.Lease < time.Millisecond {
		errs = append(errs, fmt.Errorf("redisqueue: Options.Lease %v is below 1 ms", o.Lease))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	prefix := "queue:{" + name + "}:"
	return &Queue{
		rdb: rdb, lease: o.Lease,
		ready: prefix + "ready", back: prefix + "back", leases: prefix + "leases", seq: prefix + "seq", held: prefix + "held:",
	}, nil
}

// Lease implements queue.Leaser.
func (q *Queue) Lease() time.Duration { return q.lease }

// pushMax keeps a single RPUSH well below the million arguments that Redis takes.
const pushMax = 100_000

// Push implements queue.Queue: one RPUSH, or one transaction of several for more than 100,000 bodies.
func (q *Queue) Push(ctx context.Context, bodies ...[]byte) error {
	if len(bodies) == 0 {
		return nil
	}
	var err error
	if len(bodies) <= pushMax {
		err = q.rdb.RPush(ctx, q.ready, anys(bodies)...).Err()
	} else {
		_, err = q.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
			for chunk := range slices.Chunk(bodies, pushMax) {
				p.RPush(ctx, q.ready, anys(chunk)...)
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("redisqueue: push: %w", err)
	}
	return nil
}

// Claim implements queue.Queue: one round trip, two when Redis does not know the script yet. O(n), plus O(log) for each
// message that had been given back.
func (q *Queue) Claim(ctx context.Context, worker string, n int) ([]queue.Message, error) {
	keys := []string{q.ready, q.back, q.held + worker, q.leases, q.seq}
	flat, err := claimScript.runOnce(ctx, q.rdb, keys, worker, max(n, 0), q.lease.Milliseconds())
	if err != nil {
		return nil, fmt.Errorf("redisqueue: claim: %w", err)
	}
	msgs := make([]queue.Message, 0, len(flat)/2)
	for pair := range slices.Chunk(flat, 2) {
		m, err := parse(pair)
		if err != nil {
			return nil, fmt.Errorf("redisqueue: claim: %w", err)
		}
		msgs = append(msgs, m)
	}
	return msgs, nil
}

// Ack implements queue.Queue: one HDEL, O(len(msgs)).
func (q *Queue) Ack(ctx context.Context, worker string, msgs ...queue.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if err := q.rdb.HDel(ctx, q.held+worker, claims(msgs)...).Err(); err != nil {
		return fmt.Errorf("redisqueue: ack: %w", err)
	}
	return nil
}

// Return implements queue.Queue: one round trip that carries no bodies.
func (q *Queue) Return(ctx context.Context, worker string, msgs ...queue.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	err := returnScript.Run(ctx, q.rdb, []string{q.held + worker, q.back}, anys(claims(msgs))...).Err()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("redisqueue: return: %w", err)
	}
	return nil
}

// Reap implements queue.Queue: one round trip to find the dead, and one for each of them. A worker with very many messages
// holds up Redis for about a microsecond each.
func (q *Queue) Reap(ctx context.Context) (int, error) {
	total := 0
	dead, err := deadScript.Run(ctx, q.rdb, []string{q.leases}).StringSlice()
	if err != nil {
		return 0, fmt.Errorf("redisqueue: reap: %w", err)
	}
	for _, worker := range dead {
		n, err := reapScript.Run(ctx, q.rdb, []string{q.leases, q.held + worker, q.back}, worker).Int()
		if err != nil {
			return total, fmt.Errorf("redisqueue: reap %q: %w", worker, err)
		}
		total += n
	}
	return total, nil
}

// Stats implements queue.Queue: one script, O(number of workers); both numbers are of one instant. Asked for one after the other they could miss a message:
//
//	it is in the hands of a worker when those that wait are counted
//	the worker gives it back, since its database is down
//	it is in nobody's hands when those are counted: the queue seems to be empty
//
// It is no transaction: a server at its maxmemory refuses even reads in one, and then the numbers are wanted most.
func (q *Queue) Stats(ctx context.Context) (queue.Stats, error) {
	n, err := statsScript.Run(ctx, q.rdb, []string{q.ready, q.back, q.leases}, q.held).Int64Slice()
	switch {
	case err != nil:
		return queue.Stats{}, fmt.Errorf("redisqueue: stats: %w", err)
	case len(n) != 2:
		return queue.Stats{}, fmt.Errorf("redisqueue: stats: odd reply of %d numbers", len(n))
	}
	return queue.Stats{Ready: int(n[0]), Claimed: int(n[1])}, nil
}

func anys[T any](in []T) []any {
	out := make([]any, len(in))
	for i, v := range in {
		out[i] = v
	}
	return out
}
