package pgsaga

import (
	"strings"

	"github.com/safetill/safetill/internal/pg"
)

// statements are the store's SQL, with the schema's tables filled in.
type statements struct {
	schema string

	createAlike, createMany, created string
	saveStep, saveOne                string
	savePlain, saveMany, saveWith    string
	saved                            string
	claim, claimOf, giveBack, renew  string
	deliver, delivered               string
	find, findFew, events            string
	fence, guardedOne, guardedWith   string
	relayLock, outbox, relayed       string
	sweep                            string
}

func newStatements(schema string) statements {
	names := strings.NewReplacer(
		"{sagas}", pg.Table(schema, "sagas"),
		"{events}", pg.Table(schema, "saga_events"),
		"{outbox}", pg.Table(schema, "saga_outbox"),
		"{outbox name}", strings.ReplaceAll(pg.Table(schema, "saga_outbox"), "'", "''"),
		"{record}", recordSQL,
	).Replace
	from := func(sql, from string) string { return names(strings.ReplaceAll(sql, "{from}", from)) }
	return statements{
		schema:      schema,
		createAlike: from(createSQL, alikeBirthsSQL),
		createMany:  from(createSQL, manyBirthsSQL), created: names(createdSQL),
		saveStep: names(saveStepSQL), saveOne: from(saveSQL, oneWriteSQL), savePlain: from(saveSQL, plainWritesSQL),
		saveMany: from(saveSQL, manyWritesSQL), saveWith: from(saveWithSQL, manyWritesSQL), saved: names(savedSQL),
		claim: names(strings.ReplaceAll(claimSQL, "{due}", "due_at")), claimOf: names(strings.ReplaceAll(claimSQL, "{due}", byID)),
		giveBack: names(giveBackSQL), renew: names(renewSQL), deliver: names(deliverSQL), delivered: names(deliveredSQL),
		find: names(findSQL), findFew: names(findFewSQL), events: names(eventsSQL),
		fence: names(fenceSQL), guardedWith: from(saveWithSQL, manyWritesSQL) + guardSQL,
		guardedOne: "WITH w AS (" + from(saveSQL, oneWriteSQL) + ") SELECT id, updated_at, signals, ctid FROM w" + guardSQL,
		relayLock:  names(relayLockSQL), outbox: names(outboxSQL), relayed: names("DELETE FROM {outbox} WHERE id = ANY($1::bigint[])"),
		sweep: names(sweepSQL),
	}
}

// The driver's statements are prepared, and PostgreSQL keeps their plans. Made while
// the tables are new and small, these would read all of them, or join the batch with an
// index from its one end to the other; and stay so for the minutes until the tables,
// grown meanwhile, are analyzed. These settings leave index probes only, one for each
// write; and the plan is not made anew for each batch, which takes longer than to write
// some rows. They end with the transaction; in the caller's own they are restored.
var plans = pg.PlannerFor("saga", "enable_seqscan", "off", "enable_bitmapscan", "off", "enable_hashjoin", "off", "enable_mergejoin", "off",
	"plan_cache_mode", "force_generic_plan")

// The same for a transaction in which others have statements of their own.
var scans = pg.PlannerFor("saga", "enable_seqscan", "off")

var (
	probesOnly      = "SELECT " + plans.Set
	keepSettings    = "SELECT " + plans.Keep
	restoreSettings = "SELECT " + plans.Restore
	scansOff        = "SELECT " + scans.Keep + ", " + scans.Set
	scansOn         = "SELECT " + scans.Restore
)

