// Package idempotency runs a piece of work once for each key, however often it is asked for, and answers every repeat
// with the result of the first run.
//
//	store := idempotency.NewMemory(nil) // or redisidem.NewStore(rdb, nil), pgidem.NewStore(pool, nil)
//	guard, err := idempotency.New(store, nil)
//	key, err := idempotency.NewKey("tenant-7", "create-payment", r.Header.Get("Idempotency-Key"))
//	result, err := idempotency.Do(ctx, guard, key, idempotency.FingerprintOf(body),
//		func(ctx context.Context, run *idempotency.Run) (Receipt, error) { return charge(ctx, run.Key().ID("charge")) })
//
// For HTTP there is [NewMiddleware]. Where the effect is in PostgreSQL, pgidem.DoTx commits it together with the key, and
// needs no lease.
//
// # How it works
//
// A key is claimed in the store before the work runs. The claim has a lease, which is extended while the work runs, and a
// fencing [Token]. When the work succeeds, or fails for good ([Permanent]), the claim is completed with what it returned,
// which is then replayed for 24 hours (by option); when it fails otherwise, the claim is released. Whoever asks meanwhile
// waits, in whatever process: one of each process asks the store for all, and gets the result, or the key to run the work
// itself. A claim whose owner died is abandoned: once its lease is over the next request wins the key with a higher
// token, and the late owner, should it wake up, can no longer complete or release anything.
//
// Work of several effects marks them as steps ([Step]): a run that follows one that failed or was killed half-way does
// only what is left.
//
// # What is guaranteed
//
//   - Of any number of racing claims of one key exactly one wins, in one process or in many (with a shared store).
//   - A key used again with another payload is refused ([ErrMismatch]), while the first request runs and after it, and as
//     long as its steps are kept.
//   - Only the holder of the current token completes, extends, releases or records a step; anything else gets [ErrLost]
//     and changes nothing.
//   - Only success and permanent failures are stored. Any other error (a 503, a 429, a timeout) and a panic of the work are
//     never replayed.
//   - Results, steps and releases are written under a deadline of their own, also when the client has hung up, and those
//     that say that an effect has happened are repeated while the store fails.
//   - The context of the work ends before the store gives its key to another, as long as the clocks run at the same speed
//     to one part in a hundred, and the store's does not jump.
//   - A step that was recorded is not run again under its key while it is kept.
//   - The tokens of a key grow, also over releases, abandoned leases and a restart of the store; see [Token].
//   - Leases and expiry are measured by the store's clock, never by the callers'.
//
// # What is not guaranteed
//
//   - The effect of the work and the completion are two writes. A process killed between them leaves the claim in
//     flight; after the lease the work runs again. The same holds for a step. Hand a permanent id on to whatever makes the
//     effect, such as [Key.ID] as a provider's idempotency key or as a primary key, to make that second run harmless.
//   - A process that was stopped for longer than its lease (by its machine, or a long pause) does not know it when it goes on,
//     and may write beside the next owner. [Run.Token] is there for the resource to refuse it. A lower token is stale; an
//     equal or higher one says nothing about what earlier owners have done, so read that under the fence before writing.
//   - An error of the work is taken to mean "no effect": the key is free again at once. Work that cannot tell (a provider
//     that timed out) must be safe to repeat under the same key.
//   - The work's context is its caller's: it ends when the client hangs up. What must not stop half-way uses [Run.Detached].
//   - After the TTL a key is new again. What must be refused for ever needs a permanent id behind it: [Key.ID].
//   - A store that loses what it has acknowledged (Redis without an append-only file, a failover to a replica that was
//     behind) forgets keys.
//
// # When the store is down
//
// Closed: a claim that fails, or is not answered within [Options.WriteTimeout], is an error and the work does not run; if
// only its reply was lost, the key is in flight until the lease is over. Those who wait go on asking until their time is up. While the work runs, an extension that fails is repeated
// until the lease is over, then the work's context ends with [ErrLost]. A completion that fails is repeated for a few seconds
// ([Options.WriteTimeout]), then it is an error that matches [ErrNotRecorded]; the claim stays as it is (the effect has
// happened: to free the key would be to double it), and repeats get [ErrInFlight] until the lease is over. A release that
// fails is logged: the key is free after its lease.
package idempotency
