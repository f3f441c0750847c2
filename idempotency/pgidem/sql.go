package pgidem

import "strings"

// statements of a store, with the table's name filled in.
type statements struct{ claim, complete, release, extend, sweep string }

func newStatements(table string) statements {
	fill := func(sql string) string { return strings.ReplaceAll(sql, "{records}", table) }
	return statements{
		claim: fill(claimSQL), complete: fill(completeSQL), release: fill(releaseSQL), extend: fill(extendSQL),
		sweep: fill(sweepSQL),
	}
}

// Parameters: keys (sorted), fingerprints, leases in microseconds, whether it is the first item with its key.
// Result: for each item its number, the token if won, else the live record if there is one. An item with neither is a
// repeat of a key in this batch, or it has lost a race: another transaction has inserted the key after the snapshot
// of this statement was taken, so that it can be met here but not read.
//
//   - seen keeps the records that can be answered from without a lock, so that a replay writes nothing: ON CONFLICT
//     locks the row, hence writes, even where its condition is false.
//   - The order of the insert is the order of the row locks.
//   - Behind ON CONFLICT clocks are read again, since there may have been a wait for another transaction's lock, and
//     the token grows from the one that is in the row now, not from the one that this statement's snapshot saw.
const claimSQL = `
WITH want AS MATERIALIZED (
	SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::boolean[])
		WITH ORDINALITY AS w (key, fingerprint, lease, leads, n)
), clock AS MATERIALIZED (
	SELECT clock_timestamp() AS now
), seen AS MATERIALIZED (
	SELECT w.n, r.fingerprint = w.fingerprint AS same, r.completed, r.status, r.held_until,
		CASE WHEN r.fingerprint = w.fingerprint THEN r.response END AS response
	FROM want w JOIN {records} r ON r.key = w.key
	WHERE r.held_until > (SELECT now FROM clock)
), won AS (
	INSERT INTO {records} AS r (key, fingerprint, token, claimed_at, held_until)
	SELECT w.key, w.fingerprint, (extract(epoch FROM c.now) * 1000000)::bigint,
		c.now, c.now + w.lease * interval '1 microsecond'
	FROM want w CROSS JOIN clock c
	WHERE w.leads AND NOT EXISTS (SELECT FROM seen s WHERE s.n = w.n)
	ORDER BY w.n
	ON CONFLICT (key) DO UPDATE SET
		fingerprint = excluded.fingerprint,
		token = greatest(r.token + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
		completed = false, status = 0, response = NULL,
		claimed_at = clock_timestamp(),
		held_until = clock_timestamp() + (excluded.held_until - excluded.claimed_at)
	WHERE r.held_until <= clock_timestamp()
	RETURNING r.key, r.token
)
SELECT w.n, won.token, s.same, s.completed, s.status, s.response,
	(extract(epoch FROM s.held_until - (SELECT now FROM clock)) * 1000000)::bigint
FROM want w
LEFT JOIN won ON w.leads AND won.key = w.key
LEFT JOIN seen s ON s.n = w.n`

// held locks the rows in the order of their keys: an UPDATE alone locks in whatever order its plan finds them, and two
// batches that share two keys could wait for each other.
const heldSQL = `
), held AS MATERIALIZED (
	SELECT r.key, r.token, r.completed FROM {records} r WHERE r.key = ANY ($1) ORDER BY r.key FOR UPDATE
)`

// Parameters: keys, tokens, TTLs in microseconds, statuses, responses. Result: the numbers of the items that are stored.
// Of several completions of one claim the first is kept, and all are told that it is done.
const completeSQL = `
WITH want AS MATERIALIZED (
	SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::integer[], $5::bytea[])
		WITH ORDINALITY AS w (key, token, ttl, status, response, n)` + heldSQL + `
, done AS (
	UPDATE {records} r SET completed = true, status = w.status, response = w.response,
		held_until = clock_timestamp() + w.ttl * interval '1 microsecond'
	FROM held h JOIN (SELECT DISTINCT ON (key, token) * FROM want ORDER BY key, token, n) w
		ON w.key = h.key AND w.token = h.token
	WHERE r.key = h.key AND NOT h.completed
)
SELECT w.n FROM want w JOIN held h ON h.key = w.key AND h.token = w.token`

// Parameters: keys, tokens. Result: the numbers of the items that are released.
// A released row becomes an abandoned claim with the token after the owner's, which nobody was ever given.
const releaseSQL = `
WITH want AS MATERIALIZED (
	SELECT * FROM unnest($1::bytea[], $2::bigint[]) WITH ORDINALITY AS w (key, token, n)` + heldSQL + `
, done AS (
	UPDATE {records} r SET token = r.token + 1, held_until = clock_timestamp()
	FROM held h JOIN (SELECT DISTINCT ON (key, token) * FROM want ORDER BY key, token, n) w
		ON w.key = h.key AND w.token = h.token
	WHERE r.key = h.key AND NOT h.completed
	RETURNING w.n
)
SELECT n FROM done`

// Parameters: keys, tokens, leases in microseconds. Result: the numbers of the items that are held.
const extendSQL = `
WITH want AS MATERIALIZED (
	SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS w (key, token, lease, n)` + heldSQL + `
, done AS (
	UPDATE {records} r SET held_until = clock_timestamp() + w.lease * interval '1 microsecond'
	FROM held h JOIN (SELECT DISTINCT ON (key, token) * FROM want ORDER BY key, token, n DESC) w
		ON w.key = h.key AND w.token = h.token
	WHERE r.key = h.key AND NOT h.completed
)
SELECT w.n FROM want w JOIN held h ON h.key = w.key AND h.token = w.token WHERE NOT h.completed`

// Parameters: how long rows are remembered in microseconds, limit. Rows that somebody is claiming just now are left.
const sweepSQL = `
DELETE FROM {records} WHERE key IN (
	SELECT key FROM {records}
	WHERE held_until < (SELECT clock_timestamp() - $1::bigint * interval '1 microsecond')
	ORDER BY held_until LIMIT $2 FOR UPDATE SKIP LOCKED
)`