const (
	// The rows come in the order of their ids, in which all lock them.
	createSQL = `
INSERT INTO {sagas} (id, token, revision, due_at, created_at, updated_at, deadline, version, crashes, undoing, status,
    fingerprint, definition, business_id, parent, owner, plan, progress, failed, error, data)
SELECT u.id, u.token, 0, statement_timestamp() + u.lease * interval '1 microsecond', statement_timestamp(), statement_timestamp(),
    u.deadline, u.version, u.crashes, u.undoing, u.status, u.fingerprint, u.definition, u.business_id, u.parent, nullif(u.owner, ''),
    u.plan, u.progress, u.failed, u.error, u.data
FROM {from}
ON CONFLICT (id) DO NOTHING
RETURNING id, created_at`

	// Arrays are unnested in a list of columns, here as below: in FROM, the elements of
	// each would go through a store of their own, a tenth of a batch's time.
	manyBirthsSQL = `(SELECT unnest($1::text[]) AS id, unnest($2::bigint[]) AS token, unnest($3::bigint[]) AS lease, unnest($4::bigint[]) AS deadline,
    unnest($5::int[]) AS version, unnest($6::int[]) AS crashes, unnest($7::boolean[]) AS undoing, unnest($8::text[]) AS status,
    unnest($9::bytea[]) AS fingerprint, unnest($10::text[]) AS definition, unnest($11::text[]) AS business_id, unnest($12::text[]) AS parent,
    unnest($13::text[]) AS owner, unnest($14::text[]) AS plan, unnest($15::text[]) AS progress, unnest($16::text[]) AS failed,
    unnest($17::text[]) AS error, unnest($18::json[]) AS data) AS u`

	// Most batches are of one definition.
	alikeBirthsSQL = `(SELECT *, $5::bigint AS token, $6::bigint AS lease, $7::bigint AS deadline, $8::int AS version, 0 AS crashes, false AS undoing,
    $9::text AS status, $10::text AS definition, $11::text AS parent, $12::text AS owner, $13::text AS plan, $14::text AS progress,
    '' AS failed, '' AS error
    FROM (SELECT unnest($1::text[]) AS id, unnest($2::bytea[]) AS fingerprint, unnest($3::text[]) AS business_id, unnest($4::json[]) AS data) AS v) AS u`

	createdSQL = `
SELECT id, fingerprint, coalesce(owner, ''), token, revision, created_at FROM {sagas} WHERE id = ANY($1::text[])`

	// A row whose lock was waited for is looked at again: that is what fences. A time of
	// wake-up that stays is no change, so that the row stays in its page. What has no
	// owner is written by a person, who does not wait.
	saveSQL = `
UPDATE {sagas} s SET revision = u.revision, status = u.status, undoing = u.undoing, progress = u.progress, failed = u.failed, error = u.error,
    crashes = u.crashes, data = u.data, updated_at = statement_timestamp(),
    owner = CASE WHEN u.due = -2 THEN s.owner END,
    over_at = CASE WHEN u.due = -3 THEN statement_timestamp() END,
    due_at = CASE WHEN u.due = -2 AND s.owner IS NOT NULL THEN s.due_at
                  WHEN u.due = -2 THEN statement_timestamp()
                  WHEN u.due < -2 THEN NULL
                  WHEN s.signalled > u.seen THEN statement_timestamp()
                  WHEN u.due >= 0 THEN statement_timestamp() + u.due * interval '1 microsecond' END
FROM {from}
WHERE s.id = u.id AND s.token = u.token AND s.revision = u.revision - 1
RETURNING s.id, s.updated_at, s.signals, s.ctid`

	oneWriteSQL = `(SELECT $1::text AS id, $2::bigint AS token, $3::bigint AS revision, $4::text AS status, $5::boolean AS undoing, $6::text AS progress,
    $7::text AS failed, $8::text AS error, $9::int AS crashes, $10::json AS data, $11::bigint AS due, $12::int AS seen) AS u`
	manyWritesSQL = `(SELECT unnest($1::text[]) AS id, unnest($2::bigint[]) AS token, unnest($3::bigint[]) AS revision, unnest($4::text[]) AS status,
    unnest($5::boolean[]) AS undoing, unnest($6::text[]) AS progress, unnest($7::text[]) AS failed, unnest($8::text[]) AS error,
    unnest($9::int[]) AS crashes, unnest($10::json[]) AS data, unnest($11::bigint[]) AS due, unnest($12::int[]) AS seen) AS u`

	// Most checkpoints that nobody joins are of a step that has succeeded, and not the last.
	saveStepSQL = `
UPDATE {sagas} s SET revision = $3, status = 'RUNNING', progress = $4, data = $5, undoing = false, failed = '', error = '', crashes = 0,
    updated_at = statement_timestamp(), due_at = CASE WHEN s.owner IS NULL THEN statement_timestamp() ELSE s.due_at END
WHERE s.id = $1 AND s.token = $2 AND s.revision = $3 - 1
RETURNING s.id, s.updated_at, s.signals, s.ctid`

	// Most batches are of sagas that are well, see plainStatus.
	plainWritesSQL = `(SELECT *, CASE due WHEN -2 THEN 'RUNNING' WHEN -3 THEN 'COMPLETED' ELSE 'SUSPENDED' END AS status,
    false AS undoing, '' AS failed, '' AS error, 0 AS crashes, 0 AS seen
    FROM (SELECT unnest($1::text[]) AS id, unnest($2::bigint[]) AS token, unnest($3::bigint[]) AS revision, unnest($4::text[]) AS progress,
        unnest($5::json[]) AS data, unnest($6::bigint[]) AS due) AS v) AS u`

	// Only what was written has a history, and something to publish.
	saveWithSQL = `
WITH w AS (` + saveSQL + `, s.revision
), e AS (
    INSERT INTO {events} (saga_id, revision, no, at, kind, step, attempt, actor, text)
    SELECT w.id, w.revision, v.no, statement_timestamp(), v.kind, v.step, v.attempt, v.actor, v.text
    FROM (SELECT unnest($13::text[]) AS id, unnest($14::int[]) AS no, unnest($15::text[]) AS kind, unnest($16::text[]) AS step,
        unnest($17::int[]) AS attempt, unnest($18::text[]) AS actor, unnest($19::text[]) AS text) AS v JOIN w ON w.id = v.id
), m AS (
    INSERT INTO {outbox} (created_at, saga_id, step, topic, key, payload)
    SELECT statement_timestamp(), w.id, v.step, v.topic, v.key, v.payload
    FROM (SELECT unnest($20::text[]) AS id, unnest($21::text[]) AS step, unnest($22::text[]) AS topic, unnest($23::text[]) AS key,
        unnest($24::bytea[]) AS payload, generate_subscripts($20::text[], 1) AS n) AS v JOIN w ON w.id = v.id
    ORDER BY v.n
)
SELECT id, updated_at, signals, ctid FROM w`

	savedSQL = `
SELECT id, token, revision, status, undoing, progress, failed, error, crashes, data::text, updated_at, signals
FROM {sagas} WHERE id = ANY($1::text[])`

	fenceSQL = `SELECT token, revision FROM {sagas} WHERE id = $1`

	// Behind saveSQL or saveWithSQL, in the transaction of a step. It fails where nothing
	// was written, so that the COMMIT that comes with it is not reached.
	guardSQL = `
UNION ALL SELECT NULL, NULL, NULL, NULL WHERE 1 / (SELECT count(*) FROM w) = 0`

	recordSQL = `s.id, s.business_id, s.definition, s.version, s.plan, s.fingerprint, s.parent, s.status, s.undoing, s.progress, s.failed, s.error,
    s.crashes, s.data::text, s.deadline, s.revision, s.token, coalesce(s.owner, ''), s.created_at, s.updated_at, s.signals`

	// Who is about to be claimed by somebody else is skipped, so that engines do not
	// wait for each other.
	claimSQL = `
WITH due AS MATERIALIZED (
    SELECT id, due_at, owner IS NOT NULL AS crashed FROM {sagas}
    WHERE {due} <= statement_timestamp() AND definition = ANY($3::text[])
    ORDER BY due_at LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {sagas} s SET owner = $1, token = s.token + 1, due_at = statement_timestamp() + $2::bigint * interval '1 microsecond',
    crashes = s.crashes + due.crashed::int
FROM due WHERE s.id = due.id
RETURNING {record}, due.crashed, due.due_at, clock_timestamp()`

	// Certain sagas are found by their ids, and not among all that are due.
	byID = `id = ANY($5::text[]) AND due_at + interval '0'`

	giveBackSQL = `
UPDATE {sagas} s SET owner = CASE WHEN u.crashed THEN s.owner END, crashes = s.crashes - u.crashed::int
FROM (SELECT unnest($1::text[]) AS id, unnest($2::bigint[]) AS token, unnest($3::boolean[]) AS crashed) AS u
WHERE s.id = u.id AND s.token = u.token`

	renewSQL = `
UPDATE {sagas} s SET due_at = statement_timestamp() + $3::bigint * interval '1 microsecond'
FROM (SELECT unnest($1::text[]) AS id, unnest($2::bigint[]) AS token) AS u
WHERE s.id = u.id AND s.token = u.token AND s.owner IS NOT NULL
RETURNING s.id, s.token`

	// least passes over a null. Who is stuck waits for a person. The engine's own signals
	// are not counted where there may be too many.
	deliverSQL = `
UPDATE {sagas} s SET signals = coalesce(s.signals, '{}') || jsonb_build_object($2::text, $3::text), signalled = s.signalled + 1,
    due_at = CASE WHEN s.owner IS NULL AND s.status <> 'STUCK' THEN least(s.due_at, statement_timestamp()) ELSE s.due_at END
WHERE s.id = $1 AND s.status NOT IN ('COMPLETED', 'COMPENSATED') AND (s.signals ? $2) IS NOT TRUE
AND (s.signalled < $4 OR $2 LIKE '$%' OR (SELECT count(*) FROM jsonb_object_keys(s.signals) AS k WHERE k NOT LIKE '$%') < $4)
RETURNING 1`

	deliveredSQL = `
SELECT status IN ('COMPLETED', 'COMPENSATED'), signals ->> $2, $2 NOT LIKE '$%'
    AND (SELECT count(*) FROM jsonb_object_keys(signals) AS k WHERE k NOT LIKE '$%') >= $3
FROM {sagas} WHERE id = $1`

	findSQL = `
SELECT {record} FROM {sagas} s WHERE s.id > $1 {where} ORDER BY s.id LIMIT $2`

	// For conditions that have an index of their own: that of the ids would pass over all
	// sagas, in the right order, and is no help here.
	findFewSQL = `
SELECT {record} FROM {sagas} s WHERE s.id || '' > $1 {where} ORDER BY s.id || '' LIMIT $2`

	eventsSQL = `
SELECT saga_id, at, kind, step, attempt, actor, text FROM {events} WHERE saga_id = ANY($1::text[]) ORDER BY saga_id, revision, no`

	relayLockSQL = `
SELECT set_config('safetill.relay', pg_try_advisory_xact_lock(1935763303, '{outbox name}'::regclass::oid::int)::text, true)` // "saga"

	outboxSQL = `
SELECT id, saga_id, step, topic, key, payload FROM {outbox} WHERE current_setting('safetill.relay')::boolean ORDER BY id LIMIT $1`

	// A child stays as long as its parent may ask for it, and each parent is looked up by
	// its id: to PostgreSQL, NOT EXISTS may mean to read them all.
	sweepSQL = `
WITH old AS MATERIALIZED (
    SELECT id FROM {sagas} o WHERE over_at < statement_timestamp() - $1::bigint * interval '1 microsecond'
    AND (parent = '' OR (SELECT p.over_at IS NULL FROM {sagas} p WHERE p.id = o.parent) IS NOT TRUE)
    ORDER BY over_at LIMIT $2 FOR UPDATE SKIP LOCKED
), e AS (
    DELETE FROM {events} e USING old WHERE e.saga_id = old.id
), s AS (
    DELETE FROM {sagas} s USING old WHERE s.id = old.id RETURNING 1
)
SELECT count(*) FROM s`
)
