// Package pgqueue is a queue.Queue on PostgreSQL: one table for any number of queues, claimed with FOR UPDATE SKIP LOCKED.
//
// # Guaranteed
//
// What package queue promises, as durably as PostgreSQL keeps its data: with fsync and synchronous_commit on, its defaults, a
// Push that returned survives a loss of power. A Push through [Queue.In] is part of the caller's transaction: the message
// exists if, and only if, that transaction commits, and nobody sees it before.
//
// # Not guaranteed
//
// Order between transactions that overlap: ids are drawn when a statement runs and seen when its transaction commits. If A
// draws 1, B draws 2 and B commits first, 2 may be claimed before 1. Within one transaction, and between transactions that
// follow each other, the order holds.
//
// Call all methods but Push on a pool or connection of their own: a claim inside a long transaction is invisible to the
// reaper until it commits, and its renewals reach nobody.
//
// A transaction that stays open for long, anywhere in the database, keeps vacuum from clearing the acknowledged rows, and
// claims get slower for as long as it lasts.
//
// # When PostgreSQL is down
//
// Every call returns pgx's error, wrapped, so the classes of internal/pg apply to it. Without the table of [Migrate] that is
// undefined_table or undefined_function.
package pgqueue
