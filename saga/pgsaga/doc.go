// Package pgsaga keeps sagas in PostgreSQL 15 or later.
//
//	pool, err := pgxpool.New(ctx, url)
//	err = pgsaga.Migrate(ctx, pool, nil)
//	engine, err := saga.New(pgsaga.NewStore(pool, nil), &saga.Options{Definitions: definitions})
//
// A saga is one row. What its owner writes changes no index, so that a checkpoint
// stays in its page. History and outbox are tables of their own, written in the same
// commit.
//
// Nothing migrates by itself, and no call looks whether the tables are there: without
// them, or with older ones, it fails with a [*SchemaError]. Where another program
// migrates, let CheckSchema say so when the server starts: an engine that runs only logs
// it, and goes on asking.
//
// # What is guaranteed
//
// The contract of [saga.Store], [saga.Transactor], [saga.Outbox] and [saga.Sweeper].
// What Create and Save have answered is committed: it survives a crash of the client
// and, with PostgreSQL's default fsync and synchronous_commit, of the server.
//
// Every write is fenced by the UPDATE itself, which looks for the saga's token and the
// revision before, after it has waited for the row. Times are the server's. A write that
// is repeated because its answer was lost is found to be done; that of somebody else
// under the same revision, which can only be a person's, is fenced off.
//
// # Writes are shared
//
// Callers of Create and Save share commits. Who finds fewer than two batches under way
// sends what is there, at once; the others wait for the next. There is no timer and no
// goroutine: an idle store writes as soon as it is called. A batch is one round trip
// and one commit, of up to 500 writes. One that is of several callers does not end with
// the context of the one who sends it, but with [Options.Timeout].
//
// What PostgreSQL refuses to write fails alone: the batch is written again in halves
// until the culprit is found. Waits are shared, though. Whoever holds the lock of a
// saga's row, or has created a saga in a transaction of his own that is still open while
// the same saga is created here, keeps the writes of that commit waiting: such
// transactions should be short.
//
// # Steps in a transaction
//
// [Store.SaveTx] gives a step the transaction that writes its checkpoint. The saga's row
// is not locked meanwhile; if the saga is lost in that time, the checkpoint fails, and
// the work is rolled back with it. [Store.CreateTx] starts a saga in the caller's
// transaction.
//
// # What grows
//
// Sagas that are over stay until [Store.Sweep] removes them; those that are not are found
// by an index of their own, however many are over. Messages stay until [Store.Relay]
// has published them. No NOTIFY is sent.
//
// # When PostgreSQL is down
//
// Calls return the driver's error, with a method Retryable() bool. Whether something
// was written may be unknown; each call may be repeated as it is.
package pgsaga
