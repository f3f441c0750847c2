package pgidem

import "strings"

// txStatements are those of a TxGuard, with the table's name filled in.
type txStatements struct{ enter, wait, read, waited, takeOver, insert, guess, bury string }

func newTxStatements(table string) txStatements {
	fill := func(sql, restored string) string {
		return strings.NewReplacer(
			"{lock}", "$1::bigint # "+relation(table)+"::oid::bigint",
			"{records}", table, "{restored}", restored,
		).Replace(sql)
	}
	return txStatements{
		enter: fill(txEnterSQL, ""), wait: fill(txWaitSQL, ""),
		read: fill(txReadSQL, scansOnSQL), waited: fill(txReadSQL, scansOnSQL+` || `+timeoutAsWasSQL),
		takeOver: fill(txTakeOverSQL, ""), insert: fill(txInsertSQL, ""), guess: fill(txGuessSQL, ""), bury: fill(txBurySQL, ""),
	}
}

// The key is locked by one statement and looked up by the next, whose snapshot is newer than the lock: in one, a record that
// was committed between the snapshot and the lock would be missed.
//
// Sequential scans are off while the second is planned: see pg.Probe. They are on again before anything of the caller's
// runs, by a call in the LIMIT, which is evaluated whether or not there is a row. It is not 0, having the length of 'on'.
//
// Advisory locks are the database's: those of two tables in it must differ.
const (
	// Parameter: the key's lock.
	txEnterSQL = `SELECT clock_timestamp(), current_setting('enable_seqscan'), set_config('enable_seqscan', 'off', true), pg_try_advisory_xact_lock({lock})`

	// The same without the lock.
	txLookSQL = `SELECT clock_timestamp(), current_setting('enable_seqscan'), set_config('enable_seqscan', 'off', true), true`

	// Parameters: the key's lock, for how long to wait. They are evaluated in the order of writing: the limit is set before the
	// wait, the clock read after it.
	txWaitSQL = `SELECT set_config('safetill.lock_timeout', current_setting('lock_timeout'), true), set_config('lock_timeout', $2, true),
	pg_advisory_xact_lock({lock}), clock_timestamp(), set_config('enable_seqscan', 'off', true)`

	// Parameter: key. Result: the record, if there is one. What can be told from its columns is not asked for: an expression
	// costs a lookup that finds nothing as well.
	txReadSQL = `
SELECT fingerprint, completed, status, token, response, held_until, steps_until FROM {records} WHERE key = $1 LIMIT length({restored})`

	scansOnSQL      = `set_config('enable_seqscan', 'on', true)`
	timeoutAsWasSQL = `set_config('lock_timeout', current_setting('safetill.lock_timeout'), true)`

	// Parameters: key, token. Result: whether the record, which is over, was still the same: it makes room for a new one. It may have
	// got a step since it was read:
	//
	//	the lease of a Do is over, and DoTx reads its record; the Do, late, charges in a step, records that, and is killed;
	//	DoTx was held up until that lease is over too; without the record, neither it nor any Do knows of the charge.
	txTakeOverSQL = `DELETE FROM {records} WHERE key = $1 AND token = $2 AND held_until <= clock_timestamp() AND
		(steps_until > clock_timestamp()) IS NOT TRUE RETURNING true`

	// Parameters: key, fingerprint, token, status, since when, until when, response.
	txInsertSQL = `
INSERT INTO {records} (key, fingerprint, token, completed, status, claimed_at, held_until, response)
VALUES ($1::bytea, $2::bytea, $3::bigint, true, $4, $5, $6, $7)`

	// Parameters: the key's lock, key, fingerprint, status, TTL in microseconds, response. The column takes no NULL: where another
	// has the lock the statement fails, and what comes behind it, COMMIT, is not read.
	txGuessSQL = `
INSERT INTO {records} (key, fingerprint, token, completed, status, claimed_at, held_until, response)
VALUES ($2::bytea, $3::bytea, CASE WHEN pg_try_advisory_xact_lock({lock}) THEN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint END,
	true, $4, clock_timestamp(), clock_timestamp() + $5::bigint * interval '1 microsecond', $6)`

	// Parameters: key, fingerprint. A claim of Do may have been quicker, and does as well.
	txBurySQL = `
INSERT INTO {records} (key, fingerprint, token, claimed_at, held_until)
VALUES ($1::bytea, $2::bytea, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, clock_timestamp(), clock_timestamp())
ON CONFLICT (key) DO NOTHING`
)
