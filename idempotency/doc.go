// Package idempotency runs a piece of work once for each key, however often it is asked for, and answers every repeat
// with the result of the first run.
//
//	store := idempotency.NewMemory(nil)
//	guard, err := idempotency.New(store, nil)
//	key, err := idempotency.NewKey("tenant-7", "create-payment", r.Header.Get("Idempotency-Key"))
//	result, err := idempotency.Do(ctx, guard, key, idempotency.FingerprintOf(body),
//		func(ctx context.Context, run *idempotency.Run) (Receipt, error) { return charge(ctx, run.Token()) })
//
// # How it works
//
// A key is claimed in the store before the work runs. The claim has a lease and a fencing [Token]. When the work
// succeeds, the claim is completed with its result, which is then replayed for 24 hours (by option); when it fails,
// the claim is released and the next request runs the work again. A claim whose owner died is abandoned: once its
// lease is over the next request wins the key with a higher token, and the late owner, should it wake up, can no longer
// complete or release anything.
//
// # What is guaranteed
//
//   - Of any number of racing claims of one key exactly one wins, in one process or in many (with a shared store).
//   - A key used again with another payload is refused ([ErrMismatch]), while the first request runs and after it.
//   - Only the holder of the current token completes, extends or releases; anything else gets [ErrLost] and changes nothing.
//   - Only success is stored. An error or a panic of the work is never replayed.
//   - Completion and release are written under a deadline of their own, also when the client has hung up.
//   - The tokens of a key grow, also over releases, abandoned leases and a restart of the store; see [Token].
//   - Leases and expiry are measured by the store's clock, never by the callers'.
//
// # What is not guaranteed
//
//   - The effect of the work and the completion are two writes. A process killed between them leaves the claim in
//     flight; after the lease the work runs again. Hand the key on to whatever makes the effect (a provider's own
//     idempotency key, a primary key in the ledger) to make that second run harmless.
//   - Work that outlives its lease may run beside the next owner's. Choose [Options.Lease] longer than the work can take.
//   - An error of the work is taken to mean "no effect": the key is free again at once. Work that cannot tell (a provider
//     that timed out) must be safe to repeat under the same key.
//   - After the TTL a key is new again. What must be refused for ever needs a permanent id behind it.
//   - A store that loses what it has acknowledged (Redis without an append-only file, a failover to a replica that was
//     behind) forgets keys.
//
// # When the store is down
//
// Closed: a claim that fails is an error and the work does not run; if only its reply was lost, the key is in flight until
// the lease is over. A completion that fails is repeated for a few seconds ([Options.WriteTimeout]), then it is an error that
// matches [ErrNotRecorded]; the claim stays as it is (the effect has happened: to free the key would be to double it), and
// repeats get [ErrInFlight] until the lease is over. A release that fails is logged: the key is free after its lease.
package idempotency
