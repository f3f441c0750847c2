package pgidem

import "strings"

// statements of a store, with the table's name filled in.
type statements struct{ claim, complete, release, extend, sweep string }

func newStatements(table string) statements {
	fill := func(sql string) string {
		return strings.NewReplacer("{records}", table, "{relation}", relation(table)).Replace(sql)
	}
	return statements{
		claim: fill(claimSQL), complete: fill(completeSQL), release: fill(releaseSQL), extend: fill(extendSQL),
		sweep: fill(sweepSQL),
	}
}

// relation is the table for functions.
func relation(table string) string { return "'" + strings.ReplaceAll(table, "'", "''") + "'::regclass" }

// Parameters: keys (sorted), fingerprints, leases in microseconds, whether it is the first item with its key.
// Result: for each item its number, the token if won, else the live record if there is one. An item with neither is a
// repeat of a key in this batch, or it has lost a race: another transaction has inserted the key after the snapshot
// of this statement was taken, so that it can be met here but not read.
//
//   - seen keeps the records that can be answered from without a lock, so that a replay writes nothing: ON CONFLICT
//     locks the row, hence writes, even where its condition is false. A key that nobody holds is among them if it has
//     steps of another payload.
//   - They are looked up one by one (LATERAL, LIMIT). As a plain join, planned while the table is small, they would be
//     found by reading all of it, also when it has grown.
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
	SELECT w.n, r.* FROM want w CROSS JOIN LATERAL (
		SELECT r.fingerprint = w.fingerprint AS same, r.completed, r.status, r.held_until,
			CASE WHEN r.fingerprint = w.fingerprint THEN r.response END AS response
		FROM {records} r WHERE r.key = w.key AND (r.held_until > (SELECT now FROM clock)
			OR r.steps_until > (SELECT now FROM clock) AND r.fingerprint <> w.fingerprint)
		LIMIT 1
	) r
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
		held_until = clock_timestamp() + (excluded.held_until - excluded.claimed_at),
		step_names = CASE WHEN r.steps_until > clock_timestamp() THEN r.step_names END,
		step_results = CASE WHEN r.steps_until > clock_timestamp() THEN r.step_results END,
		steps_until = CASE WHEN r.steps_until > clock_timestamp() THEN r.steps_until END
	WHERE r.held_until <= clock_timestamp()
		AND (r.fingerprint = excluded.fingerprint OR (r.steps_until > clock_timestamp()) IS NOT TRUE)
	RETURNING r.key, r.token, r.step_names, r.step_results
)
SELECT w.n, won.token, s.same, s.completed, s.status, s.response,
	(extract(epoch FROM s.held_until - (SELECT now FROM clock)) * 1000000)::bigint,
	won.step_names, won.step_results
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
		held_until = clock_timestamp() + w.ttl * interval '1 microsecond',
		step_names = NULL, step_results = NULL, steps_until = NULL
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

// Parameters: keys, tokens, leases in microseconds, and of the step, if it has a name: name, result, how long to keep it in
// microseconds. Result: the numbers of the items that are held.
//
// Items of one claim are one update: the last lease, the longest time to keep, and of each name that the row does not have
// the first result. A name that it has comes from a call whose answer was lost.
const extendSQL = `
WITH want AS MATERIALIZED (
	SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[], $6::bigint[])
		WITH ORDINALITY AS w (key, token, lease, step, result, keep, n)
), held AS MATERIALIZED (
	SELECT r.key, r.token, r.completed, r.step_names FROM {records} r WHERE r.key = ANY ($1) ORDER BY r.key FOR UPDATE
), mine AS MATERIALIZED (
	SELECT w.*, h.step_names FROM want w JOIN held h ON h.key = w.key AND h.token = w.token WHERE NOT h.completed
), lease AS (
	SELECT key, (array_agg(lease ORDER BY n DESC))[1] AS lease, max(keep) FILTER (WHERE step <> '') AS keep
	FROM mine GROUP BY key
), steps AS (
	SELECT key, array_agg(step ORDER BY n) AS names, array_agg(result ORDER BY n) AS results
	FROM (
		SELECT DISTINCT ON (key, step) key, step, result, n FROM mine
		WHERE step <> '' AND (step = ANY (step_names)) IS NOT TRUE
		ORDER BY key, step, n
	) fresh GROUP BY key
), done AS (
	UPDATE {records} r SET
		held_until = clock_timestamp() + l.lease * interval '1 microsecond',
		step_names = CASE WHEN s.key IS NULL THEN r.step_names ELSE r.step_names || s.names END,
		step_results = CASE WHEN s.key IS NULL THEN r.step_results ELSE r.step_results || s.results END,
		steps_until = greatest(r.steps_until, clock_timestamp() + l.keep * interval '1 microsecond')
	FROM lease l LEFT JOIN steps s ON s.key = l.key
	WHERE r.key = l.key
)
SELECT n FROM mine`

// Parameters: the first page, the one behind the last, how long rows are remembered in microseconds, limit. Result: how many rows
// were removed, how many were to be, and how many pages the table has. Rows that somebody is claiming just now are left, and so are
// those that were claimed between the statement's snapshot and its lock: their last version is none that it sees.
const sweepSQL = `
WITH due AS MATERIALIZED (
	SELECT ctid FROM {records}
	WHERE ctid >= $1 AND ctid < $2
		AND greatest(held_until, steps_until) < (SELECT clock_timestamp()) - $3::bigint * interval '1 microsecond'
	LIMIT $4 FOR UPDATE SKIP LOCKED
), gone AS (
	DELETE FROM {records} WHERE ctid = ANY (ARRAY (SELECT ctid FROM due)) RETURNING 1
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM due), pg_relation_size({relation}) / current_setting('block_size')::bigint`
