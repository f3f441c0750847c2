// Package pgidem keeps idempotency records in PostgreSQL 14 or later.
//
//	err := pgidem.Migrate(ctx, pool, nil)
//	store, err := pgidem.NewStore(pool, nil)
//	guard, err := idempotency.New(store, nil)
//
// [Store.In] binds a store to a pgx.Tx of the caller's: its claims and completions are then part of that transaction and
// are gone when it is rolled back.
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
// Inside a transaction of the caller, another claim of the same key waits until that transaction ends; two
// transactions that each make several calls may deadlock, which PostgreSQL ends with an error for one of them. Under
// REPEATABLE READ or SERIALIZABLE a race is a serialization failure instead of an answer. Steps are part of their key's
// row: they are for ids and receipts, not for documents.
//
// Expired rows stay in the table until [Store.Sweep] is called: from a timer, in batches of some hundreds, by any number of
// processes at once. It finds what is due by an index that other statements leave alone, so that the updates of a
// claim's life stay in its page (HOT).
//
// # When PostgreSQL is down
//
// Every call returns the driver's error.
package pgidem
