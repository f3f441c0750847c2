// Package saga finishes or undoes what cannot be done in one transaction: a card is
// charged at one company, stock reserved at another, and something dies in between.
//
// A saga is a list of steps over data of the caller's, see [Define]. It runs in the
// caller's process, in an [Engine], and is kept in a [Store]; there is no server to
// run. Each step's end is written down, together with what the step has changed in
// the data, before the next step begins.
//
// # What a step is
//
//   - [Step] has an effect elsewhere, and an Undo that takes it back.
//   - [Pure] changes nothing but the data.
//   - [Pivot] decides the saga. Before it everything can be undone; behind it
//     everything is repeated until it is done.
//   - [Retriable] stands behind the pivot.
//   - [StepTx], [PivotTx], [RetriableTx] work in the database transaction that also
//     writes their end down: exactly once.
//   - [Sleep], [Await] and [Child] wait, for a time, for a signal, for another saga.
//   - [Parallel] runs several at the same time.
//
// A definition that could come to a point from which it can neither go on nor back is
// refused when it is made.
//
// # What is guaranteed
//
//   - A saga that [Definition.Start] has acknowledged comes to an end, whatever
//     dies: [Completed], [Compensated], or [Stuck], which is a person's to mend.
//   - No step begins before the end of the one before it is durable, and no owner
//     writes once there is a newer one: every write carries the owner's token and the
//     revision that it replaces, and the store refuses it by that very write.
//   - An attempt of which nobody knows whether it took effect (it timed out, or its
//     process died) is not repeated blindly. Its Verify is asked; without an answer
//     it is repeated only if the step is Idempotent, and else undone, or left to a
//     person.
//   - A compensation runs in reverse order, on a context of its own, and also for the
//     step that failed if that may have taken effect. One that fails for good does
//     not keep the others from being undone.
//   - What a finished step has done is never dropped: not by a deadline, a
//     cancellation, a shutdown or a database that is away for a while.
//
// # What is not
//
//   - A step outside of the store's transaction is called at least once, not exactly
//     once: give [Call.Key] to whom it calls.
//   - Others see what a saga has done before it is over.
//   - A provider that applies a request which it was asked to undo before cannot be
//     stopped from here. Undo with the step's key, [Call.DoKey], at a provider that
//     remembers it.
//
// # When the store is down
//
// Start asks again for as long as its context lives, and then returns the store's
// error; it may be repeated. Steps under way finish, and
// their ends are written when the store is back; nothing begins meanwhile.
//
// # Backends
//
// [NewMemory] keeps sagas in memory; package pgsaga keeps them in PostgreSQL, and has
// transactions for steps and an outbox. Package sagatest is the test of a backend, and
// crashes a saga of yours at every point.
//
// # People
//
// [Admin] lists what is [Stuck] and does what a person has decided; [Handler] is the
// same over HTTP.
//
// The model is that of Garcia-Molina and Salem, "Sagas" (SIGMOD 1987).
package saga
