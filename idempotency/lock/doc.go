// Package lock lets one at a time work on something, in one process or in many: it is a lease on a name, kept in any
// idempotency.Store, with a fencing number.
//
//	store, err := redisidem.NewStore(rdb, nil)
//	locker, err := lock.New(store, nil)
//	err = locker.Do(ctx, "tenant-7", "account/42", func(ctx context.Context, held lock.Held) error {
//		return pay(ctx, held.Token)
//	})
//
// A lock is [idempotency.Do] without a result that is kept: a claim that is always released. So it has what Do has: a
// lease that is extended while the work runs, waiting with bounded pauses, a release that is written also when the client
// has hung up, and [idempotency.Token]. A program that takes locks and keys needs one store for both; a lock and a key
// never meet in it.
//
// Package pglock has the same Do on PostgreSQL's advisory locks, where the connection is the lease, and locks that last as
// long as a transaction.
//
// # What is guaranteed
//
//   - Of all that ask for a name one holds it, by the store's clock, until it returns or has been silent for its lease.
//   - The token of a holder is higher than those of all before it, also when one was released, abandoned, or forgotten by
//     a store that lost its data.
//   - When the lease could not be extended in time, the context of the work ends with the cause [ErrLost].
//   - The name is free again when the work returns, panics or exits, also if the caller's context has ended by then; when
//     the process is killed, after the lease.
//
// # What is not guaranteed
//
// That nobody else works on the name. No lock across processes can promise it:
//
//	A holds the lock and is paused, by the scheduler, a page fault, a move to another host;
//	its lease ends, B gets the lock and writes;
//	A goes on with what it was about to do, and writes over it.
//
// So a lock keeps others from working in vain, and the fence keeps the books right: the resource refuses whoever comes with a
// lower token than it has seen.
//
//	UPDATE accounts SET balance = $1, fence = $2 WHERE id = $3 AND fence < $2
//
// It changes no row for a late holder; see [ErrStale]. With "<=" instead of "<" one holder may write a row more than once.
// pglock.Fence guards a whole transaction in this way, and what has no column of its own, such as postings. What
// knows no fence (a card network, an email) needs a key that makes its repeat harmless.
//
// The rest is: a lock is not re-entrant; who comes first is not served first; locks taken in opposite orders wait for each
// other until [Options.Wait] is over, so take several in one order. A lock lasts as long as its work, however long that
// takes: give the work a deadline. A Redis that forgets what it has acknowledged, as in a failover, may give a name away twice;
// the second holder's token is higher.
//
// # What was read before is old
//
// Whatever was looked up before the lock was won must be looked up again under it. The usual payment:
//
//	look whether the request has been paid: if so, answer      (cheap, and right nearly always)
//	lock the account
//	look again: whoever held the lock may have paid it         (this one decides)
//	pay, and record the request, in one transaction
//
// The second look is not needed where it is part of what writes: inside the lock, idempotency.Do or pgidem.DoTx claims the
// request's key in the same step that finds it free, and a unique index finds it taken.
//
// # When the store is down
//
// Closed: no answer, no lock, and the work does not run; if only the reply was lost, the name is taken until the
// lease is over. A holder goes on until its lease is over: the store may be back before.
//
// # Several Redis masters
//
// A lock on one Redis is as available as that Redis. github.com/go-redsync/redsync/v4 takes a lock on most of several
// independent masters, and so outlives the loss of one. It hands out no fencing number: its lock may keep work from being done
// twice, but not a late holder from writing. Where it is used, let the database decide by something else,
// such as a version or a unique index. examples/doublespend shows both.
package lock
