package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/redisidem"
)

// key runs a payment once for each request: the key is claimed on Redis, and a repeat gets the first answer. The key says
// nothing of other requests for the same account; that the balance suffices is the debit's own condition.
//
// Effect and record are two writes. A server that is killed between them leaves the key taken until its lease ends, and then
// the payment runs again: whatever must not needs a permanent id behind the key, as in unique.go and events.go.
type key struct {
	pool  *pgxpool.Pool
	guard *idempotency.Guard
	pause pause
}

func openKey(s *server) (payer, error) {
	store, err := redisidem.NewStore(s.redis[0], &redisidem.Options{Prefix: s.prefix})
	if err != nil {
		return nil, err
	}
	guard, err := idempotency.New(store, &idempotency.Options{Lease: s.lease})
	return &key{s.pool, guard, s.pause}, err
}

func (k *key) pay(ctx context.Context, p payment) (verdict, error) {
	result, err := idempotency.Do(ctx, k.guard, p.key(), p.fingerprint(), func(ctx context.Context, _ *idempotency.Run) (verdict, error) {
		k.pause(ctx, p)
		return debit(ctx, k.pool, p)
	})
	if errors.Is(err, idempotency.ErrInFlight) || errors.Is(err, idempotency.ErrLost) {
		return "", errBusy
	}
	return result.Value, err
}

// key names the request; a real scope is the tenant that has proven to be who it is.
func (p payment) key() idempotency.Key {
	return idempotency.Key{Scope: "doublespend", Op: "pay", Value: p.request}
}

func (p payment) fingerprint() idempotency.Fingerprint {
	return idempotency.FingerprintOf([]byte(p.account), strconv.AppendInt(nil, p.amount, 10))
}
