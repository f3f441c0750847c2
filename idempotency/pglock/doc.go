// Package pglock takes locks in PostgreSQL 15 or later, and lets fencing numbers reach its rows.
//
// Which one:
//
//	InTx     the lock lasts as long as the caller's transaction. Where all that is done under the lock is written by that
//	         transaction, nothing is safer: lock and writes end together, so there is no late holder and no fence needed.
//	Locker   the lock lasts as long as its holder's connection, over any number of transactions and calls to others.
//	         Like lock.Locker, with a fencing number.
//	Fence    lets no late holder of any lock, also one on Redis, commit a transaction.
//
// InTx and Locker are PostgreSQL's advisory locks: they exclude each other, and nothing else in the database knows of them.
//
//	err := pglock.Migrate(ctx, pool, nil)
//	locker, err := pglock.New(pool, nil)
//	err = locker.Do(ctx, "tenant-7", "account/42", func(ctx context.Context, held lock.Held) error {
//		return charge(ctx, held.Token)
//	})
//
// Nothing migrates by itself, and no call looks whether the tables are there: without
// them, or with older ones, it fails with a [*SchemaError]. Where another program
// migrates, let CheckSchema say so when the server starts.
//
// # What is guaranteed
//
// Of Locker: what package lock guarantees. The connection is the lease. The server ends it when nothing was heard on it for
// [Options.Lease] (idle_session_timeout), and at once when the process is killed: the next holder does not wait for a lease that
// nobody extends. A connection that is lost ends the context of the work with lock.ErrLost. Who waits for a name is
// served in the order of coming, within one process and, by the server's queue, among processes. Tokens are the larger of
// the server's clock and the name's last one plus one, as idempotency.Token describes, so they grow over a restart, a
// failover to a replica that was behind, and a restore from a backup.
//
// Of InTx: nobody else has the lock before the transaction has ended, also if the process is paused or cut off meanwhile. Several
// names are locked in one order, so that transactions that lock theirs by one call do not deadlock.
//
// Of Fence: of two transactions that pass the fence of one name, with the tokens of an earlier and of a later holder, the earlier
// holder's commits before the later one's passes, or fails with lock.ErrStale and can write nothing.
//
// # What is not guaranteed
//
// Each lock that is held, or waited for as the first of its process, takes a connection of the pool: give the Locker a pool of
// its own. From a shared one, 16 holders may take all 16 connections and then wait for one more, for their work.
// A pooler that hands a connection to another client between transactions (PgBouncer in transaction mode) breaks session
// locks; InTx and Fence work behind one.
//
// InTx has no fencing number. It excludes the holder of a Locker for as long as that has its connection; a late one, with the token of
// before, passes the Fence behind the transaction, and may write over it. So take a name by one of the two.
//
// A lock is one for the whole database, whatever the schema: programs that share a database keep apart by their scopes. It
// is known by 64 bits of SHA-256. Two names that share them share a lock, which costs a wait.
//
// A transaction that is paused keeps what it has locked: set idle_in_transaction_session_timeout. Where a whole host vanishes, the server
// notices with idle_session_timeout or idle_in_transaction_session_timeout too, not by the network.
//
// Rows of the table lock_fences are not swept: a fence that forgets lets a late holder in. There is one for each name
// that was ever locked by a Locker or passed a Fence, of some 100 bytes.
//
// # When PostgreSQL is down
//
// Every call returns the driver's error and no lock. A holder is told at once, since its connection is lost: unlike a lease,
// such a lock does not survive a restart of the server.
package pglock
