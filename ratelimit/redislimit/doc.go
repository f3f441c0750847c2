// Package redislimit keeps the counters of rate limits on Redis 6.2 or later: one server, Sentinel, Cluster or Ring.
//
//	store, err := redislimit.NewStore(rdb, nil)
//	limiter, err := ratelimit.New(store, ratelimit.PerSecond(100), nil)
//	…
//	err = store.Close() // before the client
//
// # What is guaranteed
//
// The contract of [ratelimit.Store], on one primary: a call is decided by one script, which Redis runs alone, in whole numbers and by the server's
// clock. A decision is one round trip (two of a bucket that was written under another limit, or has reservations), and never an error because others want
// the same key. What is refused writes nothing, unless the clock was set back by more than a period. Counters expire a second after they have ceased to
// count, never before; a bucket in constant use, up to 16 s after. One that has lost its expiry gets it back with its next write, or, a bucket, with the
// first one 15 s later. A limit that changes holds at once: counters carry the limit that they were written under.
//
// Callers are joined. Who comes when no flight is under way goes at once; who comes meanwhile goes with the next, which takes all that wait in one
// script. A caller whose context ends returns at once: its call is not sent if it was still waiting, and may have been carried out or not if it was on
// its way. So is a call whose connection broke: its error says so, and it is never sent again, whatever the client's MaxRetries, since that would
// charge twice. A server that has lost the script (restart, failover, SCRIPT FLUSH) gets it again, having done nothing before.
//
// One server's client may have ContextTimeoutEnabled. Then a caller whose ctx has a deadline, as that of every [ratelimit.Limiter] has, and who finds no
// flight under way, asks in his own goroutine: in a test that took a quarter less CPU, of Redis' and of his own. In return his being cancelled is
// heeded at the deadline only, and where it is missed his connection is closed.
//
// # Keys
//
// The counter of key "user:7" under the limit named "login" is prefix{user:7}b:login, the letter telling how it is kept. All limits of one key are in
// one slot of a Cluster. A key that has a hash tag of its own keeps that: "a{tenant}b" becomes prefix + a{tenant}b{b:login, and all keys with
// {tenant} are in one slot. (Of a key that begins with "}" Redis sees no tag, so its limits are in several slots.) No two counters share a key.
//
// # Calls over several slots
//
// On one server, by Sentinel or not, every call is one script. On a Cluster or Ring a call whose takes are in several slots cannot be, and is
// decided in two steps, or refused by a [*CrossSlotError] where Options.CrossSlot says so. (A Ring has no slots: every hash tag counts as one, also
// where two are on one server, since that changes with the servers.) First each slot's takes are charged as reservations, side by side. If all were
// admitted, one key, beside the first take's, is set to say that the call is committed; that is the decision, and the caller has its answer after
// two round trips. The reservations are confirmed or given back behind its back. Then:
//
//   - All takes are charged or none is, at whatever moment the client dies, or its connections break. Who comes to a counter with a reservation
//     older than Options.ReserveLease sets the decision to "aborted" unless it has been made, and carries out there what it is: two round trips more, for
//     that caller. If the client commits later it finds that it is aborted, gives back what is left, and has an error.
//   - Never is more admitted than a limit allows: a reservation counts from the start. For as long as it does, others can be refused by a call that is
//     refused itself in the end: for about a round trip, or after a client's death until the lease is over; where refusals are remembered
//     (ratelimit.Options.DenyCache, Hybrid, Leased), until the wait is over that they were told.
//   - It is not isolated: a Peek can see one counter charged and another not yet.
//   - Where the decision's node is down, a lapsed reservation counts as charged until the node is back, or until nothing of it would count any more.
//   - A place of a Concurrency limit that its holder extends in a call that is refused keeps the extension.
//
// What this costs: six scripts for three slots in place of one, and a record of some 100 bytes for the moment. Calls in one slot pay
// nothing. So give what is decided together one hash tag where one slot can carry the load.
//
// # Slots that move
//
// While a slot of a Cluster is moved to another master, its counters are decided wherever they are at the moment: MOVED and ASK are followed, calls
// that were joined are parted where they must be, and none is lost or carried out twice. What cannot be is a call for several keys of the slot of which
// one has moved and another has not, or one is new: Redis turns it away (TRYAGAIN). It is sent again for as long as its caller waits, but no longer than
// 10 s, and has an error then; it was not charged. (For a new key that is until the whole slot has moved.)
//
// # What is not guaranteed
//
// Redis loses what it had not yet written to its append-only file (a second, with the usual appendfsync) or copied to the replica that is promoted.
// What is lost is admitted again; and where it is a decision on a reservation, the call may end charged in part. A Ring gives the keys of a server
// that is down to the others, where they begin anew, and back when it is back, with what it had counted. Evicting policies (maxmemory-policy) other
// than noeviction forget counters: those that are used least, but also exhausted ones. While a script runs Redis serves nobody else: some
// microseconds a call, and Options.Batch calls at most. A Return to a SlidingLog rewrites the entries that are younger than what it returns. The
// clock is the server's: after a failover or a slot's move it is another one's, which counts as a clock that was set.
//
// # When Redis is down
//
// Callers wait until their context ends, or until the client gives up ([github.com/redis/go-redis/v9.Options] DialTimeout, ReadTimeout), whichever
// is first, and get an error: [ratelimit.Limiter] then answers by its policy, and asks no more for a while. While flights are stuck at most
// Options.Queue callers wait, others have [ErrBusy]. A call that finds its master gone is not sent to the next one: while Sentinel or the Cluster
// promotes a replica calls have errors, and as soon as the client knows the new master they are answered again. A Cluster's client is told to look for it
// whenever it has not reached a master; by itself it does so once a minute. On a Cluster a node that hangs holds up the sixteenths of the slots that it
// has a part of.
package redislimit
