// Package redisidem keeps idempotency records on Redis 6.2 or later: one server, Sentinel, Cluster or Ring.
//
//	store, err := redisidem.NewStore(rdb, nil)
//	guard, err := idempotency.New(store, nil)
//
// # What is guaranteed
//
// The contract of idempotency.Store, on one primary: each key is decided by one script, which Redis runs alone. The
// clock is the server's TIME. A call to a single server is one script and one round trip, whatever the size of the batch;
// on a Cluster or Ring it is one pipeline to each node that holds some of the keys; a server that has not seen the script
// yet takes a second one. Every record is written by one SET with its
// expiry, so none is left without. A command that the client resends after a lost reply is recognised: a claim is won
// by the call that won it already, a completion is stored once, and so is a step. Nothing is to be swept: expiry is Redis's.
//
// # What is not guaranteed
//
// Redis loses what it had not yet written to its append-only file (a second, with the usual appendfsync) or copied to
// the replica that is promoted. A lost record is a key that is free again, with a token above all earlier ones; what
// must be refused even then needs a primary key in a database behind it. Evicting policies (maxmemory-policy) other
// than noeviction lose records too. While a script runs Redis serves nobody else: some microseconds for each key of the
// batch, so keep batches to hundreds of keys rather than tens of thousands. Steps are part of their key's record, which
// each heartbeat writes anew: they are for ids and receipts, not for documents.
//
// # When Redis is down
//
// Every call returns the client's error. A client of go-redis heeds the deadline of a context, and with it
// idempotency.Options.WriteTimeout, only with its option ContextTimeoutEnabled; without it, it waits for its own ReadTimeout
// first, 3 seconds by default, and of a Redis that is frozen callers hear so much later. On a Cluster the items of the nodes
// that answered are decided and the others are idempotency.Unknown (Claim) or carry the error (Complete, Release, Extend),
// and the call returns an error.
package redisidem
