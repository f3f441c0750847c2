// Package pg is what the PostgreSQL backends share: the handle they work on, the migrator, the classes of errors, quoting.
//
// Guaranteed:
//   - Migrate applies each file once, in order, in one transaction with its record: all pending files or none, also when many processes
//     call it at the same moment, and when it is killed half-way.
//   - A file that was applied and has changed since, and a database that is newer than the program, are refused before any change.
//   - Retryable is never true where the outcome of the work is unknown.
//
// Not guaranteed: that a migration is quick or takes no long locks (that is the file's matter), or anything about statements that end
// the transaction themselves; a file with COMMIT in it is refused after the fact.
//
// When the database is down every function returns the driver's error, wrapped; Unavailable tells it from a wrong statement.
package pg
