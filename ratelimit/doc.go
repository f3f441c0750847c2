// Package ratelimit limits how much is done in how much time: by user, by address, for everybody, or by all of these at once.
//
//	store := ratelimit.NewMemory(nil) // or redislimit.NewStore(rdb, nil)
//	limiter, err := ratelimit.New(store, ratelimit.PerMinute(100), nil)
//	result, err := limiter.Allow(ctx, "user-7")
//	if !result.Allowed {
//		// try again in result.RetryAfter
//	}
//
// # How it works
//
// A [Limit] is a value: an [Algorithm], a rate and a period. A [Store] keeps one counter for each limit's name and key, and decides: one atomic operation, by
// the store's own clock. A [Limiter] is what callers hold: it answers for the store while that fails, and for keys that were refused a moment ago.
// [Limiter.All] holds a call to several limits, all of which are charged or none. [Limiter.Wait] and [Limiter.Reserve] take ahead, [Limiter.Acquire] bounds what
// is under way at once. [NewMiddleware] is the same for net/http.
//
// The algorithms are functions of a small state and the time, in integers: nothing is rounded but for showing it, so no unit is lost or won however odd
// the rate. The same code decides in memory; redislimit does the same in one script, and ratelimittest holds both to a model in big numbers.
//
// # What is guaranteed
//
//   - A limit admits what the table at [Algorithm] says and no more, however many callers ask at once, in one process or, with a shared store, in many.
//   - What is refused is not charged. Nobody who is refused makes others wait.
//   - A lone caller who waits for [Result.RetryAfter] is admitted.
//   - A changed limit holds from the next call on: what was used stays used, as far as the new limit has room for it.
//   - Time that stands still or goes back gives nothing back. A clock that was set back far is believed after the next call, with the bucket empty.
//   - Every answer is there within [Options.Timeout], or three times that where a [Hybrid] or [Leased] has others ask first, whatever becomes of
//     the store, which has to heed its context.
//   - A memory store holds no more than its number of keys, and no number of other keys brings back what an exhausted key has used.
//
// # What is not guaranteed
//
//   - A store that fails answers nothing, so the limit is what [Options.OnError] makes of it: by default everything is admitted.
//   - A question that was not answered may have been charged.
//   - Counters that a store loses (Redis restarted without its data, a failover) begin anew.
//   - A process remembers 16,384 limits that differ. What is used under others may be lost when they change, and is the first to be forgotten by a full memory
//     store, exhausted or not.
//   - A refusal that is remembered here ([Options.DenyCache]) is good until its wait is over, though another process has reset the key meanwhile.
//   - A limiter gives nothing back of what it has reset itself. Of a Reset by another process it does not know: what was taken before and is cancelled
//     afterwards makes room once more for those who have used the key since.
//   - A memory store is one process': N of them admit N times the limit. It knows keys by 64 bits of a hash with a seed of the process.
//
// # When the memory store is full
//
// A counter that is idle makes way for a new key, else of a few neighbours the one that is used least. A key that sends many others to be forgotten so gains
// no more than it has used of its own, and an exhausted one is never forgotten. If all are exhausted, new keys share one counter for each limit until there is room, and a
// Reset of one of them leaves that as it is.
//
// # When the store is down
//
// The policy answers: [FailOpen] admits, [FailClosed] refuses, [FailLocal] holds each process to its share of the limit. [Result.Source] says so, and
// [Hooks.OnStoreError] counts it. After 5 failures in a row the store is left alone for a second at a time, after which one caller sees whether it is back.
// Errors of the call itself (a bad key, keys that cannot be decided at once) are errors under every policy.
package ratelimit
