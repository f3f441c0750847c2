// Package pgidem keeps idempotency records in PostgreSQL 15 or later.
//
//	err := pgidem.Migrate(ctx, pool, nil)
//	store, err := pgidem.NewStore(pool, nil)
//	guard, err := idempotency.New(store, nil)
//
// [Store.In] binds a store to a pgx.Tx of the caller's: its claims and completions are then part of that transaction and
// are gone when it is rolled back.
//
// Nothing migrates by itself, and no call looks whether the tables are there: without
// them, or with older ones, it fails with a [*SchemaError]. Where another program
// migrates, let CheckSchema say so when the server starts.
//
// # What is guaranteed
//
// The contract of idempotency.Store. A call is one statement and one round trip, whatever the size of the batch. A replay
// or refusal writes nothing. A claim that meets another in the very moment of its first insert looks a second time.
// Rows are locked in the order of their keys, so that batches do not deadlock with each other. The clock is
// clock_timestamp() of the server.
//
// # What is not guaranteed
//
// Inside a transaction of the caller, another claim of the same key waits until that transaction ends (that of an
// idempotency.Guard for no longer than its WriteTimeout, then it fails); two transactions that each make several calls may
// deadlock, which PostgreSQL ends with an error for one of them. Under REPEATABLE READ or SERIALIZABLE a race is a
// serialization failure instead of an answer. Steps are part of their key's row: they are for ids and receipts, not for
// documents.
//
// Expired rows stay in the table until [Store.Sweep] is called: from a timer, in batches of some hundreds, until it returns less. It
// walks through the table once an hour, a range of pages at a time. The only index is that of the keys, so that the
// updates of a claim's life stay in its page (HOT).
//
// # When PostgreSQL is down
//
// Every call returns the driver's error.
//
// # The key in the commit of its effect
//
// Where the effect is in the same database, [DoTx] needs no claim: the key is written by the transaction that makes the effect, with
// the result.
//
//	guard, err := pgidem.NewTxGuard(pool, nil)
//	result, err := pgidem.DoTx(ctx, guard, key, idempotency.FingerprintOf(body),
//		func(ctx context.Context, tx pgx.Tx) (Receipt, error) { return pay(ctx, tx) })
//
// With BEGIN goes an advisory lock of the key and then a look at its record, with COMMIT goes the record. The lock is for the waiting;
// the primary key decides. There is nothing between the two that a crash could leave behind: a transaction that ends, for whatever
// reason, frees its key at that moment.
//
// With [TxOptions.Optimistic] all of that goes with COMMIT, and the work of a repeat is run and rolled back. It takes a
// quarter off what a key costs, for work that is all SQL and is seldom asked for twice.
//
// Guaranteed:
//   - What the work writes through its transaction, the key and the result are committed together or not at all, in one commit.
//   - Of any number of requests with one key, in any number of processes, one commits; the others wait for it and return its
//     result. When it fails or is killed, another goes on at once. Those of one process wait with one connection.
//   - A COMMIT whose answer was lost is not repeated: its key is looked up behind the lock, which the server holds until the outcome
//     is settled. The result is returned if it was committed, and the work is run again if not.
//   - A client that hangs up before the COMMIT is sent has had no effect; later it has had one, which a repeat replays.
//   - Do and DoTx share the table. Each replays what the other has completed, and a live claim of Do is in flight to DoTx.
//
// Not guaranteed:
//   - That the work runs once. It is rolled back and run again when PostgreSQL asks for that; a duplicate that waits for one that is
//     refused for good may run it too; under REPEATABLE READ and SERIALIZABLE so may one that comes while another commits. It is
//     committed once. What it does elsewhere (a card network, a message) belongs into [idempotency.Do] or an outbox.
//   - That Do waits for DoTx. Its claim takes no lock: it wins the key, and the commit of the DoTx under way is refused by the primary key
//     and rolled back. So one of the two commits, and the work of the other was for nothing. Use one of them for a key.
//   - Anything within a transaction of the caller's before that is committed. See [DoTx].
//
// When PostgreSQL is down, DoTx returns the driver's error, and nothing was committed; or [ErrUnknown], when it went down after the
// COMMIT was sent and was not back within [TxOptions.CommitTimeout]. In both cases a repeat is safe. A lock is no row: a server or a
// standby that takes over has none left over.
package pgidem
