// Package proof tries to break the promises of package ledger from outside, by
// the public API alone. It holds no code but tests, and is in this module so
// that the checker of histories does not enter the SDK's go.mod.
//
//   - TestLinearizable: histories of 16 clients over PostgreSQL, some of whose
//     connections are cut, are checked with porcupine against a sequential model;
//     stores without locks, with stale reads, and that post twice must fail it.
//   - TestKilledServer: PostgreSQL is killed again and again under load; each
//     acknowledged transaction is there once, with the verdict that was told.
//   - TestOppositeOrders: batches that touch the same accounts and ids in opposite
//     orders, and PostgreSQL sees no deadlock.
//   - TestMemoryAgainstPostgres: the same random batches with the same faults, and
//     equal results, balances and entries.
//   - TestSimulator: clients that crash, a network that loses, repeats and
//     reorders, a store that fails, all of it from one seed; stores with planted
//     faults must be found out.
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
