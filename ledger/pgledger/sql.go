package pgledger

import (
	"strings"

	"github.com/safetill/safetill/internal/pg"
)

// statements are the store's SQL, with the schema's tables filled in.
type statements struct {
	schema string

	open, states, lines, verify string
	targets, lock, decided      string
	look, post                  string
	expired                     string
	insertPlain, insertDecided  string
	update, insert              string
	updateHeld, hold, close     string

	horizon, lockSeals, lastSeal, insertSeal, seals, digests string
}

func newStatements(schema string) statements {
	names := strings.NewReplacer(
		"{accounts}", pg.Table(schema, "ledger_accounts"),
		"{transactions}", pg.Table(schema, "ledger_transactions"),
		"{postings}", pg.Table(schema, "ledger_postings"),
		"{holds}", pg.Table(schema, "ledger_holds"),
		"{seals}", pg.Table(schema, "ledger_seals"),
		"{sequence}", pg.Table(schema, "ledger_transaction_seq"),
		"{seq}", strings.ReplaceAll(pg.Table(schema, "ledger_transaction_seq"), "'", "''"),
	).Replace
	return statements{
		schema: schema,
		open:   names(openSQL), states: names(statesSQL), lines: names(linesSQL), verify: names(verifySQL),
		expired: names(expiredSQL), targets: names(targetsSQL), lock: names(lockSQL), decided: names(decidedSQL),
		look: names(lookSQL), post: names(postSQL),
		insertPlain: names(insertPlainSQL), insertDecided: names(insertDecidedSQL), update: names(updateSQL), insert: names(insertSQL),
		updateHeld: names(updateHeldSQL), hold: names(holdSQL), close: names(closeSQL),
		horizon: names(horizonSQL), lockSeals: names("LOCK TABLE {seals} IN EXCLUSIVE MODE"), lastSeal: names(lastSealSQL),
		insertSeal: names(insertSealSQL), seals: names(sealsSQL), digests: names(digestsSQL),
	}
}

