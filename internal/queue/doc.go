// Package queue is a FIFO queue of small messages that survives the death of those who work on it.
//
// A worker claims up to n messages at once, works on them and acknowledges them. What it claimed stays in the queue under
// its name until then, so that a worker killed at any instruction loses nothing: its lease runs out and a reaper gives its
// messages back. The backends are [Memory], Redis (redisqueue) and PostgreSQL (pgqueue); queuetest is the suite they all
// pass, and [Consume] is the loop that a program runs.
//
// # Guaranteed
//
//   - At least once: a message whose Push succeeded is claimed again and again until an Ack for it succeeds.
//   - Order: messages are claimed in the order in which they were pushed. Messages that were returned or reaped go back in
//     front of all that was never claimed, in their old order, whoever gives them back first.
//   - Fencing: Ack and Return touch only what the worker holds from that very claim. After a lease ran out and another
//     worker (or the same name again) claimed the message, the late call of the first changes nothing and is no error.
//   - Leases are timed by the store (Redis TIME, PostgreSQL clock_timestamp), not by the clocks of the workers.
//
// # Not guaranteed
//
//   - Exactly once: a worker that dies between its work and its Ack, or outlives its lease, has its messages handled twice.
//     Handlers must be harmless when repeated.
//   - Order of effects with several workers: the second batch may be finished before the first.
//   - An end to failing: a message that no handler can take comes back for ever, at the head. [Message].Attempts tells how
//     often; a handler that gives up on one must put it aside itself and report success.
//
// # When the store is down
//
// Every call returns the store's error and says nothing about the outcome: a Push may have been committed (push again: at
// least once), a Claim may have given messages to the name that will never see them. So a name that met an error must not be
// renewed: take another name and let the lease of the first run out. [Consume] does so, with a growing pause between tries.
package queue
