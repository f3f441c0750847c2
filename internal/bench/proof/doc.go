// Package proof tries to break the promises of package ledger, and of rate limits, from outside, by
// the public API alone. It holds no code but tests, and is in this module so
// that the checker of histories does not enter the SDK's go.mod.
//
//   - TestLinearizable: histories of 16 clients in two processes over PostgreSQL,
//     half of them through a group, some of whose connections are cut, are checked
//     with porcupine against a sequential model: posts, holds, captures, releases,
//     reversals, expiry, chains and conditions. TestMutantsAreCaught: stores with
//     one flaw each must fail it.
//   - TestKilledServer: PostgreSQL is killed again and again under load; each
//     acknowledged transaction is there once, with the verdict that was told.
//   - TestOppositeOrders: batches that touch the same accounts and ids in opposite
//     orders, and PostgreSQL sees no deadlock.
//   - TestMemoryAgainstPostgres: the same random batches of all kinds with the same
//     faults, and equal results, balances and entries.
//   - TestSimulator: clients that crash, a network that loses, repeats and
//     reorders, a store that fails, holds that expire, all of it from one seed. The
//     sequential model follows every step, and at the end the books are compared
//     with what clients were told. Stores with planted faults must be found out.
//   - TestHotLimitIsLinearizable: 16 clients on one counter, in Redis through the
//     stores of two processes, and in memory. TestFlawsOfALimitAreFound: stores
//     with one flaw each must fail it.
//
// # The clock
//
// Holds expire by the store's clock, and the model has none. It need not guess:
// results tell when an id was decided, for ever, so a capture was in time if it
// was decided before its hold was and that hold's time together. What ExpireHolds
// asks of the store is recorded as an operation of its own, and must not come
// before.
//
// # Modes
//
//	go test ./proof/...                              short runs, under a minute
//	SAFETILL_PROOF=full go test -timeout 1h ./proof/...   the counts that are promised
//	SAFETILL_PROOF_SEED=7 go test -run Simulator -v ./proof/...   one seed again
//
// Every random choice of the clients comes from a seed that the test logs. With
// SAFETILL_PROOF_SEED the simulator and the test of memory against PostgreSQL
// run that one seed and repeat exactly; the simulator then logs each step. Where
// real servers answer concurrent clients, a seed repeats what is asked and not
// who comes first.
package proof