const (
	// Sorted for the same reason as lockSQL.
	openSQL = `
INSERT INTO {accounts} (id, currency, scale, normal, floor)
SELECT * FROM unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[], $5::numeric[]) AS u(id, currency, scale, normal, floor)
ORDER BY id COLLATE "C"
ON CONFLICT (id) DO NOTHING`

	// One row for each id asked for, in their order, nulls where there is none.
	statesSQL = `
SELECT a.id, a.currency, a.scale, a.normal, a.floor::text, a.debits::text, a.credits::text, a.held_debits::text, a.held_credits::text, a.version
FROM unnest($1::text[]) WITH ORDINALITY AS q(id, n) LEFT JOIN {accounts} a ON a.id = q.id
ORDER BY q.n`

	linesSQL = `
SELECT p.version, p.transaction_id, p.posting, p.side, p.amount::text, p.balance::text, a.id, p.at
FROM (
    (SELECT debit_version AS version, transaction_id, posting, 1 AS side, amount, debit_balance AS balance, credit_no AS contra, at
     FROM {postings} WHERE debit_no = (SELECT no FROM {accounts} WHERE id = $1) AND debit_version > $2
     ORDER BY debit_version LIMIT $3)
    UNION ALL
    (SELECT credit_version, transaction_id, posting, 2, amount, credit_balance, debit_no, at
     FROM {postings} WHERE credit_no = (SELECT no FROM {accounts} WHERE id = $1) AND credit_version > $2
     ORDER BY credit_version LIMIT $3)
) p JOIN {accounts} a ON a.no = p.contra
ORDER BY p.version LIMIT $3`

	lookSQL = `
SELECT no, id, currency, scale, normal, floor::text, debits::text, credits::text, held_debits::text, held_credits::text, version
FROM {accounts} WHERE id = ANY($1::text[])`

	// Sorted, so that any two batches lock what they share in one order.
	lockSQL = lookSQL + ` ORDER BY id FOR NO KEY UPDATE`

	// The clock and the number are read with the accounts locked: along an
	// account's versions neither goes back. The transaction has its id before it
	// draws a number: see Seal.
	decidedSQL = `
SELECT t.id, t.fingerprint, t.verdict, t.posting, t.at, t.closed_by IS NOT NULL, c.seq, c.at
FROM (SELECT CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('{seq}') END AS seq, clock_timestamp() AS at) c
LEFT JOIN {transactions} t ON t.id = ANY($1)`

	// The clock is read once: asked for each row, it would be no bound for the index.
	expiredSQL = `
SELECT id FROM {transactions} WHERE expires_at <= (SELECT clock_timestamp()) AND closed_by IS NULL AND verdict = 0
ORDER BY expires_at LIMIT $1`

	// What a transaction has posted or held never changes, so it is read before
	// anything is locked: it says what to lock.
	targetsSQL = `
SELECT t.id, t.kind, t.verdict, t.expires_at, d.id, c.id, p.amount::text, d.currency
FROM {transactions} t
LEFT JOIN LATERAL (
    SELECT posting, debit_no, credit_no, amount FROM {postings} WHERE seq = t.seq AND t.kind <> 1
    UNION ALL
    SELECT posting, debit_no, credit_no, amount FROM {holds} WHERE transaction_id = t.id AND t.kind = 1
) p ON true
LEFT JOIN {accounts} d ON d.no = p.debit_no LEFT JOIN {accounts} c ON c.no = p.credit_no
WHERE t.id = ANY($1) ORDER BY t.id, p.posting`

	// Most batches have posts only.
	insertPlainSQL = `
INSERT INTO {transactions} (id, seq, fingerprint, verdict, posting, at, kind)
SELECT unnest($1::text[]), unnest($2::bigint[]), unnest($3::bytea[]), unnest($4::smallint[]), unnest($5::smallint[]), $6, 0`

	insertDecidedSQL = `
INSERT INTO {transactions} (id, seq, fingerprint, verdict, posting, at, kind, target, expires_at)
SELECT unnest($1::text[]), unnest($2::bigint[]), unnest($3::bytea[]), unnest($4::smallint[]), unnest($5::smallint[]), $9,
unnest($6::smallint[]), unnest($7::text[]), unnest($8::timestamptz[])`

	holdSQL = `
INSERT INTO {holds} (transaction_id, posting, debit_no, credit_no, amount)
SELECT unnest($1::text[]), unnest($2::smallint[]), unnest($3::bigint[]), unnest($4::bigint[]), unnest($5::numeric[])`

	closeSQL = `
UPDATE {transactions} t SET closed_by = u.closed_by FROM unnest($1::text[], $2::text[]) AS u(id, closed_by) WHERE t.id = u.id`

	// A batch of posts that was decided without a lock: see quick. The update locks
	// in the order of the parameters, which is that of lockSQL: see onePlan. What
	// holds reserve is no part of a version, and the constraint on the floor sees only
	// what a batch leaves. The number and the clock are read when all locks are held.
	// "no + 0" and the comparison of ids are so for the planner, which is not to go by
	// the index on either. The arrays are unnested in a list of columns, as all that are
	// written here: in FROM, each one's elements would go through a store of their own,
	// which costs a batch of 30 a twentieth more.
	postSQL = `
WITH moved AS (
    UPDATE {accounts} a SET debits = u.debits, credits = u.credits, version = u.version
    FROM (SELECT unnest($1::bigint[]) AS no, unnest($2::bigint[]) AS before, unnest($3::numeric[]) AS held_debits, unnest($4::numeric[]) AS held_credits,
                 unnest($5::numeric[]) AS floor, unnest($6::bigint[]) AS version, unnest($7::numeric[]) AS debits, unnest($8::numeric[]) AS credits,
                 unnest($22::tid[]) AS place, unnest($23::text[]) AS id, unnest($24::numeric[]) AS debits_before, unnest($25::numeric[]) AS credits_before) u
    WHERE a.ctid = coalesce(u.place, (SELECT ctid FROM {accounts} WHERE no = u.no))
    AND a.no + 0 = u.no AND a.version = u.before AND a.held_debits = u.held_debits AND a.held_credits = u.held_credits
    AND a.debits = u.debits_before AND a.credits = u.credits_before
    AND a.floor IS NOT DISTINCT FROM u.floor AND a.id IS NOT DISTINCT FROM u.id
    RETURNING a.ctid AS place
), c AS MATERIALIZED (
    SELECT CASE WHEN count(*) = cardinality($1::bigint[]) THEN nextval('{seq}') END AS seq, clock_timestamp() AS at,
    string_agg(tidsend(place), '') AS places
    FROM moved
), t AS (
    INSERT INTO {transactions} (id, seq, fingerprint, verdict, posting, at, kind)
    SELECT u.id, c.seq + u.n, u.fingerprint, 0, 0, c.at, 0
    FROM c, (SELECT unnest($19::text[]) AS id, unnest($20::bigint[]) AS n, unnest($21::bytea[]) AS fingerprint) u
), p AS (
    INSERT INTO {postings} (seq, posting, debit_no, credit_no, debit_version, credit_version, at, amount, debit_balance, credit_balance, transaction_id)
    SELECT c.seq + u.n, u.posting, u.debit_no, u.credit_no, u.debit_version, u.credit_version, c.at, u.amount, u.debit_balance, u.credit_balance, u.transaction_id
    FROM c, (SELECT unnest($9::bigint[]) AS n, unnest($10::smallint[]) AS posting, unnest($11::bigint[]) AS debit_no, unnest($12::bigint[]) AS credit_no,
                    unnest($13::bigint[]) AS debit_version, unnest($14::bigint[]) AS credit_version,
                    unnest($15::numeric[]) AS amount, unnest($16::numeric[]) AS debit_balance, unnest($17::numeric[]) AS credit_balance, unnest($18::text[]) AS transaction_id) u
)
SELECT at, places FROM c`

	// Most batches hold and free nothing.
	updateSQL = `
UPDATE {accounts} a SET debits = u.debits, credits = u.credits, version = u.version
FROM (SELECT unnest($1::bigint[]) AS no, unnest($2::bigint[]) AS version, unnest($3::numeric[]) AS debits, unnest($4::numeric[]) AS credits) u
WHERE a.no = u.no`

	updateHeldSQL = `
UPDATE {accounts} a SET debits = u.debits, credits = u.credits, held_debits = u.held_debits, held_credits = u.held_credits, version = u.version
FROM (SELECT unnest($1::bigint[]) AS no, unnest($2::bigint[]) AS version, unnest($3::numeric[]) AS debits, unnest($4::numeric[]) AS credits,
             unnest($5::numeric[]) AS held_debits, unnest($6::numeric[]) AS held_credits) u
WHERE a.no = u.no`

	insertSQL = `
INSERT INTO {postings} (seq, posting, debit_no, credit_no, debit_version, credit_version, at, amount, debit_balance, credit_balance, transaction_id)
SELECT unnest($1::bigint[]), unnest($2::smallint[]), unnest($3::bigint[]), unnest($4::bigint[]), unnest($5::bigint[]), unnest($6::bigint[]), $11,
unnest($7::numeric[]), unnest($8::numeric[]), unnest($9::numeric[]), unnest($10::text[])`
)
