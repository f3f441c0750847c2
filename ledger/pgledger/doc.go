// Package pgledger keeps a ledger in PostgreSQL 15 or later.
//
//	pool, err := pgxpool.New(ctx, url)
//	err = pgledger.Migrate(ctx, pool, nil)
//	l, err := ledger.New(pgledger.NewStore(pool, nil), nil)
//
// Nothing migrates by itself, and no call looks whether the tables are there: without
// them, or with older ones, it fails with a [*SchemaError]. Where another program
// migrates, let CheckSchema say so when the server starts.
//
// # What is guaranteed
//
// What [ledger.Ledger.Post] returns is committed: it survives a crash of the
// client and, with PostgreSQL's default fsync and synchronous_commit, of the
// server. A batch is one transaction, its rows locked in the order of their
// account's id, so two batches wait for each other and never deadlock.
//
// A store over a pool remembers the accounts it has posted to and decides on them
// without a lock; what it writes is refused by the statement itself where one of
// them is not as it was thought to be, and is then decided anew under locks.
// Several servers, and whatever else writes through this package, may share a
// ledger. Accounts are changed by this package only; by hand at most their floor.
//
// # In the caller's transaction
//
// NewStore takes a pool, a connection or a transaction. Over a [pgx.Tx] every call
// is a savepoint in it, so that postings commit or roll back with whatever else
// it holds. A connection that is in a transaction is refused by whatever writes or
// verifies, which take the transaction itself. Two calls of Post in one transaction
// lock their accounts one after the other, not in one order: PostgreSQL may then
// break a deadlock, and the caller repeats the transaction. One call with both
// batches cannot deadlock.
//
// The transaction may be of any isolation. In one with a single snapshot
// (REPEATABLE READ, SERIALIZABLE) that another batch was too quick for, Post fails
// with code 40001, a serialization failure, and the caller repeats the
// transaction. What was opened or held since its snapshot is unknown to it, and
// that verdict too is for ever: begin such a transaction after what it goes by. A
// Post that fails leaves the transaction usable, unless its context was cancelled:
// the driver then closes the connection.
//
// # When PostgreSQL is down
//
// Calls return the driver's error, wrapped. Whether a batch was committed may be
// unknown; posting it again is safe and answers it.
package pgledger
