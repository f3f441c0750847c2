package redisidem

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/absent"
)

var (
	//go:embed claim.lua
	claimSource string
	//go:embed complete.lua
	completeSource string
	//go:embed release.lua
	releaseSource string
	//go:embed extend.lua
	extendSource string

	claimScript    = redis.NewScript(claimSource)
	completeScript = redis.NewScript(completeSource)
	releaseScript  = redis.NewScript(releaseSource)
	extendScript   = redis.NewScript(extendSource)
)

// Store keeps records on Redis. It implements idempotency.Store and is safe for concurrent use. Make one with [NewStore]; the
// zero value is not usable.
type Store struct {
	rdb    redis.UniversalClient
	prefix string
	single bool // all keys are on one server
}

// Options of a [Store]. The zero value means the defaults.
type Options struct {
	// Prefix of every key on Redis. On a Cluster a prefix with a hash tag ("{idem}:") puts all records on one node.
	// Default: "idempotency:".
	Prefix string
}

// NewStore returns a store on the client, which stays the caller's to close. It does not call Redis. The error is an
// idempotency.ErrInvalid.
func NewStore(rdb redis.UniversalClient, opts *Options) (*Store, error) {
	if absent.Is(rdb) {
		return nil, &idempotency.InvalidError{Field: "redis client", Reason: "is nil"}
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	// Of a client type that we do not know we assume that it spreads its keys: slower, never wrong.
	_, single := rdb.(*redis.Client)
	return &Store{rdb: rdb, prefix: cmp.Or(o.Prefix, "idempotency:"), single: single}, nil
}

// Claim implements idempotency.Store.
func (s *Store) Claim(ctx context.Context, requests []idempotency.Request) ([]idempotency.Record, error) {
	if err := idempotency.ValidateAll(requests); err != nil {
		return nil, err
	}
	records := make([]idempotency.Record, len(requests))
	err := s.run(ctx, call{
		script: claimScript,
		items:  len(requests),
		key:    func(i int) idempotency.Key { return requests[i].Key },
		head:   []any{rand.Text() + ":", idempotency.AbandonedFor.Milliseconds()},
		args: func(args []any, i int) []any {
			return append(args, requests[i].Fingerprint[:], requests[i].Lease.Microseconds())
		},
		answer: func(i int, value any, err error) error {
			if err == nil {
				records[i], err = decodeRecord(value)
			}
			return err
		},
	})
	if err != nil {
		return records, fmt.Errorf("redisidem: claim: %w", err)
	}
	return records, nil
}

// Complete implements idempotency.Store.
func (s *Store) Complete(ctx context.Context, completions []idempotency.Completion) ([]error, error) {
	return each(ctx, s, completeScript, completions, nil,
		func(c *idempotency.Completion) idempotency.Key { return c.Key },
		func(args []any, c *idempotency.Completion) []any {
			return append(args, int64(c.Token), millis(c.TTL), c.Status, c.Response)
		})
}

// Release implements idempotency.Store. A key that was released is remembered for idempotency.AbandonedFor. A release
// that the client resent after a lost reply is reported as idempotency.ErrLost.
func (s *Store) Release(ctx context.Context, claims []idempotency.Claim) ([]error, error) {
	return each(ctx, s, releaseScript, claims, []any{idempotency.AbandonedFor.Milliseconds()},
		func(c *idempotency.Claim) idempotency.Key { return c.Key },
		func(args []any, c *idempotency.Claim) []any { return append(args, int64(c.Token)) })
}

// Extend implements idempotency.Store.
func (s *Store) Extend(ctx context.Context, extensions []idempotency.Extension) ([]error, error) {
	return each(ctx, s, extendScript, extensions, []any{idempotency.AbandonedFor.Milliseconds()},
		func(e *idempotency.Extension) idempotency.Key { return e.Key },
		func(args []any, e *idempotency.Extension) []any {
			return append(args, int64(e.Token), e.Lease.Microseconds(), e.Step.Name, e.Step.Result, e.Keep.Microseconds())
		})
}

// each runs a script that answers 0 (done) or 1 (lost) for every item.
func each[T interface{ Validate() error }](
	ctx context.Context, s *Store, script *redis.Script, items []T, head []any,
	key func(*T) idempotency.Key, args func([]any, *T) []any,
) ([]error, error) {
	if err := idempotency.ValidateAll(items); err != nil {
		return nil, err
	}
	results := make([]error, len(items))
	err := s.run(ctx, call{
		script: script,
		items:  len(items),
		key:    func(i int) idempotency.Key { return key(&items[i]) },
		head:   head,
		args:   func(list []any, i int) []any { return args(list, &items[i]) },
		answer: func(i int, value any, err error) error {
			switch {
			case err != nil:
			case value == int64(0):
				return nil
			case value == int64(1):
				results[i] = idempotency.ErrLost
				return nil
			default:
				err = errAnswer
			}
			results[i] = err
			return err
		},
	})
	if err != nil {
		return results, fmt.Errorf("redisidem: %w", err)
	}
	return results, nil
}

// errAnswer: the server answered in a form that the script does not have.
var errAnswer = errors.New("unexpected answer of the script")

func decodeRecord(value any) (idempotency.Record, error) {
	fields, _ := value.([]any)
	number := func(i int) int64 {
		if i < len(fields) {
			n, _ := fields[i].(int64)
			return n
		}
		return 0
	}
	switch number(0) {
	case 1:
		r := idempotency.Record{Outcome: idempotency.Won, Token: idempotency.Token(number(1))}
		for i := 2; i+1 < len(fields); i += 2 {
			name, _ := fields[i].(string)
			result, _ := fields[i+1].(string)
			r.Steps = append(r.Steps, idempotency.StepRecord{Name: name, Result: []byte(result)})
		}
		return r, nil
	case 2:
		if len(fields) == 3 {
			response, _ := fields[2].(string)
			return idempotency.Record{
				Outcome: idempotency.Completed, Status: int32(number(1)), Response: []byte(response),
			}, nil
		}
	case 3:
		return idempotency.Record{
			Outcome: idempotency.InFlight, Remaining: time.Duration(number(1)) * time.Microsecond,
		}, nil
	case 4:
		return idempotency.Record{Outcome: idempotency.Mismatch}, nil
	}
	return idempotency.Record{}, errAnswer
}

// millis rounds up: a record must not go before its time.
func millis(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }
